//! Every rule has a history that keeps it and histories that break it.

#[expect(clippy::ptr_arg, reason = "all mutations have one type")]
mod mutations;
mod notices;
mod rules;

use std::collections::BTreeSet;

use super::check::{Rule, Thresholds, check};
use super::event::Event;

/// The rules that a history breaks.
fn broken(events: &[Event], thresholds: &Thresholds) -> BTreeSet<Rule> {
    check(events, thresholds).broken.into_keys().collect()
}
