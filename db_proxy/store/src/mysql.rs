//! The store on servers: MySQL 8 or MariaDB 10.11, or newer.
//!
//! One object serves one partition; [`MySqlStore::for_partition`] makes one for another on the same
//! connections. Conversations are in the shard of their partition, logins in a database of their own
//! or in the first shard: no statement joins the two.
//!
//! # Invariants
//!
//! - A transaction begins by moving `progress` from where its owner knows it to be. Two owners never
//!   write one partition, and the same batch is never written twice.
//! - A commit that had no answer is not guessed at: the same batch again either finds the progress
//!   where it left it, or where the batch took it.
//! - Every call ends in bounded time, whatever the server does.
//! - A read of several tables is one statement, and so sees one moment.
//! - Of one user, the lists of all partitions of a shard that are asked for together are one
//!   statement ([`shared_reads`]).
//! - A replica is asked for messages only, and what it lacks is read from its primary ([`pages`]).
//! - The process needs no right to define data; that is for [`MySqlStore::migrate`].

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::FutureExt;
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, UserId};
use proto::record::LogId;

use self::consumers::Moving;
use self::fold::{Doubt, Writing};
use self::people::{Adding, Numbers};
use self::site::{Database, Databases};
use super::keys::{ApiKeyId, ApiKeyRow, KeyStore};
use super::tokens::{
    FamilyId, FamilyRow, NewFamily, Revocation, SecretHash, TicketRow, TokenStore,
};
use super::webhooks::{WebhookFailureRow, WebhookRow, WebhookStore};
use super::{
    Batch, Claimed, ConsumerCursor, ConsumerRow, ConsumerStore, ConversationRow, ConversationStore,
    DepartmentRow, FoundMessage, MessageRecord, MessageRow, NewUser, Progress, Since, StoreError,
    Stored, StoredConversation, UserChange, UserConversation, UserRow, UserStore, rules,
};

mod address;
mod bulk;
mod consumers;
mod failure;
mod fold;
mod history;
mod keys;
mod link;
mod options;
mod pages;
mod people;
mod pool;
mod replica;
mod row;
mod schema;
mod server;
mod shared_reads;
mod site;
#[cfg(test)]
mod tests;
mod tokens;
mod transfer;
mod webhooks;

pub use options::{MySqlLimits, MySqlOptions};
pub use transfer::{Begun, Target};

/// How many group numbers are looked at in all shards at first.
const NUMBERS: u32 = 64;

/// The store on servers, for one partition. Its calls need a tokio runtime around them.
#[derive(Debug)]
pub struct MySqlStore {
    databases: Arc<Databases>,
    part: u32,
    partitions: u32,
    doubt: Arc<Doubt>,
    on_broken_fold: fn(&str),
}

impl MySqlStore {
    /// Opens the store: checks every database, and changes nothing. One that does not answer now is
    /// [`StoreError::Unavailable`]; whatever does not pass by itself is [`StoreError::Refused`].
    pub async fn open(options: MySqlOptions) -> Result<Self, StoreError> {
        Ok(Self {
            databases: Arc::new(Databases::open(&options).await?),
            part: options.part,
            partitions: options.partitions,
            doubt: Arc::default(),
            on_broken_fold: options.on_broken_fold,
        })
    }

    /// Brings every database to the current version, as a user who may define data.
    pub async fn migrate(options: &MySqlOptions) -> Result<(), StoreError> {
        site::migrate(options).await
    }

    /// The owner of the partition, and how far it is; `None` if the partition was never taken.
    pub async fn look(&self) -> Result<Option<Claimed>, StoreError> {
        let part = self.part;
        self.shard().reads.run(move |link| fold::claimed(link, part).boxed()).await
    }

    /// The same store for another partition, on the same connections. `None` if there is no such
    /// partition.
    pub fn for_partition(&self, part: u32) -> Option<Self> {
        (part < self.partitions).then(|| Self {
            databases: Arc::clone(&self.databases),
            part,
            partitions: self.partitions,
            doubt: Arc::default(),
            on_broken_fold: self.on_broken_fold,
        })
    }

    /// Where this partition's conversations are.
    fn shard(&self) -> &Database {
        let shards = &self.databases.shards;
        &shards[self.part as usize % shards.len()]
    }

    /// Where logins are.
    fn people(&self) -> &Database {
        self.databases.people().expect("a store is opened with a shard at least")
    }

    /// A conversation, and whether its users exist: two questions, since two databases may have to
    /// answer. Users are never removed, so that the second answer does not depend on the moment.
    async fn whole_conversation(
        &self,
        id: ConversationId,
        recent: usize,
    ) -> Result<StoredConversation, StoreError> {
        let part = self.part;
        let work = self
            .shard()
            .reads
            .run(move |link| history::conversation(link, part, id, recent).boxed());
        let mut stored = work.await?;
        if id.as_group().is_none() {
            let peers = self.people().reads.run(move |link| history::peers_exist(link, id).boxed());
            stored.peers_exist = peers.await?;
        }
        Ok(stored)
    }

