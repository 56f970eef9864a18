//! The partition's state, shared between its one writer and many readers.
//!
//! The partition's thread changes it (`worker.rs`); requests read it, and load what is not
//! in memory. The lock is held for one look or one batch, never across a wait.
//!
//! # Invariants
//!
//! - Only the partition's thread folds, and only it takes conversations out of memory: between an
//!   admission and its fold a conversation cannot vanish.
//! - A conversation leaves memory only when its last change is stored.
//! - What is read from the store counts only if no other owner had begun when it was read.
//! - A conversation that is being read from the store does not leave memory until the read has ended:
//!   so whatever is put into memory is as new as anything that was ever known there.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use cache::Cache;
use fold::conversation::{Conversation, RECENT_KEPT};
use fold::effects::{Effect, Fold, UnknownVersion};
use parking_lot::{Mutex, MutexGuard};
use proto::cluster::wire::Membership;
use proto::ids::{ConversationId, MsgId, Offset, Parties, UserId};
use record_log::{LogId, LogRecord};
use store::{Batch, MemberRow, MessageRow, Store, StoreError, UserConversation};
use tokio::sync::Notify;

mod groups_known;

use groups_known::GroupsKnown;

/// The state of a partition. Clones share it.
#[derive(Clone)]
pub struct State {
    inner: Arc<Mutex<Inner>>,
    /// The epoch of this ownership.
    epoch: u64,
    store: Arc<dyn Store>,
    cache: Option<Cached>,
    /// Wakes the store worker.
    pub(crate) unstored: Arc<Notify>,
}

/// Where stored messages are kept besides.
#[derive(Clone)]
struct Cached {
    cache: Arc<dyn Cache>,
    log: LogId,
    /// The heads of the batch that is being written.
    heads: Arc<Mutex<Vec<MessageRow>>>,
}

/// What the lock guards.
#[derive(Debug)]
pub struct Inner {
    /// What the partition's records came to.
    pub fold: Fold,
    /// Everything up to here is in the store.
    pub stored: Offset,
    /// What the store worker is writing now, and how much that is.
    writing: BTreeSet<ConversationId>,
    writing_bytes: usize,
    /// How many reads of the store are on their way to each conversation.
    loading: HashMap<ConversationId, u32>,
    /// A conversation used in an earlier round may be evicted before one used in a later round.
    round: u64,
    /// Kept where the store may be away.
    groups_known: Option<GroupsKnown>,
    /// With no more conversations than these, looking for some to evict is not worth it until more is
    /// stored.
    evict_above: usize,
}

