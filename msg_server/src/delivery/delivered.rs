//! What has been delivered here, of all partitions, and what is on its way.
//!
//! # Invariants
//!
//! - What is to be delivered of a conversation stands in its queue in the order of the log, and one task
//!   at a time has the right to deliver it.
//! - Each partition has a lock of its own.

use std::collections::HashMap;
use std::mem;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use proto::cluster::partition_of;
use proto::ids::ConversationId;
use tokio::sync::Notify;

use super::progress::{Completeness, Progress, Range, Step};
use super::record::{Record, placed};
use super::seen::{Missing, Verdict};

/// What has been delivered here.
#[derive(Debug)]
pub(super) struct Delivered {
    conversations_max: usize,
    /// Not set before it is known how many there are: until then nobody is logged in.
    parts: OnceLock<Box<[Part]>>,
    /// Conversations that were forgotten although something was missing. Taken with the next batch.
    lost: Mutex<Vec<ConversationId>>,
    has_lost: AtomicBool,
}

/// What has been delivered of one partition.
#[derive(Debug)]
pub(super) struct Part {
    state: Mutex<PartState>,
    /// Told whenever a gap ends.
    pub(super) ended: Notify,
}

#[derive(Debug)]
struct PartState {
    progress: Progress<Record>,
    /// Conversations with records that were taken and not delivered yet.
    queues: HashMap<ConversationId, ConversationQueue>,
    /// Kept for its memory.
    taken: Vec<Record>,
}

/// Records of one conversation on their way to its sessions.
#[derive(Debug, Default)]
struct ConversationQueue {
    /// A task delivers, and will deliver what is added.
    busy: bool,
    ready: Vec<Record>,
}

/// The right to deliver what a conversation has got. Given up when dropped.
#[derive(Debug)]
pub(super) struct Deliverer<'a> {
    delivered: &'a Delivered,
    conversation: ConversationId,
    gave_up: bool,
}

impl Part {
    fn new(conversations_max: usize) -> Self {
        let progress = Progress::new(conversations_max);
        let state = PartState { progress, queues: HashMap::new(), taken: Vec::new() };
        Self { state: Mutex::new(state), ended: Notify::new() }
    }
}

impl Delivered {
    pub(super) fn new(conversations_max: usize) -> Self {
        Self {
            conversations_max,
            parts: OnceLock::new(),
            lost: Mutex::default(),
            has_lost: AtomicBool::new(false),
        }
    }

    /// It is known how many partitions there are.
    pub(super) fn set_partitions(&self, partitions: u32) {
        let share = self.conversations_max.div_ceil(partitions as usize);
        self.parts.get_or_init(|| (0..partitions).map(|_partition| Part::new(share)).collect());
    }

    /// Everything of a partition that this gateway serves is complete up to this place in its log.
    pub(super) fn cursor(&self, partition: u32) -> Option<u64> {
        self.part(partition).state.lock().progress.cursor()
    }

    /// How far the cursor that is furthest behind is behind what storage has told of.
    pub(super) fn lag(&self) -> u64 {
        let parts = self.parts.get().into_iter().flatten();
        parts.map(|part| part.state.lock().progress.lag()).max().unwrap_or(0)
    }

    /// One partition's. Not asked before it is known how many there are.
    pub(super) fn part(&self, partition: u32) -> &Part {
        let part = self.parts.get().and_then(|parts| parts.get(partition as usize));
        part.expect("nothing is asked about a partition before it is known how many there are")
    }

    /// That of a conversation.
    pub(super) fn part_of(&self, conversation: ConversationId) -> &Part {
        let count = self.parts.get().map_or(1, |parts| parts.len());
        self.part(partition_of(conversation.number(), u32::try_from(count).unwrap_or(u32::MAX)))
    }

    /// Takes a published record. `floor` as for [`Progress::take`].
    pub(super) fn take(&self, record: Record, floor: impl FnOnce() -> Option<u64>) -> Verdict {
        let conversation = record.conversation;
        let placed = placed(record);
        let verdict = self
            .with(conversation, |progress, out| progress.take(conversation, placed, floor, out));
        if verdict == (Verdict::Delivered { closed: true }) {
            self.part_of(conversation).ended.notify_waiters();
        }
        verdict
    }

    /// Changes a conversation. What is to be delivered goes into its queue under the same lock, so
    /// that its order is that of the changes.
    fn with<T>(
        &self,
        conversation: ConversationId,
        change: impl FnOnce(&mut Progress<Record>, &mut Vec<Record>) -> T,
    ) -> T {
        let mut state = self.part_of(conversation).state.lock();
        let PartState { progress, queues, taken } = &mut *state;
        let result = change(progress, taken);
        if !taken.is_empty() {
            queues.entry(conversation).or_default().ready.append(taken);
        }
        if progress.has_lost() {
            self.lost.lock().append(&mut progress.take_lost());
            self.has_lost.store(true, Ordering::Release);
        }
        result
    }

    /// What a message of the owner's stream means.
    pub(super) fn judge(&self, partition: u32, range: Range) -> Step {
        self.part(partition).state.lock().progress.judge(range)
    }

    /// The owner says that a conversation has a record at `offset`.
    pub(super) fn changed(
        &self,
        conversation: ConversationId,
        offset: u64,
        floor: Option<u64>,
    ) -> Completeness {
        self.with(conversation, |progress, out| progress.changed(conversation, offset, floor, out))
    }

    /// Whether nothing up to `offset` is missing in a conversation.
    pub(super) fn is_complete(&self, conversation: ConversationId, offset: u64) -> bool {
        self.part_of(conversation).state.lock().progress.is_complete(conversation, offset)
    }

