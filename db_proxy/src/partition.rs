//! The owner of a partition: one thread that admits, appends, folds, answers and publishes.
//!
//! ```text
//! requests ──► admit ──► append + flush ──► fold ──► answer, publish ──► (store worker)
//!                │ a fact is missing                      in log order
//!                └──► looked up elsewhere; the conversation's later requests wait behind it
//! ```
//!
//! Group commit: whatever arrives while one flush runs goes into the next. There is no timer.
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

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use daemon::Shutdown;
use prost::Message as _;
use proto::cluster::wire::{Origin, Reason};
use proto::ids::{ConversationId, MsgId, Offset, UserId};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{debug, error, info, info_span, warn};

use crate::admission::{self, Admission, Change, Facts, Need};
use crate::fold::Effect;
use crate::log::embedded::EmbeddedLog;
use crate::log::{Log, LogError, LogRecord};
use crate::metrics::PartitionMetrics;
use crate::publish::Publisher;
use crate::state::{Inner, State};
use crate::store::StoreError;
use crate::window::Known;

pub mod open;

/// How long nothing must happen before the log is told that it is idle.
const IDLE_AFTER: Duration = Duration::from_millis(200);

/// The most requests of one append, and the most bytes: a flush never waits for more than these.
const BATCH_MAX: usize = 8_192;
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Bounds of one partition.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests that wait for the thread. Beyond: retry.
    pub queue_max: usize,
    /// Requests that wait for a missing fact. Beyond: retry.
    pub waiting_max: usize,
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
        current: Vec<UserId>,
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
}

/// Where an outcome goes. Called once; must not block.
pub type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// A change on its way.
struct Request {
    change: Change,
    facts: Facts,
    reply: Reply,
}

/// Who is told what became of an appended record.
struct Waiter {
    reply: Reply,
    origin: Option<Origin>,
}

/// What wakes the thread.
enum Event {
    Request(Request),
    /// The fact that the first waiting request of a conversation needs, or that it cannot be had.
    Fact(ConversationId, Result<Fact, StoreError>),
    /// The store has everything up to here for good.
    Trim(Offset),
    /// Finish what is queued and stop.
    Stop,
}

#[derive(Debug, Clone, Copy)]
enum Fact {
    Loaded,
    Stored(Option<Known>),
    Own(MsgId, u32),
}

/// The way to a partition. Clones lead to the same one.
#[derive(Clone)]
pub struct Partition {
    events: SyncSender<Event>,
    state: State,
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

    /// Hands a change to the partition. Never waits: if there is no room, the outcome is "retry".
    pub fn submit(&self, change: Change, reply: Reply) {
        let request = Request { change, facts: Facts::default(), reply };
        match self.events.try_send(Event::Request(request)) {
            Ok(()) => {}
            Err(TrySendError::Full(event) | TrySendError::Disconnected(event)) => {
                if let Event::Request(request) = event {
                    (request.reply)(Outcome::Retry);
                }
            }
        }
    }

    /// Hands a change to the partition and waits for its outcome. If the caller goes away, the
    /// change may still happen.
    pub async fn change(&self, change: Change) -> Outcome {
        let (sender, outcome) = oneshot::channel();
        self.submit(
            change,
            Box::new(move |outcome| {
                if sender.send(outcome).is_err() {
                    debug!("who asked for a change has gone");
                }
            }),
        );
        outcome.await.unwrap_or(Outcome::Retry)
    }

    /// Tells the partition that the store has everything up to `offset` for good.
    pub fn trim(&self, offset: Offset) {
        if self.events.try_send(Event::Trim(offset)).is_err() {
            debug!("the queue is full: the log is trimmed next time");
        }
    }

