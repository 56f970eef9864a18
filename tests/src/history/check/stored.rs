//! Lost, once, stable, dense, no phantom: what the histories of the end say.

use std::collections::{HashMap, HashSet};

use super::{Findings, Rule};
use crate::history::entitled::{Entitled, is_party};
use crate::history::event::{Conv, Delivery, Mid, Row, Sha, What};
use crate::history::index::{Cite, Dump, Index, Send, Words};

/// Something that was seen at a place.
#[derive(Debug, Clone, Copy)]
struct Seen {
    conv: Conv,
    msg_id: u32,
    sender: u32,
    sha: Sha,
    cite: Cite,
}

impl Seen {
    const fn words(&self) -> Words {
        (self.conv, self.sender, self.sha)
    }
}

pub(super) fn check(index: &Index<'_>, found: &mut Findings) {
    for (conv, dump) in sorted(index) {
        check_dump(index, conv, dump, found);
    }
    for send in &index.sends {
        check_acked(index, send, found);
    }
    check_stable(index, found);
}

/// The dumps in an order that is the same every time.
fn sorted<'a>(index: &'a Index<'_>) -> Vec<(Conv, &'a Dump)> {
    let mut dumps: Vec<_> = index.dumps.iter().map(|(conv, dump)| (*conv, dump)).collect();
    dumps.sort_by_key(|(conv, _)| *conv);
    dumps
}

/// Once, dense, no phantom.
fn check_dump(index: &Index<'_>, conv: Conv, dump: &Dump, found: &mut Findings) {
    let mut before: Option<(u32, Cite)> = None;
    for &(msg_id, row) in &dump.rows {
        let cite = Cite::row(dump.event, row);
        let Some(it) = index.row(cite) else { continue };
        let expected = before.map_or(dump.from, |(last, _)| last + 1);
        match before {
            Some((last, first)) if last == msg_id => {
                found.add(Rule::H2, conv, &[first, cite], || {
                    format!("{conv}: the history lists {msg_id} twice")
                });
            }
            _ if msg_id > expected => {
                let mut cites = vec![cite];
                cites.extend(before.map(|(_, before)| before));
                found.add(Rule::H5, conv, &cites, || {
                    format!("{conv}: the history has {msg_id} and not {expected}")
                });
            }
            _ => {}
        }
        before = Some((msg_id, cite));
        check_said(index, conv, it, cite, found);
    }
}

/// A row is something that was said there by its sender, and not refused; and there are no more of
/// them than were said.
fn check_said(index: &Index<'_>, conv: Conv, row: &Row, cite: Cite, found: &mut Findings) {
    let (msg_id, sender) = (row.msg_id, row.sender);
    let words = (conv, sender, row.sha);
    if index.said(words).next().is_none() {
        match index.by_sha(row.sha) {
            None => found.add(Rule::H6, conv, &[cite], || {
                format!("{conv}: {msg_id} of u{sender} is something that nobody said")
            }),
            Some(send) => found.add(Rule::H6, conv, &[Cite::event(send.invoke), cite], || {
                let (said, by) = (send.conv, send.user);
                format!("{conv}: {msg_id} of u{sender} was said in {said} by u{by}")
            }),
        }
        return;
    }
    let Some(same) = index.same(words) else { return };
    let refused = same.refused.iter().find(|(it, _)| *it == cite);
    let refused = refused.and_then(|(_, number)| index.sends.get(*number));
    if let Some((send, fail)) = refused.and_then(|it| Some((it, it.fail?))) {
        found.add(Rule::H6, conv, &[Cite::event(send.invoke), Cite::event(fail), cite], || {
            format!("{conv}: {msg_id} of u{sender} was refused, and is in the history")
        });
    }
    if !same.surplus.contains(&cite) {
        return;
    }
    let mut cites: Vec<Cite> = same.rows.iter().map(|(_, cite)| *cite).collect();
    cites.extend(index.said(words).map(|send| Cite::event(send.invoke)));
    found.add(Rule::H2, conv, &cites, || {
        let (said, rows) = (same.sends.len(), same.rows.len());
        format!("{conv}: {msg_id} of u{sender} was said {said} times and is there {rows} times")
    });
}

