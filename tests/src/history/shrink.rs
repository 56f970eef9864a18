//! A broken history, cut down to what the first violation is about.

use std::collections::{HashMap, HashSet};

use super::check::{Rule, Thresholds, check};
use super::event::{Conv, Event, Mid, What};

/// A history that still breaks the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrunk {
    /// The rule.
    pub rule: Rule,
    /// What is left.
    pub events: Vec<Event>,
    /// Whether `events` were checked, and break the rule. If not, the rule cannot be broken within
    /// one conversation, and these are all events.
    pub is_smaller: bool,
}

/// Cuts a history down to the conversation of its first violation, and to the events without a
/// conversation that concern its users. `None` if no rule is broken.
pub fn shrink(events: &[Event], thresholds: &Thresholds) -> Option<Shrunk> {
    let violation = check(events, thresholds).violations.into_iter().next()?;
    let rule = violation.rule;
    let fails = |events: &[Event]| check(events, thresholds).broken.contains_key(&rule);

    let cited: HashSet<u64> = violation.example.iter().map(|event| event.at).collect();
    let mut convs: HashSet<Conv> = violation.conv.into_iter().collect();
    convs.extend(violation.example.iter().filter_map(|event| event.what.conv()));
    // From the least context to the most.
    let devices = devices_of(&violation.example);
    let small = context(events, &cited, &convs, Some(&devices));
    if fails(&small) {
        return Some(Shrunk { rule, events: small, is_smaller: true });
    }
    let whole = context(events, &cited, &convs, None);
    if fails(&whole) {
        return Some(Shrunk { rule, events: whole, is_smaller: true });
    }
    Some(Shrunk { rule, events: events.to_vec(), is_smaller: false })
}

fn devices_of(example: &[Event]) -> HashSet<(u32, u32)> {
    example.iter().filter_map(|event| receiver(&event.what)).collect()
}

/// The device that is told something or tells what it has.
const fn receiver(what: &What) -> Option<(u32, u32)> {
    match what {
        What::Push(it) | What::Shown(it) | What::Wire(it) => Some((it.user, it.device)),
        What::Skipped { user, device, .. }
        | What::Pull { user, device, .. }
        | What::Watermark { user, device, .. }
        | What::Final { user, device, .. }
        | What::MarkTold { user, device, .. }
        | What::MembersTold { user, device, .. }
        | What::Presence { user, device, .. }
        | What::Kicked { user, device }
        | What::Session { user, device, .. } => Some((*user, *device)),
        _ => None,
    }
}

/// What is cited, what is of these conversations, and what has none. With `devices`, of what is
/// received only what these receive.
fn context(
    events: &[Event],
    cited: &HashSet<u64>,
    convs: &HashSet<Conv>,
    devices: Option<&HashSet<(u32, u32)>>,
) -> Vec<Event> {
    let mut said: HashMap<Mid, Conv> = HashMap::new();
    for event in events {
        if let What::Invoke { mid, conv, .. } = event.what {
            said.insert(mid, conv);
        }
    }
    let is_wanted = |event: &&Event| {
        let what = &event.what;
        let conv =
            what.conv().or_else(|| what.outcome_of().and_then(|mid| said.get(&mid).copied()));
        let heard = receiver(what).zip(devices).is_none_or(|(it, devices)| devices.contains(&it));
        cited.contains(&event.at) || heard && conv.is_none_or(|conv| convs.contains(&conv))
    };
    events.iter().filter(is_wanted).cloned().collect()
}
