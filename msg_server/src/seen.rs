//! What has been delivered of one conversation: drops what comes twice, and notices what is missing.
//!
//! Pure: no clock, no sockets.

use std::mem;

/// Message ids below the highest one that are remembered one by one.
const WINDOW: u32 = 64;

/// Records that are held back behind a gap at most.
const HELD_MAX: usize = 256;

/// What is known of a record before it is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// 0 for a change of members.
    pub(crate) msg_id: u32,
    pub(crate) offset: u64,
    /// The record of this conversation before this one.
    pub(crate) prev_offset: u64,
    /// The version of the group's member list after a change of members.
    pub(crate) member_version: u64,
}

/// One conversation. `R` is a record, with its [`Mark`].
#[derive(Debug)]
pub(crate) struct Seen<R> {
    last_offset: u64,
    /// The highest message id seen; bit i of `window` stands for `top - i`.
    top: u32,
    window: u64,
    member_version: u64,
    gap: Option<Box<Gap<R>>>,
}

#[derive(Debug)]
struct Gap<R> {
    /// The first message that may be missing.
    from: u32,
    /// Sorted by offset.
    held: Vec<(Mark, R)>,
}

/// What becomes of a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<R> {
    /// These are delivered, in this order.
    Deliver(Vec<R>),
    /// It came before.
    Duplicate,
    /// It waits for what is missing before it. `opened` if it is the first to wait.
    Held { opened: bool },
}

impl<R> Seen<R> {
    /// A conversation of which nothing came before `mark`.
    pub(crate) fn from(mark: Mark) -> Self {
        Self {
            last_offset: mark.prev_offset,
            top: mark.msg_id.saturating_sub(1),
            window: 0,
            member_version: mark.member_version.saturating_sub(u64::from(mark.msg_id == 0)),
            gap: None,
        }
    }

    /// Takes a record. If not `continuous`, records may rightly have passed us by.
    pub(crate) fn take(&mut self, mark: Mark, record: R, continuous: bool) -> Verdict<R> {
        if !self.is_news(mark) {
            return Verdict::Duplicate;
        }
        if !continuous && self.gap.is_none() {
            self.last_offset = self.last_offset.max(mark.prev_offset);
        }
        if mark.prev_offset <= self.last_offset {
            self.last_offset = self.last_offset.max(mark.offset);
            let mut delivered = vec![record];
            self.deliver_held(&mut delivered);
            return Verdict::Deliver(delivered);
        }
        self.hold(mark, record)
    }

    /// The messages that a repair should fetch, from and to; `None` if there is no gap.
    pub(crate) fn missing(&self) -> Option<(u32, u32)> {
        let gap = self.gap.as_ref()?;
        let next = gap.held.iter().map(|(mark, _record)| mark.msg_id).find(|msg_id| *msg_id > 0);
        Some((gap.from, next.unwrap_or(gap.from).saturating_sub(1)))
    }

    /// The message after the highest one that came.
    pub(crate) fn next(&self) -> u32 {
        self.top.saturating_add(1)
    }

    /// Whether something is held back behind a gap.
    pub(crate) fn has_gap(&self) -> bool {
        self.gap.is_some()
    }

    /// Closes the gap: delivers `fetched`, as far as it did not come meanwhile, then what was held.
    pub(crate) fn close(&mut self, fetched: Vec<(Mark, R)>) -> Vec<R> {
        let mut delivered = Vec::new();
        for (mark, record) in fetched {
            if self.is_news(mark) {
                self.last_offset = self.last_offset.max(mark.offset);
                delivered.push(record);
            }
        }
        if let Some(gap) = self.gap.take() {
            for (mark, record) in gap.held {
                self.last_offset = self.last_offset.max(mark.offset);
                delivered.push(record);
            }
        }
        delivered
    }

    fn hold(&mut self, mark: Mark, record: R) -> Verdict<R> {
        let opened = self.gap.is_none();
        // The window already counts `mark`; what is missing lies before everything that is held.
        let below = self.contiguous_below(mark.msg_id);
        let gap = self.gap.get_or_insert_with(|| {
            Box::new(Gap { from: below.saturating_add(1), held: Vec::with_capacity(1) })
        });
        let index = gap.held.partition_point(|(held, _record)| held.offset < mark.offset);
        gap.held.insert(index, (mark, record));
        if gap.held.len() > HELD_MAX {
            return Verdict::Deliver(self.close(Vec::new()));
        }
        Verdict::Held { opened }
    }

    /// Delivers what was held and lacks nothing any more.
    fn deliver_held(&mut self, delivered: &mut Vec<R>) {
        let Some(gap) = &mut self.gap else { return };
        let mut held = mem::take(&mut gap.held).into_iter().peekable();
        while let Some((mark, record)) =
            held.next_if(|(mark, _record)| mark.prev_offset <= self.last_offset)
        {
            self.last_offset = self.last_offset.max(mark.offset);
            delivered.push(record);
        }
        gap.held = held.collect();
        if gap.held.is_empty() {
            self.gap = None;
        }
    }

