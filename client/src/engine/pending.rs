//! What waits for which answer.

use std::collections::HashMap;

use proto::Frame;
use proto::ids::ClientMsgId;
use tokio::sync::oneshot;

use super::timers::TimerKey;
use crate::call::CallError;
use crate::message::Conversation;
use crate::timeline::Ask;

/// What an answer is for.
#[derive(Debug)]
pub(super) enum Waits {
    /// A request of the program.
    Call(oneshot::Sender<Result<Frame, CallError>>),
    /// A message.
    Message(ClientMsgId),
    /// A page of history.
    Page(Ask),
    /// The list of recent conversations.
    Recent,
    /// The list of unread conversations.
    Unread,
    /// The newest message of a conversation.
    Latest(Conversation),
    /// A sign of life.
    Heartbeat,
}

/// Requests without an answer, by seq.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: HashMap<u16, (Waits, TimerKey)>,
    last_seq: u16,
}

impl Pending {
    /// The seq for the next request: never 0, and of no request that waits.
    pub(super) fn next_seq(&mut self) -> u16 {
        loop {
            self.last_seq = self.last_seq.wrapping_add(1).max(1);
            // Ends: far fewer requests wait than there are numbers (`is_full`).
            if !self.waiting.contains_key(&self.last_seq) {
                return self.last_seq;
            }
        }
    }

    pub(super) fn insert(&mut self, seq: u16, waits: Waits, timer: TimerKey) {
        self.waiting.insert(seq, (waits, timer));
    }

    pub(super) fn remove(&mut self, seq: u16) -> Option<(Waits, TimerKey)> {
        self.waiting.remove(&seq)
    }

    /// Whether no more requests of the program are taken for now.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= 1024
    }

    /// Takes out everything.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waits> {
        self.waiting.drain().map(|(_, (waits, _))| waits)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::timers::{Due, Timers};
    use super::*;

    /// Requests that wait, with these seqs.
    fn waiting(seqs: impl IntoIterator<Item = u16>) -> Pending {
        let (mut pending, mut timers) = (Pending::default(), Timers::default());
        for seq in seqs {
            let timer = timers.set(Instant::now(), Due::Answer(seq));
            pending.insert(seq, Waits::Heartbeat, timer);
        }
        pending
    }

    #[test]
    fn a_seq_is_never_zero_and_never_that_of_a_request_that_waits() {
        let mut pending = waiting([1, 2, 4, u16::MAX]);
        assert_eq!([(); 3].map(|()| pending.next_seq()), [3, 5, 6]);
        pending.last_seq = u16::MAX - 2;
        assert_eq!(
            [(); 2].map(|()| pending.next_seq()),
            [u16::MAX - 1, 3],
            "0, 1 and 2 are passed"
        );
        assert!(pending.remove(4).is_some() && pending.remove(4).is_none());
        assert_eq!(pending.next_seq(), 4, "it is free again");
    }

    #[test]
    fn at_1024_that_wait_the_program_has_to_wait_too() {
        let mut pending = waiting(1..=1023);
        assert!(!pending.is_full());
        pending = waiting(1..=1024);
        assert!(pending.is_full());
        assert_eq!(pending.drain().count(), 1024);
        assert!(!pending.is_full());
    }
}
