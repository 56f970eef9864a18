//! The dedupe window: which messages have been seen lately.
//!
//! The newest [`WINDOW_RECORDS`] records by `(sender, client_msg_id)`, and the last
//! [`FINGERPRINT_MS`] of log time by fingerprint, for old clients that send no id.
//!
//! # Invariants
//!
//! - What is "known" is decided by offsets and by log time alone, never by when an entry was dropped
//!   from memory, so that every replay decides alike.
//! - Bounded: one entry per record of the window.

use std::collections::{HashMap, VecDeque};

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
    /// Its record.
    pub offset: Offset,
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
#[derive(Debug, Default)]
pub struct Window {
    by_id: HashMap<(UserId, ClientMsgId), Known>,
    /// The keys of `by_id`, in order of their offsets.
    order: VecDeque<(Offset, UserId, ClientMsgId)>,
    by_fingerprint: HashMap<u64, (UserId, ClientMsgId, u64)>,
    fingerprints: VecDeque<(u64, u64)>,
}

impl Window {
    /// Looks for a message, as of the record at `offset` written at `now_ms`.
    pub fn find(&self, identity: Identity, offset: Offset, now_ms: u64) -> Option<Known> {
        let Identity { sender, client_msg_id, fingerprint } = identity;
        if let Some(known) = self.by_id.get(&(sender, client_msg_id))
            && offset.0 - known.offset.0 <= WINDOW_RECORDS
        {
            return Some(*known);
        }
        let (author, original, timestamp_ms) =
            *self.by_fingerprint.get(&fingerprint).filter(|_| fingerprint != 0)?;
        if author != sender || now_ms.saturating_sub(timestamp_ms) > FINGERPRINT_MS {
            return None;
        }
        self.by_id.get(&(author, original)).copied()
    }

    /// Enters a message. Entries that have left the window are dropped.
    pub fn insert(&mut self, identity: Identity, known: Known) {
        let Identity { sender, client_msg_id, fingerprint } = identity;
        self.by_id.insert((sender, client_msg_id), known);
        self.order.push_back((known.offset, sender, client_msg_id));
        if fingerprint != 0 {
            self.by_fingerprint.insert(fingerprint, (sender, client_msg_id, known.timestamp_ms));
            self.fingerprints.push_back((known.timestamp_ms, fingerprint));
        }
        self.drop_old(known.offset, known.timestamp_ms);
    }

    /// How many messages are known.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    fn drop_old(&mut self, newest: Offset, now_ms: u64) {
        while let Some(&(offset, sender, client_msg_id)) = self.order.front()
            && newest.0 - offset.0 > WINDOW_RECORDS
        {
            self.order.pop_front();
            let key = (sender, client_msg_id);
            if self.by_id.get(&key).is_some_and(|known| known.offset == offset) {
                self.by_id.remove(&key);
            }
        }
        while let Some(&(timestamp_ms, fingerprint)) = self.fingerprints.front()
            && now_ms.saturating_sub(timestamp_ms) > FINGERPRINT_MS
        {
            self.fingerprints.pop_front();
            if self.by_fingerprint.get(&fingerprint).is_some_and(|entry| entry.2 == timestamp_ms) {
                self.by_fingerprint.remove(&fingerprint);
            }
        }
    }
}
