//! What comes to a client before the client puts it in order: in one session nothing is left out,
//! nothing comes twice or early, and nothing comes that this very connection said.

use std::collections::{HashMap, HashSet};

use super::{Findings, Rule};
use crate::history::entitled::Entitled;
use crate::history::event::{Connection, Conv, Delivery, What};
use crate::history::index::{Cite, Index};
use crate::history::ranges::Ranges;

/// A device of a user.
type Device = (u32, u32);

#[derive(Debug, Default)]
struct Session {
    /// Where it began.
    began: usize,
    /// What came, and where.
    came: HashMap<Conv, Vec<(u32, usize)>>,
}

pub(super) fn check(index: &Index<'_>, entitled: &Entitled, found: &mut Findings) {
    let mut wires = Wires { index, entitled, own: own_numbers(index), found };
    let mut sessions: HashMap<Device, Session> = HashMap::new();
    for (place, event) in index.events.iter().enumerate() {
        match &event.what {
            What::Session { user, device, state: Connection::Connected, .. } => {
                let device = (*user, *device);
                let next = Session { began: place, ..Session::default() };
                if let Some(session) = sessions.insert(device, next) {
                    wires.end(device, session);
                }
            }
            What::Wire(it) => {
                let session = sessions.entry((it.user, it.device)).or_default();
                wires.came(session, it, place);
            }
            _ => {}
        }
    }
    let mut left: Vec<_> = sessions.into_iter().collect();
    left.sort_by_key(|(device, _)| *device);
    for (device, session) in left {
        wires.end(device, session);
    }
}

/// The numbers of what each device said, which it is told by an answer.
fn own_numbers(index: &Index<'_>) -> HashMap<Device, HashSet<(Conv, u32)>> {
    let mut own: HashMap<Device, HashSet<(Conv, u32)>> = HashMap::new();
    for send in &index.sends {
        let numbers = [send.ok.map(|(msg_id, _)| msg_id), send.stored.map(|(msg_id, _)| msg_id)];
        let own = own.entry((send.user, send.device)).or_default();
        own.extend(numbers.into_iter().flatten().map(|msg_id| (send.conv, msg_id)));
    }
    own
}

struct Wires<'a> {
    index: &'a Index<'a>,
    entitled: &'a Entitled,
    own: HashMap<Device, HashSet<(Conv, u32)>>,
    found: &'a mut Findings,
}

impl Wires<'_> {
    fn came(&mut self, session: &mut Session, it: &Delivery, place: usize) {
        let Delivery { user, device, conv, msg_id, .. } = *it;
        let came = session.came.entry(conv).or_default();
        match came.last().copied() {
            Some((last, before)) if last >= msg_id => {
                self.found.add(Rule::H7, conv, &[before, place].map(Cite::event), || {
                    format!("{conv}: {msg_id} came to u{user}/{device} after {last}")
                });
            }
            _ => came.push((msg_id, place)),
        }
        self.check_own(session, it, place);
        if !self.entitled.may(conv, user, msg_id, place) {
            let mut cites = vec![Cite::event(place)];
            cites.extend(self.entitled.cites(conv, user, msg_id, place));
            self.found.add(Rule::H8, conv, &cites, || {
                format!("{conv}: {msg_id} came to u{user}/{device}, and is not for that user")
            });
        }
    }

    /// What a connection said is answered there, and told to the other connections of its user.
    fn check_own(&mut self, session: &Session, it: &Delivery, place: usize) {
        let Delivery { user, device, conv, sender, .. } = *it;
        if sender != user {
            return;
        }
        let mut said = self.index.said((conv, sender, it.sha));
        // Said before this session began, it may have been sent on an earlier connection.
        let own = said.find_map(|send| {
            let (msg_id, ok) = send.ok?;
            let is_of_this = send.device == device && send.invoke > session.began;
            (is_of_this && msg_id == it.msg_id).then_some([send.invoke, ok])
        });
        let Some([invoke, ok]) = own else { return };
        let cites = [session.began, invoke, ok, place].map(Cite::event);
        self.found.add(Rule::H7, conv, &cites, || {
            format!("{conv}: u{user}/{device} was told {} of its own", it.msg_id)
        });
    }

    fn end(&mut self, device: Device, session: Session) {
        let mut convs: Vec<_> = session.came.into_iter().collect();
        convs.sort_by_key(|(conv, _)| *conv);
        let (user, number) = device;
        for (conv, came) in convs {
            let (Some((first, _)), Some((last, _))) = (came.first(), came.last()) else { continue };
            let mut seen = Ranges::default();
            for (msg_id, _) in &came {
                seen.insert(*msg_id);
            }
            for (low, high) in seen.holes(*first, *last) {
                let after = came.partition_point(|(msg_id, _)| *msg_id < high);
                let Some((next, place)) = came.get(after).copied() else { continue };
                let Some(from) = self.entitled.must_from(conv, user, place) else { continue };
                let is_own = |msg_id: &u32| {
                    self.own.get(&device).is_some_and(|own| own.contains(&(conv, *msg_id)))
                };
                let Some(missing) = (low.max(from)..=high).find(|it| !is_own(it)) else { continue };
                let before = after.checked_sub(1).and_then(|before| came.get(before));
                let mut cites = vec![Cite::event(place)];
                cites.extend(before.map(|(_, place)| Cite::event(*place)));
                cites.extend(self.entitled.cites(conv, user, missing, place));
                self.found.add(Rule::H7, conv, &cites, || {
                    format!("{conv}: {next} came to u{user}/{number} and not {missing}")
                });
            }
        }
    }
}
