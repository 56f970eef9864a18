//! The partition's thread, step by step: take what is queued, judge it, append, fold, tell.
//!
//! # Invariants
//!
//! - Requests that wait are in queues ([`Queue`]). Each has one look-up under way, for its first request,
//!   and the others are not judged before it; nor are those that wait for the fold of a batch.
//! - What a user says in a conversation is judged in the order in which it came, whatever it waits for.
//! - What is taken at once fits one append, however many were waiting.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TrySendError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use daemon::Shutdown;
use fold::admission::{self, Change, Need};
use fold::effects::Effect;
use fold::window::{Known, WINDOW_RECORDS};
use prost::Message as _;
use proto::cluster::wire::{Origin, Owned, Reason};
use proto::ids::{ClientMsgId, ConversationId, UserId};
use record_log::{Appended, LogError, LogRecord};
use store::StoreError;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{Span, debug, error, info, info_span, warn};

use crate::clock::LogClock;
use crate::ending::{Ended, Ending};
use crate::handle::{FULL_PAUSE, Partition};
use crate::look_up::look_up;
use crate::metrics;
use crate::open::epoch_record;
use crate::owner::Owner;
use crate::publisher::{FoldedMessage, MembersChange, RecordPlace};
use crate::queue::{Queue, queue_of};
use crate::request::{Event, Fact, Outcome, Request, Waiter};
use crate::state::{Behind, Inner};
use crate::submit_queues::SubmitQueue;

pub(super) mod held_adds;
mod joins;
mod judgement;
#[cfg(feature = "faults")]
mod mutants;

use held_adds::HeldAdds;

/// How long nothing must happen before the log is told that it is idle.
pub(super) const IDLE_AFTER: Duration = Duration::from_millis(200);

/// The most requests of one append, and the most bytes: a flush never waits for more than these.
const BATCH_MAX: usize = admission::BATCH_MAX as usize;
const BATCH_BYTES_MAX: usize = 8 << 20;

/// The most records that the store may be behind. A repeated id is recognised in the window or in
/// the store, so whatever the store does not have yet must be in the window, with the batch that is
/// in the making.
const UNSTORED_RECORDS_MAX: u64 = WINDOW_RECORDS - 2 * BATCH_MAX as u64;

/// How long the log must have had room before it counts as having room again.
const ROOM_FOR: Duration = Duration::from_secs(1);

