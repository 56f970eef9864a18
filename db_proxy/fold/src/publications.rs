//! Which conversations changed lately: the published records of the partition, in log order.
//!
//! From this a gateway that was away, or that a publication did not reach, hears what it must look
//! at. Filled by the fold ([`crate::effects`]), also while it replays and from the records before that
//! which it only remembers; there a record may be named that changed nothing, which is harmless.
//!
//! Pure: no clock, no IO.
//!
//! # Invariants
//!
//! - Complete after [`Published::covers_from`]: every record published since is in it.
//! - What was published is never forgotten out of order: the oldest goes first.
//!
//! # When it is full
//!
//! The oldest record goes. A gateway that is further behind is told that it was forgotten, and lets
//! its clients ask for themselves.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use proto::ids::{ConversationId, Offset, UserId};

use crate::window::WINDOW_RECORDS;

/// The most users that all kept changes of members may name: 16 MiB of them.
const USERS_MAX: usize = 4 << 20;

/// Conversations in one [`Delta`] at most.
const CONVERSATIONS_MAX: usize = 2_000;

/// How many of these may have changes of members: each may take a frame to clients.
const GROUPS_MAX: usize = 16;

/// Users named in one [`Delta`], if more than one record names any.
const NAMED_MAX: usize = 100_000;

/// Records that one [`Delta`] goes through at most: the caller holds a lock meanwhile.
const SCANNED_MAX: usize = 16_384;

/// One change of a group's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberChange {
    /// Who asked for it.
    pub actor: UserId,
    /// Who joined.
    pub added: Arc<[UserId]>,
    /// Who left.
    pub removed: Arc<[UserId]>,
    /// Whether the group was made by it: its members are not told.
    pub created: bool,
}

/// The published records of a partition that are remembered.
#[derive(Debug)]
pub struct Published {
    entries: VecDeque<Entry>,
    /// Those of them that changed members.
    members: BTreeMap<(ConversationId, Offset), MemberChange>,
    users: usize,
    covers_from: Offset,
    entries_max: usize,
    users_max: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: Offset,
    conversation: ConversationId,
    has_members: bool,
}

/// What changed in a range of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// How far it reaches: as far as was asked, or less if that is too much at once.
    pub upto: Offset,
    /// Every conversation that changed, once, in order of its first record.
    pub changed: Vec<Changed>,
}

/// A conversation that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub conversation: ConversationId,
    /// Its last record in the range.
    pub offset: Offset,
    /// The changes of its members in the range.
    pub members: Vec<(Offset, MemberChange)>,
}

impl Published {
    /// Remembers what is published after `covers_from`.
    pub(crate) fn new(covers_from: Offset) -> Self {
        let entries_max = usize::try_from(WINDOW_RECORDS).expect("a small constant");
        Self::of(covers_from, entries_max, USERS_MAX)
    }

    fn of(covers_from: Offset, entries_max: usize, users_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            members: BTreeMap::new(),
            users: 0,
            covers_from,
            entries_max,
            users_max,
        }
    }

    /// Everything published after this is known.
    pub fn covers_from(&self) -> Offset {
        self.covers_from
    }

    /// Starts further back, before anything was entered: every record after `offset` will be.
    pub fn reach_back(&mut self, offset: Offset) {
        debug_assert!(self.entries.is_empty(), "what is missing cannot be entered later");
        self.covers_from = self.covers_from.min(offset);
    }

    /// Enters the next published record.
    pub(crate) fn enter(
        &mut self,
        offset: Offset,
        conversation: ConversationId,
        member_change: Option<MemberChange>,
    ) {
        if offset <= self.covers_from {
            return; // Further back than was asked for.
        }
        debug_assert!(self.entries.back().is_none_or(|last| last.offset < offset), "in log order");
        // Before the push, not after it: one entry more would make the queue double its memory.
        if self.entries.len() >= self.entries_max {
            self.forget_oldest();
        }
        self.entries.push_back(Entry {
            offset,
            conversation,
            has_members: member_change.is_some(),
        });
        if let Some(member_change) = member_change {
            self.users += member_change.count();
            self.members.insert((conversation, offset), member_change);
        }
        while self.entries.len() > self.entries_max || self.users > self.users_max {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(Entry { offset, conversation, .. }) = self.entries.pop_front() else { return };
        self.covers_from = offset;
        if let Some(member_change) = self.members.remove(&(conversation, offset)) {
            self.users -= member_change.count();
        }
    }

    /// What changed in `(after, upto]`, or in the first part of it if that is much. `None` if it is no
    /// longer known.
    pub fn delta(&self, after: Offset, upto: Offset) -> Option<Delta> {
        if after < self.covers_from {
            return None;
        }
        let begin = self.entries.partition_point(|entry| entry.offset <= after);
        let mut delta = Delta { upto: upto.max(after), changed: Vec::new() };
        let mut places = HashMap::new();
        let (mut groups, mut named) = (0, 0);
        for (scanned, entry) in self.entries.range(begin..).enumerate() {
            if entry.offset > upto {
                break;
            }
            let member_change = self.member_change(entry);
            let place = places.get(&entry.conversation).copied();
            let known = place.and_then(|place: usize| delta.changed.get(place));
            let is_new_group =
                member_change.is_some() && known.is_none_or(|known| known.members.is_empty());
            let names = member_change.map_or(0, MemberChange::count);
            if scanned == SCANNED_MAX
                || (known.is_none() && delta.changed.len() == CONVERSATIONS_MAX)
                || (is_new_group && groups == GROUPS_MAX)
                || (named > 0 && named + names > NAMED_MAX)
            {
                delta.upto = Offset(entry.offset.0 - 1);
                break;
            }
            groups += usize::from(is_new_group);
            named += names;
            let place = place.unwrap_or_else(|| {
                let place = delta.changed.len();
                places.insert(entry.conversation, place);
                let (conversation, offset) = (entry.conversation, entry.offset);
                delta.changed.push(Changed { conversation, offset, members: Vec::new() });
                place
            });
            if let Some(changed) = delta.changed.get_mut(place) {
                changed.offset = entry.offset;
                changed.members.extend(
                    member_change.map(|member_change| (entry.offset, member_change.clone())),
                );
            }
        }
        Some(delta)
    }

    /// Whether the record at `offset` was published. Only of records after [`Self::covers_from`].
    pub fn contains(&self, offset: Offset) -> bool {
        self.at(offset).is_some()
    }

    /// The change of members that the record at `offset` came to.
    pub fn members_at(&self, offset: Offset) -> Option<&MemberChange> {
        self.member_change(self.at(offset)?)
    }

    fn at(&self, offset: Offset) -> Option<&Entry> {
        let place = self.entries.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        self.entries.get(place)
    }

    /// The changes of a group's members in `(after, upto]` that are known, in order.
    pub fn members_of(
        &self,
        conversation: ConversationId,
        after: Offset,
        upto: Offset,
    ) -> impl Iterator<Item = (Offset, &MemberChange)> {
        // The bounds of a map's range must not cross: then it is empty.
        let upto = Bound::Included((conversation, upto.max(after)));
        let range = self.members.range((Bound::Excluded((conversation, after)), upto));
        range.map(|((_conversation, offset), member_change)| (*offset, member_change))
    }

    fn member_change(&self, entry: &Entry) -> Option<&MemberChange> {
        if !entry.has_members {
            return None;
        }
        self.members.get(&(entry.conversation, entry.offset))
    }
}

impl MemberChange {
    /// How many users it names.
    pub fn count(&self) -> usize {
        self.added.len() + self.removed.len()
    }
}

#[cfg(test)]
mod tests;
