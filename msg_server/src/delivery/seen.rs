//! What has been delivered of one conversation: drops what comes twice, notices what is missing, and
//! holds back what lies behind it.
//!
//! Everything goes by places in the log. A record is the next one if nothing of its conversation was
//! published between the last one here and it, which is what `prev_offset` says.
//!
//! Pure: no clock, no sockets.
//!
//! # Invariants
//!
//! - Records are delivered in the order of the log, each once, and none before one that is missing.
//! - There is a gap exactly as long as something at or below `known` is missing.
//!
//! # What bounds it
//!
//! [`HELD_MAX`] records are held. Beyond, they are dropped, and fetched with what is missing.

use std::mem;

use daemon::faults::{self, Mutant};

/// Records that are held back behind a gap at most.
const HELD_MAX: usize = 256;

/// What is known of a record before it is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// 0 for a change of members.
    pub(crate) msg_id: u32,
    pub(crate) offset: u64,
    /// The record of this conversation before this one. Not to be relied on in what was fetched.
    pub(crate) prev_offset: u64,
}

/// A record, and where it stands.
#[derive(Debug)]
pub(crate) struct Placed<R> {
    pub(crate) position: Position,
    pub(crate) record: R,
}

/// One conversation. `R` is a record.
#[derive(Debug)]
pub(crate) struct Seen<R> {
    /// Up to here everything was delivered, or is asked for by the clients themselves.
    last_offset: u64,
    /// The highest message id delivered; 0 if none is known.
    top: u32,
    gap: Option<Box<Gap<R>>>,
}

#[derive(Debug)]
struct Gap<R> {
    /// The last record that is known to exist.
    known: u64,
    /// Sorted by offset.
    held: Vec<Placed<R>>,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is delivered, and perhaps others with it: those that waited for it.
    Delivered { closed: bool },
    /// It came before.
    Duplicate,
    /// It waits for what is missing before it. `opened` if it is the first to wait.
    Held { opened: bool },
}

/// What a repair should ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The first message.
    pub(crate) from: u32,
    /// Only records after this offset.
    pub(crate) after_offset: u64,
    /// The last record that is known to exist.
    pub(crate) known: u64,
}

impl<R> Seen<R> {
    /// A conversation of which everything up to `offset` needs no delivery.
    pub(crate) fn from(offset: u64) -> Self {
        Self { last_offset: offset, top: 0, gap: None }
    }

    /// A conversation of which it is unknown what came before `position`.
    pub(crate) fn before(position: Position) -> Self {
        Self { top: position.msg_id.saturating_sub(1), ..Self::from(position.prev_offset) }
    }

    pub(crate) fn last_offset(&self) -> u64 {
        self.last_offset
    }

    /// Whether something is missing.
    pub(crate) fn has_gap(&self) -> bool {
        self.gap.is_some()
    }

    /// Takes a record; what is to be delivered now is added to `out`.
    pub(crate) fn take(&mut self, placed: Placed<R>, out: &mut Vec<R>) -> Verdict {
        let position = placed.position;
        if position.offset <= self.last_offset {
            return Verdict::Duplicate;
        }
        if position.prev_offset <= self.last_offset || faults::planted(Mutant::WatermarkMax) {
            self.deliver(placed, out);
            let closed = self.deliver_held(out);
            return Verdict::Delivered { closed };
        }
        self.hold(placed)
    }

    /// Nothing up to `offset` is missing: every client here asks for it itself.
    pub(crate) fn cover(&mut self, offset: u64, out: &mut Vec<R>) {
        if offset > self.last_offset {
            self.last_offset = offset;
            self.deliver_held(out);
        }
    }

    /// There is a record at `offset`, whether or not it has come. Whether that opened a gap.
    pub(crate) fn expect(&mut self, offset: u64) -> bool {
        if offset <= self.last_offset || faults::planted(Mutant::WatermarkMax) {
            return false;
        }
        let opened = self.gap.is_none();
        let gap = self.gap_mut();
        gap.known = gap.known.max(offset);
        opened
    }

    /// What is to be asked for; `None` if nothing is missing.
    pub(crate) fn missing(&self) -> Option<Missing> {
        self.gap.as_ref().map(|gap| Missing {
            from: self.top.saturating_add(1),
            after_offset: self.last_offset,
            known: gap.known,
        })
    }

