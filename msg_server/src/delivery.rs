//! What the fold decided, on its way to the sessions here.
//!
//! Records come from the hub, and from storage where the hub did not reach us. They are taken one
//! by one. When everything that came in one read has been taken, what each conversation got goes to
//! each of its sessions in one write.
//!
//! What did not come is noticed in two ways: by the next record of the conversation, which says what
//! was before it, and by storage's stream of changes, which moves our cursor ([`cursor`]). Either way
//! it is fetched before anything after it is delivered ([`repair`]).
//!
//! Each partition has a log and an owner of its own, and so a cursor, a stream and a lock of its own:
//! what is behind in one holds up nothing in another.
//!
//! # Invariants
//!
//! - A record of an owner that is none any more is refused: the newest epoch of its partition counts.
//! - Of one conversation, records are delivered in the order of the log, each once, and none before
//!   one that is missing ([`progress`]). One task at a time writes those of a conversation.
//! - The session that a message came from never gets it: it gets the answer.
//! - Repair brings a session nothing that its client asks for itself.
//!
//! # What bounds it
//!
//! - `conversations_max` conversations are remembered that changed after the cursors ([`progress`]).
//!   Each partition has the same share, since conversations spread evenly over them.
//! - Behind a gap, 256 records of a conversation wait at most ([`crate::seen`]).
//! - [`repair::FETCHES_MAX`] pages are fetched at a time.
//! - What was taken and not delivered is never more than what came in one read.

mod cursor;
mod fanout;
mod progress;
mod repair;

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use proto::client;
use proto::cluster::partition_of;
use proto::cluster::wire::Publish;
use proto::ids::ClientMsgId;
use tokio::sync::{Notify, Semaphore};
use tracing::{debug, warn};

use crate::gateway::Gateway;
use crate::metrics::GapEnd;
use crate::seen::{Mark, Missing, Verdict};
use crate::session::Session;
use progress::{Progress, Range, Standing, Step};

pub(crate) use cursor::{Following, spawn};

/// What has been delivered here.
#[derive(Debug)]
pub(crate) struct Delivery {
    conversations_max: usize,
    /// Not set before it is known how many there are: until then nobody is logged in.
    parts: OnceLock<Box<[Part]>>,
    /// Conversations that were forgotten although something was missing. Taken with the next batch.
    lost: Mutex<Vec<u64>>,
    has_lost: AtomicBool,
    fetches: Semaphore,
    warned: AtomicBool,
}

/// What has been delivered of one partition.
#[derive(Debug)]
struct Part {
    state: Mutex<State>,
    /// Told whenever a gap ends.
    ended: Notify,
}

#[derive(Debug)]
struct State {
    progress: Progress<Record>,
    /// Conversations with records that were taken and not delivered yet.
    lanes: HashMap<u64, Lane>,
    /// Kept for its memory.
    taken: Vec<Record>,
}

/// Records of one conversation on their way to its sessions.
#[derive(Debug, Default)]
struct Lane {
    /// Somebody delivers, and will deliver what is added.
    busy: bool,
    ready: Vec<Record>,
}

/// A published record, and who else must not get it.
#[derive(Debug)]
pub(crate) struct Record {
    publish: Publish,
    /// The session here that was told "stored".
    answered: Option<u64>,
    /// It did not come by itself.
    repaired: bool,
    /// It says what changes of members came to: most of it may have been carried out before.
    sums_up: bool,
}

/// The conversations with records that were taken and not delivered yet.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    conversations: Vec<u64>,
}

/// The right to deliver what a conversation has got. Given up when dropped.
#[derive(Debug)]
struct Deliverer<'a> {
    delivery: &'a Delivery,
    conversation: u64,
    gave_up: bool,
}