/// Lost: what was acknowledged is not there at all. (At another place: not stable.)
fn check_acked(index: &Index<'_>, send: &Send, found: &mut Findings) {
    let Some((msg_id, ok)) = send.ok else { return };
    let (conv, user) = (send.conv, send.user);
    let Some(dump) = index.dumps.get(&conv).filter(|dump| dump.from <= msg_id) else { return };
    let [invoke, ok] = [send.invoke, ok].map(Cite::event);
    let Some((place, cite)) = send.stored else {
        found.add(Rule::H1, conv, &[invoke, ok, Cite::event(dump.event)], || {
            format!("{conv}: {msg_id} of u{user} was acknowledged, and is not in the history")
        });
        return;
    };
    if place == msg_id {
        return;
    }
    // What has this number in other words is seen to be another message.
    let mut same = index.said((conv, user, send.sha));
    if let Some(other) = same.find(|it| it.stored.is_some_and(|(place, _)| place == msg_id)) {
        let mut cites = index.evidence(other.invoke);
        cites.extend(other.stored.map(|(_, cite)| cite));
        cites.extend([invoke, ok, cite]);
        found.add(Rule::H3, conv, &cites, || {
            format!("{conv}: u{user} was told {msg_id} for two messages in the same words")
        });
    }
}

/// Stable: acknowledgements, deliveries and histories agree about every number.
fn check_stable(index: &Index<'_>, found: &mut Findings) {
    let mut stability =
        Stability { index, first: HashMap::new(), given: HashMap::new(), reported: HashSet::new() };
    for (place, event) in index.events.iter().enumerate() {
        match &event.what {
            What::Ok { mid, msg_id, .. } => {
                let Some(send) = index.by_mid(*mid) else { continue };
                let (conv, sender, sha) = (send.conv, send.user, send.sha);
                let cite = Cite::event(place);
                stability.saw(Seen { conv, msg_id: *msg_id, sender, sha, cite }, found);
            }
            What::Push(it) | What::Shown(it) | What::Wire(it) => {
                let Delivery { conv, msg_id, sender, sha, mid, time, .. } = *it;
                let row = Row { msg_id, sender, sha, mid, time };
                stability.saw_row(conv, &row, Cite::event(place), found);
            }
            What::Pull { conv, rows, .. } | What::Stored { conv, rows, .. } => {
                for (row, it) in rows.iter().enumerate() {
                    stability.saw_row(*conv, it, Cite::row(place, row), found);
                }
            }
            _ => {}
        }
    }
}

struct Stability<'a> {
    index: &'a Index<'a>,
    /// What was seen first at places that no history covers.
    first: HashMap<(Conv, u32), Seen>,
    /// Which message each name stands for that the server gave, and where it was shown first.
    given: HashMap<Mid, (Conv, u32, Cite)>,
    /// Places that are known to be wrong.
    reported: HashSet<(Conv, u32)>,
}

