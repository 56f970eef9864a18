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
//! - A record of an owner that was replaced is refused: the newest epoch of its partition counts.
//! - Of one conversation, records are delivered in the order of the log, each once, and none before
//!   one that is missing ([`progress`]). One task at a time writes those of a conversation.
//! - The session that a message came from never gets it: it gets the answer.
//! - Repair brings a session nothing that its client asks for itself.
//!
//! # What bounds it
//!
//! - `conversations_max` conversations are remembered that changed after the cursors ([`progress`]).
//!   Each partition has the same share, since conversations spread evenly over them.
//! - Behind a gap, 256 records of a conversation wait at most ([`seen`]).
//! - [`pages::FETCHES_MAX`] pages are fetched at a time.
//! - What was taken and not delivered is never more than what came in one read.

mod batch;
mod cursor;
mod delivered;
mod fanout;
mod joiners;
mod members;
mod pages;
mod parcel;
mod progress;
mod record;
mod repair;
mod resync;
mod seen;
mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use daemon::Link;
use proto::cluster::wire::{Changes, Publish};
use proto::ids::ConversationId;
use tracing::{debug, warn};

use crate::metrics::GapEnd;
use crate::parts::Parts;
use cursor::Following;
use record::Record;
use seen::Verdict;
use shared::Shared;

pub(crate) use batch::Batch;

/// What brings records to the sessions here.
#[derive(Debug)]
pub(crate) struct Delivery {
    shared: Arc<Shared>,
    following: Arc<Following>,
    warned: AtomicBool,
}

impl Delivery {
    pub(crate) fn new(parts: Arc<Parts>) -> Self {
        let shared = Arc::new(Shared::new(parts));
        let following = Arc::new(Following::new(Arc::clone(&shared)));
        Self { shared, following, warned: AtomicBool::new(false) }
    }

    /// It is known how many partitions there are.
    pub(crate) fn set_partitions(&self, partitions: u32) {
        self.shared.delivered.set_partitions(partitions);
        self.following.set_partitions(partitions);
    }

    /// Starts the tasks that keep the cursors. They go on while the gateway drains.
    pub(crate) fn spawn(&self, partitions: u32) {
        self.following.spawn(partitions);
    }

    /// A link owns a partition from now on. Must be the first that is asked there.
    pub(crate) fn follow(&self, partition: u32, link: &Link) {
        self.following.follow(partition, link);
    }

    /// A partition has lost its owner, and has no other yet.
    pub(crate) fn unfollow(&self, partition: u32) {
        self.following.unfollow(partition);
    }

    /// An owner tells of changes.
    pub(crate) fn changes_came(&self, link: &Link, changes: Changes) {
        self.following.changes_came(link, changes);
    }

    /// Everything of a partition that this gateway serves is complete up to this place in its log.
    pub(crate) fn cursor(&self, partition: u32) -> Option<u64> {
        self.shared.delivered.cursor(partition)
    }

    /// How far the cursor that is furthest behind is behind what storage has told of.
    pub(crate) fn lag(&self) -> u64 {
        self.shared.delivered.lag()
    }

    /// Takes a record; its conversation is added to `batch` if something is to be delivered.
    pub(crate) fn take_publish(&self, publish: Publish, batch: &mut Batch) {
        let Shared { parts, delivered, .. } = &*self.shared;
        batch.begin();
        if parts.partitions.count() == 0 {
            return;
        }
        let conversation = ConversationId::from_number(publish.conversation);
        let belongs =
            conversation.filter(|one| parts.partitions.of(*one) == Some(publish.partition));
        let Some(conversation) = belongs else {
            self.misplaced(&publish);
            parts.metrics.misplaced_publishes.inc();
            return;
        };
        if !parts.partitions.is_current(publish.partition, publish.epoch) {
            parts.metrics.stale_publishes.inc();
            return;
        }
        let record = Record::read(parts, conversation, publish, false);
        match delivered.take(record, || parts.floor(conversation)) {
            Verdict::Delivered { closed } => {
                if closed {
                    parts.metrics.gap_ended(GapEnd::LateCopy);
                }
                batch.add(conversation);
            }
            Verdict::Duplicate => {
                parts.metrics.duplicates.inc();
            }
            Verdict::Held { opened: false } => {}
            Verdict::Held { opened: true } => {
                debug!(conversation = conversation.number(), "a gap");
                repair::start(&self.shared, conversation, repair::LATE);
            }
        }
    }

    /// Delivers what was taken.
    pub(crate) fn deliver(&self, batch: &mut Batch) {
        batch.deliver(&self.shared);
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
}
