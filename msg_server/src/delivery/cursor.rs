//! Following storage: which conversations changed, whether or not we heard of it.
//!
//! On every link that comes up the owner is told our cursor first of all. From there on it names, in
//! order and about a second behind the log, what has changed. One task makes the named conversations
//! complete, and then moves the cursor. So whatever was published and lost on its way, or never
//! published since its owner died, is here a moment later.
//!
//! # Invariants
//!
//! - The cursor moves only over what is complete; it outlives links and owners.
//! - The stream is taken from one link, the newest, and in order.
//!
//! # What bounds it
//!
//! [`QUEUED_MAX`] messages wait. Beyond, all of them are dropped, and the stream is asked for again,
//! from the cursor, once the task is done with what it is at.

use std::collections::VecDeque;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use daemon::{Link, LinkError};
use parking_lot::Mutex;
use proto::cluster::Kind;
use proto::cluster::wire::{Changed, Changes, Follow};
use proto::ids::ConversationId;
use tokio::sync::Notify;
use tracing::{debug, info_span, warn};

use super::{Batch, Range, Standing, Step, Verdict, fanout, repair};
use crate::gateway::Gateway;

/// The partition that is followed. Embedded: there is one.
const PARTITION: u32 = 0;

/// Messages of the stream that wait at most.
const QUEUED_MAX: usize = 64;

/// What the owner has told us, and which link it comes from.
#[derive(Debug, Default)]
pub(crate) struct Following {
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

impl Gateway {
    /// A link to storage is up. Must be the first that is sent on it.
    pub(crate) fn follow(&self, link: &Link) {
        let mut inbox = self.following.inbox.lock();
        *inbox = Inbox { link: Some(link.clone()), ..Inbox::default() };
        // Without a cursor: from where the first of our clients needs it, if storage has said so.
        let floor = || self.registry.smallest_floor().filter(|floor| *floor > 0);
        ask(link, self.delivery.cursor().or_else(floor));
        drop(inbox);
        self.delivery.ended.notify_waiters();
    }

    /// A link to storage is down; `other` is one that is up.
    pub(crate) fn unfollow(&self, link: &Link, other: Option<Link>) {
        let mut inbox = self.following.inbox.lock();
        if inbox.link.as_ref() != Some(link) {
            return;
        }
        *inbox = Inbox::default();
        drop(inbox);
        self.delivery.ended.notify_waiters();
        if let Some(other) = other {
            self.follow(&other);
        }
    }

    /// The owner tells of changes.
    pub(crate) fn changes_came(&self, link: &Link, changes: Changes) {
        let mut inbox = self.following.inbox.lock();
        if inbox.link.as_ref() != Some(link) || changes.partition != PARTITION || inbox.dropped {
            return;
        }
        if inbox.queue.len() >= QUEUED_MAX {
            inbox.queue.clear();
            inbox.dropped = true;
        } else {
            inbox.queue.push_back(changes);
        }
        drop(inbox);
        self.following.came.notify_one();
    }

