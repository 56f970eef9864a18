//! What happens to daemons as wholes: they are killed, stand still, and are replaced under load.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::speakers::{SPEAKERS, Speakers, Spoken};
use super::talk::nothing_wrong;
use super::{Run, Scenario, Skipped, hold, percentile};
use crate::history::Thresholds;
use crate::{Crowd, CrowdOptions, Options, Site, SiteOptions};

const PEOPLE: u32 = 20;
/// Until everything is where it belongs after the end of a fault.
pub(super) const CONVERGE_LIMIT: Duration = Duration::from_secs(5);
/// Longer than anybody waits for a sign of life: links 5 s, a consumer group of Kafka 6 s.
pub(super) const SILENCE: Duration = Duration::from_secs(7);

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kill",
        about: "kill -9 of a random daemon under load: nothing lost, doubled, renumbered or reordered; from the restart of the owner to the first ack p99 ≤ 3 s",
        short: 24,
        long: 500,
        run: kill,
    },
    Scenario {
        name: "pause",
        about: "a random daemon stands still (SIGSTOP) for up to 8 s under load, and goes on",
        short: 3,
        long: 60,
        run: pause,
    },
    Scenario {
        name: "rolling",
        about: "every daemon is replaced one after another (SIGTERM, start) under load: nothing lost or refused, the longest stall p99 ≤ 2 s, each ends in ≤ 15 s",
        short: 1,
        long: 5,
        run: rolling,
    },
];

/// Old phones that hear along, and people who enter a group and leave it.
pub(super) const PHONES: u32 = 4;
pub(super) const OUTSIDERS: u32 = 3;

/// A crowd with all kinds of clients, which has begun to talk.
pub(super) fn crowd_of(site: &Site, people: u32, outsiders: u32) -> Crowd {
    let mut options = CrowdOptions::new(&site.login, people);
    options.listeners = PHONES.min(people);
    options.outsiders = outsiders;
    let mut crowd = Crowd::with(&options);
    crowd.wait_for_acks(100);
    crowd
}

/// Old clients with their habits beside these people, who begin to talk.
pub(super) fn speakers_of(site: &Site, people: u32, run: &mut Run) -> Speakers {
    Speakers::start(site, people + OUTSIDERS + 1, &mut run.random)
}

/// Shows what they said, and fails if it is not so.
pub(super) fn tell_spoken(run: &mut Run, spoken: &Spoken) {
    let Spoken { counts, repeats, wrong } = spoken;
    run.figure("old clients: said, acknowledged, stored", format_args!("{counts:?}"));
    run.figure("old clients: frames repeated", repeats);
    nothing_wrong(wrong);
    assert!(counts.1 > 0, "old clients talked");
}

/// A site whose people are all in group 1. Behind them come outsiders, and speakers.
pub(super) fn site_of(people: u32) -> SiteOptions {
    let users = people + OUTSIDERS + SPEAKERS;
    let cluster = Options { users, group: people, ..Options::default() };
    SiteOptions { cluster, ..SiteOptions::default() }
}

fn kill(run: &mut Run) -> Result<(), Skipped> {
    const ACKS_BETWEEN: usize = 20;
    let mut site = run.start(&site_of(PEOPLE));
    let mut crowd = crowd_of(&site, PEOPLE, OUTSIDERS);
    let speakers = speakers_of(&site, PEOPLE, run);
    let names = site.names();
    let mut kills = vec![0_usize; names.len()];
    let (mut owner_back, mut recognised) = (Vec::new(), 0);
    let duplicates = |site: &Site| site.metric("db_proxy", "talkhub_db_proxy_duplicates_total");
    for round in 0..run.rounds {
        // Each in turn with random neighbours, so that none is left out of a short run.
        let index =
            if round % 2 == 0 { round / 2 % names.len() } else { run.random.index(names.len()) };
        let name = &names[index];
        if name == "db_proxy" {
            recognised += duplicates(&site);
        }
        // Not always just after an answer.
        hold(Duration::from_micros(run.random.below(30_000)));
        let fault = crowd.nemesis("kill", name);
        site.kill(name);
        // What it had answered just before is taken down first.
        hold(Duration::from_millis(20));
        let began = Instant::now();
        site.launch(name);
        crowd.wait_for_acks(1);
        if name == "db_proxy" {
            owner_back.push(began.elapsed());
        }
        site.wait_ready(name);
        fault.end();
        crowd.wait_for_acks(ACKS_BETWEEN);
        kills[index] += 1;
        run.progress(round, format_args!("{} acknowledged", crowd.acked()));
    }
    // And all of them at once.
    for name in &names {
        site.kill(name);
    }
    for name in &names {
        site.launch(name);
    }
    crowd.wait_for_acks(ACKS_BETWEEN);
    recognised += duplicates(&site);
    crowd.count(recognised, 0);
    let wanted = Thresholds {
        min_acked: (run.rounds * ACKS_BETWEEN) as u64,
        min_faults: run.rounds as u64,
        min_retries: 1,
        freshness: Some(CONVERGE_LIMIT),
        ..Thresholds::default()
    };
    let spoken = speakers.finish(&site);
    let (summary, _report) = crowd.verdict(&site.gateways[0], None, &wanted);
    tell_spoken(run, &spoken);
    // Every second round it is the next one's turn.
    let is_short = run.rounds < 2 * names.len();
    let all = kills.iter().all(|count| *count > 0);
    assert!(is_short || all, "each daemon was killed: {kills:?}");
    // In a few kills it may happen that each hits before storage or after the answer.
    let showed = recognised > 0 || !run.is_long;
    assert!(showed, "storage knew some of what was sent again: {summary:?}");
    let back = percentile(&mut owner_back, 0.99);
    run.figure("kills", format!("{} and all at once: {}", run.rounds, each(&names, &kills)));
    run.figure("acknowledged, resends recognised", format_args!("{}, {recognised}", summary.acked));
    run.figure("reconnects, heard", format_args!("{}, {}", summary.reconnects, summary.heard));
    run.figure("owner's start to first ack, p99", format_args!("{back:.2?} (≤ 3 s)"));
    assert!(back <= Duration::from_secs(3), "the owner is back in 3 s, not {back:?}");
    Ok(())
}

