//! Following storage: which conversations changed, whether or not we heard of it.
//!
//! Each partition by itself. As soon as a link owns it, the owner is told our cursor, before it is
//! asked anything else. From there on the owner names what has changed, in order and about a second
//! behind the log. One task for each partition makes the named conversations complete, and then
//! moves the cursor. So what was lost on its way, or never published because its owner died, is here
//! a moment later.
//!
//! # Invariants
//!
//! - The cursor moves only over what is complete; it outlives links and owners.
//! - The stream of a partition is taken from one link, its owner's, and in order.
//!
//! # What bounds it
//!
//! Of each partition [`QUEUED_MAX`] messages wait. When one more comes, all of them are dropped. The
//! stream is asked for again, from the cursor, once the task is done with what it is at.

use std::collections::VecDeque;
use std::mem;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use daemon::{Link, LinkError};
use parking_lot::Mutex;
use proto::cluster::Kind;
use proto::cluster::wire::{Changed, Changes, Follow};
use proto::ids::ConversationId;
use tokio::sync::Notify;
use tracing::{debug, info_span, warn};

use super::batch::Batch;
use super::progress::{Completeness, Range, Step};
use super::record::Record;
use super::resync::{let_lost_sync, must_sync};
use super::seen::Verdict;
use super::shared::Shared;
use super::{fanout, repair};

/// Messages of the stream that wait at most.
const QUEUED_MAX: usize = 64;

/// What the owners have told us, and which links it comes from.
#[derive(Debug)]
pub(super) struct Following {
    shared: Arc<Shared>,
    /// By partition. Not set before it is known how many there are.
    streams: OnceLock<Box<[Stream]>>,
}

#[derive(Debug, Default)]
struct Stream {
    inbox: Mutex<Inbox>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Inbox {
    link: Option<Link>,
    queue: VecDeque<Changes>,
    /// Something was dropped: the stream must begin again.
    dropped: bool,
    /// It was asked to begin again, and has not yet.
    asked: bool,
}

impl Following {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, streams: OnceLock::new() }
    }

    /// It is known how many partitions there are.
    pub(super) fn set_partitions(&self, partitions: u32) {
        self.streams.get_or_init(|| (0..partitions).map(|_partition| Stream::default()).collect());
    }

    /// Starts the tasks that keep the cursors. They go on while the gateway drains.
    pub(super) fn spawn(self: &Arc<Self>, partitions: u32) {
        let shutdown = &self.shared.parts.shutdown;
        for partition in 0..partitions {
            let following = Arc::clone(self);
            let closing = shutdown.clone();
            shutdown.spawn_link(info_span!("cursor", partition), async move {
                tokio::select! {
                    () = closing.closing_links() => {}
                    () = run(&following, partition) => {}
                }
            });
        }
    }

    /// A link owns a partition from now on. Must be the first that is asked there.
    pub(super) fn follow(&self, partition: u32, link: &Link) {
        let Some(stream) = self.stream(partition) else { return };
        let mut inbox = stream.inbox.lock();
        *inbox = Inbox { link: Some(link.clone()), ..Inbox::default() };
        // Without a cursor: from where the first of our clients needs it, if storage has said so.
        let floor =
            || self.shared.parts.registry.smallest_floor(partition).filter(|floor| *floor > 0);
        ask(link, partition, self.shared.delivered.cursor(partition).or_else(floor));
        drop(inbox);
        self.shared.delivered.part(partition).ended.notify_waiters();
    }

    /// A partition has lost its owner, and has no other yet.
    pub(super) fn unfollow(&self, partition: u32) {
        let Some(stream) = self.stream(partition) else { return };
        *stream.inbox.lock() = Inbox::default();
        self.shared.delivered.part(partition).ended.notify_waiters();
    }

    /// An owner tells of changes.
    pub(super) fn changes_came(&self, link: &Link, changes: Changes) {
        let Some(stream) = self.stream(changes.partition) else { return };
        let mut inbox = stream.inbox.lock();
        if inbox.link.as_ref() != Some(link) || inbox.dropped {
            return;
        }
        if inbox.queue.len() >= QUEUED_MAX {
            inbox.queue.clear();
            inbox.dropped = true;
        } else {
            inbox.queue.push_back(changes);
        }
        drop(inbox);
        stream.came.notify_one();
    }

    /// Asks for the stream again, from the cursor.
    fn follow_again(&self, stream: &Stream, partition: u32, link: &Link) {
        let mut inbox = stream.inbox.lock();
        if inbox.link.as_ref() == Some(link) && !inbox.asked {
            inbox.asked = true;
            self.shared.parts.metrics.cursor_holes.inc();
            ask(link, partition, self.shared.delivered.cursor(partition));
        }
    }

    fn stream(&self, partition: u32) -> Option<&Stream> {
        self.streams.get()?.get(partition as usize)
    }
}

impl Stream {
    /// The next message of the stream, and the link it came on.
    async fn next(&self, following: &Following, partition: u32) -> (Link, Changes) {
        loop {
            let (dropped, link, changes) = self.inbox.lock().take();
            if let Some(link) = link {
                if dropped {
                    following.follow_again(self, partition, &link);
                }
                if let Some(changes) = changes {
                    return (link, changes);
                }
            }
            self.came.notified().await;
        }
    }

    fn is_from(&self, link: &Link) -> bool {
        self.inbox.lock().link.as_ref() == Some(link)
    }

    fn has_begun_again(&self) {
        self.inbox.lock().asked = false;
    }
}

