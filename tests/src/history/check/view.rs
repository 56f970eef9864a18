//! View and entitlement: what each device was told, in what order, and what it took for complete.
//!
//! Three kinds of devices: clients that keep their contract hand out every number in order; old
//! ones only hear pushes from the moment they have read what they missed until they are
//! disconnected; and anything may read history. And the sender of a message is one of those it is for.

use std::collections::HashMap;

use proto::client::RefuseReason;

use super::{Findings, Rule};
use crate::history::entitled::Entitled;
use crate::history::event::{Connection, Conv, Delivery, Row, What};
use crate::history::index::{Cite, Index, Send};
use crate::history::ranges::Ranges;

/// The code of a refusal of what a user who is no member says (extension, `RefuseReason`).
const NOT_MEMBER: u32 = RefuseReason::NotMember as u32;

/// What a device knows of one conversation.
#[derive(Debug, Default)]
struct View {
    /// The numbers that it has seen, or need not see.
    seen: Ranges,
    /// The last one that was handed out or passed, and where.
    shown: Option<(u32, usize)>,
    /// The last watermark, and where.
    mark: Option<(u32, usize)>,
    /// What was pushed since the device connected, and where.
    pushes: Vec<(u32, usize)>,
}

#[derive(Debug, Default)]
struct Device {
    views: HashMap<Conv, View>,
    is_offline: bool,
    is_synced: bool,
    connected: Option<usize>,
    /// Where it last saw something for the first time that was acknowledged before the healing.
    late: Option<usize>,
}

/// When a device that is online in the end had everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Late {
    pub(super) user: u32,
    pub(super) device: u32,
    /// Where it last connected.
    pub(super) connected: Option<usize>,
    /// Where it saw the last of what it had missed.
    pub(super) last: Option<usize>,
}

struct Views<'a> {
    index: &'a Index<'a>,
    entitled: &'a Entitled,
    devices: HashMap<(u32, u32), Device>,
    /// The highest number acknowledged before the last fault ended.
    heads: HashMap<Conv, u32>,
    found: &'a mut Findings,
}

/// Returns one entry for each device that is online in the end.
pub(super) fn check(index: &Index<'_>, entitled: &Entitled, found: &mut Findings) -> Vec<Late> {
    let mut heads = HashMap::new();
    if let Some(healed) = index.healed {
        let head = |conv| index.acked_before(conv, healed).map(|(head, _)| (conv, head));
        heads.extend(index.said_in().filter_map(head));
    }
    let mut views = Views { index, entitled, devices: HashMap::new(), heads, found };
    for (place, event) in index.events.iter().enumerate() {
        views.take(place, &event.what);
    }
    let mut devices: Vec<(u32, u32)> = views.devices.keys().copied().collect();
    devices.sort_unstable();
    for device in &devices {
        views.end_session(*device);
    }
    let late = |device: &(u32, u32)| {
        let state = views.devices.get(device).filter(|state| !state.is_offline)?;
        let (user, device) = *device;
        Some(Late { user, device, connected: state.connected, last: state.late })
    };
    devices.iter().filter_map(late).collect()
}

