//! The servers behind db_proxy go away: the database that it stores in, the Redis that it caches in.

use std::time::{Duration, Instant};

use backends::{MariaDb, Redis};

use super::beside::{Notice, shown};
use super::daemons::{crowd_of, site_of};
use super::resumer::{Resumer, keys_in};
use super::{Run, Scenario, Skipped, hold};
use crate::{PATIENCE, Probe, Site, wait_until};

const PEOPLE: u32 = 12;
/// Of the sends while the database is away, how many of a hundred are acknowledged at least.
const ACKED_MIN: f64 = 99.9;
/// What waits for a client, in bytes and frames. The crowd's process may stand still on a busy machine,
/// and a client that is cut off for that sends again what the database must be asked about.
const OUTBOX: (&str, &str) = ("33554432", "65536");
/// How much people may notice.
const NOTICE: Notice = Notice { slower_max: 1.5, floor: Duration::from_millis(15) };
/// A login with a token while the database is away takes no longer. Clients wait 5 s.
const RESUME_MAX: Duration = Duration::from_secs(5);
/// Lines about it in the log, for each time that it goes away.
const LINES_MAX: usize = 6;

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "mysql",
        about: "MySQL stands still for 60 s, is killed for 60 s: ≥ 99.9 % of the sends are acknowledged meanwhile, ack p99 ≤ 1.5× of before, tokens log in, the backlog is stored within twice the time, nothing lost or doubled",
        short: 2,
        long: 4,
        run: mysql,
    },
    Scenario {
        name: "redis",
        about: "Redis stands still, is killed, emptied, and brought back with an older copy: nobody notices, and what is read in the end is true",
        short: 4,
        long: 40,
        run: redis,
    },
];

fn mysql(run: &mut Run) -> Result<(), Skipped> {
    let database = MariaDb::start();
    let mut options = site_of(PEOPLE);
    options.cluster.mysql.push(database.fresh_database());
    let folder = tempfile::tempdir().expect("a folder for the keys");
    options.settings.push(("db_proxy", "logins", "token_keys_file", keys_in(folder.path())));
    let limit = |key, value: &str| ("msg_server", "limits", key, value.to_owned());
    options.settings.push(limit("outbox_bytes_max", OUTBOX.0));
    options.settings.push(limit("outbox_frames_max", OUTBOX.1));
    let site = run.start(&options);
    let mut crowd = crowd_of(&site, PEOPLE, 0);
    let mut probe = probe_of(&site);
    let mut resumer = Resumer::log_in(&site.gateways, PEOPLE + 3, PEOPLE + 4);
    let lasts = run.lasts(Duration::from_mins(1), Duration::from_secs(5));
    let mut before = answers(&probe, lasts);
    let (mut meanwhile, mut drained) = (Vec::new(), Vec::new());
    let (mut resumed, mut newer) = (Vec::new(), 0);
    let (mut acked, mut turned_away) = (0, 0);
    for round in 0..run.rounds {
        let is_kill = round % 2 == 1;
        let fault = crowd.nemesis(if is_kill { "kill" } else { "stop" }, "mysql");
        let was = (retries(&site), crowd.acked() + probe.acked());
        if is_kill {
            database.kill();
        } else {
            database.pause();
        }
        let (waited, took) = while_away(&probe, &mut resumer, lasts);
        meanwhile.extend(waited);
        resumed.extend(took);
        turned_away += retries(&site) - was.0;
        acked += crowd.acked() + probe.acked() - was.1;
        if is_kill {
            database.restart();
        } else {
            database.resume();
        }
        fault.end();
        let healed = Instant::now();
        let folded = site.metric("db_proxy", "talkhub_db_proxy_log_offset");
        wait_until("the backlog is stored", lasts * 2, || stored(&site) >= folded);
        drained.push(healed.elapsed());
        crowd.wait_for_acks(50);
        newer += resumer.resume_for(Duration::from_secs(1)).1;
        run.progress(round, format_args!("{acked} acknowledged while it was away"));
    }
    let lines = lines_of(&site, "the store is");
    probe.converged_after(Instant::now());
    probe.finish();
    let summary = crowd.finish(&site.gateways[0], None);
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = 100.0 * acked as f64 / (acked as f64 + turned_away as f64);
    run.figure("away", format!("{} times for {lasts:?}", run.rounds));
    run.figure(
        "acknowledged meanwhile, told to try again",
        format_args!("{acked}, {turned_away}: {share:.2} % (≥ {ACKED_MIN} %)"),
    );
    run.figure("backlog stored after", format!("{drained:.2?} (≤ {:?})", lasts * 2));
    run.figure("acknowledged in all, lines about it", format!("{}, {lines}", summary.acked));
    assert!(acked > 0 && share >= ACKED_MIN, "{share:.2} % are acknowledged");
    NOTICE.check(run, "acknowledgements", &mut before, &mut meanwhile);
    check_resumed(run, &mut resumed, newer);
    assert!(lines <= run.rounds * LINES_MAX, "{lines} lines tell of it");
    Ok(())
}

