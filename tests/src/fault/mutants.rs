//! Turns the tests on themselves: the servers are built with a fault of their own, and the scenario
//! that should notice it must fail.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Asked, End, Run, Scenario, Skipped, find, power, run, say};
use crate::{Programs, Random};

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "mutants",
    about: "servers that break one promise on purpose: each is caught; rounds are tries for each; the short form hunts three of them, others each day",
    short: 4,
    long: 20,
    run: mutants,
}];

/// A mutant, and which scenario should notice it in how many rounds.
struct Hunt {
    mutant: &'static str,
    scenario: &'static str,
    rounds: usize,
    /// One of these is in what the failure says: it must be the promise that broke, not the test.
    says: &'static [&'static str],
}

/// Mutants of the short form.
const SHORT: usize = 3;

const BROKEN: &[&str] = &[
    "H1 lost",
    "H2 once",
    "H3 stable",
    "H4 order",
    "H5 dense",
    "H6 no phantom",
    "H7 view",
    "H8 entitlement",
];
/// A log that lacks what the store has is refused at the start.
const SHORT_LOG: &[&str] = &["H1 lost", "H3 stable", power::LOG_TOO_SHORT];
/// A page with a hole is no answer: the reader waits in vain.
const HOLES: &[&str] = &["H1 lost", "H5 dense", "MessageListRequest", "the history is there"];

/// The checker counts on what old clients are told, and on refusals.
const TWO: &[&str] = &["H13 seats"];
const NOTICES: &[&str] = &["H14 notices"];
const REFUSED: &[&str] = &["H11 honesty", "H6 no phantom"];

const HUNTS: &[Hunt] = &[
    Hunt { mutant: "ack-before-append", scenario: "kill", rounds: 12, says: BROKEN },
    Hunt { mutant: "skip-dedupe", scenario: "kill", rounds: 12, says: BROKEN },
    Hunt { mutant: "dedupe-by-wall-clock", scenario: "answers-cut", rounds: 4, says: BROKEN },
    Hunt { mutant: "push-before-durable", scenario: "kill", rounds: 12, says: BROKEN },
    Hunt { mutant: "offset-apart-from-rows", scenario: "kill", rounds: 12, says: BROKEN },
    Hunt { mutant: "replay-from-end", scenario: "kill", rounds: 12, says: BROKEN },
    Hunt { mutant: "ignore-insert-error", scenario: "kill", rounds: 24, says: HOLES },
    Hunt { mutant: "pull-empty-on-error", scenario: "kill", rounds: 12, says: BROKEN },
    Hunt { mutant: "watermark-max", scenario: "kill", rounds: 24, says: BROKEN },
    Hunt { mutant: "offline-without-epoch", scenario: "hop", rounds: 4, says: &["hop "] },
    Hunt {
        mutant: "equal-is-repeated",
        scenario: "habits",
        rounds: 8,
        says: &["was another message before"],
    },
    Hunt {
        mutant: "truncate-mid-log",
        scenario: "log-bits",
        rounds: 3,
        says: &["refuses a log with"],
    },
    Hunt { mutant: "ack-before-flush", scenario: "power", rounds: 4, says: SHORT_LOG },
    Hunt {
        mutant: "former-members-write",
        scenario: "kill",
        rounds: 12,
        says: &["H8 entitlement"],
    },
    Hunt { mutant: "joiners-read-all", scenario: "kill", rounds: 12, says: &["H8 entitlement"] },
    Hunt { mutant: "time-goes-back", scenario: "kill", rounds: 12, says: &["H4 order"] },
    Hunt { mutant: "type-forgotten", scenario: "kill", rounds: 12, says: &["H3 stable"] },
    Hunt { mutant: "own-is-unread", scenario: "kill", rounds: 12, says: &["H10 derived"] },
    Hunt { mutant: "reads-late", scenario: "kill", rounds: 12, says: &["H9 freshness"] },
    Hunt { mutant: "notices-forgotten", scenario: "kill", rounds: 12, says: NOTICES },
    Hunt { mutant: "refused-is-stored", scenario: "kill", rounds: 12, says: REFUSED },
    Hunt { mutant: "two-seats", scenario: "kill", rounds: 12, says: TWO },
];