impl Owner {
    /// Starts the thread. `shutdown` is of this ownership, and begun when that ends; if the thread ends
    /// by a panic, so does the daemon.
    pub fn start(self, shutdown: &Shutdown) -> Partition {
        let (events, queue) = std::sync::mpsc::sync_channel(self.limits.queue_max);
        let partition = Partition {
            events,
            state: self.state.clone(),
            closed_queues: Arc::default(),
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

/// The partition's thread.
pub(super) struct Worker {
    owner: Owner,
    clock: LogClock,
    queue: Receiver<Event>,
    partition: Partition,
    shutdown: Shutdown,
    /// Requests that wait for a fact, and those behind them.
    waiting: HashMap<Queue, VecDeque<Request>>,
    waiting_count: usize,
    /// How many of these are shown.
    waiting_shown: i64,
    /// Those of `waiting` whose first request has its fact.
    ready: VecDeque<Queue>,
    /// Those of `waiting` whose first request is judged when the batch is folded.
    after_batch: Vec<Queue>,
    /// Adds of members that wait for others of their group. They count as waiting, too.
    held_adds: HeldAdds<Request>,
    batch: Vec<(Bytes, Admitted)>,
    batch_bytes: usize,
    /// Groups whose members the batch changes: what is judged after that does not know them yet.
    changing: HashSet<ConversationId>,
    /// When the log last had no room, unless that is over.
    full_at: Option<Instant>,
    /// Why the ownership has ended, if it has.
    lost: Option<Ended>,
    /// Dropped last: then everything is done and the log is closed.
    stopping: Option<oneshot::Sender<()>>,
}

/// Where the answer goes once a record is folded.
struct Admitted {
    waiter: Waiter,
    origin: Option<Origin>,
    /// Whose message it is, and its name, if it is one.
    message: Option<(UserId, ClientMsgId)>,
}

impl Admitted {
    /// Nobody waits for it.
    fn for_nobody() -> Self {
        Self { waiter: Waiter(None), origin: None, message: None }
    }
}

/// Whether the store is so far behind that nothing more is taken for now.
fn is_too_far(behind: Behind, bytes_max: usize) -> bool {
    behind.bytes > bytes_max || behind.records > UNSTORED_RECORDS_MAX
}

impl Worker {
    pub(super) fn new(
        owner: Owner,
        queue: Receiver<Event>,
        partition: Partition,
        shutdown: Shutdown,
    ) -> Self {
        let (last, last_ms) = {
            let inner = owner.state.lock();
            (inner.fold.last, inner.fold.last_ms)
        };
        metrics::show(&owner.metrics.offset, last);
        let clock = LogClock::after(last_ms, &owner.last_clock);
        let held_adds = HeldAdds::new(owner.hold);
        Self {
            owner,
            clock,
            queue,
            partition,
            shutdown,
            waiting: HashMap::new(),
            waiting_count: 0,
            waiting_shown: 0,
            ready: VecDeque::new(),
            after_batch: Vec::new(),
            held_adds,
            batch: Vec::new(),
            batch_bytes: 0,
            changing: HashSet::new(),
            full_at: None,
            lost: None,
            stopping: None,
        }
    }

    pub(super) fn run(mut self) {
        self.serve();
        if let Some(why) = self.lost {
            self.partition.ending.end(why);
        }
    }

    fn serve(&mut self) {
        while self.stopping.is_none() && self.lost.is_none() {
            self.owner.pulse.beat();
            let first = if self.ready.is_empty() {
                match self.queue.recv_timeout(self.patience()) {
                    Ok(event) => Some(event),
                    Err(RecvTimeoutError::Timeout) => {
                        if self.held_adds.due(Instant::now()).is_none() {
                            self.idle();
                        }
                        None
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                None
            };
            self.take(first);
            self.show_waiting(self.waiting());
            self.commit();
            self.ready.extend(self.after_batch.drain(..));
            let is_held = |id| self.held_adds.of(id).is_some();
            self.owner.state.lock().evict(self.owner.limits.conversations_max, is_held);
        }
    }

    /// How many requests wait, for whatever it is.
    fn waiting(&self) -> usize {
        self.waiting_count + self.held_adds.len()
    }

    /// Several partitions are shown in one number.
    fn show_waiting(&mut self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.owner.metrics.waiting.inc_by(count - self.waiting_shown);
        self.waiting_shown = count;
    }

    /// Judges everything that is queued, up to one batch.
    fn take(&mut self, first: Option<Event>) {
        let state = self.owner.state.clone();
        let mut inner = state.lock();
        inner.next_round();
        let now_ms = self.clock.now_ms();
        self.release_due(&inner);
        let mut next = first;
        loop {
            match next {
                Some(Event::Request(request, in_queue)) => {
                    drop(in_queue);
                    self.arrived(&mut inner, request, now_ms);
                }
                Some(Event::Fact(queue, fact)) => self.found(&mut inner, queue, fact),
                Some(Event::Trim(offset)) => self.owner.log.trim(offset),
                Some(Event::Stop(stopping)) => {
                    self.stopping = Some(stopping);
                    return;
                }
                None => {}
            }
            self.admit_ready(&mut inner, now_ms);
            next = self.has_room().then(|| self.queue.try_recv().ok()).flatten();
            if next.is_none() {
                return;
            }
        }
    }

    fn has_room(&self) -> bool {
        self.batch.len() < BATCH_MAX && self.batch_bytes < BATCH_BYTES_MAX
    }

    fn arrived(&mut self, inner: &mut Inner, request: Request, now_ms: u64) {
        let Some(id) = request.change.conversation() else {
            request.waiter.tell(Outcome::Refused(Reason::NoSuchGroup));
            return;
        };
        if is_too_far(inner.behind(), self.owner.limits.unstored_bytes_max) {
            self.turn_away(request);
            return;
        }
        if let Change::Send(send) = &request.change
            && let Some(submit_queue) = SubmitQueue::of(&request.change)
            && !self.partition.closed_queues.lets_through(submit_queue, send.first)
        {
            self.turn_away(request);
            return;
        }
        inner.touch(id);
        let waits_behind = [Some(Queue::Conversation(id)), Queue::of_one(&request.change)]
            .into_iter()
            .flatten()
            .find(|queue| self.waiting.contains_key(queue));
        if let Some(queue) = waits_behind {
            self.line_up(queue, request);
            return;
        }
        if let Some((request, wait)) = self.admit(inner, request, now_ms) {
            let queue = queue_of(id, &request.change, wait);
            if self.line_up(queue, request) {
                self.wait(queue, wait);
            }
        }
    }

    /// Puts a request behind those of a queue. False if there is no room.
    fn line_up(&mut self, queue: Queue, request: Request) -> bool {
        // What it waits behind may just have left the waiting room.
        if self.waiting() >= self.owner.limits.waiting_max {
            self.turn_away(request);
            return false;
        }
        self.waiting_count += 1;
        self.waiting.entry(queue).or_default().push_back(request);
        true
    }

    fn turn_away(&self, request: Request) {
        self.owner.metrics.retries.inc();
        request.waiter.tell(Outcome::Retry);
    }

    fn look_up(&self, queue: Queue, need: Need) {
        let (state, partition) = (self.owner.state.clone(), self.partition.clone());
        let publisher = Arc::clone(&self.owner.publisher);
        self.shutdown.spawn(Span::current(), async move {
            let fact = look_up(&state, &publisher, queue.conversation(), need).await;
            let mut event = Event::Fact(queue, fact);
            // A fact must not be lost, or its queue would wait for ever. There are at most
            // `waiting_max` of them.
            while let Err(TrySendError::Full(back)) = partition.events.try_send(event) {
                event = back;
                tokio::time::sleep(FULL_PAUSE).await;
            }
        });
    }

    fn found(&mut self, inner: &mut Inner, queue: Queue, fact: Result<Fact, StoreError>) {
        let id = queue.conversation();
        let fact = match fact {
            Ok(fact) => fact,
            Err(StoreError::Fenced(why)) => return self.is_lost(Ended::Fenced, &why),
            Err(error) => {
                debug!(%error, conversation = %id, "a change cannot be judged now");
                let requests = self.waiting.remove(&queue).unwrap_or_default();
                self.waiting_count -= requests.len();
                for request in requests {
                    self.turn_away(request);
                }
                return;
            }
        };
        inner.touch(id);
        let first = self.waiting.get_mut(&queue).and_then(VecDeque::front_mut);
        let Some(first) = first else { return };
        match fact {
            Fact::Loaded => {}
            Fact::Stored(stored) => first.facts.stored = stored,
            Fact::Own(upto, own) => first.facts.own_up_to = Some((upto, own)),
            Fact::PeersExist(exist) => {
                first.facts.peers_exist = Some(exist);
                if let Some(conversation) = inner.fold.conversations.get_mut(&id) {
                    conversation.peers_exist |= exist;
                }
            }
            Fact::Repeats(offset, repeats) => first.facts.repeats = Some((offset, repeats)),
        }
        self.ready.push_back(queue);
    }

    /// Judges the requests that waited, as many as one batch takes; the others stay ready.
    fn admit_ready(&mut self, inner: &mut Inner, now_ms: u64) {
        while self.has_room()
            && let Some(&queue) = self.ready.front()
        {
            let Some(request) = self.waiting.get_mut(&queue).and_then(VecDeque::pop_front) else {
                self.waiting.remove(&queue);
                self.ready.pop_front();
                continue;
            };
            // It was let through before; since then one in front of it may have been turned away.
            if self.has_lost_its_place(&request) {
                self.waiting_count -= 1;
                self.turn_away(request);
                continue;
            }
            let of_one = Queue::of_one(&request.change).filter(|of_one| *of_one != queue);
            if let Some(others) = of_one.and_then(|of_one| self.waiting.get_mut(&of_one)) {
                others.push_back(request);
                continue;
            }
            let Some((request, wait)) = self.admit(inner, request, now_ms) else {
                self.waiting_count -= 1;
                continue;
            };
            let waits_in = match queue {
                Queue::Conversation(id) => queue_of(id, &request.change, wait),
                Queue::Sender(..) | Queue::Marks(..) => queue,
            };
            self.waiting.entry(waits_in).or_default().push_front(request);
            self.wait(waits_in, wait);
            if waits_in == queue {
                self.ready.pop_front();
            }
        }
    }

    fn has_lost_its_place(&self, request: &Request) -> bool {
        let Change::Send(send) = &request.change else { return false };
        let submit_queue = SubmitQueue::of(&request.change);
        !send.first
            && submit_queue.is_some_and(|queue| self.partition.closed_queues.is_closed(queue))
    }

    /// Makes the batch durable, folds it, answers and publishes.
    fn commit(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.repeat_epoch();
        let (payloads, admitted): (Vec<_>, Vec<_>) = self.batch.drain(..).unzip();
        self.batch_bytes = 0;
        self.changing.clear();
        #[cfg(feature = "faults")]
        let admitted = self.too_early(&payloads, admitted);
        let now_ms = self.clock.now_ms();
        let asked = Instant::now();
        let landed = match self.owner.log.append(&payloads, now_ms) {
            Ok(landed) => landed,
            Err(error) => {
                self.owner.metrics.retries.inc_by(admitted.len() as u64);
                self.cannot_append(error);
                if self.lost.is_none() {
                    for one in admitted {
                        one.waiter.tell(Outcome::Retry);
                    }
                }
                return;
            }
        };
        self.owner.metrics.append.observe(asked.elapsed());
        self.tell_log_full(None);
        self.owner.metrics.batches.inc();
        self.owner.metrics.records.inc_by(payloads.len() as u64);
        if self.fold(landed, admitted) {
            self.owner.confirmed.set(asked);
        }
    }

    /// Adds the epoch to a batch if it was long ago that the log was told ([`EPOCH_EVERY`]).
    ///
    /// [`EPOCH_EVERY`]: fold::effects::EPOCH_EVERY
    fn repeat_epoch(&mut self) {
        let inner = self.owner.state.lock();
        let since = inner.fold.last.0 - inner.fold.epoch_at.0;
        drop(inner);
        if since + self.batch.len() as u64 + 1 >= self.owner.epoch_every {
            let repeated = epoch_record(self.owner.owned.epoch, &self.owner.name);
            let payload = admission::record(repeated, self.owner.owned.epoch).encode_to_vec();
            self.batch.push((payload.into(), Admitted::for_nobody()));
        }
    }

    /// Folds what has come into the log, and answers the requests for it. False if another owner has
    /// begun there: from then on nothing is folded, and requests that wait are answered "moved".
    fn fold(&mut self, landed: Vec<Appended>, admitted: Vec<Admitted>) -> bool {
        let mut admitted: Vec<_> = admitted.into_iter().map(Some).collect();
        let state = self.owner.state.clone();
        let mut inner = state.lock();
        for Appended { record, of } in landed {
            let waiting = of.and_then(|of| admitted.get_mut(of)?.take());
            if waiting.is_none() && written_in(&record) > self.owner.owned.epoch {
                drop(inner);
                let offset = record.offset.0;
                self.is_lost(Ended::Fenced, &format!("another owner has begun at offset {offset}"));
                return false;
            }
            match inner.fold(&record) {
                Ok(effect) => self.tell(&inner, &record, effect, waiting),
                Err(error) => unreachable!("an owner of this epoch appended it: {error}"),
            }
        }
        let folded = inner.fold.last;
        drop(inner);
        metrics::show(&self.owner.metrics.offset, folded);
        state.unstored.notify_one();
        true
    }

    fn cannot_append(&mut self, error: LogError) {
        match error {
            LogError::Lost(why) => self.is_lost(Ended::Unknown, &why),
            error => self.tell_log_full(Some(&error)),
        }
    }

    /// From now on nothing is appended, answered or published.
    fn is_lost(&mut self, ended: Ended, why: &str) {
        let Owned { partition, epoch } = self.owner.owned;
        error!(partition, epoch, why, "the partition is not ours any more");
        self.lost = Some(ended);
    }

    /// Nothing happened for a while.
    fn idle(&mut self) {
        let asked = Instant::now();
        match self.owner.log.idle() {
            Ok(records) => {
                let landed = records.into_iter().map(|record| Appended { record, of: None });
                let landed: Vec<_> = landed.collect();
                if landed.is_empty() || self.fold(landed, Vec::new()) {
                    self.owner.confirmed.set(asked);
                }
            }
            Err(error) => self.cannot_append(error),
        }
        self.owner.state.lock().idle();
    }

    /// Answers the request for a record, and publishes its effect.
    fn tell(&self, inner: &Inner, record: &LogRecord, effect: Effect, admitted: Option<Admitted>) {
        let Admitted { waiter, origin, .. } = admitted.unwrap_or_else(Admitted::for_nobody);
        match effect {
            Effect::Message { row, previous, member_version } => {
                waiter.tell(Outcome::Sent {
                    conversation: row.conversation,
                    msg_id: row.msg_id,
                    timestamp_ms: row.timestamp_ms,
                });
                let message = FoldedMessage { row: &row, previous, member_version, origin };
                self.owner.publisher.message(&message, self.owner.owned);
            }
            Effect::Duplicate(known) => waiter.tell(sent_before(known)),
            Effect::IdReused => waiter.tell(Outcome::Refused(Reason::IdReused)),
            Effect::Members { group, actor, added, removed, previous, created } => {
                let conversation = ConversationId::group(group)
                    .and_then(|id| inner.fold.conversations.get(&id))
                    .expect("a group whose members changed is in memory");
                let current: Arc<[_]> = conversation.current_members().into();
                let change = MembersChange {
                    group,
                    actor,
                    current: &current,
                    added: &added,
                    removed: &removed,
                    quiet: created,
                    version: conversation.group.as_ref().map_or(0, |group| group.version),
                    first_visible: Some(conversation.head.next()),
                    origin,
                };
                self.tell_members(&change, RecordPlace { offset: record.offset, previous });
                waiter.tell(Outcome::Members { current, added, removed });
            }
            Effect::Marked { changed } => waiter.tell(Outcome::Marked { changed }),
            Effect::Nothing => waiter.tell(Outcome::Retry),
        }
    }

    fn tell_members(&self, change: &MembersChange<'_>, place: RecordPlace) {
        if !change.added.is_empty() || !change.removed.is_empty() {
            self.owner.publisher.members(change, place, self.owner.owned);
        }
    }

    /// One line when the log becomes full, one when it has had room again for a while: as it fills
    /// up, small batches may still fit where larger ones do not.
    fn tell_log_full(&mut self, error: Option<&LogError>) {
        self.owner.metrics.log_full.set(i64::from(error.is_some()));
        match (error, self.full_at) {
            (Some(error), None) => error!(%error, "new changes are refused until there is room"),
            (None, Some(full_at)) if full_at.elapsed() < ROOM_FOR => return,
            (None, Some(_)) => info!("the log has room again"),
            _ => {}
        }
        self.full_at = error.map(|_error| Instant::now());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.show_waiting(0);
        if std::thread::panicking() {
            warn!("the partition's thread ends by a panic");
        }
    }
}

/// The epoch of the owner that appended a record; 0 if it does not say.
fn written_in(record: &LogRecord) -> u64 {
    let decoded = proto::log::Record::decode(record.payload.clone());
    decoded.ok().and_then(|record| record.written_in_epoch).unwrap_or(0)
}

/// Where a known message is. One that only the store can know, and does not, is tried again.
fn sent_before(known: Known) -> Outcome {
    let Known { conversation, msg_id, timestamp_ms, .. } = known;
    msg_id.map_or(Outcome::Retry, |msg_id| Outcome::Sent { conversation, msg_id, timestamp_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repeated id must be found in the window or in the store. With what is folded and not stored yet
    /// longer than the window, it would be in neither.
    #[test]
    fn the_store_may_be_behind_by_bytes_and_by_records_but_not_by_more() {
        let most = UNSTORED_RECORDS_MAX;
        for (bytes, records, too_far) in
            [(0, 0, false), (10, most, false), (11, 0, true), (0, most + 1, true)]
        {
            let behind = Behind { bytes, records };
            assert_eq!(is_too_far(behind, 10), too_far, "{behind:?}");
        }
        assert!(most + 2 * BATCH_MAX as u64 <= WINDOW_RECORDS);
    }
}
