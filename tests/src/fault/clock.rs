//! The clocks of daemons jump, each by itself.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::daemons::{crowd_of, site_of};
use super::{Run, Scenario, Skipped, hold};
use crate::Random;

const PEOPLE: u32 = 10;
const HOUR_MS: i64 = 3_600_000;
const YEAR_MS: i64 = 365 * 24 * HOUR_MS;

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "clock",
    about: "the clock of one daemon jumps by ±1 h, by −1 year, or now and then every 100 ms, and daemons are killed meanwhile: order and dedupe do not notice, nobody is thrown out",
    short: 6,
    long: 150,
    run: clock,
}];

fn clock(run: &mut Run) -> Result<(), Skipped> {
    let mut options = site_of(PEOPLE);
    options.cluster.faults = true;
    let mut site = run.start(&options);
    let names = site.names();
    // Every daemon gets a clock of its own with its next start.
    let folder = tempfile::tempdir().expect("make a folder for the clocks");
    let clocks: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name)).collect();
    for (name, clock) in names.iter().zip(&clocks) {
        move_by(clock, 0);
        site.set_env("TALKHUB_CLOCK_FILE", clock.display().to_string());
        site.kill_and_restart(name);
    }
    let mut crowd = crowd_of(&site, PEOPLE, 0);
    let (mut jumps, mut kills) = (0, 0);
    for round in 0..run.rounds {
        let index = run.random.index(names.len());
        jumps += jump(&mut run.random, &clocks[index]);
        crowd.wait_for_acks(30);
        if run.random.below(4) == 0 {
            // Started again, it knows its old time only from the log and the store.
            site.set_env("TALKHUB_CLOCK_FILE", clocks[index].display().to_string());
            site.kill_and_restart(&names[index]);
            kills += 1;
            crowd.wait_for_acks(30);
        }
        run.progress(round, format_args!("{} acknowledged", crowd.acked()));
    }
    let summary = crowd.finish(&site.gateways[0], None);
    assert!(
        summary.reconnects <= kills * PEOPLE as usize,
        "nobody is thrown out because of a clock: {summary:?}, {kills} kills"
    );
    run.figure("jumps, kills", format_args!("{jumps}, {kills}"));
    run.figure(
        "acknowledged, reconnects",
        format_args!("{}, {}", summary.acked, summary.reconnects),
    );
    Ok(())
}

fn jump(random: &mut Random, clock: &PathBuf) -> usize {
    match random.below(5) {
        0 => move_by(clock, HOUR_MS),
        1 => move_by(clock, -HOUR_MS),
        2 => move_by(clock, -YEAR_MS),
        3 => move_by(clock, 0),
        _ => {
            const TIMES: usize = 10;
            for _time in 0..TIMES {
                let ms = i64::try_from(random.below(2 * HOUR_MS.unsigned_abs())).unwrap_or(0);
                move_by(clock, ms - HOUR_MS);
                hold(Duration::from_millis(100));
            }
            return TIMES;
        }
    }
    1
}

fn move_by(clock: &PathBuf, ms: i64) {
    // Whole at every moment: a daemon may read it now.
    let new = clock.with_extension("new");
    fs::write(&new, ms.to_string()).expect("write a clock");
    fs::rename(&new, clock).expect("move a clock");
}
