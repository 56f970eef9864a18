//! Seats: a user has one for each class of devices. The device that comes last has it, and no device is
//! thrown out for any other reason.

use std::collections::HashMap;

use super::{Findings, Rule};
use crate::history::event::{Class, Connection, What};
use crate::history::index::{Cite, Index};

/// One connection of a device, from when it was about to log in.
#[derive(Debug, Clone, Copy)]
struct Visit {
    device: u32,
    begun: usize,
    /// Where it was logged in.
    connected: Option<usize>,
    /// Where it was told that its seat was taken.
    kicked: Option<usize>,
    /// Where it ended.
    ended: Option<usize>,
}

pub(super) fn check(index: &Index<'_>, found: &mut Findings) {
    let mut seats: Vec<((u32, Class), Vec<Visit>)> = visits(index).into_iter().collect();
    seats.sort_by_key(|((user, class), _)| (*user, *class == Class::Mobile));
    for ((user, class), visits) in seats {
        for visit in &visits {
            let Some(kicked) = visit.kicked else { continue };
            // A login that is still under way when another begins may come later.
            let comes_later = |it: &Visit| {
                let known = it.connected.or(it.ended).unwrap_or(usize::MAX);
                it.device != visit.device && it.begun < kicked && known > visit.begun
            };
            if !visits.iter().any(comes_later) {
                let cites = [visit.begun, kicked].map(Cite::event);
                found.add(Rule::H13, None, &cites, || {
                    let device = visit.device;
                    format!("u{user}/{device} was thrown out, and no other {class:?} came")
                });
            }
        }
        let left: Vec<&Visit> = visits.iter().filter(|it| it.is_there()).collect();
        if let [first, .., last] = left[..] {
            let cites = [first, last].map(|it| Cite::event(it.connected.unwrap_or(it.begun)));
            found.add(Rule::H13, None, &cites, || {
                let (one, other) = (first.device, last.device);
                format!("u{user}/{one} and u{user}/{other} are there in the end, both {class:?}")
            });
        }
    }
}

impl Visit {
    const fn is_there(&self) -> bool {
        self.connected.is_some() && self.kicked.is_none() && self.ended.is_none()
    }
}

/// The visits to each seat, as they began. Devices whose class is not known have none.
fn visits(index: &Index<'_>) -> HashMap<(u32, Class), Vec<Visit>> {
    let mut seats: HashMap<(u32, Class), Vec<Visit>> = HashMap::new();
    let mut classes: HashMap<(u32, u32), Class> = HashMap::new();
    for (place, event) in index.events.iter().enumerate() {
        let (user, device, state) = match event.what {
            What::Session { user, device, state, class } => {
                if let Some(class) = class {
                    classes.insert((user, device), class);
                }
                (user, device, Some(state))
            }
            What::Kicked { user, device } => (user, device, None),
            _ => continue,
        };
        let Some(class) = classes.get(&(user, device)) else { continue };
        let visits = seats.entry((user, *class)).or_default();
        let new = Visit { device, begun: place, connected: None, kicked: None, ended: None };
        let open = visits.iter_mut().rev().find(|it| it.device == device && it.ended.is_none());
        match (state, open) {
            (Some(Connection::Connecting), Some(open)) => {
                open.ended = Some(place);
                visits.push(new);
            }
            (Some(Connection::Connecting), None) => visits.push(new),
            (Some(Connection::Connected), Some(open)) if open.connected.is_none() => {
                open.connected = Some(place);
            }
            // Of this one it is not told when it began.
            (Some(Connection::Connected), open) => {
                if let Some(open) = open {
                    open.ended = Some(place);
                }
                visits.push(Visit { connected: Some(place), ..new });
            }
            (Some(Connection::Disconnected), Some(open)) => open.ended = Some(place),
            (None, Some(open)) => open.kicked = open.kicked.or(Some(place)),
            (Some(Connection::Synced | Connection::Disconnected) | None, _) => {}
        }
    }
    seats
}