    /// Lets the thread finish what is queued and stop. Waits for room in the queue.
    pub async fn stop(&self) {
        while let Err(TrySendError::Full(_)) = self.events.try_send(Event::Stop) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What the thread owns.
pub(crate) struct Owner {
    pub(crate) log: EmbeddedLog,
    pub(crate) state: State,
    pub(crate) epoch: u64,
    pub(crate) limits: Limits,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) metrics: PartitionMetrics,
}

impl Owner {
    /// Starts the thread. If it ends, by a panic say, so does the daemon.
    pub(crate) fn start(self, shutdown: &Shutdown) -> Partition {
        let (events, queue) = std::sync::mpsc::sync_channel(self.limits.queue_max);
        let partition = Partition { events, state: self.state.clone() };
        let mut worker = Worker {
            owner: self,
            queue,
            partition: partition.clone(),
            runtime: Handle::current(),
            waiting: HashMap::new(),
            waiting_count: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            log_full: false,
        };
        shutdown.spawn_thread("partition", move || {
            let _span = info_span!("partition").entered();
            worker.run();
        });
        partition
    }
}

struct Worker {
    owner: Owner,
    queue: Receiver<Event>,
    partition: Partition,
    runtime: Handle,
    /// Requests that wait for a fact, first the one that needs it.
    waiting: HashMap<ConversationId, VecDeque<Request>>,
    waiting_count: usize,
    batch: Vec<(Bytes, Waiter)>,
    batch_bytes: usize,
    log_full: bool,
}

impl Worker {
    fn run(&mut self) {
        loop {
            let first = match self.queue.recv_timeout(IDLE_AFTER) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => {
                    self.owner.log.idle();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let go_on = self.take(first);
            self.commit();
            if !go_on {
                return;
            }
        }
    }

    /// Admits everything that is queued, up to one batch. Returns whether to go on after it.
    fn take(&mut self, first: Event) -> bool {
        let state = self.owner.state.clone();
        let mut inner = state.lock();
        inner.next_round();
        let now_ms = now_ms();
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                Event::Request(request) => self.arrived(&mut inner, request, now_ms),
                Event::Fact(id, fact) => self.fact(&mut inner, id, fact, now_ms),
                Event::Trim(offset) => self.owner.log.trim(offset),
                Event::Stop => {
                    self.refuse_waiting();
                    return false;
                }
            }
            let room = self.batch.len() < BATCH_MAX && self.batch_bytes < BATCH_BYTES_MAX;
            next = room.then(|| self.queue.try_recv().ok()).flatten();
        }
        true
    }

    fn arrived(&mut self, inner: &mut Inner, request: Request, now_ms: u64) {
        if inner.fold.unstored.bytes > self.owner.limits.unstored_bytes_max {
            self.owner.metrics.retries.inc();
            (request.reply)(Outcome::Retry);
            return;
        }
        let Some(id) = request.change.conversation() else {
            (request.reply)(Outcome::Refused(Reason::NoSuchGroup));
            return;
        };
        inner.touch(id);
        if let Some(queue) = self.waiting.get_mut(&id) {
            if self.waiting_count >= self.owner.limits.waiting_max {
                (request.reply)(Outcome::Retry);
                return;
            }
            self.waiting_count += 1;
            queue.push_back(request);
            return;
        }
        if let Err(request) = self.admit(inner, request, now_ms) {
            self.waiting_count += 1;
            self.waiting.insert(id, VecDeque::from([request]));
        }
    }

    /// Gives the request back if it must wait for a fact, which is being looked up then.
    fn admit(&mut self, inner: &mut Inner, request: Request, now_ms: u64) -> Result<(), Request> {
        match admission::admit(&inner.fold, &request.change, &request.facts, now_ms) {
            Admission::Append(change) => {
                let payload = admission::record(change, self.owner.epoch).encode_to_vec();
                self.batch_bytes += payload.len();
                let origin = match request.change {
                    Change::Send(send) => send.origin,
                    _ => None,
                };
                self.batch.push((payload.into(), Waiter { reply: request.reply, origin }));
            }
            Admission::Known(known) => self.known(known, &request.change, request.reply),
            Admission::Refused(reason) => {
                self.owner.metrics.refused.inc();
                (request.reply)(Outcome::Refused(reason));
            }
            Admission::Unchanged => (request.reply)(unchanged(inner, &request.change)),
            Admission::Needs(need) => {
                let Some(id) = request.change.conversation() else { return Ok(()) };
                self.look_up(id, need);
                return Err(request);
            }
        }
        Ok(())
    }

