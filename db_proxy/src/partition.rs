//! The owner of a partition: one thread that admits, appends, folds, answers and publishes.
//!
//! ```text
//! requests ──► admit ──► append + flush ──► fold ──► answer, publish ──► (store worker)
//!                │ a fact is missing                      in log order
//!                └──► looked up elsewhere; the conversation's later requests wait behind it
//! ```
//!
//! Group commit: whatever arrives while one flush runs goes into the next. There is no timer, but for
//! adds of members: of those that come to a group within a second the first is appended at once, and
//! the others are held and appended as one, since all members are told of each record.
//!
//! # Invariants
//!
//! - Nothing is answered or published before its record is durable and folded.
//! - Changes of one conversation are admitted in the order in which they came in.
//! - Replayed records are neither answered nor published.
//!
//! # When it is full
//!
//! A request that finds the queue, the waiting room, the unstored tail or the log full is answered
//! "retry" at once: it was never appended.
//!
//! # When the ownership ends
//!
//! Whoever still waits, and whoever comes later, is told that the partition has moved: the gateway
//! asks the next owner, as for a repeat.

use std::fmt;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use daemon::Shutdown;
use daemon::metrics::Gauge;
use proto::cluster::wire::{Origin, Owned, Reason};
use proto::ids::{ConversationId, MsgId, Offset, UserId};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{debug, info_span};

use crate::admission::{Change, Facts, InStore};
use crate::log::Log;
use crate::metrics::PartitionMetrics;
use crate::publish::Publisher;
use crate::pulse::Confirmed;
use crate::state::State;
use crate::store::StoreError;
use crate::witness::Witnessed;

mod clock;
mod lines;
mod look_up;
pub mod open;
#[cfg(test)]
mod tests;
mod worker;

use lines::{Line, Lines};
use worker::Worker;
pub(crate) use worker::holding::HOLD;

/// Before the queue, which was full, is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(2);

/// Bounds of one partition.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "a bound says so")]
pub struct Limits {
    /// Requests that wait for the thread. Beyond: retry.
    pub queue_max: usize,
    /// Requests that wait for a missing fact or are held. Beyond: retry.
    pub waiting_max: usize,
    /// Adds of members that are held. Beyond: appended at once.
    pub held_max: usize,
    /// Bytes that the store does not have yet. Beyond: retry.
    pub unstored_bytes_max: usize,
    /// Conversations in memory, not counting those with unstored changes.
    pub conversations_max: usize,
}

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
    /// Members of a group after the change, and who really joined or left.
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
    /// Unknown, and this is not the owner any more: the next one may be asked again.
    Moved,
}

/// Where an outcome goes. Called once; must not block.
pub type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// Whoever waits for an outcome gets one, even if the ownership ends before.
struct Waiter(Option<Reply>);

impl Waiter {
    fn tell(mut self, outcome: Outcome) {
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
struct Request {
    change: Change,
    facts: Facts,
    waiter: Waiter,
    /// The session it came from, which is answered and needs no notice.
    origin: Option<Origin>,
}

/// What wakes the thread.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are requests")]
enum Event {
    Request(Request, Counted),
    /// The fact that the first request of a queue needs, or that it cannot be had.
    Fact(Queue, Result<Fact, StoreError>),
    /// The store has everything up to here for good.
    Trim(Offset),
    /// Finish what was admitted and stop. The sender is dropped when that is done.
    Stop(oneshot::Sender<()>),
}

/// Requests that wait, and are judged one after another. What waits for a fact that concerns one user
/// alone keeps nobody else waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Queue {
    /// All changes of a conversation.
    Conversation(ConversationId),
    /// What a user says there, and changes after that.
    Sender(ConversationId, UserId),
    /// A user's read marks there. They are about what was said before, so that what the user says does
    /// not wait for them.
    Marks(ConversationId, UserId),
}

impl Queue {
    /// Where a change waits that needs a fact about who asks for it.
    fn of_one(change: &Change) -> Option<Self> {
        let queue = match change {
            Change::Read { user, .. } => Self::Marks(change.conversation()?, *user),
            Change::Send(send) => Self::Sender(send.conversation, send.identity.sender),
            Change::RemoveSession { user, .. } | Change::Shield { user, .. } => {
                Self::Sender(change.conversation()?, *user)
            }
            Change::Members { actor, .. } | Change::DeleteGroup { actor, .. } => {
                Self::Sender(change.conversation()?, (*actor)?)
            }
            Change::CreateGroup(_) => return None,
        };
        Some(queue)
    }

