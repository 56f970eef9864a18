//! The dedupe window: which messages have been seen lately.
//!
//! A message is known if one of the last [`WINDOW_RECORDS`] records was sent under the same
//! `(sender, client_msg_id)`, or if its frame repeats the frame of one of them.
//!
//! Clients of the original protocol name no messages, and one kind of them repeats a frame that was
//! not answered (`unanswered.rs` of the gateway says which, and marks their frames with a fingerprint).
//! A frame repeats an earlier one only if all of this stands in the two records:
//!
//! - The fingerprints are equal.
//! - The frames came on different connections. On one connection the gateway recognises a repeat by
//!   itself: there a frame that was answered is never repeated.
//! - The later record allows it: the earlier one lies behind its `repeats_after`. Admission sets that
//!   by what became of the answer to the earlier frame (`repeats.rs`).
//! - Less than [`FINGERPRINT_MS`] of log time lie between them.
//!
//! # Invariants
//!
//! - What is "known" depends on the last [`WINDOW_RECORDS`] records alone, not on where a replay
//!   began or on when an entry was dropped from memory: so every replay decides alike. A repetition
//!   that became a record is therefore entered like an original.
//! - Bounded: one entry per record of the window.
//!
//! # Size
//!
//! There are a million entries for each partition, and an owner that takes one over makes them all at
//! once. So the tables hold only the places of entries, which stand in log order: in all about 70 bytes
//! for each entry.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, Hasher as _};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use proto::ids::{ClientMsgId, ConversationId, MsgId, Offset, UserId};
pub use proto::record::content_crc;

use crate::faults::{self, Fault};

/// How many records back a repeated id is recognised without asking the store.
pub const WINDOW_RECORDS: u64 = 1 << 20;

/// How long a frame may be repeated, in milliseconds of log time. The client that does repeats after
/// six seconds; this leaves it time to reconnect.
pub const FINGERPRINT_MS: u64 = 30_000;

/// The newest record, before which the window lies, and one more that has yet to push out the oldest.
const AND_NEXT: u64 = 2;

/// A message that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Where it belongs.
    pub conversation: ConversationId,
    /// Its number; `None` if it was stored before this owner started: the store knows it.
    pub msg_id: Option<MsgId>,
    /// The id it was appended with (another one than asked for, if found by its frame).
    pub client_msg_id: ClientMsgId,
    /// The checksum of its type and of the body that its sender sent: [`content_crc`].
    pub content_crc: u32,
    /// Unix milliseconds of its record.
    pub timestamp_ms: u64,
}

impl Known {
    /// Whether it is the message that is being sent, and not another one under the same id.
    pub(crate) fn is_of(&self, conversation: ConversationId, content_crc: u32) -> bool {
        self.conversation == conversation && self.content_crc == content_crc
    }
}

/// What identifies a message that is being sent.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Its author.
    pub sender: UserId,
    /// The author's id for it.
    pub client_msg_id: ClientMsgId,
    /// The checksum of its type and of the body that its sender sent: [`content_crc`]. A hook may have
    /// changed the body since.
    pub content_crc: u32,
    /// The frame that it came in.
    pub frame: Frame,
}

/// The frame of a client that repeats frames by itself; the default for all others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frame {
    /// Equal for equal frames; 0 = not one that is repeated.
    pub fingerprint: u64,
    /// Where it came in.
    pub connection: Option<Connection>,
    /// It may repeat a frame of a record after this offset; `None`: it repeats none.
    pub repeats_after: Option<Offset>,
}

/// One connection of a client to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The gateway, and which of its starts.
    pub gateway_boot: u64,
    /// The session, unique in that start.
    pub session: u64,
}

/// An earlier frame that a frame may repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earlier {
    /// Its message.
    pub known: Known,
    /// Where it came in; `None` in records from before fold version 2.
    pub connection: Option<Connection>,
    /// Its record.
    pub offset: Offset,
}

/// The window of one partition.
#[derive(Debug)]
pub struct Window {
    records_max: u64,
    /// The messages among the newest records.
    entries: Line<Entry>,
    /// What was known of those that are no new messages. Few: most repetitions are answered before
    /// they become records.
    repeated: HashMap<u32, Known>,
    /// The last entry of each sender and id.
    by_id: HashTable<u32>,
    /// The fingerprints of the last 30 s, all of entries that are still there.
    fingerprints: Line<Fingerprint>,
    /// The last of each sender and fingerprint.
    by_fingerprint: HashTable<u32>,
    /// Keyed, since clients make their ids.
    hasher: RandomState,
}

