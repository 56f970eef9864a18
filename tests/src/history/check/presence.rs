//! Presence: what devices are told of people who are online.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::notices::WITHIN_US;
use super::{Findings, Rule};
use crate::history::event::{Class, Connection, Event, Phase, What};
use crate::history::index::{Cite, Index};

/// A device of a user.
type Device = (u32, u32);

/// When faults may have kept news from arriving, in microseconds: news of which users are online is
/// sent once, and not repaired.
fn disturbed(index: &Index<'_>) -> Vec<Range<u64>> {
    let mut began: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut found = Vec::new();
    for event in index.events {
        let What::Nemesis { what, target, phase, .. } = &event.what else { continue };
        match phase {
            Phase::Start => {
                began.insert((what, target), event.us);
            }
            Phase::End => {
                let from = began.remove(&(what.as_str(), target.as_str())).unwrap_or(0);
                found.push(from.saturating_sub(WITHIN_US)..event.us + WITHIN_US);
            }
        }
    }
    found.extend(began.into_values().map(|from| from.saturating_sub(WITHIN_US)..u64::MAX));
    found
}

/// What a device was told last of a user holds in the end, unless that has just changed.
pub(super) fn check(index: &Index<'_>, found: &mut Findings) {
    let mut classes: HashMap<Device, Class> = HashMap::new();
    let mut online: HashMap<Device, bool> = HashMap::new();
    // Where each user's PCs came or went last.
    let mut moved: HashMap<u32, usize> = HashMap::new();
    let mut told: BTreeMap<Device, BTreeMap<u32, (bool, usize)>> = BTreeMap::new();
    // What devices have in the end is taken down once all is quiet; then they are let go.
    let is_final = |event: &Event| matches!(event.what, What::Final { .. });
    let end = index.events.iter().position(is_final).unwrap_or(index.events.len());
    for (place, event) in index.events.iter().enumerate().take(end) {
        match event.what {
            What::Session { user, device, state, class } => {
                let device = (user, device);
                if let Some(class) = class {
                    classes.insert(device, class);
                }
                let is_online = match state {
                    Connection::Connected => true,
                    Connection::Disconnected => false,
                    Connection::Connecting | Connection::Synced => continue,
                };
                told.remove(&device);
                if classes.get(&device) == Some(&Class::Pc) {
                    online.insert(device, is_online);
                    moved.insert(user, place);
                }
            }
            What::Presence { user, device, who, online } => {
                told.entry((user, device)).or_default().insert(who, (online, place));
            }
            _ => {}
        }
    }
    let disturbed = disturbed(index);
    let last = end.min(index.events.len().saturating_sub(1));
    let end_us = index.events.get(last).map_or(0, |event| event.us);
    for ((user, device), told) in told {
        for (who, (was, place)) in told {
            let is = online.iter().any(|((it, _), online)| *it == who && *online);
            let Some(moved) = moved.get(&who).copied() else { continue };
            let moved_us = index.us(moved);
            let is_disturbed = disturbed.iter().any(|us| us.contains(&moved_us));
            if is == was || is_disturbed || moved_us.saturating_add(WITHIN_US) > end_us {
                continue;
            }
            // Where the end begins, if it is told.
            let end = [end].into_iter().filter(|end| *end < index.events.len());
            let cites: Vec<Cite> = [moved, place].into_iter().chain(end).map(Cite::event).collect();
            found.add(Rule::H14, None, &cites, || {
                let state = |online| if online { "online" } else { "offline" };
                format!(
                    "u{user}/{device} was told last that u{who} is {}, who is {}",
                    state(was),
                    state(is)
                )
            });
        }
    }
}
