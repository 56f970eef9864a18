//! More wrong logins than passwords can be checked, from many networks, while people who were never seen
//! before log in: a db_proxy that has just started remembers no user.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;

use super::logins::{End, Strangers, attempt};
use super::{NOTICE, answers, of_end, shown};
use crate::fault::daemons::site_of;
use crate::fault::{Run, Skipped, percentile};
use crate::{Probe, Site};

/// Two users who talk.
const PAIR: (u32, u32) = (1, 2);
/// Wrong logins in a second, under names that do not exist.
const RATE: f64 = 57.0;
/// People with a password of their own.
const PEOPLE: u8 = 40;
const PEOPLE_SHORT: u8 = 8;
/// How long a login of theirs may take.
const LOGIN_LIMIT: Duration = Duration::from_secs(3);

pub(super) fn flood(run: &mut Run) -> Result<(), Skipped> {
    let mut site = run.start(&site_of(PAIR.1));
    let people = if run.is_long { PEOPLE } else { PEOPLE_SHORT };
    for number in 0..people {
        add_user(&site, &name(number), &password(number));
    }
    let gateways = site.gateways.clone();
    let mut probe = Probe::start((&gateways[0], PAIR.0), (&gateways[1], PAIR.1));
    probe.wait_for_acks(20);
    let mut before = answers(&probe, run.lasts(Duration::from_secs(20), Duration::from_secs(1)));
    site.kill_and_restart("db_proxy");
    probe.wait_for_acks(20);

    let lasts = run.lasts(Duration::from_mins(1), Duration::from_secs(3));
    let began = Instant::now();
    let mut strangers = Strangers::apart(&gateways);
    strangers.per_second(RATE, lasts);
    let mut took = log_in_all(&gateways, people, lasts);
    let attempts = strangers.finish();
    let mut meanwhile = probe.answers_since(began);
    let [wrong, later] = [End::Wrong, End::Later].map(|end| of_end(&attempts, end).len());
    let hashes = site.metric("db_proxy", "talkhub_db_proxy_password_hashes_total");

    run.figure(
        "wrong logins: tried, refused, told to try again",
        format!("{} in {lasts:?}: {wrong}, {later}; {hashes} hashes", attempts.len()),
    );
    let slowest = percentile(&mut took, 1.0);
    run.figure(
        "right ones of people not seen before",
        format!(
            "{} of {people} let in; {}, at most {slowest:.1?} (≤ {LOGIN_LIMIT:?})",
            took.len(),
            shown(&mut took)
        ),
    );
    probe.finish();

    assert_eq!(took.len(), usize::from(people), "everybody who is right is let in");
    assert!(slowest <= LOGIN_LIMIT, "the slowest login took {slowest:?}");
    assert_eq!(wrong + later, attempts.len(), "everybody is told something");
    assert!(hashes > u64::from(people), "some of the flood was checked");
    NOTICE.check(run, "messages", &mut before, &mut meanwhile);
    Ok(())
}

/// Lets all of them log in while the flood lasts, each from a network of its own. How long those took
/// that were let in.
fn log_in_all(gateways: &[String], people: u8, lasts: Duration) -> Vec<Duration> {
    let runtime = Builder::new_current_thread().enable_all().build().expect("start a runtime");
    runtime.block_on(async {
        let mut under_way = tokio::task::JoinSet::new();
        for number in 0..people {
            let gateway = &gateways[usize::from(number) % gateways.len()];
            let gateway: SocketAddr = gateway.parse().expect("gateways are addresses");
            let after = (lasts * 3 / 4) * u32::from(number) / u32::from(people);
            under_way.spawn(async move {
                tokio::time::sleep(after).await;
                let from = Ipv4Addr::new(127, 2, number, 1);
                attempt(gateway, from, (&name(number), &password(number))).await
            });
        }
        let ended = under_way.join_all().await;
        of_end(&ended, End::Accepted)
    })
}

fn name(number: u8) -> String {
    format!("person-{number}")
}

fn password(number: u8) -> String {
    format!("the password of {number}")
}

/// A user with a hash of their own: those of a demonstration share one, so that the first of them would
/// be remembered for all.
fn add_user(site: &Site, name: &str, password: &str) {
    site.admin(&["user", "add", name, "--password", password]);
}