/// A record that was a message, new or not.
#[derive(Debug, Clone, Copy)]
struct Entry {
    client_msg_id: ClientMsgId,
    conversation: ConversationId,
    offset: Offset,
    timestamp_ms: u64,
    sender: UserId,
    /// 0 = not known.
    msg_id: MsgId,
    content_crc: u32,
}

impl Entry {
    /// What is known of a new message.
    fn as_new(&self) -> Known {
        Known {
            conversation: self.conversation,
            msg_id: (self.msg_id != MsgId(0)).then_some(self.msg_id),
            client_msg_id: self.client_msg_id,
            content_crc: self.content_crc,
            timestamp_ms: self.timestamp_ms,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Fingerprint {
    value: u64,
    connection: Option<Connection>,
    /// The place of its entry.
    place: u32,
}

/// What a record was.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seen {
    /// A new message.
    New(Known),
    /// A message that was known.
    Again(Known),
}

/// A record of the window that was a new message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered {
    /// The record.
    pub offset: Offset,
    /// The message's number; `None` if it was stored before this owner started: the store knows it.
    pub msg_id: Option<MsgId>,
}

/// What the planted fault [`Fault::DedupeByWallClock`] has forgotten.
fn expired(known: &Known) -> bool {
    const KNOWN_FOR_MS: u64 = 200;
    faults::planted(Fault::DedupeByWallClock)
        && faults::unix_ms().saturating_sub(known.timestamp_ms) > KNOWN_FOR_MS
}

fn hash_id(hasher: &RandomState, sender: UserId, id: ClientMsgId) -> u64 {
    // Without the length that an array is hashed with: there is one for each record.
    let mut hasher = hasher.build_hasher();
    hasher.write(&id.0);
    hasher.write_u32(sender.0);
    hasher.finish()
}

fn hash_fingerprint(hasher: &RandomState, sender: UserId, fingerprint: u64) -> u64 {
    hasher.hash_one((sender.0, fingerprint))
}

impl Default for Window {
    fn default() -> Self {
        Self::of(WINDOW_RECORDS)
    }
}

impl Window {
    /// A window of so many records.
    pub(crate) fn of(records_max: u64) -> Self {
        Self {
            records_max,
            entries: Line::default(),
            repeated: HashMap::new(),
            by_id: HashTable::new(),
            fingerprints: Line::default(),
            by_fingerprint: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    /// Makes room for so many records at once: growing step by step takes as long again.
    pub fn reserve(&mut self, records: u64) {
        let records = records.min(self.records_max).saturating_add(AND_NEXT);
        let records = usize::try_from(records).unwrap_or(0);
        self.entries.items.reserve_exact(records);
        let Self { by_id, entries, hasher, .. } = self;
        by_id.reserve(records, |place| entries.hash(*place, hasher));
    }

    /// The most entries there ever are.
    fn entries_max(&self) -> usize {
        usize::try_from(self.records_max.saturating_add(AND_NEXT)).unwrap_or(usize::MAX)
    }

    /// Looks for a message, as of the record at `offset` written at `now_ms`: by its id, or else
    /// by its frame.
    pub(crate) fn find(&self, identity: Identity, offset: Offset, now_ms: u64) -> Option<Known> {
        let hash = hash_id(&self.hasher, identity.sender, identity.client_msg_id);
        self.find_hashed(hash, identity, offset, now_ms)
    }

    /// Looks for a message by its id alone, as of the record at `offset`.
    pub(crate) fn find_id(&self, identity: Identity, offset: Offset) -> Option<Known> {
        self.find_id_hashed(
            hash_id(&self.hasher, identity.sender, identity.client_msg_id),
            identity,
            offset,
        )
    }

    fn find_hashed(
        &self,
        hash: u64,
        identity: Identity,
        offset: Offset,
        now_ms: u64,
    ) -> Option<Known> {
        let by_id = self.find_id_hashed(hash, identity, offset);
        by_id.or_else(|| self.find_frame(identity, offset, now_ms).map(|earlier| earlier.known))
    }

    fn find_id_hashed(&self, hash: u64, identity: Identity, offset: Offset) -> Option<Known> {
        if faults::planted(Fault::SkipDedupe) {
            return None;
        }
        let Identity { sender, client_msg_id, .. } = identity;
        let place = self.by_id.find(hash, |place| self.entries.is(*place, sender, client_msg_id));
        self.known(*place?, offset)
    }

    /// Looks for the frame that a message's frame may repeat, as of the record at `offset` written at
    /// `now_ms`: the last equal one, if all conditions hold.
    pub(crate) fn find_frame(
        &self,
        identity: Identity,
        offset: Offset,
        now_ms: u64,
    ) -> Option<Earlier> {
        let Identity { sender, frame, .. } = identity;
        let repeats_after = frame.repeats_after?;
        if frame.fingerprint == 0 || faults::planted(Fault::SkipDedupe) {
            return None;
        }
        let hash = hash_fingerprint(&self.hasher, sender, frame.fingerprint);
        let key = Some((sender, frame.fingerprint));
        let is_equal = |number: &u32| self.fingerprints.key(*number, &self.entries) == key;
        let number = self.by_fingerprint.find(hash, is_equal)?;
        let Fingerprint { connection, place, .. } = *self.fingerprints.get(*number)?;
        let entry = self.entries.get(place)?;
        let is_late = now_ms.saturating_sub(entry.timestamp_ms) > FINGERPRINT_MS;
        let is_here = connection.is_some() && connection == frame.connection;
        if is_late || is_here || entry.offset <= repeats_after {
            return None;
        }
        let known = self.known(place, offset)?;
        Some(Earlier { known, connection, offset: entry.offset })
    }

    /// What is known of the record at a place, as of the record at `offset`.
    fn known(&self, place: u32, offset: Offset) -> Option<Known> {
        let entry = self.entries.get(place)?;
        if offset.0.saturating_sub(entry.offset.0) > self.records_max {
            return None;
        }
        let repeated = self.repeated.get(&place).copied();
        Some(repeated.unwrap_or_else(|| entry.as_new())).filter(|known| !expired(known))
    }

    /// Enters the record at `offset`, as a new message or as one sent again. Entries that have left the
    /// window are dropped.
    pub(crate) fn insert(
        &mut self,
        identity: Identity,
        seen: Seen,
        offset: Offset,
        timestamp_ms: u64,
    ) {
        let hash = hash_id(&self.hasher, identity.sender, identity.client_msg_id);
        self.insert_hashed(hash, identity, seen, (offset, timestamp_ms));
    }

    /// Enters the record at `offset`, which is `new` unless it is known already.
    pub(crate) fn enter(
        &mut self,
        identity: Identity,
        new: Known,
        offset: Offset,
        timestamp_ms: u64,
    ) {
        let hash = hash_id(&self.hasher, identity.sender, identity.client_msg_id);
        let known = self.find_hashed(hash, identity, offset, timestamp_ms);
        let seen = known.map_or(Seen::New(new), Seen::Again);
        self.insert_hashed(hash, identity, seen, (offset, timestamp_ms));
    }

    fn insert_hashed(
        &mut self,
        hash: u64,
        identity: Identity,
        seen: Seen,
        (offset, timestamp_ms): (Offset, u64),
    ) {
        let (Seen::New(known) | Seen::Again(known)) = seen;
        let Identity { sender, client_msg_id, content_crc, frame } = identity;
        let entry = Entry {
            client_msg_id,
            conversation: known.conversation,
            offset,
            timestamp_ms,
            sender,
            msg_id: known.msg_id.unwrap_or_default(),
            content_crc,
        };
        let entries_max = self.entries_max();
        let Self { entries, by_id, hasher, .. } = self;
        let place = entries.push(entry, entries_max);
        if let Seen::Again(known) = seen {
            self.repeated.insert(place, known);
        }
        let is_equal = |place: &u32| entries.is(*place, sender, client_msg_id);
        match by_id.entry(hash, is_equal, |place| entries.hash(*place, hasher)) {
            Slot::Occupied(mut slot) => *slot.get_mut() = place,
            Slot::Vacant(slot) => drop(slot.insert(place)),
        }
        if frame.fingerprint != 0 {
            let Frame { fingerprint, connection, .. } = frame;
            self.insert_fingerprint(sender, Fingerprint { value: fingerprint, connection, place });
        }
        self.drop_old(offset, timestamp_ms);
    }

    fn insert_fingerprint(&mut self, sender: UserId, fingerprint: Fingerprint) {
        let max = self.entries_max();
        let Self { entries, fingerprints, by_fingerprint, hasher, .. } = self;
        let number = fingerprints.push(fingerprint, max);
        let key = Some((sender, fingerprint.value));
        let is_equal = |number: &u32| fingerprints.key(*number, entries) == key;
        let hash_of = |number: &u32| {
            let key = fingerprints.key(*number, entries);
            key.map_or(0, |(sender, of)| hash_fingerprint(hasher, sender, of))
        };
        let hash = hash_fingerprint(hasher, sender, fingerprint.value);
        match by_fingerprint.entry(hash, is_equal, hash_of) {
            Slot::Occupied(mut slot) => *slot.get_mut() = number,
            Slot::Vacant(slot) => drop(slot.insert(number)),
        }
    }

    /// The new messages among the records from `from` on, in order, as far as the window reaches back.
    pub fn new_messages(&self, from: Offset) -> impl Iterator<Item = Numbered> {
        let begin = self.entries.items.partition_point(|entry| entry.offset < from);
        let places = (begin..).map(|index| {
            // There are never so many that the number does not fit.
            self.entries.first.wrapping_add(u32::try_from(index).unwrap_or(u32::MAX))
        });
        let entries = self.entries.items.range(begin..).zip(places);
        entries
            .filter(|(_entry, place)| !self.repeated.contains_key(place))
            .map(|(entry, _place)| Numbered { offset: entry.offset, msg_id: entry.as_new().msg_id })
    }

    /// The oldest record that the window reaches back to, as of the record at `newest`.
    pub fn reaches_back_to(&self, newest: Offset) -> Offset {
        Offset(newest.0.saturating_sub(self.records_max))
    }

    /// How many messages are known by id.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    fn drop_old(&mut self, newest: Offset, now_ms: u64) {
        let records_max = self.records_max;
        let has_left = |entry: &Entry| newest.0 - entry.offset.0 > records_max;
        // First, since they are found through their entries.
        while let Some((number, Fingerprint { value: fingerprint, place, .. })) =
            self.fingerprints.first()
            && let Some(entry) = self.entries.get(place)
            && (now_ms.saturating_sub(entry.timestamp_ms) > FINGERPRINT_MS || has_left(entry))
        {
            let hash = hash_fingerprint(&self.hasher, entry.sender, fingerprint);
            remove(&mut self.by_fingerprint, hash, number);
            self.fingerprints.pop();
        }
        while let Some((place, entry)) = self.entries.first()
            && has_left(&entry)
        {
            let hash = hash_id(&self.hasher, entry.sender, entry.client_msg_id);
            remove(&mut self.by_id, hash, place);
            if !self.repeated.is_empty() {
                self.repeated.remove(&place);
            }
            self.entries.pop();
        }
    }
}

/// Removes a place, unless a later one has replaced it.
fn remove(table: &mut HashTable<u32>, hash: u64, place: u32) {
    if let Ok(slot) = table.find_entry(hash, |other| *other == place) {
        slot.remove();
    }
}

/// Items in the order in which they came. The place of each stays the same while it is there; there
/// are never so many that two have the same.
#[derive(Debug)]
struct Line<T> {
    items: VecDeque<T>,
    first: u32,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), first: 0 }
    }
}