/// How long acknowledgements take for a while, and logins by a token.
fn while_away(
    probe: &Probe,
    resumer: &mut Resumer,
    lasts: Duration,
) -> (Vec<Duration>, Vec<Duration>) {
    std::thread::scope(|scope| {
        let resuming = scope.spawn(|| resumer.resume_for(lasts));
        let waited = answers(probe, lasts);
        let resumed = resuming.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (took, newer) = resumed;
        assert_eq!(newer, 0, "no token is given that the store does not know");
        (waited, took)
    })
}

fn check_resumed(run: &mut Run, resumed: &mut [Duration], newer: usize) {
    let longest = resumed.iter().max().copied().unwrap_or_default();
    run.figure(
        "logins by token meanwhile: p50, p99",
        format!("{}, at most {longest:.1?} (≤ {RESUME_MAX:?})", shown(resumed)),
    );
    run.figure("newer tokens, once it was back", newer);
    assert!(!resumed.is_empty() && longest <= RESUME_MAX, "a login by token took {longest:?}");
    assert!(newer >= run.rounds, "tokens go on");
}

fn redis(run: &mut Run) -> Result<(), Skipped> {
    let cache = Redis::start();
    let database = MariaDb::start();
    let mut options = site_of(PEOPLE);
    options.cluster.mysql.push(database.fresh_database());
    options.cluster.redis = Some(cache.url());
    let mut site = run.start(&options);
    let mut crowd = crowd_of(&site, PEOPLE, 0);
    let lasts = run.lasts(Duration::from_secs(10), Duration::from_secs(1));
    let old = cache.dump();
    for round in 0..run.rounds {
        let what = ["stop", "kill", "flush", "restore"][round % 4];
        let fault = crowd.nemesis(what, "redis");
        match what {
            "stop" => {
                cache.pause();
                wait_until("the cache is away", PATIENCE, || is_away(&site));
                hold(lasts);
                cache.resume();
            }
            "kill" => {
                cache.kill();
                // No daemon needs it to start, either.
                site.kill_and_restart("db_proxy");
                wait_until("the cache is away", PATIENCE, || is_away(&site));
                hold(lasts);
                cache.restart();
            }
            "flush" => cache.flush(),
            _ => cache.restore(&old),
        }
        fault.end();
        wait_until("the cache is back", PATIENCE, || !is_away(&site));
        // An owner that knows nothing yet is the one that asks the cache most.
        site.kill_and_restart("db_proxy");
        crowd.wait_for_acks(100);
        run.progress(round, format_args!("{} acknowledged", crowd.acked()));
    }
    let summary = crowd.finish(&site.gateways[0], None);
    let [hits, misses] =
        ["talkhub_db_proxy_cache_hits_total", "talkhub_db_proxy_cache_misses_total"]
            .map(|metric| site.metric("db_proxy", metric));
    run.figure("faults of Redis, each with a restart of db_proxy", run.rounds);
    run.figure("acknowledged", summary.acked);
    run.figure("found in the cache, not found, in the end", format_args!("{hits}, {misses}"));
    assert!(hits > 0, "the cache is used");
    Ok(())
}

fn is_away(site: &Site) -> bool {
    site.metric("db_proxy", "talkhub_db_proxy_cache_away") == 1
}

/// Two users who are in no crowd: the last of the demo users.
fn probe_of(site: &Site) -> Probe {
    Probe::start((&site.gateways[0], PEOPLE + 1), (&site.gateways[1], PEOPLE + 2))
}

/// How long acknowledgements take for a while from now on.
fn answers(probe: &Probe, lasts: Duration) -> Vec<Duration> {
    let began = Instant::now();
    hold(lasts);
    probe.answers_since(began)
}

/// Messages whose senders were told to try again. (db_proxy counts read marks too: how many messages
/// up to a mark are the reader's own may be known to the store only.)
fn retries(site: &Site) -> u64 {
    site.metric_sum("msg_server", "talkhub_msg_server_sends_total{outcome=\"Retry\"}")
}

fn stored(site: &Site) -> u64 {
    site.metric("db_proxy", "talkhub_db_proxy_store_offset")
}

fn lines_of(site: &Site, text: &str) -> usize {
    site.log().lines().filter(|line| line.contains(text)).count()
}