impl Stability<'_> {
    fn saw_row(&mut self, conv: Conv, row: &Row, cite: Cite, found: &mut Findings) {
        let Row { msg_id, sender, sha, mid, .. } = *row;
        if let Some(mid) = mid {
            self.saw_name(mid, row, (conv, cite), found);
        }
        self.saw(Seen { conv, msg_id, sender, sha, cite }, found);
    }

    /// A message is shown under the name that its sender gave it, and a name is that of one message.
    fn saw_name(&mut self, mid: Mid, row: &Row, (conv, cite): (Conv, Cite), found: &mut Findings) {
        let words = (conv, row.sender, row.sha);
        // A message that was never said is reported as that.
        let Some(said) = self.index.said(words).next() else { return };
        let named = self.index.by_mid(mid);
        if named.is_none() && self.index.same(words).is_some_and(|same| same.has_unnamed) {
            self.saw_given_name(mid, row.msg_id, (conv, cite), found);
            return;
        }
        // Where words were said once, they have another number elsewhere: not stable.
        let is_alone = self.index.said(words).nth(1).is_none();
        let is_it = |send: &&Send| {
            let number = send.ok.filter(|_| !is_alone).map_or(row.msg_id, |(msg_id, _)| msg_id);
            (send.conv, send.user, send.sha) == words && number == row.msg_id
        };
        if named.as_ref().is_some_and(is_it) {
            return;
        }
        let send = named.unwrap_or(said);
        let mut cites = self.index.evidence(send.invoke);
        cites.extend(self.index.said(words).take(2).map(|send| Cite::event(send.invoke)));
        cites.push(cite);
        found.add(Rule::H2, conv, &cites, || {
            format!("{conv}: {} is shown as {mid}, which is another message", row.msg_id)
        });
    }

    /// A name that the server gave is that of one message.
    fn saw_given_name(
        &mut self,
        mid: Mid,
        msg_id: u32,
        (conv, cite): (Conv, Cite),
        found: &mut Findings,
    ) {
        let first = *self.given.entry(mid).or_insert((conv, msg_id, cite));
        if (first.0, first.1) != (conv, msg_id) {
            found.add(Rule::H2, conv, &[first.2, cite], || {
                format!("{conv}: {msg_id} is shown as {mid}, as is {} of {}", first.1, first.0)
            });
        }
    }

    fn saw(&mut self, seen: Seen, found: &mut Findings) {
        let dump = self.index.dumps.get(&seen.conv).filter(|dump| dump.from <= seen.msg_id);
        let Some(dump) = dump else {
            let first = *self.first.entry((seen.conv, seen.msg_id)).or_insert(seen);
            if (first.sha, first.sender) != (seen.sha, seen.sender) {
                self.report(first.cite, seen, found, "was something else before");
            } else if self.index.said(seen.words()).next().is_none() {
                self.report_phantom(seen, found);
            }
            return;
        };
        match dump.at(seen.msg_id).map(|row| Cite::row(dump.event, row)) {
            Some(cite) => {
                let row = self.index.row(cite);
                let agrees = row.is_none_or(|it| (it.sha, it.sender) == (seen.sha, seen.sender));
                // A number that the history lists twice is reported as such.
                if !agrees
                    && self.index.row(seen.cite).is_none_or(|_| seen.cite.event != cite.event)
                {
                    self.report(cite, seen, found, "is something else in the history");
                }
            }
            None => self.saw_absent(dump, seen, found),
        }
    }

    /// Something was seen at a place that the history does not have.
    fn saw_absent(&mut self, dump: &Dump, seen: Seen, found: &mut Findings) {
        let words = seen.words();
        if self.index.said(words).next().is_none() {
            self.report_phantom(seen, found);
            return;
        }
        match self.index.same(words).and_then(|same| same.unclaimed.first()) {
            Some(cite) => self.report(*cite, seen, found, "is elsewhere in the history"),
            // What was acknowledged and is not there is lost: reported as such.
            None if self.index.said(words).any(|send| send.ok.is_some()) => {}
            None => {
                let cite = Cite::event(dump.event);
                self.report(cite, seen, found, "was shown, and is not in the history");
            }
        }
    }

    fn report_phantom(&mut self, seen: Seen, found: &mut Findings) {
        let Seen { conv, msg_id, sender, .. } = seen;
        if self.reported.insert((conv, msg_id)) {
            found.add(Rule::H6, conv, &[seen.cite], || {
                format!("{conv}: {msg_id} of u{sender} was shown, and nobody said it")
            });
        }
    }

    fn report(&mut self, other: Cite, seen: Seen, found: &mut Findings, what: &str) {
        let Seen { conv, msg_id, sender, .. } = seen;
        if self.reported.insert((conv, msg_id)) {
            let mut said = self.index.said(seen.words());
            let said = said.next().map(|send| Cite::event(send.invoke));
            let cites: Vec<Cite> = said.into_iter().chain([other, seen.cite]).collect();
            found.add(Rule::H3, conv, &cites, || format!("{conv}: {msg_id} of u{sender} {what}"));
        }
    }
}

