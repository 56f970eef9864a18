//! What comes to a client before the client puts it in order: in one session nothing is left out that
//! was said after its login, nothing comes twice or early, and nothing comes that this very connection
//! said. (What was said before that, the client asks for; some of it may come by itself.)

use std::collections::{HashMap, HashSet};

use super::{Findings, Rule};
use crate::history::entitled::Entitled;
use crate::history::event::{Connection, Conv, Delivery, What};
use crate::history::index::{Cite, Index, Send};
use crate::history::ranges::Ranges;

/// A device of a user.
type Device = (u32, u32);

#[derive(Debug, Default)]
struct Session {
    /// Where it began, if that is in the history.
    began: Option<usize>,
    /// What came, and where.
    came: HashMap<Conv, Vec<(u32, usize)>>,
}

pub(super) fn check(index: &Index<'_>, entitled: &Entitled, found: &mut Findings) {
    let (own, said) = (own_numbers(index), said(index));
    let mut wires = Wires { index, entitled, own, said, found };
    let mut sessions: HashMap<Device, Session> = HashMap::new();
    for (place, event) in index.events.iter().enumerate() {
        match &event.what {
            What::Session { user, device, state: Connection::Connected, .. } => {
                let device = (*user, *device);
                let next = Session { began: Some(place), ..Session::default() };
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
    for (send, msg_id, _) in numbered(index) {
        own.entry((send.user, send.device)).or_default().insert((send.conv, msg_id));
    }
    own
}

/// Where each number was said, and where it is known that this is its number.
fn said(index: &Index<'_>) -> HashMap<(Conv, u32), [Cite; 2]> {
    let said = numbered(index)
        .map(|(send, msg_id, known)| ((send.conv, msg_id), [Cite::event(send.invoke), known]));
    said.collect()
}

fn numbered<'a>(index: &'a Index<'_>) -> impl Iterator<Item = (&'a Send, u32, Cite)> {
    index.sends.iter().flat_map(|send| {
        let answered = send.ok.map(|(msg_id, ok)| (msg_id, Cite::event(ok)));
        let numbers = [answered, send.stored].into_iter().flatten();
        numbers.map(move |(msg_id, known)| (send, msg_id, known))
    })
}

struct Wires<'a> {
    index: &'a Index<'a>,
    entitled: &'a Entitled,
    own: HashMap<Device, HashSet<(Conv, u32)>>,
    said: HashMap<(Conv, u32), [Cite; 2]>,
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
            let is_of_this =
                send.device == device && session.began.is_none_or(|began| send.invoke > began);
            (is_of_this && msg_id == it.msg_id).then_some([send.invoke, ok])
        });
        let Some([invoke, ok]) = own else { return };
        let cites: Vec<Cite> =
            session.began.into_iter().chain([invoke, ok, place]).map(Cite::event).collect();
        self.found.add(Rule::H7, conv, &cites, || {
            format!("{conv}: u{user}/{device} was told {} of its own", it.msg_id)
        });
    }

    fn end(&mut self, device: Device, session: Session) {
        let Session { began, came } = session;
        let mut convs: Vec<_> = came.into_iter().collect();
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
                let is_later = |msg_id: &u32| {
                    let said = self.said.get(&(conv, *msg_id));
                    said.is_some_and(|said| began.is_none_or(|began| said[0].event > began))
                };
                let mut between = low.max(from)..=high;
                let Some(missing) = between.find(|it| !is_own(it) && is_later(it)) else {
                    continue;
                };
                let before = after.checked_sub(1).and_then(|before| came.get(before));
                let mut cites = vec![Cite::event(place)];
                cites.extend(began.into_iter().chain(before.map(|(_, it)| *it)).map(Cite::event));
                cites.extend(self.said.get(&(conv, missing)).copied().into_iter().flatten());
                cites.extend(self.entitled.cites(conv, user, missing, place));
                self.found.add(Rule::H7, conv, &cites, || {
                    format!("{conv}: {next} came to u{user}/{number} and not {missing}")
                });
            }
        }
    }
}
