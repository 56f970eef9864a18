//! What a power cut leaves of the log: the volume that it is on goes away at once, with everything
//! that was not flushed.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rustix::process::Signal;

use super::daemons::site_of;
use super::{Asked, End, Run, Scenario, Skipped, find, hold, run as run_scenario};
use crate::{Crowd, Site, SiteOptions, Volume};

const PEOPLE: u32 = 10;
const SIGABRT: i32 = 6;
/// Room for three segments of the log, the store and the journal of the file system.
const VOLUME_MIB: u64 = 512;

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "power",
        about: "the power of the volume with the log is cut at a random moment under load, and comes back: nothing acknowledged is lost",
        short: 3,
        long: 100,
        run: power,
    },
    Scenario {
        name: "power-mutant",
        about: "the same with a log that acknowledges before it has flushed: ≥ 90 % of the cuts are noticed, so that the volume is one that a cut takes something from; the short form ends with the first",
        short: 4,
        long: 20,
        run: power_mutant,
    },
];

/// What db_proxy says, which does not start, of a log that lacks what the store has.
pub(super) const LOG_TOO_SHORT: &str = "but the store holds records up to";

/// How db_proxy went when the volume did.
#[derive(Debug, Default)]
struct Ends {
    aborted: usize,
    killed: usize,
}

fn power(run: &mut Run) -> Result<(), Skipped> {
    let volume = Volume::make(VOLUME_MIB).map_err(Skipped)?;
    let mut site = start_on(run, &volume);
    let mut crowd = Crowd::start(&site.login, None, PEOPLE);
    crowd.wait_for_acks(50);
    let mut ends = Ends::default();
    let (mut acked_before, mut truncated) = (Vec::new(), 0);
    for round in 0..run.rounds {
        let acks = 20 + run.random.index(100);
        crowd.wait_for_acks(acks);
        hold(Duration::from_millis(run.random.below(100)));
        let is_still = round % 2 == 0;
        if is_still {
            // From now on it can neither notice nor say anything, as in a real power cut.
            site.signal("db_proxy", Signal::STOP);
        }
        volume.cut();
        acked_before.push(crowd.acked());
        end_without_power(&mut site, is_still, &mut ends);
        volume.come_back();
        let log = site.log().len();
        site.start_daemon("db_proxy");
        truncated += truncated_bytes(site.log().get(log..).unwrap_or_default());
        crowd.wait_for_acks(20);
        run.progress(round, format_args!("{} acknowledged", crowd.acked()));
    }
    let summary = crowd.finish(&site.gateways[0], None);
    run.figure("cuts", run.rounds);
    run.figure(
        "db_proxy aborted by itself, stood still and was killed",
        format_args!("{}, {}", ends.aborted, ends.killed),
    );
    run.figure(
        "acknowledged before the last cut, in all",
        format_args!("{}, {}", acked_before.last().copied().unwrap_or(0), summary.acked),
    );
    run.figure("bytes of torn appends cut off at restarts", truncated);
    assert_eq!(ends.aborted + ends.killed, run.rounds, "every cut ended a db_proxy");
    assert!(summary.acked >= run.rounds * 40, "people talked: {summary:?}");
    Ok(())
}

/// Starts a site whose db_proxy keeps its data on the volume, where it is on disk.
fn start_on(run: &Run, volume: &Volume) -> Site {
    let db_folder = Some(volume.path().join("db"));
    let mut site = run.prepare(&SiteOptions { db_folder, ..site_of(PEOPLE) });
    volume.sync();
    for name in site.names() {
        site.start_daemon(&name);
    }
    site
}

/// A process that runs notices that nothing can be written, and ends by itself.
fn end_without_power(site: &mut Site, is_still: bool, ends: &mut Ends) {
    const NOTICE_LIMIT: Duration = Duration::from_secs(10);
    if is_still {
        site.kill("db_proxy");
        ends.killed += 1;
    } else {
        let status = site.wait_end("db_proxy", NOTICE_LIMIT);
        assert_eq!(status.signal(), Some(SIGABRT), "who cannot write aborts, not: {status}");
        ends.aborted += 1;
    }
}

/// What openings of the log say that they have cut off.
fn truncated_bytes(log: &str) -> u64 {
    let counts = log.split_whitespace().filter_map(|word| word.strip_prefix("truncated_bytes="));
    counts.filter_map(|count| count.parse::<u64>().ok()).sum()
}

fn power_mutant(run: &mut Run) -> Result<(), Skipped> {
    let scenario = find("power").expect("it is in this file");
    let (mut lost, mut refused, mut held) = (0, 0, 0);
    for round in 0..run.rounds {
        let asked = Asked {
            seed: Some(run.random.below(u64::MAX)),
            rounds: Some(1),
            is_long: false,
            mutant: Some("ack-before-flush"),
        };
        match run_scenario(scenario, asked).end {
            End::Failed(why) if why.contains("H1 lost") => lost += 1,
            // The store was flushed, and knows more than the log.
            End::Failed(why) if why.contains(LOG_TOO_SHORT) => refused += 1,
            End::Failed(why) => panic!("a power cut is noticed by what it took, not by: {why}"),
            End::Skipped(why) => return Err(Skipped(why)),
            End::Held => held += 1,
        }
        run.progress(round, format_args!("{lost} lost, {refused} refused, {held} held"));
        if !run.is_long && lost + refused > 0 {
            break; // The volume is one that a cut takes something from.
        }
    }
    let (noticed, all) = (lost + refused, lost + refused + held);
    let share = format!("{noticed} of {all} (≥ 90 % in the long form)");
    run.figure("cuts that took what was acknowledged, of all", share);
    run.figure("of them seen at the restart of the log", refused);
    let least = if run.is_long { all * 9 } else { 1 };
    assert!(noticed * 10 >= least, "{noticed} of {all} cuts are noticed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_off_is_read_from_the_log() {
        let text = "INFO log opened next=7 clean=false truncated_bytes=120 scanned_records=6\n\
                    INFO log opened next=9 clean=false truncated_bytes=30 scanned_records=8\n";
        assert_eq!(truncated_bytes(text), 150);
        assert_eq!(truncated_bytes("nothing"), 0);
    }
}