fn mutants(run: &mut Run) -> Result<(), Skipped> {
    let (mut caught, mut missed) = (Vec::new(), Vec::new());
    let hunts = match run.mutant {
        Some(name) => HUNTS.iter().filter(|hunt| hunt.mutant == name).collect(),
        None if run.is_long => HUNTS.iter().collect(),
        None => of_day(day()),
    };
    assert!(!hunts.is_empty(), "somebody hunts {:?}", run.mutant);
    for hunt in hunts {
        match hunt.goes_on(run.rounds, &mut run.random) {
            Some(tries) => caught.push(format!("{} ({tries})", hunt.mutant)),
            None => missed.push(hunt.mutant),
        }
    }
    // The client library is a part of this program, so its mutant needs another one.
    if run.is_long && run.mutant.is_none() {
        match client_is_caught(run.rounds) {
            Some(tries) => caught.push(format!("watermark-max of the client ({tries})")),
            None => missed.push("watermark-max of the client"),
        }
    }
    run.figure("caught (in the n-th try)", format!("{}: {}", caught.len(), caught.join(", ")));
    assert!(missed.is_empty(), "not caught: {}", missed.join(", "));
    Ok(())
}

/// What the short form hunts on a day: all of them in turn, so that each has its day soon.
fn of_day(day: usize) -> Vec<&'static Hunt> {
    HUNTS.iter().cycle().skip(day % HUNTS.len() * SHORT).take(SHORT).collect()
}

/// Days since 1970.
fn day() -> usize {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    usize::try_from(now.as_secs() / (24 * 60 * 60)).unwrap_or_default()
}

/// In which try the client library was caught that takes the highest number for its mark.
fn client_is_caught(tries: usize) -> Option<usize> {
    let programs = tempfile::tempdir().expect("make a folder for the programs");
    Programs::link_into(programs.path(), false);
    let program = Programs::built_with_faults().join("talkhub-fault");
    (1..=tries).find(|_one| {
        let output = Command::new(&program)
            .args(["kill", "--rounds", "12"])
            .env("TALKHUB_MUTANT", "watermark-max")
            .env("TALKHUB_PROGRAMS", programs.path())
            .output()
            .expect("the program can be run");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        !output.status.success() && BROKEN.iter().any(|rule| told.contains(rule))
    })
}

impl Hunt {
    /// In which try the mutant was caught.
    fn goes_on(&self, tries: usize, random: &mut Random) -> Option<usize> {
        let scenario = find(self.scenario).unwrap_or_else(|| panic!("no {}", self.scenario));
        for one in 1..=tries {
            let asked = Asked {
                seed: Some(random.below(u64::MAX)),
                rounds: Some(self.rounds),
                is_long: false,
                mutant: Some(self.mutant),
            };
            let report = run(scenario, asked);
            match &report.end {
                End::Failed(why) if self.says.iter().any(|word| why.contains(word)) => {
                    let first = why.lines().next().unwrap_or_default();
                    say(format_args!("{}: caught by {}: {first}", self.mutant, self.scenario));
                    return Some(one);
                }
                End::Failed(why) => say(format_args!("{}: failed otherwise: {why}", self.mutant)),
                End::Skipped(why) => say(format_args!("{}: skipped: {why}", self.mutant)),
                End::Held => say(format_args!("{}: not noticed in try {one}", self.mutant)),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_mutant_has_its_day() {
        let days = HUNTS.len().div_ceil(SHORT);
        for first in [0, 7, 20_000] {
            let hunted = (first..first + days).flat_map(of_day).map(|hunt| hunt.mutant);
            let hunted: BTreeSet<&str> = hunted.collect();
            assert_eq!(hunted.len(), HUNTS.len(), "in {days} days from {first}");
        }
    }
}
