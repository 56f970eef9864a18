//! Notices: what devices are told of members who come and go, and of people who are online.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Findings, Rule};
use crate::history::entitled::Entitled;
use crate::history::event::{Change, Class, Connection, Conv, Event, Progress, What};
use crate::history::index::{Cite, Index};

/// How soon everybody who is online hears of a change, in microseconds (what the system promises for
/// messages).
const WITHIN_US: u64 = 5_000_000;

/// A device of a user.
type Device = (u32, u32);

/// A change of a member that is known to have been made.
#[derive(Debug, Clone, Copy)]
struct Made {
    conv: Conv,
    who: u32,
    change: Change,
    asked: usize,
    done: usize,
}

/// One connection of a device, and what it was told on it.
#[derive(Debug, Default)]
struct Visit {
    device: Device,
    began: usize,
    ended: Option<usize>,
    /// What was told of each member, in order.
    members: HashMap<(Conv, u32), Vec<(Change, usize)>>,
}

pub(super) fn check(index: &Index<'_>, entitled: &Entitled, found: &mut Findings) {
    check_members(index, entitled, found);
    check_presence(index, found);
}

fn check_members(index: &Index<'_>, entitled: &Entitled, found: &mut Findings) {
    let mut asked: HashMap<(Conv, u32, Change), usize> = HashMap::new();
    let mut made: Vec<Made> = Vec::new();
    let mut open: HashMap<Device, Visit> = HashMap::new();
    let mut visits: Vec<Visit> = Vec::new();
    for (place, event) in index.events.iter().enumerate() {
        match &event.what {
            What::Change { conv, user, change, phase } => match phase {
                Progress::Invoke => {
                    asked.insert((*conv, *user, *change), place);
                }
                Progress::Ok => {
                    if let Some(asked) = asked.get(&(*conv, *user, *change)).copied() {
                        let (conv, who, change) = (*conv, *user, *change);
                        made.push(Made { conv, who, change, asked, done: place });
                    }
                }
                Progress::Info | Progress::Fail => {}
            },
            What::Session { user, device, state, .. } => {
                let device = (*user, *device);
                let is_new = matches!(state, Connection::Connected);
                if (is_new || *state == Connection::Disconnected)
                    && let Some(visit) = open.remove(&device)
                {
                    visits.push(Visit { ended: Some(place), ..visit });
                }
                if is_new {
                    open.insert(device, Visit { device, began: place, ..Visit::default() });
                }
            }
            What::MembersTold { user, device, conv, change, who } => {
                for &who in who {
                    if !asked.contains_key(&(*conv, who, *change)) {
                        found.add(Rule::H14, *conv, &[Cite::event(place)], || {
                            let what = name(*change);
                            format!("{conv}: u{user}/{device} was told that u{who} {what}; no such request")
                        });
                    }
                    let Some(visit) = open.get_mut(&(*user, *device)) else { continue };
                    let told = visit.members.entry((*conv, who)).or_default();
                    if let Some((_, first)) = told.last().filter(|(last, _)| last == change) {
                        found.add(Rule::H14, *conv, &[*first, place].map(Cite::event), || {
                            let what = name(*change);
                            format!("{conv}: u{user}/{device} was told twice that u{who} {what}")
                        });
                    }
                    told.push((*change, place));
                }
            }
            _ => {}
        }
    }
    visits.extend(open.into_values());
    visits.sort_by_key(|visit| visit.began);
    // Only those who were told something of members at all: others do not listen to that.
    let listens: HashSet<Device> =
        visits.iter().filter(|visit| !visit.members.is_empty()).map(|visit| visit.device).collect();
    for visit in visits.iter().filter(|visit| listens.contains(&visit.device)) {
        check_told(index, entitled, visit, &made, found);
    }
}

/// A device of a member is told of each change that was asked for while it was there, in order, if it
/// stays there long enough.
fn check_told(
    index: &Index<'_>,
    entitled: &Entitled,
    visit: &Visit,
    made: &[Made],
    found: &mut Findings,
) {
    let (user, device) = visit.device;
    let end_us = visit.ended.map_or(u64::MAX, |end| index.us(end));
    // How much of what was told of each member is known to be about which change.
    let mut matched: HashMap<(Conv, u32), usize> = HashMap::new();
    for it in made.iter().filter(|it| it.asked > visit.began && it.who != user) {
        let limit_us = index.us(it.done).max(index.healed.map_or(0, |healed| index.us(healed)));
        if end_us < limit_us.saturating_add(WITHIN_US) {
            continue;
        }
        let is_member = [it.asked, it.done]
            .iter()
            .all(|place| entitled.must_from(it.conv, user, *place).is_some());
        let told = visit.members.get(&(it.conv, it.who)).map(Vec::as_slice).unwrap_or_default();
        let matched = matched.entry((it.conv, it.who)).or_default();
        let fits = |(change, place): &(Change, usize)| *change == it.change && *place > it.asked;
        let is_told = told.iter().skip(*matched).position(fits);
        *matched += is_told.map_or(0, |place| place + 1);
        if is_member && is_told.is_none() {
            let cites = [visit.began, it.asked, it.done].map(Cite::event);
            found.add(Rule::H14, it.conv, &cites, || {
                let (conv, who, what) = (it.conv, it.who, name(it.change));
                format!("{conv}: u{user}/{device} was not told that u{who} {what}")
            });
        }
    }
}

const fn name(change: Change) -> &'static str {
    match change {
        Change::Add => "was added",
        Change::Remove => "was removed",
    }
}

/// What a device was told last of a user holds in the end, unless that has just changed.
fn check_presence(index: &Index<'_>, found: &mut Findings) {
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
    let last = end.min(index.events.len().saturating_sub(1));
    let end_us = index.events.get(last).map_or(0, |event| event.us);
    for ((user, device), told) in told {
        for (who, (was, place)) in told {
            let is = online.iter().any(|((it, _), online)| *it == who && *online);
            let Some(moved) = moved.get(&who).copied() else { continue };
            if is == was || index.us(moved).saturating_add(WITHIN_US) > end_us {
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
