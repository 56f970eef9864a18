//! Whether a history keeps what the system promises.
//!
//! Pure, and O(n log n) in the number of events and of the rows in them. The rules:
//!
//! | Rule | What must hold |
//! |---|---|
//! | H1 lost | what was acknowledged is in the history, and in the end every user it is for has it |
//! | H2 once | a message is in the history once, and has one id |
//! | H3 stable | all that saw a number saw the same message, and it is the one in the history |
//! | H4 order | numbers rise for each device as it spoke, and over all in real time |
//! | H5 dense | the numbers of a history have no hole |
//! | H6 no phantom | what is there was said, and not refused |
//! | H7 view | no device takes for complete what is not, goes back, or is told things in disorder |
//! | H8 entitlement | no user gets what is not for that user |
//! | H9 freshness | after the last fault every user who is online soon has everything |
//! | H10 derived | unread counts, newest numbers and read marks are what was said and read |
//! | H11 honesty | an answer is never taken back |
//! | H12 vacuity | a run in which too little happened does not count |
//! | H13 seats | of two devices of one class the later one stays, and no other is thrown out |
//! | H14 notices | members are told which members came and went, once; without a fault, which are
//! online |

mod fresh;
mod marks;
mod notices;
mod order;
mod outcomes;
mod presence;
mod seats;
mod stored;
mod times;
mod view;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::entitled::Entitled;
use super::event::{Conv, Event};
use super::figures::Figures;
use super::index::{Cite, Index};

/// Violations of one rule that are shown; the rest is counted.
const SHOWN_MAX: u64 = 20;

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[expect(missing_docs, reason = "the table above")]
pub enum Rule {
    H1,
    H2,
    H3,
    H4,
    H5,
    H6,
    H7,
    H8,
    H9,
    H10,
    H11,
    H12,
    H13,
    H14,
}

/// What a run must have had, and may have had at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Messages acknowledged, at least.
    pub min_acked: u64,
    /// Faults that really happened, at least.
    pub min_faults: u64,
    /// Messages sent again, at least.
    pub min_retries: u64,
    /// Messages that a device had missed and fetched, at least.
    pub min_repairs: u64,
    /// How long everybody who is online may take to have everything after the last fault.
    pub freshness: Option<Duration>,
}

/// What a history is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything holds, and enough happened.
    Clean,
    /// Everything holds, but too little happened for that to mean anything.
    Void,
    /// A rule is broken.
    Broken,
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which one.
    pub rule: Rule,
    /// Where.
    pub conv: Option<Conv>,
    /// What is wrong.
    pub text: String,
    /// The fewest events that show it, with nothing in them but what shows it.
    pub example: Vec<Event>,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// In one word.
    pub verdict: Verdict,
    /// How often each rule is broken.
    pub broken: BTreeMap<Rule, u64>,
    /// The first few violations of each rule.
    pub violations: Vec<Violation>,
    /// What did not happen often enough.
    pub void: Vec<String>,
    /// What did happen.
    pub figures: Figures,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { min_acked: 1, min_faults: 0, min_retries: 0, min_repairs: 0, freshness: None }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H1 => "H1 lost",
            Self::H2 => "H2 once",
            Self::H3 => "H3 stable",
            Self::H4 => "H4 order",
            Self::H5 => "H5 dense",
            Self::H6 => "H6 no phantom",
            Self::H7 => "H7 view",
            Self::H8 => "H8 entitlement",
            Self::H9 => "H9 freshness",
            Self::H10 => "H10 derived",
            Self::H11 => "H11 honesty",
            Self::H12 => "H12 vacuity",
            Self::H13 => "H13 seats",
            Self::H14 => "H14 notices",
        })
    }
}

/// Where rules put what they find.
#[derive(Debug, Default)]
struct Findings {
    list: Vec<Finding>,
    broken: BTreeMap<Rule, u64>,
    void: Vec<String>,
}

#[derive(Debug)]
struct Finding {
    rule: Rule,
    conv: Option<Conv>,
    text: String,
    cites: Vec<Cite>,
}

impl Findings {
    fn add(
        &mut self,
        rule: Rule,
        conv: impl Into<Option<Conv>>,
        cites: &[Cite],
        text: impl FnOnce() -> String,
    ) {
        let count = self.broken.entry(rule).or_default();
        *count += 1;
        if *count <= SHOWN_MAX {
            let (conv, cites) = (conv.into(), cites.to_vec());
            self.list.push(Finding { rule, conv, text: text(), cites });
        }
    }
}

/// Checks a history. The events must be in the order of their numbers.
pub fn check(events: &[Event], thresholds: &Thresholds) -> Report {
    let index = Index::new(events);
    let entitled = Entitled::new(&index);
    let mut found = Findings::default();
    outcomes::check(&index, &mut found);
    stored::check(&index, &mut found);
    stored::check_finals(&index, &entitled, &mut found);
    order::check(&index, &mut found);
    times::check(&index, &mut found);
    wire::check(&index, &entitled, &mut found);
    seats::check(&index, &mut found);
    notices::check(&index, &entitled, &mut found);
    presence::check(&index, &mut found);
    let late = view::check(&index, &entitled, &mut found);
    let freshness = fresh::check(&index, late, thresholds.freshness, &mut found);
    marks::check(&index, &entitled, &mut found);
    let figures = Figures::new(&index, freshness);
    outcomes::check_vacuity(&index, &figures, thresholds, &mut found);

    let verdict = match (found.list.is_empty(), found.void.is_empty()) {
        (false, _) => Verdict::Broken,
        (true, false) => Verdict::Void,
        (true, true) => Verdict::Clean,
    };
    found.list.sort_by_key(|finding| finding.rule);
    let show = |finding: Finding| Violation {
        rule: finding.rule,
        conv: finding.conv,
        text: finding.text,
        example: example(events, &finding.cites),
    };
    let violations = found.list.into_iter().map(show).collect();
    Report { verdict, broken: found.broken, violations, void: found.void, figures }
}

/// The events that are pointed at, in order, and of their rows only those that are pointed at.
fn example(events: &[Event], cites: &[Cite]) -> Vec<Event> {
    let mut wanted: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for cite in cites {
        wanted.entry(cite.event).or_default().extend(cite.row);
    }
    let pick = |(place, kept): (usize, BTreeSet<usize>)| {
        let mut event = events.get(place)?.clone();
        if let Some(rows) = event.what.rows_mut() {
            let mut row = 0..;
            rows.retain(|_| row.next().is_some_and(|row| kept.contains(&row)));
        }
        Some(event)
    };
    wanted.into_iter().filter_map(pick).collect()
}
