//! Reads the log: every record of every partition, numbered and in order, beginning where the
//! consumer of this name left off. It goes on after restarts of either side and moves of
//! partitions.
//!
//! ```text
//! links ──► claims ──► Consume, to the owner of each partition
//!    └────► Records ──► batches ──► Consumer::next ──► Batch::handled ──► Handled, to the owner
//! ```
//!
//! # Invariants
//!
//! - At least once: the place of a consumer moves only over batches that were handled, and a batch may come
//!   again after a restart of either side.
//! - Batches of one partition come in the order of its log, without a hole: records that the log no
//!   longer has are reported by [`Batch::lost`].
//! - One stream for each partition, of its newest owner known here.
//!
//! # What bounds it
//!
//! An owner sends [`RECORDS_UNHANDLED_MAX`](proto::cluster::RECORDS_UNHANDLED_MAX) full batches before one is handled, or
//! [`SMALL_RECORDS_UNHANDLED_MAX`] that are small; the link of one that sends more
//! is reset.

use std::collections::VecDeque;
use std::sync::Arc;

use daemon::link::{self, LinkHandler};
use daemon::{Identity, Link, LinkError, LinkFrame, LinkOptions, Role, Shutdown};
use parking_lot::Mutex;
use prost::{DecodeError, Message as _};
use proto::cluster::wire::{Consume, Handled, NumberedRecord, Ownership, Records};
use proto::cluster::{Kind, SMALL_RECORDS_UNHANDLED_MAX};
use proto::ids::{ConversationId, MsgId, Offset};
use proto::log::record::Change;
use proto::log::{self, Message};
use tokio::sync::{Notify, watch};
use tracing::{debug, warn};

use crate::claims::Move;
use crate::owners::Owners;
use crate::partitions::Partitions;

/// The log as one consumer reads it.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
}

/// Which consumer reads.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Its name, under which its place is kept. If several processes have the same name, each partition
    /// serves one of them at a time: another one when the link of the first is down.
    pub name: String,
    /// Where it begins if the name is new: at the oldest record that the log has, or with what is appended
    /// from now on.
    pub from_oldest: bool,
    /// Records before this time (Unix milliseconds) are not wanted. Batches at the beginning that are older as a
    /// whole do not come; of others, the caller leaves out what is older.
    pub from_ms: Option<u64>,
}

/// Records of one partition that follow each other.
#[derive(Debug)]
pub struct Batch {
    /// Which partition.
    pub partition: u32,
    /// Those that count, in order. There may be none.
    pub records: Vec<Record>,
    /// Records before these are lost to this consumer, since it was behind for longer than the log reaches
    /// back. What was said in a conversation is in its history.
    pub lost: bool,
    upto: Offset,
    shared: Arc<Shared>,
}

/// A record of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its place in the partition's log.
    pub offset: Offset,
    /// When it was appended, Unix milliseconds. Never falls within a partition while it has one owner.
    pub timestamp_ms: u64,
    /// A message's number in its conversation; `None` for everything else.
    pub msg_id: Option<MsgId>,
    /// What it says. A recent change of members names the users who really joined or left; an older one
    /// names all users that were asked for.
    pub change: Change,
}

#[derive(Debug)]
struct Shared {
    reading: Reading,
    owners: Owners,
    partitions: Arc<Partitions>,
    inner: Mutex<Inner>,
    /// Told of each batch that comes.
    came: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// By partition.
    streams: Vec<Stream>,
    /// What has come and was not taken: at most [`SMALL_RECORDS_UNHANDLED_MAX`] of each partition.
    batches: VecDeque<Batch>,
}

/// One partition.
#[derive(Debug, Default)]
struct Stream {
    /// The link of its owner, and its epoch.
    owner: Option<(Link, u64)>,
    /// Up to where batches have come, and were handled.
    received: Option<Offset>,
    handled: Option<Offset>,
    /// Where the batches end that are not handled.
    unhandled: VecDeque<Offset>,
}

/// What comes in on the links.
#[derive(Debug)]
struct Handler(Arc<Shared>);

impl Consumer {
    /// Links to the db_proxies at `targets` (`host:port`), which may change, until `shutdown` closes links.
    /// Returns at once. The role of `identity` must be [`Role::Consumer`].
    ///
    /// # Panics
    ///
    /// If the name is none that a consumer may have ([`proto::cluster::is_consumer_name`]).
    pub fn connect(
        targets: watch::Receiver<Vec<String>>,
        identity: Identity,
        options: LinkOptions,
        reading: Reading,
        shutdown: &Shutdown,
    ) -> Self {
        let is_name = proto::cluster::is_consumer_name(&reading.name);
        assert!(is_name, "{:?} is no name of a consumer", reading.name);
        let partitions = Arc::new(Partitions::default());
        let shared = Arc::new(Shared {
            reading,
            owners: Owners::new(Arc::clone(&partitions)),
            partitions,
            inner: Mutex::default(),
            came: Notify::new(),
        });
        let handler = Arc::new(Handler(Arc::clone(&shared)));
        link::dial(targets, identity, Role::DbProxy, handler, options, shutdown);
        Self { shared }
    }

    /// The next batch. Waits until there is one, for ever if need be. Those of a partition are to be handled
    /// in the order in which they come. Cancel-safe.
    pub async fn next(&mut self) -> Batch {
        loop {
            if let Some(batch) = self.shared.inner.lock().batches.pop_front() {
                return batch;
            }
            // There is one that waits: a permit is kept for it.
            self.shared.came.notified().await;
        }
    }
}

