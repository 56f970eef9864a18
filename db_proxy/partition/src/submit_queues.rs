//! Submit queues in which a message was turned away: no other message may overtake it.
//!
//! A submit queue is what one gateway submits of one sender to one conversation. When a message of a
//! queue is answered "retry", those that are on their way behind it must be answered the same, or they
//! would be numbered before it: the queue is closed. The gateway then submits them again, in order; the
//! one that has nothing unanswered before it opens the queue.
//!
//! # What bounds it
//!
//! [`CLOSED_MAX`] closed queues; the one closed longest ago is opened first, and its messages may
//! then be numbered in another order.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use fold::admission::{Change, Message};
use lru::LruCache;
use parking_lot::Mutex;
use proto::ids::{ConversationId, UserId};

/// Closed queues that are remembered.
const CLOSED_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// The queue of one gateway, sender and conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SubmitQueue(u64, UserId, ConversationId);

/// The closed queues of a partition.
#[derive(Debug)]
pub(super) struct ClosedQueues {
    closed: Mutex<LruCache<SubmitQueue, ()>>,
    /// How many there are: almost always none, and then nothing is locked.
    count: AtomicUsize,
}

impl Default for ClosedQueues {
    fn default() -> Self {
        let closed = Mutex::new(LruCache::new(CLOSED_MAX));
        Self { closed, count: AtomicUsize::new(0) }
    }
}

impl SubmitQueue {
    /// The queue of a change; only messages that came from a session have one.
    pub(super) fn of(change: &Change) -> Option<Self> {
        let Change::Send(Message { conversation, identity, origin, .. }) = change else {
            return None;
        };
        Some(Self(origin.as_ref()?.gateway_boot, identity.sender, *conversation))
    }
}

impl ClosedQueues {
    /// Closes a queue: one of its messages was answered "retry".
    pub(super) fn close(&self, queue: SubmitQueue) {
        let mut closed = self.closed.lock();
        closed.put(queue, ());
        self.count.store(closed.len(), Ordering::Relaxed);
    }

    /// Whether a queue is closed.
    pub(super) fn is_closed(&self, queue: SubmitQueue) -> bool {
        self.count.load(Ordering::Relaxed) != 0 && self.closed.lock().contains(&queue)
    }

    /// Whether a message may go on. The first of its queue opens it.
    pub(super) fn lets_through(&self, queue: SubmitQueue, first: bool) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let mut closed = self.closed.lock();
        if first {
            closed.pop(&queue);
            self.count.store(closed.len(), Ordering::Relaxed);
        }
        !closed.contains(&queue)
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::GroupId;

    use super::*;

    #[test]
    fn a_closed_queue_lets_nothing_through_until_its_first_opens_it() {
        let queues = ClosedQueues::default();
        let group = ConversationId::group(GroupId(1)).unwrap();
        let (mine, other) = (SubmitQueue(9, UserId(1), group), SubmitQueue(9, UserId(2), group));
        assert!(queues.lets_through(mine, false));

        queues.close(mine);
        assert!(!queues.lets_through(mine, false));
        assert!(queues.lets_through(other, false), "another sender");
        assert!(queues.lets_through(SubmitQueue(8, UserId(1), group), false), "another gateway");

        assert!(queues.lets_through(mine, true));
        assert!(queues.lets_through(mine, false), "it is open again");
    }
    #[test]
    fn of_too_many_closed_queues_the_one_closed_longest_ago_is_opened() {
        let queues = ClosedQueues::default();
        let group = ConversationId::group(GroupId(1)).unwrap();
        let queue = |gateway| SubmitQueue(gateway, UserId(1), group);
        for gateway in 0..=CLOSED_MAX.get() as u64 {
            queues.close(queue(gateway));
        }
        let are_closed = [0, 1, CLOSED_MAX.get() as u64].map(|one| queues.is_closed(queue(one)));
        assert_eq!(are_closed, [false, true, true]);
    }
}