    /// Looks at numbers in all shards first, then gives one of them out; at twice as many each time, if
    /// all of them are taken or others were faster by more numbers than were looked at.
    async fn next_group(&self, wanted: Option<GroupId>) -> Result<GroupId, StoreError> {
        let mut numbers = NUMBERS;
        loop {
            let (first, last) = if let Some(GroupId(wanted)) = wanted {
                (wanted, wanted)
            } else {
                let counter = self.people().reads.run(|link| people::group_counter(link).boxed());
                let first = rules::number_after(counter.await?, "group")?;
                (first, first.saturating_add(numbers))
            };
            let in_use = self.groups_between(first, last).await?;
            let known = Numbers { first, last, in_use, in_doubt: AtomicBool::new(false) };
            let known = Arc::new(known);
            let given = self
                .people()
                .writes
                .run(move |link| people::give_group(link, wanted, Arc::clone(&known)).boxed());
            if let Some(given) = given.await? {
                return Ok(given);
            }
            numbers = numbers.saturating_mul(2);
        }
    }

    async fn groups_between(&self, first: u32, last: u32) -> Result<HashSet<u32>, StoreError> {
        let mut found = HashSet::new();
        for shard in &self.databases.shards {
            let here =
                shard.reads.run(move |link| history::groups_between(link, first, last).boxed());
            found.extend(here.await?);
        }
        Ok(found)
    }
}

impl ConversationStore for MySqlStore {
    fn claim(&self, owner: String, log: LogId) -> Stored<'_, Progress> {
        let (part, owner): (_, Arc<str>) = (self.part, owner.into());
        let claim = self
            .shard()
            .writes
            .run(move |link| fold::claim(link, part, Arc::clone(&owner), log).boxed());
        Box::pin(claim)
    }

    fn commit(&self, epoch: u64, after: Offset, batch: Batch) -> Stored<'_, ()> {
        let writing = Writing {
            part: self.part,
            epoch,
            after,
            batch: Arc::new(batch),
            doubt: Arc::clone(&self.doubt),
            broken: self.on_broken_fold,
        };
        Box::pin(self.shard().writes.run(move |link| fold::commit(link, writing.clone()).boxed()))
    }

    /// The server flushes at each commit, which is asserted at start.
    fn flushed_progress(&self) -> Stored<'_, Offset> {
        let part = self.part;
        let progress = self.shard().reads.run(move |link| fold::progress(link, part).boxed());
        Box::pin(async move { Ok(progress.await?.map_or(Offset(0), |progress| progress.applied)) })
    }

    fn conversation(&self, id: ConversationId, recent: usize) -> Stored<'_, StoredConversation> {
        Box::pin(self.whole_conversation(id, recent))
    }

    fn messages(
        &self,
        id: ConversationId,
        from: MsgId,
        to: MsgId,
        count: usize,
    ) -> Stored<'_, Vec<MessageRow>> {
        Box::pin(pages::messages(self.shard(), id, (from, to), count))
    }

    fn messages_at(&self, places: Vec<(ConversationId, MsgId)>) -> Stored<'_, Vec<MessageRow>> {
        Box::pin(pages::messages_at(self.shard(), places.into()))
    }

    fn find_message(
        &self,
        sender: UserId,
        client_msg_id: ClientMsgId,
    ) -> Stored<'_, Option<FoundMessage>> {
        let reads = &self.shard().reads;
        Box::pin(reads.run(move |link| history::find_message(link, sender, client_msg_id).boxed()))
    }

    fn count_own(
        &self,
        id: ConversationId,
        sender: UserId,
        from: MsgId,
        to: MsgId,
    ) -> Stored<'_, u32> {
        let reads = &self.shard().reads;
        Box::pin(reads.run(move |link| history::count_own(link, id, sender, (from, to)).boxed()))
    }

    fn conversations_of(&self, user: UserId) -> Stored<'_, Vec<UserConversation>> {
        let Database { reads, lists, .. } = self.shard();
        let all = move |parts: Vec<u32>| {
            let parts: Arc<[u32]> = parts.into();
            reads.run(move |link| history::conversations_of(link, Arc::clone(&parts), user).boxed())
        };
        Box::pin(lists.read(user, self.part, all))
    }

    fn groups_joined(&self, users: Vec<UserId>) -> Stored<'_, Vec<(UserId, u32)>> {
        let (part, users): (u32, Arc<[UserId]>) = (self.part, users.into());
        let reads = &self.shard().reads;
        Box::pin(
            reads.run(move |link| history::groups_joined(link, part, Arc::clone(&users)).boxed()),
        )
    }

    fn groups(&self, after: u32, count: usize) -> Stored<'_, Vec<(ConversationRow, u32)>> {
        let part = self.part;
        let reads = &self.shard().reads;
        Box::pin(reads.run(move |link| history::groups(link, part, after, count).boxed()))
    }
}