    /// Takes what was asked for. If `complete_to` is given, it is complete up to that offset, and
    /// otherwise up to its last message. Whether that closed the gap.
    pub(crate) fn fetched(
        &mut self,
        mut fetched: Vec<Placed<R>>,
        complete_to: Option<u64>,
        out: &mut Vec<R>,
    ) -> bool {
        let Some(gap) = &mut self.gap else { return false };
        fetched.sort_by_key(|placed| placed.position.offset);
        let messages = fetched.iter().filter(|placed| placed.position.msg_id > 0);
        let last_message = messages.map(|placed| placed.position.offset).max().unwrap_or(0);
        // Changes of members come as one, at the last of them. If that lies behind messages that
        // are not in this answer, it comes again with those.
        let bound = complete_to.map_or(last_message, |known| {
            known.max(fetched.last().map_or(0, |placed| placed.position.offset))
        });

        let held = mem::take(&mut gap.held);
        let (within, behind) = held.into_iter().partition(|placed| placed.position.offset <= bound);
        gap.held = behind;
        // Of a message the copy that came by itself is better: it says where it came from. Of a
        // change of members the fetched one is: it says what came before it, too.
        let within: Vec<Placed<R>> = within;
        let is_held = |position: &Position| {
            within.binary_search_by_key(&position.offset, |held| held.position.offset).is_ok()
        };
        fetched.retain(|Placed { position, .. }| {
            position.offset <= bound && (position.msg_id == 0 || !is_held(position))
        });
        fetched.extend(within);
        // Stable: of two changes of members at one place the fetched one is first, and stays.
        fetched.sort_by_key(|placed| placed.position.offset);
        for placed in fetched {
            if placed.position.offset > self.last_offset {
                self.deliver(placed, out);
            }
        }
        self.last_offset = self.last_offset.max(bound);
        self.deliver_held(out)
    }

    /// What is missing is no longer fetched, since no session here needs it. What was held is delivered.
    pub(crate) fn give_up(&mut self, out: &mut Vec<R>) {
        let Some(gap) = self.gap.take() else { return };
        for placed in gap.held {
            self.deliver(placed, out);
        }
        self.last_offset = self.last_offset.max(gap.known);
    }

    fn gap_mut(&mut self) -> &mut Gap<R> {
        self.gap.get_or_insert_with(|| Box::new(Gap { known: 0, held: Vec::new() }))
    }

    fn deliver(&mut self, Placed { position, record }: Placed<R>, out: &mut Vec<R>) {
        self.last_offset = self.last_offset.max(position.offset);
        self.top = self.top.max(position.msg_id);
        out.push(record);
    }

    fn hold(&mut self, placed: Placed<R>) -> Verdict {
        let position = placed.position;
        let opened = self.gap.is_none();
        let gap = self.gap_mut();
        gap.known = gap.known.max(position.offset);
        match gap.held.binary_search_by_key(&position.offset, |held| held.position.offset) {
            Ok(_held) => return Verdict::Duplicate,
            Err(index) => gap.held.insert(index, placed),
        }
        if gap.held.len() > HELD_MAX {
            gap.held = Vec::new();
        }
        Verdict::Held { opened }
    }

