//! How far this gateway is in one partition: its cursor in the log, and of each conversation that
//! changed after the cursor, what was delivered.
//!
//! Pure: no clock, no sockets.
//!
//! # Invariants
//!
//! - Everything that this gateway serves is complete up to the cursor.
//! - What is kept of a conversation lies after the cursor, or is missing.
//!
//! # Floors
//!
//! A client asks, after its login, for everything up to its *floor*, a place in the log that storage
//! has named; what comes after it is brought to the client. So a conversation that nothing is known
//! of is complete up to the smallest floor of those here who are in it, and up to the cursor.
//!
//! # What bounds it
//!
//! `conversations_max` conversations. Beyond, the one that was silent longest is forgotten: what came
//! of it since the cursor may come again. If something of it was missing, its clients must ask
//! themselves ([`Progress::take_lost`]).

use lru::LruCache;
use proto::ids::ConversationId;

use super::seen::{Missing, Placed, Seen, Verdict};

/// How many of the longest silent conversations are looked at for one that lacks nothing.
const LOOK_MAX: usize = 64;

/// The cursor, and what lies after it.
#[derive(Debug)]
pub(super) struct Progress<R> {
    cursor: Option<u64>,
    /// How far the owner has told of changes.
    heard: u64,
    conversations: LruCache<ConversationId, Seen<R>>,
    conversations_max: usize,
    lost: Vec<ConversationId>,
}

/// The range that a message of the owner's stream tells of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) after: u64,
    pub(super) upto: u64,
    pub(super) forgotten: bool,
}

/// What a message of the owner's stream means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing new.
    Known,
    /// One before it is missing.
    Hole,
    /// What lies between the cursor and it is forgotten by the owner.
    Forgotten,
    /// The conversations it names are to be made complete; then the cursor moves.
    Apply,
}

/// How a conversation stands that has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completeness {
    Complete,
    /// Something is missing. `opened` if that was not known.
    Behind {
        opened: bool,
    },
}

/// From where on the sessions of a conversation are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    /// Nobody is.
    Nobody,
    /// Storage has not told.
    Unknown,
    /// Everything up to here needs no delivery.
    From(u64),
}

impl<R> Progress<R> {
    pub(super) fn new(conversations_max: usize) -> Self {
        Self {
            cursor: None,
            heard: 0,
            conversations: LruCache::unbounded(),
            conversations_max,
            lost: Vec::new(),
        }
    }

    pub(super) fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    /// How far the cursor is behind what the owner has told of.
    pub(super) fn lag(&self) -> u64 {
        self.cursor.map_or(0, |cursor| self.heard.saturating_sub(cursor))
    }

    /// Takes a published record; what is to be delivered now is added to `out`. `floor` is the
    /// smallest of those here who are in the conversation, if anybody is.
    pub(super) fn take(
        &mut self,
        conversation: ConversationId,
        placed: Placed<R>,
        floor: impl FnOnce() -> Option<u64>,
        out: &mut Vec<R>,
    ) -> Verdict {
        let (cursor, position) = (self.cursor, placed.position);
        if let Some(seen) = self.conversations.get_mut(&conversation) {
            let is_next = position.prev_offset <= seen.last_offset();
            if !is_next {
                match base(cursor, floor()) {
                    Base::Nobody if !seen.has_gap() => seen.cover(position.prev_offset, out),
                    Base::Nobody | Base::Unknown => {}
                    Base::From(offset) => seen.cover(offset, out),
                }
            }
            return seen.take(placed, out);
        }
        if cursor.is_some_and(|cursor| position.offset <= cursor) {
            return Verdict::Duplicate;
        }
        let mut seen = match base(cursor, floor()) {
            Base::Nobody | Base::Unknown => Seen::before(position),
            Base::From(offset) if position.offset <= offset => return Verdict::Duplicate,
            Base::From(offset) => Seen::from(offset),
        };
        let verdict = seen.take(placed, out);
        self.insert(conversation, seen);
        verdict
    }

    /// What a message of the owner's stream means. The cursor begins with the first one.
    pub(super) fn judge(&mut self, range: Range) -> Step {
        self.heard = if range.forgotten { range.upto } else { self.heard.max(range.upto) };
        if range.forgotten {
            return Step::Forgotten;
        }
        let cursor = *self.cursor.get_or_insert(range.after);
        if range.after > cursor {
            Step::Hole
        } else if range.upto <= cursor {
            Step::Known
        } else {
            Step::Apply
        }
    }

