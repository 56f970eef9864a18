//! Read marks, and what follows from them: unread counts and newest numbers.
//!
//! A mark has no answer, so that only some are known to be kept: those that are recorded as such. An
//! unread count must fit a mark between the highest that is known to be kept and the highest that
//! was said.

use std::collections::{HashMap, HashSet};

use super::{Findings, Rule};
use crate::history::entitled::Entitled;
use crate::history::event::{Connection, Conv, Progress, What};
use crate::history::index::{Cite, Index};

/// What is known of the marks of one user in one conversation.
#[derive(Debug, Default)]
struct Marks {
    /// Everything that was said: up to where.
    said: HashSet<u32>,
    highest: u32,
    kept: u32,
}

pub(super) fn check(index: &Index<'_>, entitled: &Entitled, found: &mut Findings) {
    let mut marks: HashMap<(Conv, u32), Marks> = HashMap::new();
    let mut senders: HashMap<Conv, Senders> = HashMap::new();
    let mut told: HashMap<(u32, u32), HashMap<(Conv, u32), usize>> = HashMap::new();
    for (place, event) in index.events.iter().enumerate() {
        match event.what {
            What::Mark { user, conv, upto, phase } => {
                let marks = marks.entry((conv, user)).or_default();
                marks.said.insert(upto);
                marks.highest = marks.highest.max(upto);
                if phase == Progress::Ok {
                    marks.kept = marks.kept.max(upto);
                }
            }
            What::Session { user, device, state: Connection::Connected, .. } => {
                told.remove(&(user, device));
            }
            What::MarkTold { user, device, conv, upto } => {
                let told = told.entry((user, device)).or_default();
                // Two that are set at the same time come in either order.
                if let Some(first) = told.insert((conv, upto), place) {
                    found.add(Rule::H10, conv, &[first, place].map(Cite::event), || {
                        format!("{conv}: u{user}/{device} was told twice of mark {upto}")
                    });
                }
                let said = marks.get(&(conv, user)).is_some_and(|it| it.said.contains(&upto));
                if !said {
                    found.add(Rule::H10, conv, &[Cite::event(place)], || {
                        format!(
                            "{conv}: u{user}/{device} was told of mark {upto}, which nobody set"
                        )
                    });
                }
            }
            // Without a history there is nothing to compare with: the run is void anyway.
            What::Derived { user, conv, unread, head } if index.dumps.contains_key(&conv) => {
                let senders = senders.entry(conv).or_insert_with(|| Senders::new(index, conv));
                let Some(joined) = entitled.joined_at(conv, user) else { continue };
                let (kept, highest) =
                    marks.get(&(conv, user)).map_or((0, 0), |marks| (marks.kept, marks.highest));
                let most = senders.unread(user, kept.max(joined - 1));
                let least = senders.unread(user, highest.max(joined - 1));
                if (least..=most).contains(&unread) && head == senders.head {
                    continue;
                }
                let mut cites = vec![Cite::event(place)];
                cites.extend(index.dumps.get(&conv).map(|dump| Cite::event(dump.event)));
                cites.extend(senders.newest);
                found.add(Rule::H10, conv, &cites, || {
                    let newest = senders.head;
                    format!(
                        "{conv}: u{user} was told {unread} unread up to {head}, instead of {least} \
                         to {most} up to {newest}"
                    )
                });
            }
            _ => {}
        }
    }
}

/// Which user said what in a conversation, as far as it was acknowledged or is in the history.
struct Senders {
    head: u32,
    newest: Option<Cite>,
    /// All numbers.
    all: Vec<u32>,
    /// The numbers of each user.
    of: HashMap<u32, Vec<u32>>,
}

impl Senders {
    fn new(index: &Index<'_>, conv: Conv) -> Self {
        let mut by_number: HashMap<u32, (u32, Cite)> = HashMap::new();
        for send in index.sends.iter().filter(|send| send.conv == conv) {
            if let Some((msg_id, ok)) = send.ok {
                by_number.insert(msg_id, (send.user, Cite::event(ok)));
            }
        }
        if let Some(dump) = index.dumps.get(&conv) {
            for (msg_id, row) in &dump.rows {
                let cite = Cite::row(dump.event, *row);
                if let Some(row) = index.row(cite) {
                    by_number.entry(*msg_id).or_insert((row.sender, cite));
                }
            }
        }
        let mut all: Vec<u32> = by_number.keys().copied().collect();
        all.sort_unstable();
        let mut of: HashMap<u32, Vec<u32>> = HashMap::new();
        for msg_id in &all {
            of.entry(by_number[msg_id].0).or_default().push(*msg_id);
        }
        let head = all.last().copied().unwrap_or(0);
        let newest = by_number.get(&head).map(|(_, cite)| *cite);
        Self { head, newest, all, of }
    }

    /// How many messages of others lie above `read`.
    fn unread(&self, user: u32, read: u32) -> u32 {
        let above = |numbers: &[u32]| numbers.len() - numbers.partition_point(|id| *id <= read);
        let own = self.of.get(&user).map_or(0, |own| above(own));
        u32::try_from(above(&self.all) - own).unwrap_or(u32::MAX)
    }
}