impl Batch {
    /// The last record of the log that this batch covers, whether it counts or not.
    pub fn upto(&self) -> Offset {
        self.upto
    }

    /// Says that everything up to the end of this batch was handled: it does not come again, except
    /// that after a kill about the last second may. A batch that is dropped instead comes again
    /// only after the link was down.
    pub fn handled(self) {
        let Self { partition, upto, shared, .. } = self;
        let mut inner = shared.inner.lock();
        let Some(stream) = inner.streams.get_mut(partition as usize) else { return };
        stream.handled = stream.handled.max(Some(upto));
        while stream.unhandled.pop_front_if(|end| *end <= upto).is_some() {}
        let Some((link, _epoch)) = &stream.owner else { return };
        let handled = Handled { name: shared.reading.name.clone(), partition, upto_offset: upto.0 };
        send(link, Kind::Handled, &handled);
    }
}

impl Record {
    /// The message that the record is, and the message's place.
    pub fn message(&self) -> Option<(ConversationId, MsgId, &Message)> {
        match (&self.change, self.msg_id) {
            (Change::Message(message), Some(msg_id)) => {
                Some((ConversationId::from_number(message.conversation)?, msg_id, message))
            }
            _ => None,
        }
    }

    fn read(record: NumberedRecord) -> Result<Option<Self>, DecodeError> {
        let NumberedRecord { offset, timestamp_ms, msg_id, record } = record;
        let log::Record { change, .. } = log::Record::decode(record)?;
        Ok(change.map(|change| Self {
            offset: Offset(offset),
            timestamp_ms,
            msg_id: msg_id.map(MsgId),
            change,
        }))
    }
}

impl Shared {
    fn begin(&self, partitions: u32) {
        self.inner.lock().streams.resize_with(partitions as usize, Stream::default);
        self.partitions.set(partitions);
    }

    fn moved(&self, moves: &[Move<Link>]) {
        let mut inner = self.inner.lock();
        for Move { partition, owner, .. } in moves {
            let Some(stream) = inner.streams.get_mut(*partition as usize) else { continue };
            stream.owner = owner.as_ref().map(|owner| (owner.link.clone(), owner.epoch));
            let Some((link, _epoch)) = &stream.owner else { continue };
            debug!(partition, owner = %link.peer().name, "its records are asked for there");
            let consume = Consume {
                name: self.reading.name.clone(),
                partition: *partition,
                received_offset: stream.received.map(|offset| offset.0),
                handled_offset: stream.handled.map(|offset| offset.0),
                from_oldest: self.reading.from_oldest.then_some(true),
                from_ms: self.reading.from_ms,
                unhandled_max: u32::try_from(SMALL_RECORDS_UNHANDLED_MAX).ok(),
            };
            send(link, Kind::Consume, &consume);
        }
    }

    /// Takes a batch of a partition's owner. What still comes from an earlier one is asked for again.
    fn take(self: &Arc<Self>, link: &Link, records: Records) {
        let Records { name, partition, epoch, upto_offset, records, lost, .. } = records;
        let mut inner = self.inner.lock();
        let Inner { streams, batches } = &mut *inner;
        let Some(stream) = streams.get_mut(partition as usize) else { return };
        let is_owner = stream.owner.as_ref().is_some_and(|owner| *owner == (link.clone(), epoch));
        if name != self.reading.name || !is_owner {
            return;
        }
        if stream.unhandled.len() > 2 * SMALL_RECORDS_UNHANDLED_MAX {
            link.reset("it sends more records than were handled");
            return;
        }
        let records =
            match records.into_iter().filter_map(|one| Record::read(one).transpose()).collect() {
                Ok(records) => records,
                Err(error) => {
                    warn!(%error, partition, "a record that cannot be read");
                    link.reset("it sent a record that cannot be read");
                    return;
                }
            };
        let upto = Offset(upto_offset);
        stream.received = Some(upto);
        stream.unhandled.push_back(upto);
        let (lost, shared) = (lost.unwrap_or(false), Arc::clone(self));
        batches.push_back(Batch { partition, records, lost, upto, shared });
        drop(inner);
        self.came.notify_one();
    }
}

fn send(link: &Link, kind: Kind, message: &impl prost::Message) {
    match link.send(kind.number(), 0, message) {
        Ok(()) | Err(LinkError::Closed) => {}
        Err(LinkError::Full | LinkError::TooLong) => link.reset("it takes no more"),
    }
}

impl LinkHandler for Handler {
    fn up(&self, link: &Link) {
        // Nothing is asked of it before it has said what it owns.
        self.0.owners.up(link);
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        let shared = &self.0;
        match Kind::from_number(frame.kind) {
            Some(Kind::Ownership) => {
                let Some(ownership) = link.read::<Ownership>(&frame) else { return };
                let begin = |partitions| shared.begin(partitions);
                let moved = |moves: &[Move<Link>]| shared.moved(moves);
                if let Err(why) = shared.owners.claimed(link, ownership, begin, moved) {
                    link.reset(why);
                }
            }
            Some(Kind::Records) => {
                if let Some(records) = link.read::<Records>(&frame) {
                    shared.take(link, records);
                }
            }
            _ => debug!(kind = frame.kind, ?link, "not for this daemon"),
        }
    }

    fn down(&self, link: &Link) {
        self.0.owners.down(link, |moves| self.0.moved(moves));
    }
}

#[cfg(test)]
mod tests;