impl Gateway {
    /// Takes a record; its conversation is added to `batch` if something is to be delivered.
    pub(crate) fn take_publish(self: &Arc<Self>, publish: Publish, batch: &mut Batch) {
        let conversation = publish.conversation;
        let Some(partition) = self.parts.partitions.of(conversation) else { return };
        if publish.partition != partition {
            self.delivery.misplaced(&publish);
            self.parts.metrics.misplaced_publishes.inc();
            return;
        }
        if !self.parts.partitions.is_current(partition, publish.epoch) {
            self.parts.metrics.stale_publishes.inc();
            return;
        }
        let record = self.record(publish, false);
        match self.delivery.take(record, || self.parts.floor(conversation)) {
            Verdict::Delivered { closed } => {
                if closed {
                    self.parts.metrics.gap_ended(GapEnd::LateCopy);
                }
                batch.add(conversation);
            }
            Verdict::Duplicate => {
                self.parts.metrics.duplicates.inc();
            }
            Verdict::Held { opened: false } => {}
            Verdict::Held { opened: true } => {
                debug!(conversation, "a gap");
                repair::start(self, conversation, repair::LATE);
            }
        }
    }

    /// Delivers what was taken.
    pub(crate) fn deliver_batch(self: &Arc<Self>, batch: &mut Batch) {
        // Before anything that came after what they miss.
        self.let_lost_sync();
        for conversation in batch.conversations.drain(..) {
            fanout::deliver(self, conversation);
        }
    }

    /// Sessions miss something, and it cannot be brought to them any more: their clients must ask.
    pub(crate) fn must_sync(self: &Arc<Self>, sessions: &[Arc<Session>]) {
        // None may hear of what came after what it missed.
        for session in sessions {
            session.outbox.stop_pushes();
        }
        let outboxes = sessions.iter().map(|session| Arc::clone(&session.outbox)).collect();
        repair::let_sync(self, outboxes);
    }

    /// Reads a record. Its sender is answered, if this comes before storage's own answer.
    fn record(&self, publish: Publish, repaired: bool) -> Record {
        // What is fetched has no origin any more; then the sender may be anywhere.
        let elsewhere = publish.origin.is_some_and(|origin| origin.gateway_boot != self.parts.boot);
        let id = publish.client_msg_id.as_deref().and_then(ClientMsgId::from_slice);
        let answered = match id {
            Some(id) if !elsewhere && !changes_members(&publish) => {
                let Publish { sender, msg_id, .. } = publish;
                self.parts.sends.published(sender, id, msg_id, || create_time(&publish))
            }
            _ => None,
        };
        Record { publish, answered, repaired, sums_up: false }
    }

    /// The sessions of conversations that were forgotten although something was missing.
    fn let_lost_sync(self: &Arc<Self>) {
        for conversation in self.delivery.take_lost() {
            self.must_sync(&fanout::concerned(self, conversation));
        }
    }
}

impl Part {
    fn new(conversations_max: usize) -> Self {
        let progress = Progress::new(conversations_max);
        let state = State { progress, lanes: HashMap::new(), taken: Vec::new() };
        Self { state: Mutex::new(state), ended: Notify::new() }
    }
}

impl Batch {
    fn add(&mut self, conversation: u64) {
        if self.conversations.last() != Some(&conversation) {
            self.conversations.push(conversation);
        }
    }
}

impl Delivery {
    pub(crate) fn new(conversations_max: usize) -> Self {
        Self {
            conversations_max,
            parts: OnceLock::new(),
            lost: Mutex::default(),
            has_lost: AtomicBool::new(false),
            fetches: Semaphore::new(repair::FETCHES_MAX),
            warned: AtomicBool::new(false),
        }
    }

    /// It is known how many partitions there are.
    pub(crate) fn set_partitions(&self, partitions: u32) {
        let share = self.conversations_max.div_ceil(partitions as usize);
        self.parts.get_or_init(|| (0..partitions).map(|_partition| Part::new(share)).collect());
    }

    /// Everything of a partition that this gateway serves is complete up to this place in its log.
    pub(crate) fn cursor(&self, partition: u32) -> Option<u64> {
        self.part(partition).state.lock().progress.cursor()
    }

    /// How far the cursor that is furthest behind is behind what storage has told of.
    pub(crate) fn lag(&self) -> u64 {
        let parts = self.parts.get().into_iter().flatten();
        parts.map(|part| part.state.lock().progress.lag()).max().unwrap_or(0)
    }

