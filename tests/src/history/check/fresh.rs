//! Freshness and derived numbers.

use std::collections::HashMap;
use std::time::Duration;

use super::view::Late;
use super::{Findings, Rule};
use crate::history::entitled::Entitled;
use crate::history::event::{Conv, What};
use crate::history::figures::{Freshness, quantile};
use crate::history::index::{Cite, Index};

/// How long each device that is online took to have everything that was acknowledged before the
/// last fault ended, from then on or from when it was connected again.
pub(super) fn check(
    index: &Index<'_>,
    late: Vec<Late>,
    limit: Option<Duration>,
    found: &mut Findings,
) -> Option<Freshness> {
    let healed = index.healed?;
    let healed_us = index.us(healed);
    let (mut took, mut reconnected) = (Vec::new(), 0);
    for Late { user, device, connected, last } in late {
        let connected_us = connected.map_or(0, |place| index.us(place));
        let begin = connected_us.max(healed_us);
        reconnected = reconnected.max(begin - healed_us);
        let us = last.map_or(0, |last| index.us(last).saturating_sub(begin));
        took.push(us);
        if let (Some(last), Some(limit)) = (last, limit)
            && u128::from(us) > limit.as_micros()
        {
            let mut cites = vec![Cite::event(healed), Cite::event(last)];
            cites.extend(connected.filter(|place| *place > healed).map(Cite::event));
            found.add(Rule::H9, index.what(last).conv(), &cites, || {
                format!("u{user}/{device} had everything after {} ms only", us / 1_000)
            });
        }
    }
    took.sort_unstable();
    Some(Freshness {
        devices: took.len(),
        p99_us: quantile(&took, 0.99),
        max_us: took.last().copied().unwrap_or(0),
        reconnected_us: reconnected,
    })
}

/// Unread counts and newest numbers, against acknowledgements and histories.
pub(super) fn check_derived(index: &Index<'_>, entitled: &Entitled, found: &mut Findings) {
    let mut marks: HashMap<(Conv, u32), u32> = HashMap::new();
    let mut senders: HashMap<Conv, Senders> = HashMap::new();
    for (place, event) in index.events.iter().enumerate() {
        match event.what {
            What::Mark { user, conv, upto } => {
                let mark = marks.entry((conv, user)).or_default();
                *mark = upto.max(*mark);
            }
            // Without a history there is nothing to compare with: the run is void anyway.
            What::Derived { user, conv, unread, head } if index.dumps.contains_key(&conv) => {
                let senders = senders.entry(conv).or_insert_with(|| Senders::new(index, conv));
                let Some(joined) = entitled.joined_at(conv, user) else { continue };
                let read = marks.get(&(conv, user)).copied().unwrap_or(0);
                let expected = (senders.unread(user, read.max(joined - 1)), senders.head);
                if (unread, head) != expected {
                    let mut cites = vec![Cite::event(place)];
                    cites.extend(index.dumps.get(&conv).map(|dump| Cite::event(dump.event)));
                    cites.extend(senders.newest);
                    found.add(Rule::H10, conv, &cites, || {
                        let (count, newest) = expected;
                        format!(
                            "{conv}: u{user} was told {unread} unread up to {head}, instead of \
                             {count} up to {newest}"
                        )
                    });
                }
            }
            _ => {}
        }
    }
}

/// Who said what in a conversation, as far as it was acknowledged or is in the history.
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