    /// The owner says that `conversation` has a record at `offset`, and none after it that counts
    /// now. `floor` as for [`Self::take`].
    pub(super) fn changed(
        &mut self,
        conversation: ConversationId,
        offset: u64,
        floor: Option<u64>,
        out: &mut Vec<R>,
    ) -> Completeness {
        let Base::From(base) = base(self.cursor, floor) else { return Completeness::Complete };
        if let Some(seen) = self.conversations.get_mut(&conversation) {
            seen.cover(base, out);
            return completeness(seen, offset);
        }
        if offset <= base {
            return Completeness::Complete;
        }
        let mut seen = Seen::from(base);
        let completeness = completeness(&mut seen, offset);
        self.insert(conversation, seen);
        completeness
    }

    /// Whether nothing up to `offset` is missing in a conversation.
    pub(super) fn is_complete(&self, conversation: ConversationId, offset: u64) -> bool {
        let seen = self.conversations.peek(&conversation);
        seen.is_none_or(|seen| !seen.has_gap() || seen.last_offset() >= offset)
    }

    /// What is to be asked for; `None` if nothing is missing.
    pub(super) fn missing(&self, conversation: ConversationId) -> Option<Missing> {
        self.conversations.peek(&conversation)?.missing()
    }

    /// Takes what was asked for ([`Seen::fetched`]).
    pub(super) fn fetched(
        &mut self,
        conversation: ConversationId,
        fetched: Vec<Placed<R>>,
        complete_to: Option<u64>,
        out: &mut Vec<R>,
    ) -> bool {
        let seen = self.conversations.get_mut(&conversation);
        seen.is_some_and(|seen| seen.fetched(fetched, complete_to, out))
    }

    /// What is missing is no longer fetched, since no session here needs it.
    pub(super) fn give_up(&mut self, conversation: ConversationId, out: &mut Vec<R>) {
        if let Some(seen) = self.conversations.get_mut(&conversation) {
            seen.give_up(out);
        }
    }

    /// Up to where a conversation was delivered, or needs no delivery.
    pub(super) fn reached(&self, conversation: ConversationId) -> u64 {
        let seen = self.conversations.peek(&conversation);
        seen.map_or(self.cursor.unwrap_or(0), Seen::last_offset)
    }

    /// Everything up to `upto` is complete: what is known of it is forgotten.
    pub(super) fn move_cursor(&mut self, upto: u64) {
        let cursor = *self.cursor.insert(self.cursor.unwrap_or(0).max(upto));
        let done = |seen: &Seen<R>| seen.last_offset() <= cursor && !seen.has_gap();
        let done: Vec<ConversationId> = self
            .conversations
            .iter()
            .filter(|(_number, seen)| done(seen))
            .map(|(number, _seen)| *number)
            .collect();
        for number in done {
            self.conversations.pop(&number);
        }
    }

    /// Begins anew at `upto`.
    pub(super) fn reset(&mut self, upto: u64) {
        self.cursor = Some(upto);
        self.conversations.clear();
    }

    /// Whether conversations were forgotten although something was missing.
    pub(super) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// The conversations that were forgotten although something was missing.
    pub(super) fn take_lost(&mut self) -> Vec<ConversationId> {
        std::mem::take(&mut self.lost)
    }

    fn insert(&mut self, conversation: ConversationId, seen: Seen<R>) {
        if self.conversations.len() >= self.conversations_max {
            let mut silent = self.conversations.iter().rev().take(LOOK_MAX);
            let whole = silent.find(|(_number, seen)| !seen.has_gap()).map(|(number, _)| *number);
            match whole {
                Some(whole) => drop(self.conversations.pop(&whole)),
                None => self.lost.extend(self.conversations.pop_lru().map(|(number, _)| number)),
            }
        }
        self.conversations.put(conversation, seen);
    }
}

fn completeness<R>(seen: &mut Seen<R>, offset: u64) -> Completeness {
    if seen.last_offset() >= offset {
        Completeness::Complete
    } else {
        Completeness::Behind { opened: seen.expect(offset) }
    }
}

fn base(cursor: Option<u64>, floor: Option<u64>) -> Base {
    match (cursor, floor) {
        (_, None) => Base::Nobody,
        // A storage that does not tell of floors, nor of changes.
        (None, Some(0)) => Base::Unknown,
        (cursor, Some(floor)) => Base::From(floor.max(cursor.unwrap_or(0))),
    }
}

/// Whether a record is brought to a session with this floor; `None` while its login is not that far.
/// Its client asks after its login, and so for everything that is known to exist before.
pub(super) fn concerns(floor: Option<u64>, offset: u64, repaired: bool) -> bool {
    floor.map_or(!repaired, |floor| offset > floor)
}

#[cfg(test)]
mod tests;