/// How far the store is behind the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behind {
    /// The bytes of what it lacks, roughly.
    pub(crate) bytes: usize,
    /// The records that it lacks.
    pub(crate) records: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl State {
    /// The state of a partition whose log is folded up to `fold.last`, in the epoch of its owner.
    pub(crate) fn new(fold: Fold, stored: Offset, store: Arc<dyn Store>) -> Self {
        let epoch = fold.epoch;
        let inner = Inner {
            fold,
            stored,
            writing: BTreeSet::new(),
            writing_bytes: 0,
            loading: HashMap::new(),
            groups_known: None,
            round: 0,
            evict_above: 0,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            epoch,
            store,
            cache: None,
            unstored: Arc::default(),
        }
    }

    /// The same state, which keeps stored messages of `log` in `cache` and looks for them there.
    pub fn with_cache(mut self, cache: Arc<dyn Cache>, log: LogId) -> Self {
        self.cache = Some(Cached { cache, log, heads: Arc::default() });
        self
    }

    /// The same state, which remembers the groups of users that were asked for, for when the store is
    /// away.
    pub fn remembering_groups(self) -> Self {
        self.lock().groups_known = Some(GroupsKnown::default());
        self
    }

    /// Which groups a user is in, if that is remembered: complete up to now.
    pub fn groups_remembered(&self, user: UserId) -> Option<Vec<Membership>> {
        let mut inner = self.lock();
        inner.groups_known.as_mut()?.of(user).map(<[Membership]>::to_vec)
    }

    /// Where stored messages are kept besides, and the log they belong to.
    pub(crate) fn cache(&self) -> Option<(&Arc<dyn Cache>, LogId)> {
        self.cache.as_ref().map(|cached| (&cached.cache, cached.log))
    }

    /// The fold, which does not change meanwhile. Held for short: the partition's thread needs it too.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
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
        self.with_fold(id, |conversation, _fold| look(conversation)).await
    }

    /// As [`Self::with`], together with the partition's state at that moment.
    pub async fn with_fold<R>(
        &self,
        id: ConversationId,
        look: impl FnOnce(&Conversation, &Fold) -> R,
    ) -> Result<R, StoreError> {
        let loading = {
            let mut inner = self.lock();
            if let Some((conversation, fold)) = inner.used(id) {
                return Ok(look(conversation, fold));
            }
            *inner.loading.entry(id).or_default() += 1;
            Loading { state: self, id }
        };
        let stored = self.store.conversation(id, RECENT_KEPT).await?;
        if stored.epoch != self.epoch {
            // It may be newer than what is folded here: to fold on from it would number anew.
            let problem = format!("read in epoch {}, owned in {}", stored.epoch, self.epoch);
            return Err(StoreError::Fenced(problem));
        }
        let mut inner = self.lock();
        let conversations = &mut inner.fold.conversations;
        // Another read may have been faster, and a record may have changed it since.
        conversations.entry(id).or_insert_with(|| Conversation::from_stored(id, stored));
        let seen = inner.used(id).map(|(conversation, fold)| look(conversation, fold));
        drop(inner);
        drop(loading);
        Ok(seen.expect("it was put into memory under the same lock"))
    }

    /// The last record folded.
    pub fn last(&self) -> Offset {
        self.lock().fold.last
    }

    /// Brings the conversation into memory.
    pub(crate) async fn load(&self, id: ConversationId) -> Result<(), StoreError> {
        self.with(id, |_conversation| ()).await
    }

    /// Every conversation of `user`, complete up to now: store and unstored tail.
    pub async fn conversations_of(
        &self,
        user: UserId,
    ) -> Result<Vec<UserConversation>, StoreError> {
        self.listed(user, |_inner, rows| rows).await
    }

    /// The groups that `user` is in, complete up to now. They are remembered from here on, where that is
    /// done at all.
    pub async fn groups_of(&self, user: UserId) -> Result<Vec<Membership>, StoreError> {
        let remember = |inner: &mut Inner, rows: Vec<UserConversation>| {
            let groups: Vec<_> = rows.iter().filter_map(membership).collect();
            if let Some(known) = &mut inner.groups_known {
                // Under the lock that every change of members is folded under: none is missed.
                known.note(user, groups.clone());
            }
            groups
        };
        self.listed(user, remember).await
    }

    async fn listed<R>(
        &self,
        user: UserId,
        take: impl FnOnce(&mut Inner, Vec<UserConversation>) -> R,
    ) -> Result<R, StoreError> {
        let unstored = self.lock().unstored_of(user);
        let mut rows = self.store.conversations_of(user).await?;
        let mut inner = self.lock();
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
        Ok(take(&mut inner, rows))
    }

    /// What the store worker writes next; `None` if the store has everything.
    pub(crate) fn next_batch(&self) -> Option<(u64, Offset, Batch)> {
        let mut inner = self.lock();
        if inner.fold.last == inner.stored {
            return None;
        }
        inner.writing_bytes = inner.fold.unstored.bytes;
        let batch = inner.fold.take_batch();
        let group = |member: &MemberRow| ConversationId::group(member.group);
        inner.writing = (batch.conversations.iter().map(|row| row.id))
            .chain(batch.marks.iter().map(|mark| mark.conversation))
            .chain(batch.members.iter().filter_map(group))
            .collect();
        let (epoch, stored) = (self.epoch, inner.stored);
        drop(inner);
        if let Some(cached) = &self.cache {
            *cached.heads.lock() = heads(&batch);
        }
        Some((epoch, stored, batch))
    }

    /// Notes that the store has everything up to `applied`.
    pub(crate) fn stored(&self, applied: Offset) {
        let mut inner = self.lock();
        inner.stored = applied;
        inner.writing_bytes = 0;
        inner.evict_above = 0;
        for id in std::mem::take(&mut inner.writing) {
            if let Some(conversation) = inner.fold.conversations.get_mut(&id) {
                conversation.forget_stored(applied);
            }
        }
        drop(inner);
        if let Some(cached) = &self.cache {
            // Read again at every login of every user that has the conversation in their list.
            let heads = std::mem::take(&mut *cached.heads.lock());
            cached.cache.keep_messages(cached.log, &heads);
        }
    }
}

