//! Brokers die one at a time, which no client notices, and then too many of them stop.

use std::time::{Duration, Instant};

use backends::{Kafka, MariaDb};

use super::pulse::Pulse;
use super::{PARTITIONS, PEOPLE, TOPIC, needs_kafka, shared_site, turned_away};
use crate::fault::daemons::PHONES;
use crate::fault::{Run, Skipped, hold, percentile};
use crate::history::Thresholds;
use crate::{Crowd, CrowdOptions, Site, wait_until};

/// Between two deaths.
const EVERY: Duration = Duration::from_secs(20);
/// How long a broker that was killed is away.
const AWAY: Duration = Duration::from_secs(8);
/// Until all brokers have everything again.
const IN_SYNC_LIMIT: Duration = Duration::from_mins(1);
/// What was on its way when the second broker stopped.
const GRACE: Duration = Duration::from_secs(2);
/// Until everything goes on when the brokers are back: what was produced meanwhile is given up first.
const HEAL_LIMIT: Duration = Duration::from_mins(2);

pub(super) fn run(run: &mut Run) -> Result<(), Skipped> {
    needs_kafka()?;
    let (kafka, database) = (Kafka::start(3), MariaDb::start());
    let options = shared_site(&kafka, &database, 2);
    let users = options.cluster.users;
    let site = run.start(&options);
    let mut crowd = crowd_of(&site);
    let pulse = Pulse::start(&site, users);
    let mut back = Vec::new();
    for round in 0..run.rounds {
        back.push(kill_leader(run, &kafka, (&crowd, &pulse)));
        crowd.wait_for_acks(100);
        run.progress(round, format_args!("{} acknowledged", crowd.acked()));
    }
    let before = turned_away(&site);
    let shrunk = shrink(run, &kafka, (&crowd, &pulse));
    let (retries, refused) = turned_away(&site);
    let said = pulse.acked();
    pulse.finish();
    let wanted = Thresholds {
        min_acked: 100 * run.rounds as u64,
        min_faults: run.rounds as u64 + 1,
        ..Thresholds::default()
    };
    let (summary, _report) = crowd.verdict(&site.gateways[0], None, &wanted);
    let [p50, longest] = [0.5, 1.0].map(|share| percentile(&mut back, share));
    run.figure("leaders killed", run.rounds);
    run.figure(
        "every partition acknowledges again: p50, longest",
        format_args!("{p50:.2?}, {longest:.2?}"),
    );
    run.figure("told to try again, refused, while leaders died", format!("{before:?}"));
    run.figure("one of three left", shrunk);
    run.figure(
        "told to try again, refused, in all",
        format_args!("{retries}, {refused} (refused: 0)"),
    );
    run.figure(
        "acknowledged, reconnects",
        format_args!("{} and {said}, {}", summary.acked, summary.reconnects),
    );
    assert_eq!(refused, 0, "nobody is refused");
    Ok(())
}

/// Kills the leader of a partition, and brings it back. Returns how long it took until every partition
/// acknowledged again.
fn kill_leader(run: &mut Run, kafka: &Kafka, (crowd, pulse): (&Crowd, &Pulse)) -> Duration {
    let began = Instant::now();
    let partition = i32::try_from(run.random.below(PARTITIONS.into())).expect("a few partitions");
    let leader = kafka.partition(TOPIC, partition).and_then(|state| state.leader);
    let leader = leader.expect("every partition has a leader");
    let fault = crowd.nemesis("kill", &format!("broker {leader}"));
    let hurt = Instant::now();
    kafka.kill(leader);
    let back = pulse.back_after(hurt, HEAL_LIMIT);
    hold(run.lasts(AWAY, AWAY / 8).saturating_sub(hurt.elapsed()));
    kafka.restart(leader);
    fault.end();
    wait_until("all brokers have everything", IN_SYNC_LIMIT, || in_sync(kafka).0 == 3);
    hold(run.lasts(EVERY, Duration::ZERO).saturating_sub(began.elapsed()));
    back
}

/// Stops two of three brokers: what is written then would be on one disk only, and so is not
/// acknowledged. Returns what was seen.
fn shrink(run: &Run, kafka: &Kafka, (crowd, pulse): (&Crowd, &Pulse)) -> String {
    let fault = crowd.nemesis("shrink", "brokers 1 and 2");
    kafka.stop(1);
    wait_until("the first is given up", IN_SYNC_LIMIT, || in_sync(kafka).1 == 2);
    kafka.stop(2);
    hold(GRACE);
    let (least, most) = in_sync(kafka);
    let acked = || crowd.acked() + pulse.acked();
    let before = acked();
    let lasts = run.lasts(Duration::from_secs(45), Duration::from_secs(5));
    hold(lasts);
    let meanwhile = acked() - before;
    assert_eq!(meanwhile, 0, "nothing is acknowledged that only one broker has");
    kafka.restart(1);
    kafka.restart(2);
    fault.end();
    let healed = Instant::now();
    let back = pulse.back_after(healed, HEAL_LIMIT);
    let then = crowd.acked() + 100;
    wait_until("everybody goes on", HEAL_LIMIT, || crowd.acked() >= then);
    format!(
        "{least} to {most} in sync, {meanwhile} acknowledged in {lasts:?} (0), all partitions back {back:.1?} after the brokers"
    )
}

/// Of the partitions, the least and the most brokers that have everything; zero if no broker answers.
fn in_sync(kafka: &Kafka) -> (usize, usize) {
    let count = |partition| {
        let partition = i32::try_from(partition).expect("a few partitions");
        kafka.partition(TOPIC, partition).map_or(0, |state| state.in_sync.len())
    };
    let counts: Vec<usize> = (0..PARTITIONS).map(count).collect();
    let least = counts.iter().min().copied().unwrap_or_default();
    (least, counts.iter().max().copied().unwrap_or_default())
}

fn crowd_of(site: &Site) -> Crowd {
    let mut options = CrowdOptions::new(&site.login, PEOPLE);
    options.listeners = PHONES;
    // Three brokers and a database run beside it.
    options.pause = Duration::from_millis(100);
    let mut crowd = Crowd::with(&options);
    crowd.wait_for_acks(100);
    crowd
}