/// Lost on the way: in the end, a device that must have an acknowledged message does not have it.
pub(super) fn check_finals(index: &Index<'_>, entitled: &Entitled, found: &mut Findings) {
    let mut acked: HashMap<Conv, Vec<(u32, usize)>> = HashMap::new();
    for (number, send) in index.sends.iter().enumerate() {
        if let Some((msg_id, _)) = send.ok {
            acked.entry(send.conv).or_default().push((msg_id, number));
        }
    }
    for acked in acked.values_mut() {
        acked.sort_unstable();
    }
    let finals = Finals::new(index);
    let mut concerned: Vec<(Conv, u32)> =
        entitled.users().filter(|(conv, _)| acked.contains_key(conv)).collect();
    for conv in acked.keys() {
        let users = finals.devices.keys().copied();
        concerned.extend(
            users.filter(|user| is_party(*conv, *user) == Some(true)).map(|user| (*conv, user)),
        );
    }
    concerned.sort_unstable();
    concerned.dedup();
    for (conv, user) in concerned {
        let Some(from) = entitled.must_have_from(conv, user) else { continue };
        for &device in finals.devices.get(&user).into_iter().flatten() {
            let (has, place) = finals.has(conv, user, device);
            if let Some(number) = first_missing(&acked[&conv], from, has) {
                let send = &index.sends[number];
                let id = send.ok.map_or(0, |(msg_id, _)| msg_id);
                let mut cites = index.evidence(send.invoke);
                cites.push(Cite::event(place));
                cites.extend(entitled.cites(conv, user, id, usize::MAX));
                found.add(Rule::H1, conv, &cites, || {
                    format!("{conv}: {id} was acknowledged, and u{user}/{device} does not have it")
                });
            }
        }
    }
}

/// Runs of numbers without a hole, and where a device said that it has them.
type Has<'a> = (&'a [(u32, u32)], usize);

/// What devices have in the end.
#[derive(Default)]
struct Finals<'a> {
    /// By user: devices that said what they have.
    devices: HashMap<u32, Vec<u32>>,
    has: HashMap<(Conv, u32, u32), Has<'a>>,
    /// Where a device said so first, for conversations that it said nothing about.
    first: HashMap<(u32, u32), usize>,
}

impl<'a> Finals<'a> {
    fn new(index: &Index<'a>) -> Self {
        let mut finals = Self::default();
        for (place, event) in index.events.iter().enumerate() {
            if let What::Final { user, device, conv, has } = &event.what {
                finals.has.insert((*conv, *user, *device), (has, place));
                if finals.first.insert((*user, *device), place).is_none() {
                    finals.devices.entry(*user).or_default().push(*device);
                }
            }
        }
        finals
    }

    fn has(&self, conv: Conv, user: u32, device: u32) -> Has<'a> {
        let first = self.first.get(&(user, device)).copied().unwrap_or_default();
        self.has.get(&(conv, user, device)).copied().unwrap_or((&[], first))
    }
}

/// The first of the acknowledged numbers from `from` on that is in none of the runs.
fn first_missing(acked: &[(u32, usize)], from: u32, has: &[(u32, u32)]) -> Option<usize> {
    let mut place = acked.partition_point(|(msg_id, _)| *msg_id < from);
    for (first, last) in has {
        let next = acked.get(place)?;
        if next.0 < *first {
            return Some(next.1);
        }
        place = place.max(acked.partition_point(|(msg_id, _)| msg_id <= last));
    }
    acked.get(place).map(|(_, number)| *number)
}
