//! The partition's state, shared between its one writer and many readers.
//!
//! The partition's thread changes it ([`crate::partition`]); requests read it, and load what is not
//! in memory. The lock is held for one look or one batch, never across a wait.
//!
//! # Invariants
//!
//! - Only the partition's thread folds, and only it takes conversations out of memory: between an
//!   admission and its fold a conversation cannot vanish.
//! - A conversation leaves memory only when its last change is stored.
//! - What was read from the store is put into memory only if nothing left memory meanwhile: else it
//!   could be older than what was known.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use proto::ids::{ConversationId, MsgId, Offset, UserId};
use tokio::sync::Notify;

use crate::conversation::{Conversation, RECENT_KEPT};
use crate::fold::{Fold, Unstored};
use crate::store::{Batch, Store, StoreError, UserConversation};

/// The state of a partition. Clones share it.
#[derive(Clone)]
pub struct State {
    inner: Arc<Mutex<Inner>>,
    store: Arc<dyn Store>,
    /// Wakes the store worker.
    pub(crate) unstored: Arc<Notify>,
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) fold: Fold,
    /// Everything up to here is in the store.
    pub(crate) stored: Offset,
    /// What the store worker is writing now.
    writing: Vec<ConversationId>,
    /// How often conversations were taken out of memory.
    evictions: u64,
    /// A conversation used in an earlier round may be evicted before one used in a later round.
    round: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl State {
    /// The state of a partition whose log is folded up to `fold.last`.
    pub fn new(fold: Fold, stored: Offset, store: Arc<dyn Store>) -> Self {
        let inner = Inner { fold, stored, writing: Vec::new(), evictions: 0, round: 0 };
        Self { inner: Arc::new(Mutex::new(inner)), store, unstored: Arc::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Calls `look` with the conversation, loading it first if it is not in memory.
    pub async fn with<R>(
        &self,
        id: ConversationId,
        look: impl FnOnce(&Conversation) -> R,
    ) -> Result<R, StoreError> {
        loop {
            let evictions = {
                let mut inner = self.lock();
                inner.touch(id);
                if let Some(conversation) = inner.fold.conversations.get(&id) {
                    return Ok(look(conversation));
                }
                inner.evictions
            };
            let stored = self.store.conversation(id, RECENT_KEPT).await?;
            let mut inner = self.lock();
            if inner.evictions == evictions {
                let conversations = &mut inner.fold.conversations;
                conversations.entry(id).or_insert_with(|| Conversation::from_stored(id, stored));
                inner.touch(id);
            }
        }
    }

    /// Brings the conversation into memory.
    pub async fn load(&self, id: ConversationId) -> Result<(), StoreError> {
        self.with(id, |_conversation| ()).await
    }

    /// Every conversation of `user`, complete up to now: store and unstored tail.
    pub async fn conversations_of(
        &self,
        user: UserId,
    ) -> Result<Vec<UserConversation>, StoreError> {
        let unstored = self.lock().unstored_of(user);
        let mut rows = self.store.conversations_of(user).await?;
        let inner = self.lock();
        for row in &mut rows {
            if let Some(conversation) = inner.fold.conversations.get(&row.row.id) {
                *row = conversation.seen_by(user);
            }
        }
        let listed: BTreeSet<_> = rows.iter().map(|row| row.row.id).collect();
        for seen in unstored {
            let id = seen.row.id;
            if !listed.contains(&id) {
                let newest = inner.fold.conversations.get(&id);
                rows.push(newest.map_or(seen, |conversation| conversation.seen_by(user)));
            } else if !inner.fold.conversations.contains_key(&id) {
                // Stored and evicted while the store was read: the later of the two is right.
                if let Some(row) = rows.iter_mut().find(|row| row.row.id == id)
                    && age(row) < age(&seen)
                {
                    *row = seen;
                }
            }
        }
        Ok(rows)
    }

    /// What the store worker writes next; `None` if the store has everything.
    pub(crate) fn next_batch(&self) -> Option<(u64, Offset, Batch)> {
        let mut inner = self.lock();
        if inner.fold.last == inner.stored {
            return None;
        }
        let unstored = std::mem::take(&mut inner.fold.unstored);
        let batch = inner.batch(unstored);
        Some((inner.fold.epoch, inner.stored, batch))
    }

    /// Whether the store has everything that was folded.
    pub(crate) fn next_batch_is_empty(&self) -> bool {
        let inner = self.lock();
        inner.fold.last == inner.stored
    }

    /// Notes that the store has everything up to `applied`.
    pub(crate) fn stored(&self, applied: Offset) {
        let mut inner = self.lock();
        inner.stored = applied;
        for id in std::mem::take(&mut inner.writing) {
            if let Some(conversation) = inner.fold.conversations.get_mut(&id) {
                conversation.forget_stored(applied);
            }
        }
    }
}

/// A number that grows with every change that the store keeps.
fn age(seen: &UserConversation) -> u64 {
    let version = seen.row.group.as_ref().map_or(0, |group| u64::from(group.version));
    let mark = seen.mark.map_or(0, |mark| {
        u64::from(mark.read.0) + u64::from(mark.own_total) + u64::from(mark.removed_at.0)
    });
    u64::from(seen.row.head.0) + version + mark
}

impl Inner {
    fn unstored_of(&self, user: UserId) -> Vec<UserConversation> {
        let unstored = &self.fold.unstored;
        let members = unstored.members.iter().map(|(id, _user)| id);
        let marks = unstored.marks.iter().filter(|(_id, whose)| *whose == user).map(|(id, _)| id);
        let changed: BTreeSet<_> = unstored
            .conversations
            .iter()
            .chain(members)
            .chain(marks)
            .chain(&self.writing)
            .collect();
        changed
            .into_iter()
            .filter_map(|id| self.fold.conversations.get(id))
            .filter(|conversation| match conversation.id.as_group() {
                Some(_) => conversation.members.contains_key(&user),
                None => conversation.has_member(user) && conversation.head > MsgId(0),
            })
            .map(|conversation| conversation.seen_by(user))
            .collect()
    }

    fn batch(&mut self, unstored: Unstored) -> Batch {
        let fold = &self.fold;
        let conversation = |id: &ConversationId| fold.conversations.get(id);
        let batch = Batch {
            applied: fold.last,
            applied_crc: fold.last_crc,
            fold_version: fold.version,
            conversations: unstored
                .conversations
                .iter()
                .filter_map(conversation)
                .map(Conversation::row)
                .collect(),
            members: unstored
                .members
                .iter()
                .filter_map(|(id, user)| conversation(id)?.member_row(*user))
                .collect(),
            marks: unstored
                .marks
                .iter()
                .filter_map(|(id, user)| conversation(id)?.mark_row(*user))
                .collect(),
            messages: unstored.messages,
            unreadable: unstored.unreadable,
        };
        let mut changed = unstored.conversations;
        changed.extend(unstored.members.into_iter().map(|(id, _user)| id));
        changed.extend(unstored.marks.into_iter().map(|(id, _user)| id));
        self.writing = changed.into_iter().collect();
        batch
    }

    /// Begins a new round of use. Called by the partition's thread once per batch.
    pub(crate) fn next_round(&mut self) {
        self.round += 1;
    }

    /// Notes that a conversation is in use.
    pub(crate) fn touch(&mut self, id: ConversationId) {
        let round = self.round;
        if let Some(conversation) = self.fold.conversations.get_mut(&id) {
            conversation.used_in = round;
        }
    }

    /// Takes the least recently used half out of memory if there are more than `max`. Those with
    /// unstored changes stay, however many there are: their number is bounded by the limit on
    /// unstored bytes.
    pub(crate) fn evict(&mut self, max: usize) {
        if self.fold.conversations.len() <= max {
            return;
        }
        let mut rounds: Vec<_> = self.fold.conversations.values().map(|c| c.used_in).collect();
        let middle = rounds.len() / 2;
        let (_, &mut median, _) = rounds.select_nth_unstable(middle);
        let stored = self.stored;
        let round = self.round;
        self.fold.conversations.retain(|_id, conversation| {
            conversation.changed_at > stored
                || conversation.used_in > median
                || conversation.used_in == round
        });
        self.evictions += 1;
    }
}