impl<T: Copy> Line<T> {
    fn get(&self, place: u32) -> Option<&T> {
        self.items.get(place.wrapping_sub(self.first) as usize)
    }

    /// The oldest item, and its place.
    fn first(&self) -> Option<(u32, T)> {
        self.items.front().map(|item| (self.first, *item))
    }

    fn pop(&mut self) {
        if self.items.pop_front().is_some() {
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Adds an item, and returns its place. There are never more than `max`: to make room for twice
    /// as many at the end would be a waste.
    fn push(&mut self, item: T, max: usize) -> u32 {
        let len = self.items.len();
        if len == self.items.capacity() {
            self.items.reserve_exact(len.clamp(64, max.saturating_sub(len).max(64)));
        }
        self.items.push_back(item);
        self.first.wrapping_add(u32::try_from(len).unwrap_or(u32::MAX))
    }
}

impl Line<Entry> {
    fn is(&self, place: u32, sender: UserId, id: ClientMsgId) -> bool {
        let entry = self.get(place);
        entry.is_some_and(|entry| entry.client_msg_id == id && entry.sender == sender)
    }

    fn hash(&self, place: u32, hasher: &RandomState) -> u64 {
        self.get(place).map_or(0, |entry| hash_id(hasher, entry.sender, entry.client_msg_id))
    }
}

impl Line<Fingerprint> {
    /// Who sent it, and its fingerprint.
    fn key(&self, number: u32, entries: &Line<Entry>) -> Option<(UserId, u64)> {
        let Fingerprint { value, place, .. } = *self.get(number)?;
        Some((entries.get(place)?.sender, value))
    }
}

#[cfg(test)]
mod tests;