    /// Asks for the stream again, from the cursor.
    fn follow_again(&self, link: &Link) {
        let mut inbox = self.following.inbox.lock();
        if inbox.link.as_ref() == Some(link) && !inbox.asked {
            inbox.asked = true;
            self.metrics.cursor_holes.inc();
            ask(link, self.delivery.cursor());
        }
    }
}

impl Following {
    /// The next message of the stream, and the link it came on.
    async fn next(&self, gateway: &Gateway) -> (Link, Changes) {
        loop {
            let (dropped, link, changes) = self.inbox.lock().take();
            if let Some(link) = link {
                if dropped {
                    gateway.follow_again(&link);
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

fn ask(link: &Link, after_offset: Option<u64>) {
    let follow = Follow { partition: PARTITION, after_offset };
    match link.send(Kind::Follow.number(), 0, &follow) {
        Ok(()) | Err(LinkError::Closed) => {}
        Err(LinkError::Full | LinkError::TooLong) => link.reset("it takes no more"),
    }
}

/// Starts the task that keeps the cursor. It goes on while the gateway drains.
pub(crate) fn spawn(gateway: &Arc<Gateway>) {
    let gateway = Arc::clone(gateway);
    let shutdown = gateway.shutdown.clone();
    let closing = shutdown.clone();
    shutdown.spawn_link(info_span!("cursor"), async move {
        tokio::select! {
            () = closing.closing_links() => {}
            () = run(&gateway) => {}
        }
    });
}

async fn run(gateway: &Arc<Gateway>) {
    loop {
        let (link, changes) = gateway.following.next(gateway).await;
        let step = gateway.delivery.judge(Range {
            epoch: changes.epoch,
            after: changes.after_offset,
            upto: changes.upto_offset,
            forgotten: changes.forgotten(),
        });
        match step {
            Step::Stale => {
                gateway.metrics.stale_publishes.inc();
            }
            Step::Known => gateway.following.has_begun_again(),
            Step::Hole => gateway.follow_again(&link),
            Step::Forgotten => {
                gateway.following.has_begun_again();
                forgotten(gateway, changes.upto_offset);
            }
            Step::Apply => {
                gateway.following.has_begun_again();
                apply(gateway, &link, changes).await;
            }
        }
    }
}

/// Makes every conversation complete that a message names, then moves the cursor; unless the link
/// goes down before.
async fn apply(gateway: &Arc<Gateway>, link: &Link, changes: Changes) {
    let mut waiting = changes.conversations;
    waiting.retain(|changed| {
        let complete = catch_up(gateway, changed);
        if complete {
            take_members(gateway, changed);
        }
        !complete
    });
    loop {
        let mut ended = pin!(gateway.delivery.ended.notified());
        // From here on no end is missed.
        ended.as_mut().enable();
        waiting.retain(|changed| {
            let complete = gateway.delivery.is_complete(changed.conversation, changed.offset);
            if complete {
                take_members(gateway, changed);
            }
            !complete
        });
        if !gateway.following.is_from(link) {
            return;
        }
        if waiting.is_empty() {
            break;
        }
        ended.await;
    }
    gateway.delivery.move_cursor(changes.upto_offset);
}

/// Whether a conversation that has changed is complete. Otherwise it is being repaired.
fn catch_up(gateway: &Arc<Gateway>, changed: &Changed) -> bool {
    let Changed { conversation, offset, .. } = *changed;
    let standing = gateway.delivery.changed(conversation, offset, gateway.floor(conversation));
    fanout::deliver(gateway, conversation);
    gateway.let_lost_sync();
    match standing {
        Standing::Complete => true,
        Standing::Behind { opened } => {
            if opened {
                debug!(conversation, offset, "behind");
                gateway.metrics.cursor_repairs.inc();
                repair::start(gateway, conversation, Duration::ZERO);
            }
            false
        }
    }
}

/// Sees to it that changes of members are known. What was taken may have been one of several.
fn take_members(gateway: &Arc<Gateway>, changed: &Changed) {
    let Some(publish) = changed.members.clone() else { return };
    if !gateway.delivery.is_current(publish.epoch) {
        return;
    }
    let conversation = changed.conversation;
    if gateway.floor(conversation).is_none() {
        let mut batch = Batch::default();
        let record = gateway.record(publish.clone(), true);
        let verdict = gateway.delivery.take(record, || None);
        if matches!(verdict, Verdict::Delivered { .. }) {
            batch.add(conversation);
        }
        gateway.deliver_batch(&mut batch);
    }
    if let Some(conversation) = ConversationId::from_number(conversation) {
        fanout::ensure_members(gateway, conversation, &publish);
    }
}

/// What changed after the cursor cannot be told: whoever is here must ask for himself.
fn forgotten(gateway: &Arc<Gateway>, upto: u64) {
    let cursor = gateway.delivery.cursor();
    gateway.delivery.reset(upto);
    gateway.metrics.cursor_forgotten.inc();
    // A log that ends before our cursor is another one: no floor means anything in it.
    let is_other = cursor.is_some_and(|cursor| upto < cursor);
    let mut sessions = gateway.registry.all();
    // A client whose login is not that far asks for everything up to here anyway.
    sessions.retain(|session| session.floor().is_some_and(|floor| is_other || floor < upto));
    warn!(cursor, upto, sessions = sessions.len(), "storage has forgotten what changed");
    gateway.must_sync(&sessions);
}