    /// Answers a message that is known already.
    fn known(&self, known: Known, change: &Change, reply: Reply) {
        self.owner.metrics.duplicates.inc();
        let Known { conversation, msg_id, client_msg_id, timestamp_ms, .. } = known;
        if let Some(msg_id) = msg_id {
            reply(Outcome::Sent { conversation, msg_id, timestamp_ms });
            return;
        }
        // Seen in the log below what was stored when this owner started: the store has its number.
        let Change::Send(send) = change else { return };
        let (state, sender) = (self.owner.state.clone(), send.identity.sender);
        self.spawn(async move {
            let found = state.store().find_message(sender, client_msg_id).await;
            reply(match found {
                Ok(Some((conversation, msg_id, timestamp_ms))) => {
                    Outcome::Sent { conversation, msg_id, timestamp_ms }
                }
                _ => Outcome::Retry,
            });
        });
    }

    fn look_up(&self, id: ConversationId, need: Need) {
        let (state, partition) = (self.owner.state.clone(), self.partition.clone());
        self.spawn(async move {
            let fact = look_up(&state, id, need).await;
            let mut event = Event::Fact(id, fact);
            // A fact must not be lost, or its conversation would wait for ever. There are at most
            // `waiting_max` of them.
            while let Err(TrySendError::Full(back)) = partition.events.try_send(event) {
                event = back;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }

    #[expect(clippy::disallowed_methods, reason = "bounded by waiting_max and ended by the store")]
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let _detached = self.runtime.spawn(task);
    }

    fn fact(
        &mut self,
        inner: &mut Inner,
        id: ConversationId,
        fact: Result<Fact, StoreError>,
        now_ms: u64,
    ) {
        let Some(mut queue) = self.waiting.remove(&id) else { return };
        let fact = match fact {
            Ok(fact) => fact,
            Err(error) => {
                debug!(%error, conversation = %id, "a change cannot be judged now");
                self.waiting_count -= queue.len();
                queue.into_iter().for_each(|request| (request.reply)(Outcome::Retry));
                return;
            }
        };
        inner.touch(id);
        if let Some(first) = queue.front_mut() {
            match fact {
                Fact::Loaded => {}
                Fact::Stored(known) => first.facts.stored = Some(known),
                Fact::Own(upto, own) => first.facts.own_up_to = Some((upto, own)),
            }
        }
        while let Some(request) = queue.pop_front() {
            if let Err(request) = self.admit(inner, request, now_ms) {
                queue.push_front(request);
                self.waiting.insert(id, queue);
                return;
            }
            self.waiting_count -= 1;
        }
    }

    fn refuse_waiting(&mut self) {
        for (_id, queue) in self.waiting.drain() {
            queue.into_iter().for_each(|request| (request.reply)(Outcome::Retry));
        }
        self.waiting_count = 0;
    }

    /// Makes the batch durable, folds it, and tells everybody.
    fn commit(&mut self) {
        if self.batch.is_empty() {
            self.owner.state.lock().evict(self.owner.limits.conversations_max);
            return;
        }
        let (payloads, waiters): (Vec<_>, Vec<_>) = self.batch.drain(..).unzip();
        self.batch_bytes = 0;
        let appended = match self.owner.log.append(&payloads, now_ms()) {
            Ok(appended) => appended,
            Err(error) => {
                self.tell_log_full(Some(&error));
                waiters.into_iter().for_each(|waiter| (waiter.reply)(Outcome::Retry));
                return;
            }
        };
        self.tell_log_full(None);
        let count = payloads.len() as u64;
        self.owner.metrics.batches.inc();
        self.owner.metrics.records.inc_by(count);

        let mut inner = self.owner.state.lock();
        let offsets = (appended.first.0..).map(Offset);
        for ((payload, waiter), offset) in payloads.into_iter().zip(waiters).zip(offsets) {
            let timestamp_ms = appended.timestamp_ms;
            let crc = EmbeddedLog::fingerprint(offset, timestamp_ms, &payload);
            let record = LogRecord { offset, timestamp_ms, crc, payload };
            match inner.fold.fold(&record) {
                Ok(effect) => self.tell(&inner, &record, effect, waiter),
                Err(error) => unreachable!("this owner appended it: {error}"),
            }
        }
        inner.evict(self.owner.limits.conversations_max);
        drop(inner);
        self.owner.state.unstored.notify_one();
    }

    fn tell(&self, inner: &Inner, record: &LogRecord, effect: Effect, waiter: Waiter) {
        let Waiter { reply, origin } = waiter;
        match effect {
            Effect::Message { row, previous, member_version } => {
                reply(Outcome::Sent {
                    conversation: row.conversation,
                    msg_id: row.msg_id,
                    timestamp_ms: row.timestamp_ms,
                });
                let place = (previous, member_version);
                self.owner.publisher.message(&row, place, self.owner.epoch, origin);
            }
            Effect::Duplicate(known) => match known.msg_id {
                Some(msg_id) => reply(Outcome::Sent {
                    conversation: known.conversation,
                    msg_id,
                    timestamp_ms: known.timestamp_ms,
                }),
                None => reply(Outcome::Retry),
            },
            Effect::Members { group, actor, added, removed, previous, created } => {
                let conversation = ConversationId::group(group)
                    .and_then(|id| inner.fold.conversations.get(&id))
                    .expect("a group whose members changed is in memory");
                let current = conversation.current_members();
                if !added.is_empty() || !removed.is_empty() {
                    let change = crate::publish::MembersChange {
                        group,
                        actor,
                        current: &current,
                        added: &added,
                        removed: &removed,
                        quiet: created,
                        version: conversation.group.as_ref().map_or(0, |group| group.version),
                        first_visible: conversation.head.next(),
                    };
                    self.owner.publisher.members(
                        &change,
                        record.offset,
                        previous,
                        self.owner.epoch,
                    );
                }
                reply(Outcome::Members { current, added, removed });
            }
            Effect::Marked { changed } => reply(Outcome::Marked { changed }),
            Effect::Nothing => reply(Outcome::Retry),
        }
    }

    /// One line when the log becomes full, one when it has room again.
    fn tell_log_full(&mut self, error: Option<&LogError>) {
        match (error, self.log_full) {
            (Some(error), false) => error!(%error, "new changes are refused until there is room"),
            (None, true) => info!("the log has room again"),
            _ => {}
        }
        self.log_full = error.is_some();
        self.owner.metrics.log_full.set(i64::from(self.log_full));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.refuse_waiting();
        if std::thread::panicking() {
            warn!("the partition's thread ends by a panic");
        }
    }
}

fn unchanged(inner: &Inner, change: &Change) -> Outcome {
    match change {
        Change::ChangeMembers { .. } | Change::CreateGroup(_) => Outcome::Members {
            current: change
                .conversation()
                .and_then(|id| inner.fold.conversations.get(&id))
                .map(crate::conversation::Conversation::current_members)
                .unwrap_or_default(),
            added: Vec::new(),
            removed: Vec::new(),
        },
        _ => Outcome::Marked { changed: false },
    }
}

async fn look_up(state: &State, id: ConversationId, need: Need) -> Result<Fact, StoreError> {
    match need {
        Need::Conversation => state.load(id).await.map(|()| Fact::Loaded),
        Need::Stored(sender, client_msg_id) => {
            let found = state.store().find_message(sender, client_msg_id).await?;
            Ok(Fact::Stored(found.map(|(conversation, msg_id, timestamp_ms)| Known {
                conversation,
                msg_id: Some(msg_id),
                client_msg_id,
                offset: Offset(0),
                timestamp_ms,
            })))
        }
        Need::Own { user, from, to, before } => {
            let own = state.store().count_own(id, user, from, to).await?;
            Ok(Fact::Own(to, before + own))
        }
    }
}

/// The wall clock, Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
