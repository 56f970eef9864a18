//! Notices: what devices are told of members who come and go.

use std::collections::{HashMap, HashSet};

use super::{Findings, Rule};
use crate::history::entitled::Entitled;
use crate::history::event::{Change, Connection, Conv, Progress, What};
use crate::history::index::{Cite, Index};

/// How soon everybody who is online hears of a change, in microseconds (what the system promises for
/// messages).
pub(super) const WITHIN_US: u64 = 5_000_000;

/// A device of a user.
type Device = (u32, u32);

/// A change of a member that is known to have been made.
#[derive(Debug, Clone, Copy)]
struct Made {
    conv: Conv,
    who: u32,
    change: Change,
    by: Option<Device>,
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

struct Notices<'a> {
    index: &'a Index<'a>,
    /// Members of groups from the beginning: it may be told that they were added.
    stated: HashSet<(Conv, u32)>,
    /// Users who come and go. They need not be told what happens meanwhile.
    come_and_go: HashSet<u32>,
    /// Where each change was asked for last.
    asked: HashMap<(Conv, u32, Change), usize>,
    /// The same by the device that asked.
    asked_by: HashMap<(Device, Conv, u32, Change), usize>,
    made: Vec<Made>,
    open: HashMap<Device, Visit>,
    visits: Vec<Visit>,
    found: &'a mut Findings,
}

pub(super) fn check(index: &Index<'_>, entitled: &Entitled, found: &mut Findings) {
    let mut notices = Notices {
        index,
        stated: HashSet::new(),
        come_and_go: HashSet::new(),
        asked: HashMap::new(),
        asked_by: HashMap::new(),
        made: Vec::new(),
        open: HashMap::new(),
        visits: Vec::new(),
        found,
    };
    for event in index.events {
        match event.what {
            What::Member { conv, user, .. } => {
                notices.stated.insert((conv, user));
            }
            What::Change { user, .. } => {
                notices.come_and_go.insert(user);
            }
            _ => {}
        }
    }
    for (place, event) in index.events.iter().enumerate() {
        notices.take(place, &event.what);
    }
    notices.end(entitled);
}

impl Notices<'_> {
    fn take(&mut self, place: usize, what: &What) {
        match what {
            What::Change { conv, user, change, phase, by } => {
                let about = (*conv, *user, *change);
                match (phase, self.asked.get(&about).copied()) {
                    (Progress::Invoke, _) => {
                        self.asked.insert(about, place);
                        if let Some(device) = by {
                            self.asked_by.insert((*device, *conv, *user, *change), place);
                        }
                    }
                    (Progress::Ok, Some(asked)) => {
                        let (conv, who, change) = about;
                        self.made.push(Made { conv, who, change, by: *by, asked, done: place });
                    }
                    (Progress::Ok | Progress::Info | Progress::Fail, _) => {}
                }
            }
            What::Session { user, device, state, .. } => {
                let device = (*user, *device);
                let is_new = *state == Connection::Connected;
                if is_new || *state == Connection::Disconnected {
                    let ended = self.open.remove(&device);
                    self.visits.extend(ended.map(|it| Visit { ended: Some(place), ..it }));
                }
                if is_new {
                    let visit = Visit { device, began: place, ..Visit::default() };
                    self.open.insert(device, visit);
                }
            }
            What::MembersTold { user, device, conv, change, who } => {
                for who in who {
                    self.told((*user, *device), (*conv, *who, *change), place);
                }
            }
            _ => {}
        }
    }

    fn told(&mut self, device: Device, about: (Conv, u32, Change), place: usize) {
        let ((user, number), (conv, who, change)) = (device, about);
        let is_stated = change == Change::Add && self.stated.contains(&(conv, who));
        if !is_stated && !self.asked.contains_key(&about) {
            self.found.add(Rule::H14, conv, &[Cite::event(place)], || {
                let what = name(change);
                format!(
                    "{conv}: u{user}/{number} was told that u{who} {what}, which nobody asked for"
                )
            });
        }
        let stays = !self.come_and_go.contains(&user);
        let Some(visit) = self.open.get_mut(&device).filter(|_| stays) else { return };
        let told = visit.members.entry((conv, who)).or_default();
        // Of what it has asked for itself in between it has an answer, and no notice. Where the answer was
        // lost it may be told all the same.
        let own = self.asked_by.get(&(device, conv, who, change.opposite()));
        let is_again =
            |(last, at): &&(Change, usize)| *last == change && own.is_none_or(|asked| asked < at);
        if let Some((_, first)) = told.last().filter(is_again) {
            self.found.add(Rule::H14, conv, &[*first, place].map(Cite::event), || {
                let what = name(change);
                format!("{conv}: u{user}/{number} was told twice that u{who} {what}")
            });
        }
        told.push((change, place));
    }

    fn end(mut self, entitled: &Entitled) {
        self.visits.extend(std::mem::take(&mut self.open).into_values());
        self.visits.sort_by_key(|visit| visit.began);
        let visits = std::mem::take(&mut self.visits);
        // Only the devices that were told anything about members: others do not listen to that.
        let heard = visits.iter().filter(|visit| !visit.members.is_empty());
        let listens: HashSet<Device> = heard.map(|visit| visit.device).collect();
        for visit in visits.iter().filter(|visit| listens.contains(&visit.device)) {
            self.check_told(entitled, visit);
        }
    }

    /// A device of a member is told of each change that was asked for while it was there, in order, if
    /// it stays there long enough.
    fn check_told(&mut self, entitled: &Entitled, visit: &Visit) {
        let (user, device) = visit.device;
        let us = |place: usize| self.index.us(place);
        let end_us = visit.ended.map_or(u64::MAX, us);
        let healed_us = self.index.healed.map_or(0, us);
        // How much of what was told of each member is known to be about which change.
        let mut matched: HashMap<(Conv, u32), usize> = HashMap::new();
        for it in self.made.iter().filter(|it| it.asked > visit.began && it.who != user) {
            if it.by == Some(visit.device)
                || end_us < us(it.done).max(healed_us).saturating_add(WITHIN_US)
            {
                continue;
            }
            let is_member = [it.asked, it.done]
                .iter()
                .all(|place| entitled.must_from(it.conv, user, *place).is_some());
            let told = visit.members.get(&(it.conv, it.who)).map(Vec::as_slice).unwrap_or_default();
            let matched = matched.entry((it.conv, it.who)).or_default();
            let fits =
                |(change, place): &(Change, usize)| *change == it.change && *place > it.asked;
            let is_told = told.iter().skip(*matched).position(fits);
            *matched += is_told.map_or(0, |place| place + 1);
            if is_member && is_told.is_none() {
                let cites = [visit.began, it.asked, it.done].map(Cite::event);
                self.found.add(Rule::H14, it.conv, &cites, || {
                    let (conv, who, what) = (it.conv, it.who, name(it.change));
                    format!("{conv}: u{user}/{device} was not told that u{who} {what}")
                });
            }
        }
    }
}

const fn name(change: Change) -> &'static str {
    match change {
        Change::Add => "was added",
        Change::Remove => "was removed",
    }
}