    /// Remembers a record. Whether it had not come before.
    fn is_news(&mut self, mark: Mark) -> bool {
        if mark.msg_id == 0 {
            let news = mark.member_version > self.member_version;
            self.member_version = self.member_version.max(mark.member_version);
            return news;
        }
        if mark.msg_id > self.top {
            let shift = mark.msg_id - self.top;
            self.window = if shift < WINDOW { self.window << shift } else { 0 } | 1;
            self.top = mark.msg_id;
            return true;
        }
        let age = self.top - mark.msg_id;
        if age >= WINDOW {
            // Too old to tell. Clients drop what they have; nobody brings back what is dropped here.
            return true;
        }
        let bit = 1_u64 << age;
        let news = self.window & bit == 0;
        self.window |= bit;
        news
    }

    /// The highest id below `msg_id` that has been seen, or that counts as seen.
    fn contiguous_below(&self, msg_id: u32) -> u32 {
        let limit = if msg_id == 0 { self.top.saturating_add(1) } else { msg_id };
        let seen = (0..WINDOW).filter(|age| self.window >> age & 1 == 1);
        let highest = seen.map(|age| self.top.saturating_sub(age)).find(|id| *id < limit);
        // Nothing seen within the window: then nobody here has seen what lies before either.
        highest.unwrap_or_else(|| limit.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Message n lies at offset 10 n and follows message n - 1.
    fn message(msg_id: u32) -> Mark {
        let offset = u64::from(msg_id) * 10;
        Mark { msg_id, offset, prev_offset: offset.saturating_sub(10), member_version: 1 }
    }

    fn take(seen: &mut Seen<u32>, msg_id: u32) -> Verdict<u32> {
        seen.take(message(msg_id), msg_id, true)
    }

    fn started(msg_id: u32) -> Seen<u32> {
        let mut seen = Seen::from(message(msg_id));
        assert_eq!(take(&mut seen, msg_id), Verdict::Deliver(vec![msg_id]));
        seen
    }

    #[test]
    fn what_comes_twice_is_delivered_once() {
        let mut seen = started(5);
        assert_eq!(take(&mut seen, 5), Verdict::Duplicate);
        assert_eq!(take(&mut seen, 6), Verdict::Deliver(vec![6]));
        assert_eq!(take(&mut seen, 5), Verdict::Duplicate);
        assert_eq!(take(&mut seen, 6), Verdict::Duplicate);
    }

    #[test]
    fn a_late_copy_closes_the_gap_in_order() {
        let mut seen = started(5);
        assert_eq!(take(&mut seen, 8), Verdict::Held { opened: true });
        assert_eq!(take(&mut seen, 7), Verdict::Held { opened: false });
        assert_eq!(seen.missing(), Some((6, 6)));
        assert_eq!(take(&mut seen, 8), Verdict::Duplicate, "also what is held");
        assert_eq!(take(&mut seen, 6), Verdict::Deliver(vec![6, 7, 8]));
        assert!(!seen.has_gap());
    }

    #[test]
    fn what_was_fetched_comes_before_what_was_held() {
        let mut seen = started(5);
        take(&mut seen, 9);
        assert_eq!(seen.missing(), Some((6, 8)));
        let fetched = [6, 7, 8].map(|msg_id| (message(msg_id), msg_id)).to_vec();
        assert_eq!(seen.close(fetched), [6, 7, 8, 9]);
        assert_eq!(take(&mut seen, 7), Verdict::Duplicate);
        assert_eq!(take(&mut seen, 10), Verdict::Deliver(vec![10]));
    }

    #[test]
    fn without_continuous_interest_there_is_no_gap() {
        let mut seen = started(5);
        let far = message(90);
        assert_eq!(seen.take(far, 90, false), Verdict::Deliver(vec![90]));
        assert_eq!(take(&mut seen, 91), Verdict::Deliver(vec![91]));
    }

    #[test]
    fn a_change_of_members_is_known_by_its_version() {
        let change = |version, offset, prev_offset| Mark {
            msg_id: 0,
            offset,
            prev_offset,
            member_version: version,
        };
        let mut seen = Seen::from(change(4, 10, 0));
        assert_eq!(seen.take(change(4, 10, 0), 4, true), Verdict::Deliver(vec![4]));
        assert_eq!(seen.take(change(4, 10, 0), 4, true), Verdict::Duplicate);
        assert_eq!(seen.take(change(5, 20, 10), 5, true), Verdict::Deliver(vec![5]));
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut seen = started(1);
        let mut delivered = Vec::new();
        for msg_id in 3..1_000 {
            if let Verdict::Deliver(records) = take(&mut seen, msg_id) {
                delivered.extend(records);
            }
        }
        assert_eq!(delivered, (3..1_000).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn whatever_the_order_and_the_repeats_all_is_delivered_once_and_in_order(
            order in Just((2_u32..40).collect::<Vec<_>>()).prop_shuffle(),
            repeats in prop::collection::vec(0_usize..38, 0..20),
        ) {
            let mut seen = started(1);
            let mut delivered = Vec::new();
            for msg_id in order.iter().copied().chain(repeats.iter().map(|index| order[*index])) {
                if let Verdict::Deliver(records) = take(&mut seen, msg_id) {
                    delivered.extend(records);
                }
            }
            prop_assert_eq!(delivered, (2..40).collect::<Vec<_>>());
        }
    }
}