    /// A record names a partition that its conversation does not belong to.
    fn misplaced(&self, publish: &Publish) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let Publish { conversation, partition, .. } = *publish;
            warn!(
                conversation,
                partition, "a record of the wrong partition; others are only counted"
            );
        }
    }

    fn part(&self, partition: u32) -> &Part {
        let part = self.parts.get().and_then(|parts| parts.get(partition as usize));
        part.expect("nothing is asked about a partition before it is known how many there are")
    }

    fn part_of(&self, conversation: u64) -> &Part {
        let count = self.parts.get().map_or(1, |parts| parts.len());
        self.part(partition_of(conversation, u32::try_from(count).unwrap_or(u32::MAX)))
    }

    fn take(&self, record: Record, floor: impl FnOnce() -> Option<u64>) -> Verdict {
        let conversation = record.publish.conversation;
        let marked = (mark_of(&record.publish), record);
        let verdict = self
            .with(conversation, |progress, out| progress.take(conversation, marked, floor, out));
        if verdict == (Verdict::Delivered { closed: true }) {
            self.part_of(conversation).ended.notify_waiters();
        }
        verdict
    }

    /// Changes a conversation. What is to be delivered goes into its lane under the same lock, so
    /// that its order is that of the changes.
    fn with<T>(
        &self,
        conversation: u64,
        change: impl FnOnce(&mut Progress<Record>, &mut Vec<Record>) -> T,
    ) -> T {
        let mut state = self.part_of(conversation).state.lock();
        let State { progress, lanes, taken } = &mut *state;
        let result = change(progress, taken);
        if !taken.is_empty() {
            lanes.entry(conversation).or_default().ready.append(taken);
        }
        if progress.has_lost() {
            self.lost.lock().append(&mut progress.take_lost());
            self.has_lost.store(true, Ordering::Release);
        }
        result
    }

    fn judge(&self, partition: u32, range: Range) -> Step {
        self.part(partition).state.lock().progress.judge(range)
    }

    fn changed(&self, conversation: u64, offset: u64, floor: Option<u64>) -> Standing {
        self.with(conversation, |progress, out| progress.changed(conversation, offset, floor, out))
    }

    fn is_complete(&self, conversation: u64, offset: u64) -> bool {
        self.part_of(conversation).state.lock().progress.is_complete(conversation, offset)
    }

    fn missing(&self, conversation: u64) -> Option<Missing> {
        self.part_of(conversation).state.lock().progress.missing(conversation)
    }

    /// Takes what was asked for. Whether that closed the gap.
    fn fetched(&self, conversation: u64, fetched: Vec<Record>, complete_to: Option<u64>) -> bool {
        let marked = |record: Record| (mark_of(&record.publish), record);
        let fetched = fetched.into_iter().map(marked).collect();
        self.with(conversation, |progress, out| {
            progress.fetched(conversation, fetched, complete_to, out)
        })
    }

    fn give_up(&self, conversation: u64) {
        self.with(conversation, |progress, out| progress.give_up(conversation, out));
    }

    /// Up to where a conversation was taken here.
    fn reached(&self, conversation: u64) -> u64 {
        self.part_of(conversation).state.lock().progress.reached(conversation)
    }

    /// Does `work` if nothing after `offset` was taken in a conversation, and before anything is.
    fn at(&self, conversation: u64, offset: u64, work: impl FnOnce()) -> bool {
        let state = self.part_of(conversation).state.lock();
        let is_there = state.progress.reached(conversation) <= offset;
        if is_there {
            work();
        }
        is_there
    }

    fn move_cursor(&self, partition: u32, upto: u64) {
        self.part(partition).state.lock().progress.move_cursor(upto);
    }

    fn reset(&self, partition: u32, upto: u64) {
        let part = self.part(partition);
        part.state.lock().progress.reset(upto);
        part.ended.notify_waiters();
    }

    fn take_lost(&self) -> Vec<u64> {
        if self.has_lost.swap(false, Ordering::Acquire) {
            mem::take(&mut self.lost.lock())
        } else {
            Vec::new()
        }
    }

    /// Adds what is to be carried out after everything that was taken.
    fn follow_up(&self, conversation: u64, record: Record) {
        let mut state = self.part_of(conversation).state.lock();
        state.lanes.entry(conversation).or_default().ready.push(record);
    }

    /// The right to deliver, and what there is; `None` if there is nothing, or somebody else does.
    fn deliverer(&self, conversation: u64) -> Option<(Deliverer<'_>, Vec<Record>)> {
        let mut state = self.part_of(conversation).state.lock();
        let lane = state.lanes.get_mut(&conversation).filter(|lane| !lane.busy)?;
        lane.busy = true;
        let ready = mem::take(&mut lane.ready);
        Some((Deliverer { delivery: self, conversation, gave_up: false }, ready))
    }
}

