//! Lines of messages that were turned away: nothing may overtake the one that was.
//!
//! A line is what one gateway submits of one sender to one conversation. When a message of a line is
//! told to try again, those that are on their way behind it must be told the same, or they would be
//! numbered before it. The gateway then submits them again, in order; the one that has nothing
//! unanswered before it opens the line.
//!
//! # What bounds it
//!
//! [`LINES_MAX`] closed lines; the one closed longest ago is opened first, and what it protected is
//! then ordered by chance.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use fold::admission::{Change, Send};
use lru::LruCache;
use parking_lot::Mutex;
use proto::ids::{ConversationId, UserId};

/// Closed lines that are remembered.
const LINES_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// A gateway, a sender, a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Line(u64, UserId, ConversationId);

/// The closed lines of a partition.
#[derive(Debug)]
pub(super) struct Lines {
    closed: Mutex<LruCache<Line, ()>>,
    /// How many there are: almost always none, and then nothing is locked.
    count: AtomicUsize,
}

impl Default for Lines {
    fn default() -> Self {
        let closed = Mutex::new(LruCache::new(LINES_MAX));
        Self { closed, count: AtomicUsize::new(0) }
    }
}

impl Line {
    /// The line of a change; only messages that came from a session have one.
    pub(super) fn of(change: &Change) -> Option<Self> {
        let Change::Send(Send { conversation, identity, origin, .. }) = change else { return None };
        Some(Self(origin.as_ref()?.gateway_boot, identity.sender, *conversation))
    }
}

impl Lines {
    /// Closes a line: one of its messages was told to try again.
    pub(super) fn close(&self, line: Line) {
        let mut closed = self.closed.lock();
        closed.put(line, ());
        self.count.store(closed.len(), Ordering::Relaxed);
    }

    /// Whether a line is closed.
    pub(super) fn is_closed(&self, line: Line) -> bool {
        self.count.load(Ordering::Relaxed) != 0 && self.closed.lock().contains(&line)
    }

    /// Whether a message may go on. The first of its line opens it.
    pub(super) fn lets_through(&self, line: Line, first: bool) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let mut closed = self.closed.lock();
        if first {
            closed.pop(&line);
            self.count.store(closed.len(), Ordering::Relaxed);
        }
        !closed.contains(&line)
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::GroupId;

    use super::*;

    #[test]
    fn a_closed_line_lets_nothing_through_until_its_first_opens_it() {
        let lines = Lines::default();
        let group = ConversationId::group(GroupId(1)).unwrap();
        let (mine, other) = (Line(9, UserId(1), group), Line(9, UserId(2), group));
        assert!(lines.lets_through(mine, false));

        lines.close(mine);
        assert!(!lines.lets_through(mine, false));
        assert!(lines.lets_through(other, false), "another sender");
        assert!(lines.lets_through(Line(8, UserId(1), group), false), "another gateway");

        assert!(lines.lets_through(mine, true));
        assert!(lines.lets_through(mine, false), "it is open again");
    }
}