fn pause(run: &mut Run) -> Result<(), Skipped> {
    let site = run.start(&site_of(PEOPLE));
    let mut crowd = crowd_of(&site, PEOPLE, OUTSIDERS);
    let names = site.names();
    let mut pauses = vec![0_usize; names.len()];
    for round in 0..run.rounds {
        // The owner first, for longer than anybody waits for a sign of life; then anybody.
        let owner = names.iter().position(|name| name == "db_proxy").filter(|_| round == 0);
        let index = owner.unwrap_or_else(|| run.random.index(names.len()));
        let Some(name) = names.get(index) else { continue };
        // Longer and shorter than the 5 s after which a link is dead.
        let stands = Duration::from_millis(500 + run.random.below(7_500));
        let fault = crowd.nemesis("pause", name);
        site.signal(name, Signal::STOP);
        hold(if owner.is_some() { SILENCE } else { run.lasts(stands, stands / 4) });
        site.signal(name, Signal::CONT);
        fault.end();
        crowd.wait_for_acks(50);
        if let Some(count) = pauses.get_mut(index) {
            *count += 1;
        }
        run.progress(round, format_args!("{} acknowledged", crowd.acked()));
    }
    let wanted = Thresholds {
        min_acked: 50 * run.rounds as u64,
        min_faults: run.rounds as u64,
        freshness: Some(CONVERGE_LIMIT),
        ..Thresholds::default()
    };
    let (summary, _report) = crowd.verdict(&site.gateways[0], None, &wanted);
    run.figure("pauses", each(&names, &pauses));
    run.figure(
        "acknowledged, reconnects",
        format_args!("{}, {}", summary.acked, summary.reconnects),
    );
    Ok(())
}

fn rolling(run: &mut Run) -> Result<(), Skipped> {
    const STOP_LIMIT: Duration = Duration::from_secs(15);
    let mut site = run.start(&site_of(PEOPLE));
    let mut crowd = crowd_of(&site, PEOPLE, OUTSIDERS);
    let (mut longest, mut stalls) = (Duration::ZERO, Vec::new());
    for round in 0..run.rounds {
        for name in site.names() {
            let (began, fault) = (crowd.now(), crowd.nemesis("replace", &name));
            let (status, took) = site.stop(&name);
            assert!(status.success(), "{name} ends well, not {status}");
            assert!(took <= STOP_LIMIT, "{name} ended after {took:?}");
            longest = longest.max(took);
            site.start_daemon(&name);
            fault.end();
            crowd.wait_for_acks(100);
            stalls.extend(crowd.stalls(began..crowd.now()).into_values());
            run.progress(round, format_args!("{name}, {} acknowledged", crowd.acked()));
        }
    }
    let replaced = run.rounds * site.names().len();
    let wanted = Thresholds {
        min_acked: 100 * replaced as u64,
        min_faults: replaced as u64,
        freshness: Some(CONVERGE_LIMIT),
        ..Thresholds::default()
    };
    // A client that was refused or not answered would be a complaint there.
    let (summary, _report) = crowd.verdict(&site.gateways[0], None, &wanted);
    let stall = percentile(&mut stalls, 0.99);
    run.figure("daemons replaced", replaced);
    run.figure("longest stall of a client, p99", format_args!("{stall:.2?} (≤ 2 s)"));
    assert!(!run.is_long || stall <= Duration::from_secs(2), "clients stand still for {stall:?}");
    run.figure(
        "acknowledged, reconnects",
        format_args!("{}, {}", summary.acked, summary.reconnects),
    );
    run.figure("longest end of a daemon", format_args!("{longest:.2?} (≤ 15 s)"));
    Ok(())
}

/// How often each daemon was chosen.
fn each(names: &[String], counts: &[usize]) -> String {
    let pairs = names.iter().zip(counts).map(|(name, count)| format!("{name} {count}"));
    pairs.collect::<Vec<_>>().join(", ")
}