    fn conversation(self) -> ConversationId {
        let (Self::Conversation(id) | Self::Sender(id, _) | Self::Marks(id, _)) = self;
        id
    }
}

/// Is counted as long as it lives.
struct Counted(Gauge);

impl Counted {
    fn of(gauge: &Gauge) -> Self {
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
enum Fact {
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

/// The way to a partition. Clones lead to the same one.
#[derive(Clone)]
pub struct Partition {
    events: SyncSender<Event>,
    state: State,
    lines: Arc<Lines>,
    ending: Ending,
    metrics: Arc<PartitionMetrics>,
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition").finish_non_exhaustive()
    }
}

impl Partition {
    /// The partition's state, for reading.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where it shows that the ownership has ended.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Hands a change to the partition. Never waits: if there is no room, the outcome is "retry".
    ///
    /// Of messages, nothing that comes behind one that was told to retry is taken before that one
    /// comes again (see `partition/lines.rs`).
    pub fn submit(&self, change: Change, reply: Reply) {
        let origin = match &change {
            Change::Send(send) => send.origin,
            _ => None,
        };
        self.submit_from(origin, change, reply);
    }

    fn submit_from(&self, origin: Option<Origin>, change: Change, reply: Reply) {
        let reply = match Line::of(&change) {
            Some(line) => self.closing_on_retry(line, reply),
            None => reply,
        };
        let waiter = Waiter(Some(reply));
        let request = Request { change, facts: Facts::default(), waiter, origin };
        let counted = Counted::of(&self.metrics.queued);
        let sent = self.events.try_send(Event::Request(request, counted));
        if let Err(TrySendError::Full(Event::Request(request, _counted))) = sent {
            self.metrics.retries.inc();
            request.waiter.tell(Outcome::Retry);
        }
        // A waiter that comes back because the thread has ended is told as it goes.
    }

    fn closing_on_retry(&self, line: Line, reply: Reply) -> Reply {
        let lines = Arc::clone(&self.lines);
        Box::new(move |outcome| {
            if outcome == Outcome::Retry {
                lines.close(line);
            }
            reply(outcome);
        })
    }

    /// Hands a change to the partition and waits for its outcome. If the caller goes away, the
    /// change may still happen.
    pub async fn change(&self, change: Change) -> Outcome {
        self.change_from(None, change).await
    }

    /// As [`Self::change`], for a change that a session asked for: it gets the outcome, and no
    /// notice beside it.
    pub async fn change_from(&self, origin: Option<Origin>, change: Change) -> Outcome {
        let (sender, outcome) = oneshot::channel();
        self.submit_from(
            origin,
            change,
            Box::new(move |outcome| {
                if sender.send(outcome).is_err() {
                    debug!("who asked for a change has gone");
                }
            }),
        );
        outcome.await.unwrap_or(Outcome::Moved)
    }

    /// Tells the partition that the store has everything up to `offset` for good.
    pub fn trim(&self, offset: Offset) {
        if self.events.try_send(Event::Trim(offset)).is_err() {
            debug!("the queue is full: the log is trimmed next time");
        }
    }

    /// Lets the thread finish what it has admitted, and waits until it has. Whatever comes later is
    /// told that the partition has moved.
    pub async fn stop(&self) {
        let (stopping, stopped) = oneshot::channel();
        let mut event = Event::Stop(stopping);
        loop {
            match self.events.try_send(event) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) => event = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            tokio::time::sleep(FULL_PAUSE).await;
        }
        if stopped.await.is_err() {
            debug!("the partition has stopped");
        }
    }
}

/// Tells that an ownership has ended, other than by [`Partition::stop`]. Clones are of the same one.
#[derive(Debug, Clone)]
pub struct Ending {
    shutdown: Shutdown,
    why: Arc<OnceLock<Ended>>,
}

/// Why an ownership has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Another owner has begun.
    Fenced,
    /// Nobody knows what became of an append.
    Unknown,
}

impl Ending {
    /// Of an ownership whose tasks belong to `shutdown`, which is begun when it ends.
    pub fn of(shutdown: &Shutdown) -> Self {
        Self { shutdown: shutdown.clone(), why: Arc::default() }
    }

    /// Why it has ended; `None` if it has not, or in good order.
    pub fn why(&self) -> Option<Ended> {
        self.why.get().copied()
    }

    pub(crate) fn end(&self, why: Ended) {
        // Only the first reason is one.
        self.why.get_or_init(|| why);
        self.shutdown.begin();
    }
}

/// What the thread owns.
pub(crate) struct Owner {
    pub(crate) log: Box<dyn Log>,
    pub(crate) state: State,
    pub(crate) owned: Owned,
    /// Its name, in the records that repeat its epoch, and how many records lie between these.
    pub(crate) name: String,
    pub(crate) epoch_every: u64,
    pub(crate) limits: Limits,
    /// How long an add of members is held after another one of its group.
    pub(crate) hold: Duration,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) metrics: PartitionMetrics,
    /// When the log was last heard to have no newer owner.
    pub(crate) confirmed: Confirmed,
    /// What is known about the clock.
    pub(crate) witnessed: Witnessed,
}

impl Owner {
    /// Starts the thread. `shutdown` is of this ownership, and begun when that ends; if the thread ends
    /// by a panic, so does the daemon.
    pub(crate) fn start(self, shutdown: &Shutdown) -> Partition {
        let (events, queue) = std::sync::mpsc::sync_channel(self.limits.queue_max);
        let partition = Partition {
            events,
            state: self.state.clone(),
            lines: Arc::default(),
            ending: Ending::of(shutdown),
            metrics: Arc::new(self.metrics.clone()),
        };
        let worker = Worker::new(self, queue, partition.clone(), shutdown.clone());
        let runtime = Handle::current();
        shutdown.spawn_thread("partition", move || {
            let (_runtime, _span) = (runtime.enter(), info_span!("partition").entered());
            worker.run();
        });
        partition
    }
}
