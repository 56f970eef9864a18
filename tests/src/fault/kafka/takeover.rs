//! db_proxies die and stand still; the others take over what they owned.

use std::time::{Duration, Instant};

use backends::{Kafka, MariaDb};
use rustix::process::Signal;

use super::pulse::Pulse;
use super::{PARTITIONS, PEOPLE, needs_kafka, owned, shared_site, turned_away};
use crate::fault::daemons::{CONVERGE_LIMIT, OUTSIDERS, PHONES, speakers_of, tell_spoken};
use crate::fault::{Run, Skipped, hold, percentile};
use crate::history::Thresholds;
use crate::{Crowd, CrowdOptions, PATIENCE, Site, wait_until};

/// How long a partition may be without an owner.
const BACK_LIMIT: Duration = Duration::from_secs(10);
/// A db_proxy that stands still so long has lost its session, which is 6 s, and finds others in its
/// place.
const STANDS: Duration = Duration::from_secs(9);
/// How soon one that comes back notices that it is no longer an owner.
const NOTICE_LIMIT: Duration = Duration::from_secs(5);
/// What it then still had to do is over.
const AFTERMATH: Duration = Duration::from_millis(500);
/// Messages acknowledged between two faults.
const ACKS_BETWEEN: usize = 100;
/// Ownerships that ended because another owner was found to have begun: by a record in the log, or by
/// the epoch in the store.
const FENCED: &str = "talkhub_db_proxy_partitions_lost_total{why=\"fenced\"}";
/// What a db_proxy says when the group has given its partitions to others.
const SILENT: &str = "the group has not heard of us";
const LOST: &str = "talkhub_db_proxy_partitions_lost_total";
const DUPLICATES: &str = "talkhub_db_proxy_duplicates_total";

const NAMES: [&str; 3] = ["db_proxy", "db_proxy-2", "db_proxy-3"];

/// What was counted.
#[derive(Default)]
struct Counts {
    kills: usize,
    stops: usize,
    /// Rounds after which one that had stood still knew that it no longer owned anything.
    put_out: usize,
    /// Those in which it found that out by itself before the group told it.
    fenced_rounds: usize,
    fenced: u64,
    /// Of those that were killed, which forget them.
    recognised: u64,
    lost: u64,
    back: Vec<Duration>,
    moved: Vec<Duration>,
}

pub(super) fn run(run: &mut Run) -> Result<(), Skipped> {
    needs_kafka()?;
    let (kafka, database) = (Kafka::start(1), MariaDb::start());
    let options = shared_site(&kafka, &database, 3);
    let users = options.cluster.users;
    let mut site = run.start(&options);
    let mut crowd = crowd_of(&site);
    let pulse = Pulse::start(&site, users);
    let speakers = speakers_of(&site, PEOPLE, run);
    // The first half of the rounds is with two of them.
    let (status, _took) = site.stop(NAMES[2]);
    assert!(status.success(), "one that leaves ends well, not {status}");
    let half = run.rounds.div_ceil(2);
    let mut counts = Counts::default();
    for round in 0..run.rounds {
        if round == half {
            site.start_daemon(NAMES[2]);
        }
        let running = if round < half { &NAMES[..2] } else { &NAMES[..] };
        counts.moved.push(all_own(&site, running));
        let name = running[run.random.index(running.len())];
        // Not always at the same distance to a heartbeat.
        hold(Duration::from_millis(run.random.below(1_000)));
        if round % 2 == 0 {
            kill(&mut site, name, (&crowd, &pulse), &mut counts);
        } else {
            stand_still(&mut site, name, (&crowd, &pulse), &mut counts);
        }
        crowd.wait_for_acks(ACKS_BETWEEN);
        run.progress(round, format_args!("{} acknowledged", crowd.acked()));
    }
    counts.recognised += site.metric_sum("db_proxy", DUPLICATES);
    counts.lost += site.metric_sum("db_proxy", LOST);
    crowd.count(counts.recognised, 0);
    let turned_away = turned_away(&site);
    let said = pulse.acked();
    pulse.finish();
    let spoken = speakers.finish(&site);
    let wanted = Thresholds {
        min_acked: (run.rounds * ACKS_BETWEEN) as u64,
        min_faults: run.rounds as u64,
        // Partitions go back to a db_proxy that comes back: on a busy machine that takes a while.
        freshness: run.is_long.then_some(CONVERGE_LIMIT),
        ..Thresholds::default()
    };
    let (summary, report) = crowd.verdict(&site.gateways[0], None, &wanted);
    run.figure(
        "acknowledged, reconnects",
        format!("{} and {said}, {}", summary.acked, summary.reconnects),
    );
    tell_spoken(run, &spoken);
    let (retries, refused) = turned_away;
    // Outsiders are told that they are no members.
    tell(run, counts, (retries, refused.saturating_sub(report.figures.failed)));
    Ok(())
}

