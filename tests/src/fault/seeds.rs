//! Runs that once failed: they come first the next time, since a new seed would hardly meet the same.
//!
//! Those that showed a fault of ours stand in `tests/seeds`, a line each: scenario, seed, rounds. One that
//! fails here is noted below the target folder, until it holds.

use std::fs;
use std::path::PathBuf;

use super::Report;
use crate::programs::scratch;

/// Where those are that showed a fault.
const KNOWN: &str = include_str!("../../seeds");

/// What an earlier run chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) seed: u64,
    pub(super) rounds: usize,
}

/// The runs of a scenario that come first.
pub(super) fn kept(scenario: &str) -> Vec<Kept> {
    let noted = fs::read_to_string(note(scenario)).unwrap_or_default();
    read(KNOWN, scenario).chain(read(&noted, scenario)).collect()
}

/// A run has failed.
pub(super) fn keep(report: &Report) {
    let Report { name, seed, rounds, .. } = report;
    fs::write(note(name), format!("{name} {seed} {rounds}\n")).expect("note the seed");
}

/// The runs that came first have held.
pub(super) fn forget(scenario: &str) {
    // Mostly there is none.
    fs::remove_file(note(scenario)).ok();
}

fn note(scenario: &str) -> PathBuf {
    scratch().join(format!("{scenario}.seed"))
}

fn read(lines: &str, scenario: &str) -> impl Iterator<Item = Kept> {
    lines.lines().filter(|line| !line.starts_with('#')).filter_map(move |line| {
        let mut words = line.split_whitespace();
        let is_it = words.next()? == scenario;
        let kept = Kept { seed: words.next()?.parse().ok()?, rounds: words.next()?.parse().ok()? };
        is_it.then_some(kept)
    })
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::*;

    #[test]
    fn a_line_is_a_scenario_a_seed_and_how_often() {
        let lines = "# a comment\nkill 7 12\npause 8 3\nkill 9 4\nkill x 1\n";
        let kept: Vec<Kept> = read(lines, "kill").collect();
        assert_eq!(kept, [Kept { seed: 7, rounds: 12 }, Kept { seed: 9, rounds: 4 }]);
        assert_eq!(read(lines, "kil").count(), 0);
    }

    #[test]
    fn every_known_seed_is_of_a_scenario_that_there_is() {
        for line in KNOWN.lines().filter(|line| !line.starts_with('#')) {
            let scenario = line.split_whitespace().next().unwrap_or_default();
            assert!(find(scenario).is_some(), "{line}");
            assert_eq!(line.split_whitespace().count(), 3, "{line}");
        }
    }
}