impl ConsumerStore for MySqlStore {
    fn consumers(&self) -> Stored<'_, Vec<ConsumerRow>> {
        let part = self.part;
        let writes = &self.shard().writes;
        Box::pin(writes.run(move |link| consumers::all(link, part).boxed()))
    }

    fn move_consumer(
        &self,
        epoch: u64,
        name: String,
        from: Option<ConsumerCursor>,
        to: ConsumerCursor,
    ) -> Stored<'_, bool> {
        let moving = Moving { part: self.part, epoch, name: name.into(), from, to };
        let writes = &self.shard().writes;
        Box::pin(writes.run(move |link| consumers::move_to(link, moving.clone()).boxed()))
    }

    fn forget_consumer(&self, name: String) -> Stored<'_, bool> {
        let (part, name): (u32, Arc<str>) = (self.part, name.into());
        let writes = &self.shard().writes;
        Box::pin(writes.run(move |link| consumers::forget(link, part, Arc::clone(&name)).boxed()))
    }

    fn numbers(&self, records: Vec<MessageRecord>) -> Stored<'_, Vec<(Offset, MsgId)>> {
        let records: Arc<[_]> = records.into();
        let reads = &self.shard().reads;
        Box::pin(reads.run(move |link| consumers::numbers(link, Arc::clone(&records)).boxed()))
    }
}

impl UserStore for MySqlStore {
    fn user_by_name(&self, name: String) -> Stored<'_, Option<UserRow>> {
        let name: Arc<str> = name.into();
        let reads = &self.people().reads;
        Box::pin(reads.run(move |link| people::user_by_name(link, Arc::clone(&name)).boxed()))
    }

    fn users(&self, ids: Vec<UserId>) -> Stored<'_, Vec<UserRow>> {
        let ids: Arc<[_]> = ids.into();
        let reads = &self.people().reads;
        Box::pin(reads.run(move |link| people::users(link, Arc::clone(&ids)).boxed()))
    }

    fn users_since(&self, since: Since, count: usize) -> Stored<'_, (Vec<UserRow>, u32)> {
        let reads = &self.people().reads;
        Box::pin(reads.run(move |link| people::users_since(link, since, count).boxed()))
    }

    fn users_by_name(&self, after: String, count: usize) -> Stored<'_, Vec<UserRow>> {
        let after: Arc<str> = after.into();
        let reads = &self.people().reads;
        Box::pin(
            reads.run(move |link| people::users_by_name(link, Arc::clone(&after), count).boxed()),
        )
    }

    fn add_users(&self, users: Vec<NewUser>, skip_existing: bool) -> Stored<'_, Vec<UserId>> {
        let adding = Adding::new(users, skip_existing);
        let writes = &self.people().writes;
        Box::pin(writes.run(move |link| people::add_users(link, adding.clone()).boxed()))
    }

    fn change_user(&self, user: UserId, change: UserChange) -> Stored<'_, ()> {
        let change = Arc::new(change);
        let writes = &self.people().writes;
        Box::pin(
            writes.run(move |link| people::change_user(link, user, Arc::clone(&change)).boxed()),
        )
    }

    fn departments_since(
        &self,
        since: Since,
        count: usize,
    ) -> Stored<'_, (Vec<DepartmentRow>, u32)> {
        let reads = &self.people().reads;
        Box::pin(reads.run(move |link| people::departments_since(link, since, count).boxed()))
    }

    fn set_device_token(
        &self,
        user: UserId,
        client_type: u32,
        token: Option<String>,
    ) -> Stored<'_, ()> {
        let token: Option<Arc<str>> = token.map(Into::into);
        let writes = &self.people().writes;
        Box::pin(writes.run(move |link| {
            people::set_device_token(link, user, client_type, token.clone()).boxed()
        }))
    }

    fn allocate_group(&self, wanted: Option<GroupId>) -> Stored<'_, GroupId> {
        Box::pin(self.next_group(wanted))
    }
}