impl Views<'_> {
    fn take(&mut self, place: usize, what: &What) {
        match what {
            What::Session { user, device, state, .. } => {
                self.session((*user, *device), *state, place);
            }
            What::Ok { mid, msg_id, .. } => {
                if let Some(send) = self.index.by_mid(*mid) {
                    self.said(send, *msg_id, place);
                    self.saw((send.user, send.device), send.conv, *msg_id, place);
                }
            }
            What::Fail { mid, .. } => {
                if let Some(send) = self.index.by_mid(*mid) {
                    self.refused(send, place);
                }
            }
            What::Push(it) => self.push(it, place),
            What::Shown(it) => self.shown(it, place),
            What::Skipped { user, device, conv, first, last } => {
                let device = (*user, *device);
                self.pass(device, *conv, (*first, *last), place);
                self.view(device, *conv).seen.insert_run(*first, *last);
                self.view(device, *conv).shown = Some((*last, place));
            }
            What::Pull { .. } => self.pull(what, place),
            What::Watermark { user, device, conv, upto } => {
                self.watermark((*user, *device), *conv, *upto, place);
            }
            _ => {}
        }
    }

    fn view(&mut self, device: (u32, u32), conv: Conv) -> &mut View {
        self.devices.entry(device).or_default().views.entry(conv).or_default()
    }

    fn saw(&mut self, device: (u32, u32), conv: Conv, msg_id: u32, place: usize) {
        let is_new = self.view(device, conv).seen.insert(msg_id);
        let is_late = self.index.healed.is_some_and(|healed| place > healed)
            && self.heads.get(&conv).is_some_and(|head| msg_id <= *head);
        if is_new && is_late {
            self.devices.entry(device).or_default().late = Some(place);
        }
    }

    /// A message is acknowledged only if its sender is one of those it is for.
    fn said(&mut self, send: &Send, msg_id: u32, place: usize) {
        let (conv, user) = (send.conv, send.user);
        if !self.entitled.may(conv, user, msg_id, place) {
            let mut cites = vec![Cite::event(send.invoke), Cite::event(place)];
            cites.extend(self.entitled.cites(conv, user, msg_id, place));
            self.found.add(Rule::H8, conv, &cites, || {
                format!("{conv}: u{user} said {msg_id}, and may not")
            });
        }
    }

    /// A user who is a member all the time is not told otherwise.
    fn refused(&mut self, send: &Send, place: usize) {
        let What::Fail { code: NOT_MEMBER, .. } = *self.index.what(place) else { return };
        let (conv, user) = (send.conv, send.user);
        let [before, after] =
            [send.invoke, place].map(|place| self.entitled.member_since(conv, user, place));
        if let Some(since) = before.filter(|_| before == after) {
            let cites = [since, send.invoke, place].map(Cite::event);
            self.found.add(Rule::H11, conv, &cites, || {
                format!("{conv}: u{user} is a member, and was told to be none")
            });
        }
    }

    /// Entitlement.
    fn received(&mut self, device: (u32, u32), conv: Conv, msg_id: u32, cite: Cite) {
        let user = device.0;
        if !self.entitled.may(conv, user, msg_id, cite.event) {
            let mut cites = vec![cite];
            cites.extend(self.entitled.cites(conv, user, msg_id, cite.event));
            self.found.add(Rule::H8, conv, &cites, || {
                format!("{conv}: u{user}/{} got {msg_id}, which is not for him", device.1)
            });
        }
        self.saw(device, conv, msg_id, cite.event);
    }

    fn session(&mut self, device: (u32, u32), state: Connection, place: usize) {
        if state == Connection::Connecting {
            return;
        }
        if state != Connection::Synced {
            self.end_session(device);
        }
        let it = self.devices.entry(device).or_default();
        it.is_synced = state == Connection::Synced;
        it.is_offline = state == Connection::Disconnected;
        if state == Connection::Connected {
            it.connected = Some(place);
        }
    }

    /// What was pushed in a session has no gap, and follows on what was read at its beginning.
    fn end_session(&mut self, device: (u32, u32)) {
        let Some(it) = self.devices.get_mut(&device) else { return };
        let mut convs: Vec<_> = it.views.iter_mut().collect();
        convs.sort_by_key(|(conv, _)| **conv);
        for (&conv, view) in convs {
            let pushes = std::mem::take(&mut view.pushes);
            let (Some(&(first, _)), Some(&(last, _))) = (pushes.first(), pushes.last()) else {
                continue;
            };
            let from = if it.is_synced { 1 } else { first };
            for (low, high) in view.seen.holes(from, last) {
                view.seen.insert_run(low, high);
                let after = pushes.partition_point(|(msg_id, _)| *msg_id < high);
                let Some(&(next, place)) = pushes.get(after) else { continue };
                let must = self.entitled.must_from(conv, device.0, place);
                let Some(missing) = must.map(|from| from.max(low)).filter(|it| *it <= high) else {
                    continue;
                };
                let before = after.checked_sub(1).and_then(|before| pushes.get(before));
                let mut cites = vec![Cite::event(place)];
                cites.extend(before.map(|(_, place)| Cite::event(*place)));
                if before.is_none() {
                    cites.extend(synced_before(self.index, device, place));
                }
                cites.extend(self.entitled.cites(conv, device.0, missing, place));
                let (user, number) = device;
                self.found.add(Rule::H7, conv, &cites, || {
                    format!("{conv}: u{user}/{number} was told {next} and not {missing}")
                });
            }
        }
    }

    fn push(&mut self, it: &Delivery, place: usize) {
        let device = (it.user, it.device);
        self.received(device, it.conv, it.msg_id, Cite::event(place));
        let view = self.view(device, it.conv);
        match view.pushes.last().copied() {
            Some((last, before)) if last >= it.msg_id => {
                let (conv, user, number, id) = (it.conv, it.user, it.device, it.msg_id);
                self.found.add(Rule::H7, conv, &[before, place].map(Cite::event), || {
                    format!("{conv}: u{user}/{number} was told {id} after {last}")
                });
            }
            _ => view.pushes.push((it.msg_id, place)),
        }
    }

    fn shown(&mut self, it: &Delivery, place: usize) {
        let device = (it.user, it.device);
        let view = self.view(device, it.conv);
        let before = view.shown;
        let last = before.map_or(0, |(last, _)| last).max(view.mark.map_or(0, |(mark, _)| mark));
        if it.msg_id <= last {
            let mut cites = vec![Cite::event(place)];
            cites.extend(before.or(view.mark).map(|(_, place)| Cite::event(place)));
            let (conv, user, number, id) = (it.conv, it.user, it.device, it.msg_id);
            self.found.add(Rule::H7, conv, &cites, || {
                format!("{conv}: u{user}/{number} was shown {id} after {last}")
            });
        } else {
            self.pass(device, it.conv, (last + 1, it.msg_id - 1), place);
        }
        self.received(device, it.conv, it.msg_id, Cite::event(place));
        let view = self.view(device, it.conv);
        view.shown = Some((it.msg_id.max(last), place));
        view.seen.insert_run(1, it.msg_id); // What was passed is reported, once.
    }

    /// Numbers that a client passed without handing them out.
    fn pass(&mut self, device: (u32, u32), conv: Conv, passed: (u32, u32), place: usize) {
        let (low, high) = passed;
        let must = self.entitled.must_from(conv, device.0, place);
        let Some(missing) = must.map(|from| from.max(low)).filter(|it| *it <= high) else { return };
        let mut cites = vec![Cite::event(place)];
        cites.extend(self.view(device, conv).shown.map(|(_, place)| Cite::event(place)));
        cites.extend(self.entitled.cites(conv, device.0, missing, place));
        let (user, number) = device;
        self.found.add(Rule::H7, conv, &cites, || {
            format!("{conv}: u{user}/{number} was not shown {missing} before what follows")
        });
    }

    fn watermark(&mut self, device: (u32, u32), conv: Conv, upto: u32, place: usize) {
        let view = self.view(device, conv);
        let before = view.mark.replace((upto, place));
        let is_beginning = before.is_none() && view.shown.is_none();
        let holes = if is_beginning { Vec::new() } else { view.seen.holes(1, upto) };
        view.seen.insert_run(1, upto);
        let (user, number) = device;
        if let Some((last, first)) = before.filter(|(last, _)| *last > upto) {
            self.found.add(Rule::H7, conv, &[first, place].map(Cite::event), || {
                format!("{conv}: the watermark of u{user}/{number} went from {last} to {upto}")
            });
        }
        let must = self.entitled.must_from(conv, user, place);
        let hole = holes.into_iter().find_map(|(low, high)| {
            must.map(|from| from.max(low)).filter(|missing| *missing <= high)
        });
        if let Some(missing) = hole {
            let mut cites = vec![Cite::event(place)];
            cites.extend(before.map(|(_, first)| Cite::event(first)));
            cites.extend(self.entitled.cites(conv, user, missing, place));
            self.found.add(Rule::H7, conv, &cites, || {
                format!("{conv}: the watermark of u{user}/{number} is {upto}, without {missing}")
            });
        }
    }

    fn pull(&mut self, what: &What, place: usize) {
        let What::Pull { user, device, conv, from, complete_upto, asked, to_head, rows } = what
        else {
            return;
        };
        let (conv, owner) = (*conv, (*user, *device));
        for (row, it) in rows.iter().enumerate() {
            self.received(owner, conv, it.msg_id, Cite::row(place, row));
        }
        let (from, upto) = (*from, *complete_upto);
        if upto >= from {
            self.pull_covers(owner, conv, (from, upto, rows), place);
            self.view(owner, conv).seen.insert_run(from, upto);
        }
        let Some(asked) = asked.filter(|_| *to_head).map(|at| self.index.place_after(at)) else {
            return;
        };
        // Members may have changed since it was asked: then it need not show what was there.
        let must = [asked, place].map(|place| self.entitled.must_from(conv, *user, place));
        let Some(must) = must.iter().copied().reduce(|one, next| one?.max(next?).into()).flatten()
        else {
            return;
        };
        let acked = self.index.acked_before(conv, asked);
        if let Some((head, by)) = acked.filter(|(head, _)| *head > upto && *head >= must) {
            let mut cites = vec![Cite::event(by), Cite::event(place)];
            cites.extend(self.index.evidence(by));
            cites.extend(self.entitled.cites(conv, *user, head, place));
            self.found.add(Rule::H7, conv, &cites, || {
                format!(
                    "{conv}: u{user}/{device} was told that {upto} is the newest, after {head} \
                     had been acknowledged"
                )
            });
        }
    }

    /// A pull shows everything that it covers.
    fn pull_covers(
        &mut self,
        device: (u32, u32),
        conv: Conv,
        (from, upto, rows): (u32, u32, &[Row]),
        place: usize,
    ) {
        let mut shown = Ranges::default();
        for row in rows {
            shown.insert(row.msg_id);
        }
        let Some(must) = self.entitled.must_from(conv, device.0, place) else { return };
        if let Some(&(missing, _)) = shown.holes(from.max(must), upto).first() {
            let mut cites = vec![Cite::event(place)];
            cites.extend(self.entitled.cites(conv, device.0, missing, place));
            let (user, number) = device;
            self.found.add(Rule::H7, conv, &cites, || {
                format!(
                    "{conv}: u{user}/{number} was told that {from} to {upto} is complete, without \
                     {missing}"
                )
            });
        }
    }
}

/// Where a device that was told something at `place` connected and was in sync.
fn synced_before(index: &Index<'_>, device: (u32, u32), place: usize) -> Vec<Cite> {
    let mut cites = Vec::new();
    for (place, event) in index.events.iter().enumerate().take(place).rev() {
        match event.what {
            What::Session { user, device: number, state, .. } if (user, number) == device => {
                cites.push(Cite::event(place));
                if state == Connection::Connected {
                    break;
                }
            }
            _ => {}
        }
    }
    cites
}