/// The last message of each conversation in the batch.
fn heads(batch: &Batch) -> Vec<MessageRow> {
    let mut seen = HashSet::new();
    let newest_first = batch.messages.iter().rev();
    newest_first.filter(|message| seen.insert(message.conversation)).cloned().collect()
}

/// The group that it is, if the user is a member now.
fn membership(seen: &UserConversation) -> Option<Membership> {
    Some(Membership {
        group: seen.row.id.as_group()?.0,
        join_msg_id: seen.visible_from()?.0,
        version: u64::from(seen.row.group.as_ref()?.version),
    })
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
    /// Folds the next record.
    pub(crate) fn fold(&mut self, record: &LogRecord) -> Result<Effect, UnknownVersion> {
        let effect = self.fold.fold(record)?;
        if let Effect::Members { group, added, removed, .. } = &effect
            && let Some(known) = &mut self.groups_known
            && let Some(id) = ConversationId::group(*group)
            && let Some(group) = self.fold.conversations.get(&id)
        {
            known.changed(group, added, removed);
        }
        Ok(effect)
    }

    fn unstored_of(&self, user: UserId) -> Vec<UserConversation> {
        let unstored = &self.fold.unstored;
        let of_user = |id: &&ConversationId| match id.parties() {
            Parties::Single(low, high) => low == user || high == user,
            Parties::Group(_) => true,
        };
        let mine = |(id, whose)| (whose == user).then_some(id);
        let changed: BTreeSet<ConversationId> = unstored
            .conversations
            .iter()
            .chain(&self.writing)
            .filter(of_user)
            .copied()
            .chain(unstored.members.iter().copied().filter_map(mine))
            .chain(unstored.marks.iter().copied().filter_map(mine))
            .collect();
        changed
            .iter()
            .filter_map(|id| self.fold.conversations.get(id))
            .filter(|conversation| match conversation.id.as_group() {
                Some(_) => conversation.members.contains_key(&user),
                None => conversation.head > MsgId(0),
            })
            .map(|conversation| conversation.seen_by(user))
            .collect()
    }

    /// How far the store is behind.
    pub(crate) fn behind(&self) -> Behind {
        let bytes = self.fold.unstored.bytes + self.writing_bytes;
        Behind { bytes, records: self.fold.last.0 - self.stored.0 }
    }

    /// Begins a new round of use. Called by the partition's thread once per batch.
    pub(crate) fn next_round(&mut self) {
        self.round += 1;
    }

    /// Notes that nothing happens: there is time to look for conversations to evict.
    pub(crate) fn idle(&mut self) {
        self.evict_above = 0;
    }

    /// Notes that a conversation is in use.
    pub(crate) fn touch(&mut self, id: ConversationId) {
        self.used(id);
    }

    fn used(&mut self, id: ConversationId) -> Option<(&Conversation, &Fold)> {
        self.fold.conversations.get_mut(&id)?.used_in = self.round;
        let fold = &self.fold;
        fold.conversations.get(&id).map(|conversation| (conversation, fold))
    }

    /// Takes the least recently used half out of memory if there are more than `max`. Those with
    /// unstored changes stay, however many there are: their number is bounded by the limit on
    /// unstored bytes. What is used in this round stays too, so that what was loaded for a change is
    /// there when it is judged, and so does what `is_needed`.
    pub(crate) fn evict(&mut self, max: usize, is_needed: impl Fn(ConversationId) -> bool) {
        if self.fold.conversations.len() <= max.max(self.evict_above) {
            return;
        }
        let mut rounds: Vec<_> = self.fold.conversations.values().map(|c| c.used_in).collect();
        let middle = rounds.len() / 2;
        let (_, &mut median, _) = rounds.select_nth_unstable(middle);
        let Self { fold, stored, round, loading, .. } = self;
        fold.conversations.retain(|id, conversation| {
            conversation.changed_at > *stored
                || conversation.used_in > median
                || conversation.used_in == *round
                || loading.contains_key(id)
                || is_needed(*id)
        });
        let left = fold.conversations.len();
        let was_worth_it = rounds.len() - left > rounds.len() / 8;
        self.evict_above = if was_worth_it { 0 } else { left + max / 8 };
    }
}

/// A read of the store on its way to a conversation. Ends also if the task that waits for it is dropped.
struct Loading<'a> {
    state: &'a State,
    id: ConversationId,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let mut inner = self.state.lock();
        if let Some(count) = inner.loading.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                inner.loading.remove(&self.id);
            }
        }
    }
}