impl Deliverer<'_> {
    /// What has been added meanwhile. If nothing has, the right is given up.
    fn more(&mut self) -> Option<Vec<Record>> {
        let mut state = self.delivery.part_of(self.conversation).state.lock();
        let ready = state.lanes.get_mut(&self.conversation).map(|lane| mem::take(&mut lane.ready));
        let more = ready.filter(|ready| !ready.is_empty());
        if more.is_none() {
            state.lanes.remove(&self.conversation);
            self.gave_up = true;
        }
        more
    }
}

impl Drop for Deliverer<'_> {
    fn drop(&mut self) {
        if self.gave_up {
            return;
        }
        let mut state = self.delivery.part_of(self.conversation).state.lock();
        if let Some(lane) = state.lanes.get_mut(&self.conversation) {
            // Delivering has panicked: the next one goes on.
            lane.busy = false;
        }
    }
}

fn mark_of(publish: &Publish) -> Mark {
    Mark { msg_id: publish.msg_id, offset: publish.offset, prev_offset: publish.prev_offset }
}

/// When a published message was taken. Read from its frame, which only the few clients need that
/// hear of it this way.
fn create_time(publish: &Publish) -> Option<u32> {
    use prost::Message;

    let body = publish.frame.get(proto::limits::HEADER_LEN..)?;
    client::MessageData::decode(body).ok().map(|message| message.create_time)
}

/// The fields that clients with the extension get beyond what all clients get.
fn extension(publish: &Publish) -> Vec<u8> {
    use prost::Message;

    let client_msg_id = publish.client_msg_id.clone();
    client::MessageExtension { client_msg_id, resend: None }.encode_to_vec()
}

/// Whether a record changes who is in a group.
fn changes_members(publish: &Publish) -> bool {
    publish.msg_id == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A user who was removed and added again is no member while what was said in between is delivered,
    /// although storage has already said that the user is a member again.
    #[test]
    fn what_changes_came_to_waits_until_what_was_taken_is_delivered() {
        let delivery = Delivery::new(10);
        delivery.set_partitions(1);
        let record = |offset, sums_up| {
            let publish = Publish { conversation: 7, offset, ..Publish::default() };
            Record { publish, answered: None, repaired: true, sums_up }
        };
        let offsets = |records: Vec<Record>| -> Vec<(u64, bool)> {
            records.iter().map(|record| (record.publish.offset, record.sums_up)).collect()
        };
        delivery.follow_up(7, record(1, false));
        let (mut right, ready) = delivery.deliverer(7).unwrap();
        assert_eq!(offsets(ready), [(1, false)]);
        delivery.follow_up(7, record(1, true));
        assert!(delivery.deliverer(7).is_none(), "the first is being delivered");
        assert_eq!(offsets(right.more().unwrap()), [(1, true)]);
        assert!(right.more().is_none());
        delivery.follow_up(7, record(2, true));
        assert!(delivery.deliverer(7).is_some(), "nobody is");
    }

    #[test]
    fn when_one_who_delivers_has_panicked_the_next_goes_on() {
        let delivery = Delivery::new(10);
        delivery.set_partitions(1);
        let record = || {
            let publish = Publish { conversation: 7, ..Publish::default() };
            Record { publish, answered: None, repaired: false, sums_up: false }
        };
        delivery.follow_up(7, record());
        let (right, _ready) = delivery.deliverer(7).unwrap();
        delivery.follow_up(7, record());
        drop(right);
        let (_right, ready) = delivery.deliverer(7).expect("the right is free again");
        assert_eq!(ready.len(), 1);
    }
}