    /// What is to be asked for; `None` if nothing is missing.
    pub(super) fn missing(&self, conversation: ConversationId) -> Option<Missing> {
        self.part_of(conversation).state.lock().progress.missing(conversation)
    }

    /// Takes what was asked for. Whether that closed the gap.
    pub(super) fn fetched(
        &self,
        conversation: ConversationId,
        fetched: Vec<Record>,
        complete_to: Option<u64>,
    ) -> bool {
        let fetched = fetched.into_iter().map(placed).collect();
        self.with(conversation, |progress, out| {
            progress.fetched(conversation, fetched, complete_to, out)
        })
    }

    /// What is missing is no longer fetched, since no session here needs it.
    pub(super) fn give_up(&self, conversation: ConversationId) {
        self.with(conversation, |progress, out| progress.give_up(conversation, out));
    }

    /// Up to where a conversation was taken here.
    pub(super) fn reached(&self, conversation: ConversationId) -> u64 {
        self.part_of(conversation).state.lock().progress.reached(conversation)
    }

    /// Does `work` if nothing after `offset` was taken in a conversation, and before anything is.
    pub(super) fn at(
        &self,
        conversation: ConversationId,
        offset: u64,
        work: impl FnOnce(),
    ) -> bool {
        let state = self.part_of(conversation).state.lock();
        let is_there = state.progress.reached(conversation) <= offset;
        if is_there {
            work();
        }
        is_there
    }

    /// Everything of a partition up to `upto` is complete.
    pub(super) fn move_cursor(&self, partition: u32, upto: u64) {
        self.part(partition).state.lock().progress.move_cursor(upto);
    }

    /// A partition begins anew at `upto`.
    pub(super) fn reset(&self, partition: u32, upto: u64) {
        let part = self.part(partition);
        part.state.lock().progress.reset(upto);
        part.ended.notify_waiters();
    }

    /// The conversations that were forgotten although something was missing.
    pub(super) fn take_lost(&self) -> Vec<ConversationId> {
        if self.has_lost.swap(false, Ordering::Acquire) {
            mem::take(&mut self.lost.lock())
        } else {
            Vec::new()
        }
    }

    /// Adds what is to be carried out after everything that was taken.
    pub(super) fn follow_up(&self, conversation: ConversationId, record: Record) {
        let mut state = self.part_of(conversation).state.lock();
        state.queues.entry(conversation).or_default().ready.push(record);
    }

    /// The right to deliver, and what there is; `None` if there is nothing, or another task delivers.
    pub(super) fn deliverer(
        &self,
        conversation: ConversationId,
    ) -> Option<(Deliverer<'_>, Vec<Record>)> {
        let mut state = self.part_of(conversation).state.lock();
        let queue = state.queues.get_mut(&conversation).filter(|queue| !queue.busy)?;
        queue.busy = true;
        let ready = mem::take(&mut queue.ready);
        Some((Deliverer { delivered: self, conversation, gave_up: false }, ready))
    }
}

impl Deliverer<'_> {
    /// What has been added meanwhile. If nothing has, the right is given up.
    pub(super) fn more(&mut self) -> Option<Vec<Record>> {
        let mut state = self.delivered.part_of(self.conversation).state.lock();
        let ready =
            state.queues.get_mut(&self.conversation).map(|queue| mem::take(&mut queue.ready));
        let more = ready.filter(|ready| !ready.is_empty());
        if more.is_none() {
            state.queues.remove(&self.conversation);
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
        let mut state = self.delivered.part_of(self.conversation).state.lock();
        if let Some(queue) = state.queues.get_mut(&self.conversation) {
            // Delivering has panicked: the next one goes on.
            queue.busy = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::cluster::wire::Publish;
    use proto::ids::GroupId;

    use super::*;

    fn seven() -> ConversationId {
        ConversationId::group(GroupId(7)).unwrap()
    }

    /// A user who was removed and added again is no member while what was said in between is delivered,
    /// although storage has already said that the user is a member again.
    #[test]
    fn what_changes_came_to_waits_until_what_was_taken_is_delivered() {
        let delivered = Delivered::new(10);
        delivered.set_partitions(1);
        let record = |offset, sums_up| {
            let publish = Publish { conversation: seven().number(), offset, ..Publish::default() };
            Record { conversation: seven(), publish, answered: None, repaired: true, sums_up }
        };
        let offsets = |records: Vec<Record>| -> Vec<(u64, bool)> {
            records.iter().map(|record| (record.publish.offset, record.sums_up)).collect()
        };
        delivered.follow_up(seven(), record(1, false));
        let (mut right, ready) = delivered.deliverer(seven()).unwrap();
        assert_eq!(offsets(ready), [(1, false)]);
        delivered.follow_up(seven(), record(1, true));
        assert!(delivered.deliverer(seven()).is_none(), "the first is being delivered");
        assert_eq!(offsets(right.more().unwrap()), [(1, true)]);
        assert!(right.more().is_none());
        delivered.follow_up(seven(), record(2, true));
        assert!(delivered.deliverer(seven()).is_some(), "nobody is");
    }

    #[test]
    fn when_one_who_delivers_has_panicked_the_next_goes_on() {
        let delivered = Delivered::new(10);
        delivered.set_partitions(1);
        let record = || {
            let publish = Publish { conversation: seven().number(), ..Publish::default() };
            Record {
                conversation: seven(),
                publish,
                answered: None,
                repaired: false,
                sums_up: false,
            }
        };
        delivered.follow_up(seven(), record());
        let (right, _ready) = delivered.deliverer(seven()).unwrap();
        delivered.follow_up(seven(), record());
        drop(right);
        let (_right, ready) = delivered.deliverer(seven()).expect("the right is free again");
        assert_eq!(ready.len(), 1);
    }
}
