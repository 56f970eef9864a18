//! The dedupe window: which messages have been seen lately.
//!
//! A message is known if one of the last [`WINDOW_RECORDS`] records was sent under the same
//! `(sender, client_msg_id)`, or, for old clients that send no id, if one of them carried the same
//! fingerprint less than [`FINGERPRINT_MS`] of log time ago.
//!
//! # Invariants
//!
//! - What is "known" depends on the last [`WINDOW_RECORDS`] records alone, not on where a replay
//!   began or on when an entry was dropped from memory: so every replay decides alike. A repetition
//!   that became a record is therefore entered like an original.
//! - Bounded: one entry per record of the window.

use std::collections::{HashMap, VecDeque};

use daemon::clock;
use daemon::faults::{self, Mutant};
use proto::ids::{ClientMsgId, ConversationId, MsgId, Offset, UserId};

/// How many records back a repeated id is recognised without asking the store.
pub const WINDOW_RECORDS: u64 = 1 << 20;

/// How long an equal fingerprint counts as a resend, in milliseconds of log time.
pub const FINGERPRINT_MS: u64 = 30_000;

/// A message that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Where it belongs.
    pub conversation: ConversationId,
    /// Its number; `None` if it was stored before this owner started: the store knows it.
    pub msg_id: Option<MsgId>,
    /// The id it was appended with (another one than asked for, if found by fingerprint).
    pub client_msg_id: ClientMsgId,
    /// Unix milliseconds of its record.
    pub timestamp_ms: u64,
}

/// What identifies a message that is being sent.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Its author.
    pub sender: UserId,
    /// The author's id for it.
    pub client_msg_id: ClientMsgId,
    /// Fingerprint of an old client's frame; 0 = none.
    pub fingerprint: u64,
}

/// The window of one partition.
#[derive(Debug)]
pub struct Window {
    records_max: u64,
    by_id: HashMap<(UserId, ClientMsgId), Seen>,
    by_fingerprint: HashMap<(UserId, u64), Seen>,
    /// The newest records, for dropping the entries that leave the window.
    order: VecDeque<Entered>,
    fingerprints: VecDeque<Fingerprint>,
}

/// A known message, and the last record that was it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    known: Known,
    offset: Offset,
    timestamp_ms: u64,
}

/// What a mutant forgets by the wall clock.
fn expired(seen: &Seen) -> bool {
    const KNOWN_FOR_MS: u64 = 200;
    faults::planted(Mutant::DedupeByWallClock)
        && clock::unix_ms().saturating_sub(seen.known.timestamp_ms) > KNOWN_FOR_MS
}

#[derive(Debug, Clone, Copy)]
struct Entered {
    offset: Offset,
    key: (UserId, ClientMsgId),
}

#[derive(Debug, Clone, Copy)]
struct Fingerprint {
    offset: Offset,
    timestamp_ms: u64,
    key: (UserId, u64),
}

impl Default for Window {
    fn default() -> Self {
        Self::of(WINDOW_RECORDS)
    }
}

impl Window {
    /// A window of so many records.
    pub fn of(records_max: u64) -> Self {
        Self {
            records_max,
            by_id: HashMap::new(),
            by_fingerprint: HashMap::new(),
            order: VecDeque::new(),
            fingerprints: VecDeque::new(),
        }
    }

    /// Makes room for so many records at once: growing step by step takes as long again.
    pub fn reserve(&mut self, records: u64) {
        let records = usize::try_from(records.min(self.records_max)).unwrap_or(0);
        self.by_id.reserve(records);
        self.order.reserve(records);
    }

    /// Looks for a message, as of the record at `offset` written at `now_ms`.
    pub fn find(&self, identity: Identity, offset: Offset, now_ms: u64) -> Option<Known> {
        if faults::planted(Mutant::SkipDedupe) {
            return None;
        }
        let Identity { sender, client_msg_id, fingerprint } = identity;
        let within = |seen: &&Seen| {
            offset.0.saturating_sub(seen.offset.0) <= self.records_max && !expired(seen)
        };
        if let Some(seen) = self.by_id.get(&(sender, client_msg_id)).filter(within) {
            return Some(seen.known);
        }
        let lately = |seen: &&Seen| now_ms.saturating_sub(seen.timestamp_ms) <= FINGERPRINT_MS;
        let seen = self.by_fingerprint.get(&(sender, fingerprint)).filter(|_| fingerprint != 0)?;
        Some(seen).filter(within).filter(lately).map(|seen| seen.known)
    }

    /// Enters the record at `offset`, which is `known`: a new message, or one sent again. Entries
    /// that have left the window are dropped.
    pub fn insert(&mut self, identity: Identity, known: Known, offset: Offset, timestamp_ms: u64) {
        let Identity { sender, client_msg_id, fingerprint } = identity;
        let seen = Seen { known, offset, timestamp_ms };
        let key = (sender, client_msg_id);
        self.by_id.insert(key, seen);
        self.order.push_back(Entered { offset, key });
        if fingerprint != 0 {
            let key = (sender, fingerprint);
            self.by_fingerprint.insert(key, seen);
            self.fingerprints.push_back(Fingerprint { offset, timestamp_ms, key });
        }
        self.drop_old(offset, timestamp_ms);
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
        while let Some(&Entered { offset, key }) = self.order.front()
            && newest.0 - offset.0 > records_max
        {
            self.order.pop_front();
            if self.by_id.get(&key).is_some_and(|seen| seen.offset == offset) {
                self.by_id.remove(&key);
            }
        }
        while let Some(&Fingerprint { offset, timestamp_ms, key }) = self.fingerprints.front()
            && (now_ms.saturating_sub(timestamp_ms) > FINGERPRINT_MS
                || newest.0 - offset.0 > records_max)
        {
            self.fingerprints.pop_front();
            if self.by_fingerprint.get(&key).is_some_and(|seen| seen.offset == offset) {
                self.by_fingerprint.remove(&key);
            }
        }
    }
}
