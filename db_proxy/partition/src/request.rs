//! A change on its way through a partition: what waits for it, what is known of it, how it ends.

use std::sync::Arc;

use daemon::metrics::Gauge;
use fold::admission::{Change, Facts, InStore};
use proto::cluster::wire::{Origin, Reason};
use proto::ids::{ConversationId, MsgId, Offset, UserId};
use store::StoreError;
use tokio::sync::oneshot;

use crate::queue::Queue;

/// How a request ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A message is durable and numbered, now or before.
    Sent {
        /// Where it is.
        conversation: ConversationId,
        /// Its number.
        msg_id: MsgId,
        /// Unix milliseconds of its record.
        timestamp_ms: u64,
    },
    /// Members of a group after the change, and the users that really joined or left.
    Members {
        /// All members now.
        current: Arc<[UserId]>,
        /// Who joined.
        added: Vec<UserId>,
        /// Who left.
        removed: Vec<UserId>,
    },
    /// A mark was set; whether that changed anything.
    Marked {
        /// Whether it did.
        changed: bool,
    },
    /// Not allowed, never stored.
    Refused(Reason),
    /// Unknown: may be asked again.
    Retry,
    /// Unknown, and this is no longer the owner: the next one may be asked again.
    Moved,
}

/// Where an outcome goes. Called once; must not block.
pub type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// The reply to a request. Dropped without an outcome, because the ownership has ended, it is "moved".
pub(crate) struct Waiter(pub(crate) Option<Reply>);

impl Waiter {
    pub(crate) fn tell(mut self, outcome: Outcome) {
        if let Some(reply) = self.0.take() {
            reply(outcome);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply(Outcome::Moved);
        }
    }
}

/// A change on its way.
pub(crate) struct Request {
    pub(crate) change: Change,
    pub(crate) facts: Facts,
    pub(crate) waiter: Waiter,
    /// The session it came from, which is answered and needs no notice.
    pub(crate) origin: Option<Origin>,
}

/// What wakes the thread.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are requests")]
pub(crate) enum Event {
    Request(Request, Counted),
    /// The fact that the first request of a queue needs, or that it cannot be had.
    Fact(Queue, Result<Fact, StoreError>),
    /// The store has everything up to here for good.
    Trim(Offset),
    /// Finish what was admitted and stop. The sender is dropped when that is done.
    Stop(oneshot::Sender<()>),
}

/// Is counted as long as it lives.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn of(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What was looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fact {
    /// The conversation is in memory.
    Loaded,
    /// What the store says of a message.
    Stored(InStore),
    /// How many of the messages up to this one are the reader's own.
    Own(MsgId, u32),
    /// Whether both users of a single conversation exist.
    PeersExist(bool),
    /// Whether a frame repeats that of the record here.
    Repeats(Offset, bool),
}