fn tell(run: &mut Run, mut counts: Counts, (retries, refused): (u64, u64)) {
    let Counts { kills, stops, put_out, fenced_rounds, fenced, recognised, lost, .. } = counts;
    let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| percentile(&mut counts.back, share));
    let moved = percentile(&mut counts.moved, 1.0);
    run.figure("kill -9, SIGSTOP", format_args!("{kills}, {stops}"));
    run.figure(
        "every partition acknowledges again: p50, p99, longest",
        format_args!("{p50:.2?}, {p99:.2?}, {most:.2?} (≤ {BACK_LIMIT:?})"),
    );
    run.figure("everybody owns something again, longest", format_args!("{moved:.2?}"));
    run.figure("partitions lost, of them fenced", format_args!("{lost}, {fenced}"));
    run.figure(
        "of those that stood still, put out; of them by the epoch",
        format_args!("{put_out} of {stops} (all), {fenced_rounds} (≥ half)"),
    );
    run.figure("resends recognised", recognised);
    run.figure("clients told to try again, refused", format_args!("{retries}, {refused} (0, 0)"));
    assert!(kills > 0 || stops > 0, "something was hurt");
    assert!(!run.is_long || most <= BACK_LIMIT, "every partition is back after {most:?}");
    assert_eq!(put_out, stops, "who comes back knows that others have taken over");
    // In a round or two the group may be the first to tell each of them.
    let showed = !run.is_long || fenced_rounds * 2 >= stops;
    assert!(showed, "who comes back is fenced: {fenced_rounds} of {stops}");
    assert_eq!(refused, 0, "no client is refused that may write");
    assert!(!run.is_long || retries == 0, "{retries} times a client is told to try again");
}

fn kill(site: &mut Site, name: &str, (crowd, pulse): (&Crowd, &Pulse), counts: &mut Counts) {
    counts.recognised += site.metric(name, DUPLICATES);
    counts.lost += site.metric(name, LOST);
    let fault = crowd.nemesis("kill", name);
    let hurt = Instant::now();
    site.kill(name);
    counts.back.push(pulse.back_after(hurt, PATIENCE * 2));
    site.start_daemon(name);
    fault.end();
    counts.kills += 1;
}

fn stand_still(site: &mut Site, name: &str, (crowd, pulse): (&Crowd, &Pulse), counts: &mut Counts) {
    let silent = |site: &Site| site.log().lines().filter(|line| line.contains(SILENT)).count();
    let before = (site.metric(name, FENCED), silent(site));
    let fault = crowd.nemesis("stop", name);
    let hurt = Instant::now();
    site.signal(name, Signal::STOP);
    counts.back.push(pulse.back_after(hurt, PATIENCE * 2));
    hold(STANDS.saturating_sub(hurt.elapsed()));
    site.signal(name, Signal::CONT);
    fault.end();
    let woken = Instant::now();
    let mut is_out = false;
    while !is_out && woken.elapsed() < NOTICE_LIMIT {
        hold(AFTERMATH);
        is_out = silent(site) > before.1 || site.metric(name, FENCED) > before.0;
    }
    let fenced = site.metric(name, FENCED).saturating_sub(before.0);
    counts.stops += 1;
    counts.put_out += usize::from(is_out);
    counts.fenced += fenced;
    counts.fenced_rounds += usize::from(fenced > 0);
    site.wait_ready(name);
}

/// Waits until each of these owns something, and all partitions are owned. Returns how long it took.
fn all_own(site: &Site, names: &[&str]) -> Duration {
    wait_until("everybody owns something", PATIENCE * 2, || {
        let owned: Vec<usize> = names.iter().map(|name| owned(site, name)).collect();
        !owned.contains(&0) && owned.iter().sum::<usize>() == PARTITIONS as usize
    })
}

fn crowd_of(site: &Site) -> Crowd {
    let mut options = CrowdOptions::new(&site.login, PEOPLE);
    options.listeners = PHONES;
    options.outsiders = OUTSIDERS;
    // Brokers and a database run beside it.
    options.pause = Duration::from_millis(60);
    let mut crowd = Crowd::with(&options);
    crowd.wait_for_acks(ACKS_BETWEEN);
    crowd
}