    /// Delivers what was held and now lacks nothing. Whether that closed the gap.
    fn deliver_held(&mut self, out: &mut Vec<R>) -> bool {
        let Some(gap) = &mut self.gap else { return false };
        let mut held = mem::take(&mut gap.held).into_iter().peekable();
        while let Some(placed) =
            held.next_if(|placed| placed.position.prev_offset <= self.last_offset)
        {
            if placed.position.offset > self.last_offset {
                self.deliver(placed, out);
            }
        }
        let held: Vec<Placed<R>> = held.collect();
        let Some(gap) = &mut self.gap else { return false };
        gap.held = held;
        let closed = gap.held.is_empty() && gap.known <= self.last_offset;
        if closed {
            self.gap = None;
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Message n lies at offset 10 n and follows message n - 1.
    fn message(msg_id: u32) -> Position {
        let offset = u64::from(msg_id) * 10;
        Position { msg_id, offset, prev_offset: offset.saturating_sub(10) }
    }

    fn change(offset: u64, prev_offset: u64) -> Position {
        Position { msg_id: 0, offset, prev_offset }
    }

    fn placed(position: Position, record: u32) -> Placed<u32> {
        Placed { position, record }
    }

    fn take(seen: &mut Seen<u32>, msg_id: u32) -> (Verdict, Vec<u32>) {
        let mut out = Vec::new();
        (seen.take(placed(message(msg_id), msg_id), &mut out), out)
    }

    fn taken(seen: &mut Seen<u32>, msg_id: u32) -> Vec<u32> {
        take(seen, msg_id).1
    }

    fn fetched(seen: &mut Seen<u32>, ids: &[u32], complete_to: Option<u64>) -> Vec<u32> {
        let mut out = Vec::new();
        let records = ids.iter().map(|msg_id| placed(message(*msg_id), *msg_id)).collect();
        seen.fetched(records, complete_to, &mut out);
        out
    }

    #[test]
    fn what_comes_twice_is_delivered_once() {
        let mut seen = Seen::from(40);
        assert_eq!(taken(&mut seen, 5), [5]);
        assert_eq!(take(&mut seen, 5).0, Verdict::Duplicate);
        assert_eq!(taken(&mut seen, 6), [6]);
        assert_eq!(take(&mut seen, 4).0, Verdict::Duplicate, "asked for by the clients");
    }

    #[test]
    fn a_late_copy_closes_the_gap_in_order() {
        let mut seen = Seen::from(50);
        assert_eq!(take(&mut seen, 8).0, Verdict::Held { opened: true });
        assert_eq!(take(&mut seen, 7).0, Verdict::Held { opened: false });
        assert_eq!(take(&mut seen, 8).0, Verdict::Duplicate, "also what is held");
        assert_eq!(seen.missing().unwrap().after_offset, 50);
        let (verdict, delivered) = take(&mut seen, 6);
        assert_eq!(verdict, Verdict::Delivered { closed: true });
        assert_eq!(delivered, [6, 7, 8]);
        assert!(!seen.has_gap());
    }

    #[test]
    fn what_was_fetched_comes_before_what_was_held() {
        let mut seen = Seen::from(50);
        taken(&mut seen, 9);
        assert_eq!(fetched(&mut seen, &[6, 7, 8, 9], Some(90)), [6, 7, 8, 9]);
        assert_eq!(take(&mut seen, 7).0, Verdict::Duplicate);
        assert_eq!(taken(&mut seen, 10), [10]);
    }

    #[test]
    fn a_page_leaves_the_gap_open_behind_its_last_message() {
        let mut seen = Seen::from(0);
        taken(&mut seen, 9);
        assert_eq!(fetched(&mut seen, &[1, 2, 3], None), [1, 2, 3]);
        let missing = seen.missing().unwrap();
        assert_eq!((missing.from, missing.after_offset), (4, 30));
        assert!(fetched(&mut seen, &[], None).is_empty());
        assert_eq!(fetched(&mut seen, &[4, 5, 6, 7, 8, 9], Some(90)), [4, 5, 6, 7, 8, 9]);
        assert!(!seen.has_gap());
    }

    #[test]
    fn what_is_known_to_exist_is_missing_until_it_comes() {
        let mut seen = Seen::from(0);
        assert!(seen.expect(20));
        assert!(!seen.expect(10));
        assert_eq!(taken(&mut seen, 1), [1]);
        assert!(seen.has_gap());
        assert_eq!(taken(&mut seen, 2), [2]);
        assert!(!seen.has_gap());
        assert!(!seen.expect(20));
    }

    #[test]
    fn a_change_that_is_held_stays_at_its_place_even_if_it_is_not_fetched() {
        let mut seen = Seen::from(10);
        let mut out = Vec::new();
        seen.take(placed(change(35, 30), 0), &mut out);
        assert!(out.is_empty());
        assert_eq!(fetched(&mut seen, &[2, 3, 4], Some(35)), [2, 3, 0, 4]);
        assert!(!seen.has_gap());
    }

    #[test]
    fn a_change_behind_the_page_waits_for_the_messages_before_it() {
        let mut seen = Seen::from(0);
        seen.expect(60);
        let mut out = Vec::new();
        let page = vec![placed(message(1), 1), placed(message(2), 2), placed(change(60, 0), 0)];
        assert!(!seen.fetched(page, None, &mut out));
        let rest = vec![placed(message(3), 3), placed(change(60, 20), 0)];
        assert!(seen.fetched(rest, Some(60), &mut out));
        assert_eq!(out, [1, 2, 3, 0]);
    }

    #[test]
    fn what_is_held_is_bounded_and_never_delivered_with_a_hole() {
        let mut seen = Seen::from(10);
        for msg_id in 3..1_000 {
            assert!(taken(&mut seen, msg_id).is_empty());
        }
        assert!(seen.gap.as_ref().unwrap().held.len() <= HELD_MAX);
        let all: Vec<u32> = (2..1_000).collect();
        assert_eq!(fetched(&mut seen, &all, Some(9_990)), all);
        assert!(!seen.has_gap());
    }

    #[test]
    fn where_nobody_needs_what_is_missing_the_held_is_passed_on() {
        let mut seen = Seen::from(10);
        taken(&mut seen, 4);
        let mut out = Vec::new();
        seen.give_up(&mut out);
        assert_eq!(out, [4]);
        assert_eq!(taken(&mut seen, 5), [5]);
    }

    proptest! {
        #[test]
        fn whatever_the_order_and_the_repeats_all_is_delivered_once_and_in_order(
            order in Just((2_u32..40).collect::<Vec<_>>()).prop_shuffle(),
            repeats in prop::collection::vec(0_usize..38, 0..20),
        ) {
            let mut seen = Seen::from(10);
            let mut delivered = Vec::new();
            for msg_id in order.iter().copied().chain(repeats.iter().map(|index| order[*index])) {
                delivered.extend(taken(&mut seen, msg_id));
            }
            prop_assert_eq!(delivered, (2..40).collect::<Vec<_>>());
        }
    }
}
