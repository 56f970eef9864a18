//! Who waits for which answer.

use std::collections::HashMap;

use proto::Frame;
use proto::ids::ClientMsgId;
use tokio::sync::oneshot;

use super::timers::TimerKey;
use crate::call::CallError;
use crate::message::Session;
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
    Latest(Session),
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