impl TokenStore for MySqlStore {
    fn add_family(&self, family: NewFamily) -> Stored<'_, bool> {
        let writes = &self.people().writes;
        Box::pin(writes.run(move |link| tokens::add_family(link, family.clone()).boxed()))
    }

    fn family(&self, id: FamilyId) -> Stored<'_, Option<FamilyRow>> {
        let reads = &self.people().reads;
        Box::pin(reads.run(move |link| tokens::family(link, id).boxed()))
    }

    fn change_family(&self, from: FamilyRow, to: FamilyRow) -> Stored<'_, bool> {
        let (writes, change) = (&self.people().writes, (from, to));
        Box::pin(writes.run(move |link| tokens::change_family(link, change.clone()).boxed()))
    }

    fn revoke_tokens(
        &self,
        user: UserId,
        family: Option<FamilyId>,
        forget_before_s: u64,
    ) -> Stored<'_, ()> {
        let writes = &self.people().writes;
        Box::pin(
            writes.run(move |link| tokens::revoke(link, user, family, forget_before_s).boxed()),
        )
    }

    fn newest_revocation(&self) -> Stored<'_, u32> {
        let reads = &self.people().reads;
        Box::pin(reads.run(|link| tokens::newest_revocation(link).boxed()))
    }

    fn revocations_after(&self, after: u32, count: usize) -> Stored<'_, Vec<Revocation>> {
        let reads = &self.people().reads;
        Box::pin(reads.run(move |link| tokens::revocations_after(link, after, count).boxed()))
    }

    fn add_ticket(
        &self,
        ticket: TicketRow,
        family: Option<FamilyId>,
        now_s: u64,
    ) -> Stored<'_, bool> {
        let writes = &self.people().writes;
        Box::pin(writes.run(move |link| tokens::add_ticket(link, ticket, family, now_s).boxed()))
    }

    fn take_ticket(&self, hash: SecretHash) -> Stored<'_, Option<TicketRow>> {
        let writes = &self.people().writes;
        Box::pin(writes.run(move |link| tokens::take_ticket(link, hash).boxed()))
    }
}

impl KeyStore for MySqlStore {
    fn add_key(&self, key: ApiKeyRow) -> Stored<'_, bool> {
        let (writes, key) = (&self.people().writes, Arc::new(key));
        Box::pin(writes.run(move |link| keys::add(link, Arc::clone(&key)).boxed()))
    }

    fn key(&self, id: ApiKeyId) -> Stored<'_, Option<ApiKeyRow>> {
        let reads = &self.people().reads;
        Box::pin(reads.run(move |link| keys::one(link, id).boxed()))
    }

    fn keys(&self) -> Stored<'_, Vec<ApiKeyRow>> {
        let reads = &self.people().reads;
        Box::pin(reads.run(|link| keys::all(link).boxed()))
    }

    fn use_key(&self, id: ApiKeyId, used_s: u64) -> Stored<'_, ()> {
        let writes = &self.people().writes;
        Box::pin(writes.run(move |link| keys::used(link, id, used_s).boxed()))
    }

    fn forget_key(&self, name: String) -> Stored<'_, bool> {
        let (writes, name): (_, Arc<str>) = (&self.people().writes, name.into());
        Box::pin(writes.run(move |link| keys::forget(link, Arc::clone(&name)).boxed()))
    }
}

impl WebhookStore for MySqlStore {
    fn add_webhook(&self, row: WebhookRow) -> Stored<'_, Option<u32>> {
        let (writes, row) = (&self.people().writes, Arc::new(row));
        Box::pin(writes.run(move |link| webhooks::add(link, Arc::clone(&row)).boxed()))
    }

    fn webhooks(&self) -> Stored<'_, Vec<WebhookRow>> {
        let writes = &self.people().writes;
        Box::pin(writes.run(|link| webhooks::all(link).boxed()))
    }

    fn change_webhook(&self, version: u64, row: WebhookRow) -> Stored<'_, bool> {
        let (writes, row) = (&self.people().writes, Arc::new(row));
        Box::pin(writes.run(move |link| webhooks::change(link, version, Arc::clone(&row)).boxed()))
    }

    fn forget_webhook(&self, number: u32) -> Stored<'_, bool> {
        let writes = &self.people().writes;
        Box::pin(writes.run(move |link| webhooks::forget(link, number).boxed()))
    }

    fn give_up(&self, webhook: u32, failure: WebhookFailureRow, keep: u32) -> Stored<'_, bool> {
        let (writes, failure) = (&self.people().writes, Arc::new(failure));
        Box::pin(
            writes.run(move |link| {
                webhooks::give_up(link, webhook, Arc::clone(&failure), keep).boxed()
            }),
        )
    }

    fn webhook_failures(
        &self,
        webhook: u32,
        before: u64,
        count: u32,
    ) -> Stored<'_, Vec<WebhookFailureRow>> {
        let reads = &self.people().reads;
        Box::pin(reads.run(move |link| webhooks::failures(link, webhook, before, count).boxed()))
    }
}