impl Inbox {
    /// Whether something was dropped, the link, and the next message.
    fn take(&mut self) -> (bool, Option<Link>, Option<Changes>) {
        (mem::take(&mut self.dropped), self.link.clone(), self.queue.pop_front())
    }
}

fn ask(link: &Link, partition: u32, after_offset: Option<u64>) {
    let follow = Follow { partition, after_offset };
    match link.send(Kind::Follow.number(), 0, &follow) {
        Ok(()) | Err(LinkError::Closed) => {}
        Err(LinkError::Full | LinkError::TooLong) => link.reset("it takes no more"),
    }
}

async fn run(following: &Following, partition: u32) {
    let shared = &following.shared;
    let Shared { parts, delivered, .. } = &**shared;
    let Some(stream) = following.stream(partition) else { return };
    loop {
        let (link, changes) = stream.next(following, partition).await;
        if !parts.partitions.is_current(partition, changes.epoch) {
            parts.metrics.stale_publishes.inc();
            continue;
        }
        let range = Range {
            after: changes.after_offset,
            upto: changes.upto_offset,
            forgotten: changes.forgotten(),
        };
        match delivered.judge(partition, range) {
            Step::Known => stream.has_begun_again(),
            Step::Hole => following.follow_again(stream, partition, &link),
            Step::Forgotten => {
                stream.has_begun_again();
                forgotten(shared, partition, changes.upto_offset);
            }
            Step::Apply => {
                stream.has_begun_again();
                apply(shared, stream, &link, changes).await;
            }
        }
    }
}

/// Makes every conversation complete that a message names, then moves the cursor; unless the link
/// goes down before.
async fn apply(shared: &Arc<Shared>, stream: &Stream, link: &Link, changes: Changes) {
    let part = shared.delivered.part(changes.partition);
    let mut waiting = changes.conversations;
    // What belongs elsewhere has another cursor.
    waiting.retain(|changed| {
        let conversation = conversation_of(changed);
        conversation.is_some_and(|one| shared.parts.partition_of(one) == changes.partition)
    });
    waiting.retain(|changed| {
        let complete = catch_up(shared, changed);
        if complete {
            take_members(shared, changed);
        }
        !complete
    });
    loop {
        let mut ended = pin!(part.ended.notified());
        // From here on no end is missed.
        ended.as_mut().enable();
        waiting.retain(|changed| {
            let complete = conversation_of(changed)
                .is_none_or(|one| shared.delivered.is_complete(one, changed.offset));
            if complete {
                take_members(shared, changed);
            }
            !complete
        });
        if !stream.is_from(link) {
            return;
        }
        if waiting.is_empty() {
            break;
        }
        ended.await;
    }
    shared.delivered.move_cursor(changes.partition, changes.upto_offset);
}

/// Whether a conversation that has changed is complete. Otherwise it is being repaired.
fn catch_up(shared: &Arc<Shared>, changed: &Changed) -> bool {
    let Shared { parts, delivered, .. } = &**shared;
    let Some(conversation) = conversation_of(changed) else { return true };
    let offset = changed.offset;
    let completeness = delivered.changed(conversation, offset, parts.floor(conversation));
    fanout::deliver(shared, conversation);
    let_lost_sync(shared);
    match completeness {
        Completeness::Complete => true,
        Completeness::Behind { opened } => {
            if opened {
                debug!(conversation = conversation.number(), offset, "behind");
                parts.metrics.cursor_repairs.inc();
                repair::start(shared, conversation, Duration::ZERO);
            }
            false
        }
    }
}

/// Sees to it that changes of members are known. What was taken may have been one of several.
fn take_members(shared: &Arc<Shared>, changed: &Changed) {
    let Shared { parts, delivered, .. } = &**shared;
    let Some(publish) = changed.members.clone() else { return };
    let Some(conversation) = conversation_of(changed) else { return };
    if !parts.partitions.is_current(parts.partition_of(conversation), publish.epoch) {
        return;
    }
    if parts.floor(conversation).is_none() {
        let mut batch = Batch::default();
        let record = Record::read(parts, conversation, publish.clone(), true);
        let verdict = delivered.take(record, || None);
        if matches!(verdict, Verdict::Delivered { .. }) {
            batch.add(conversation);
        }
        batch.deliver(shared);
    }
    // After what was taken: that may not be delivered yet, and goes to those who were members then.
    let sum = Record { sums_up: true, ..Record::read(parts, conversation, publish, true) };
    delivered.follow_up(conversation, sum);
    fanout::deliver(shared, conversation);
}

fn conversation_of(changed: &Changed) -> Option<ConversationId> {
    ConversationId::from_number(changed.conversation)
}

/// The owner has forgotten what changed after the cursor: the clients here must reconnect and ask.
fn forgotten(shared: &Shared, partition: u32, upto: u64) {
    let Shared { parts, delivered, .. } = shared;
    let cursor = delivered.cursor(partition);
    delivered.reset(partition, upto);
    parts.metrics.cursor_forgotten.inc();
    // A log that ends before our cursor is another one: no floor means anything in it.
    let is_other = cursor.is_some_and(|cursor| upto < cursor);
    let mut sessions = parts.registry.all();
    // A client whose login is not that far asks for everything up to here anyway.
    let is_behind = |floor: u64| is_other || floor < upto;
    sessions.retain(|session| session.floor(partition).is_some_and(is_behind));
    let count = sessions.len();
    warn!(partition, cursor, upto, sessions = count, "storage has forgotten what changed");
    must_sync(parts, &sessions);
}
