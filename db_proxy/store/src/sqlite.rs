//! The embedded store: one SQLite file.
//!
//! # Invariants
//!
//! - One write at a time, in the order asked; reads never wait for one, nor it for them.
//! - What the log does not have (users, numbers given out, a takeover) is on disk before the call
//!   returns. Batches are on disk at a checkpoint, and only what a complete checkpoint covered is
//!   ever called flushed.
//! - A read of several tables sees one moment.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, UserId};
use proto::record::LogId;

use self::pool::Pool;
use self::schema::Flush;
use super::keys::{ApiKeyId, ApiKeyRow, KeyStore};
use super::tokens::{
    FamilyId, FamilyRow, NewFamily, Revocation, SecretHash, TicketRow, TokenStore,
};
use super::webhooks::{WebhookFailureRow, WebhookRow, WebhookStore};
use super::{
    Batch, ConsumerCursor, ConsumerRow, ConsumerStore, ConversationRow, ConversationStore,
    DepartmentRow, FoundMessage, MessageRecord, MessageRow, NewUser, Progress, Since, StoreError,
    Stored, StoredConversation, UserChange, UserConversation, UserRow, UserStore, rules,
};

mod consumers;
mod failure;
mod fold;
mod history;
mod keys;
mod people;
mod pool;
mod read_only;
mod row;
mod schema;
#[cfg(test)]
mod tests;
mod tokens;
mod transfer;
mod webhooks;

pub use transfer::Tables;

/// How the embedded store is used.
#[derive(Debug, Clone, Copy)]
pub struct SqliteOptions {
    /// How many reads may run at once, each on a connection and a thread of its own.
    pub readers: usize,
    /// Hears of a batch that gives a message's number a second time. If it returns, the batch is
    /// refused.
    pub on_broken_fold: fn(&str),
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { readers: 4, on_broken_fold: rules::abort }
    }
}

/// The store in one SQLite file. Its calls need a tokio runtime around them.
#[derive(Debug)]
pub struct SqliteStore {
    /// The first to be closed: the last connection empties the write-ahead file, which one that
    /// only reads cannot.
    reads: Pool,
    /// Batches: flushed at checkpoints.
    batches: Pool,
    /// Everything else that is written: flushed at each commit. Takes turns with `batches`.
    records: Pool,
    /// What the last complete checkpoint covered.
    flushed: Arc<AtomicU64>,
    on_broken_fold: fn(&str),
}

impl SqliteStore {
    /// Opens the store, making or migrating it as needed. Blocks on the disk.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        schema::migrate(path)?;
        let batches = Pool::new(vec![schema::writer(path, Flush::Checkpoint)?]);
        let records = Pool::in_turn_with(&batches, schema::writer(path, Flush::Commit)?);
        let readers = (0..options.readers.max(1)).map(|_| schema::reader(path));
        Ok(Self {
            reads: Pool::new(readers.collect::<Result<_, _>>()?),
            batches,
            records,
            flushed: Arc::default(),
            on_broken_fold: options.on_broken_fold,
        })
    }

    /// Brings the file to the current version without opening the store, making it if there is
    /// none. Blocks on the disk.
    pub fn migrate(path: &Path) -> Result<(), StoreError> {
        schema::migrate(path)
    }
}

impl ConversationStore for SqliteStore {
    fn claim(&self, owner: String, log: LogId) -> Stored<'_, Progress> {
        Box::pin(self.records.run(move |connection| fold::claim(connection, &owner, log)))
    }

    fn commit(&self, epoch: u64, after: Offset, batch: Batch) -> Stored<'_, ()> {
        let broken = self.on_broken_fold;
        Box::pin(
            self.batches
                .run(move |connection| fold::commit(connection, epoch, after, &batch, broken)),
        )
    }

    fn flushed_progress(&self) -> Stored<'_, Offset> {
        let flushed = Arc::clone(&self.flushed);
        Box::pin(self.batches.run(move |connection| {
            if let Some(Offset(now)) = fold::flush(connection)? {
                flushed.store(now, Ordering::Relaxed);
            }
            Ok(Offset(flushed.load(Ordering::Relaxed)))
        }))
    }

    fn conversation(&self, id: ConversationId, recent: usize) -> Stored<'_, StoredConversation> {
        Box::pin(self.reads.run(move |connection| history::conversation(connection, id, recent)))
    }

    fn messages(
        &self,
        id: ConversationId,
        from: MsgId,
        to: MsgId,
        count: usize,
    ) -> Stored<'_, Vec<MessageRow>> {
        Box::pin(
            self.reads.run(move |connection| history::messages(connection, id, (from, to), count)),
        )
    }

    fn messages_at(&self, places: Vec<(ConversationId, MsgId)>) -> Stored<'_, Vec<MessageRow>> {
        Box::pin(self.reads.run(move |connection| history::messages_at(connection, &places)))
    }

    fn find_message(
        &self,
        sender: UserId,
        client_msg_id: ClientMsgId,
    ) -> Stored<'_, Option<FoundMessage>> {
        Box::pin(
            self.reads
                .run(move |connection| history::find_message(connection, sender, client_msg_id)),
        )
    }

    fn count_own(
        &self,
        id: ConversationId,
        sender: UserId,
        from: MsgId,
        to: MsgId,
    ) -> Stored<'_, u32> {
        Box::pin(
            self.reads
                .run(move |connection| history::count_own(connection, id, sender, (from, to))),
        )
    }

    fn conversations_of(&self, user: UserId) -> Stored<'_, Vec<UserConversation>> {
        Box::pin(self.reads.run(move |connection| history::conversations_of(connection, user)))
    }

    fn groups_joined(&self, users: Vec<UserId>) -> Stored<'_, Vec<(UserId, u32)>> {
        Box::pin(self.reads.run(move |connection| history::groups_joined(connection, &users)))
    }

    fn groups(&self, after: u32, count: usize) -> Stored<'_, Vec<(ConversationRow, u32)>> {
        Box::pin(self.reads.run(move |connection| history::groups(connection, after, count)))
    }
}

impl ConsumerStore for SqliteStore {
    fn consumers(&self) -> Stored<'_, Vec<ConsumerRow>> {
        Box::pin(self.reads.run(|connection| consumers::all(connection)))
    }

    fn move_consumer(
        &self,
        epoch: u64,
        name: String,
        from: Option<ConsumerCursor>,
        to: ConsumerCursor,
    ) -> Stored<'_, bool> {
        // What is lost of this in a power cut is handled once more.
        Box::pin(
            self.batches
                .run(move |connection| consumers::move_to(connection, epoch, &name, from, to)),
        )
    }

    fn forget_consumer(&self, name: String) -> Stored<'_, bool> {
        Box::pin(self.records.run(move |connection| consumers::forget(connection, &name)))
    }

    fn numbers(&self, records: Vec<MessageRecord>) -> Stored<'_, Vec<(Offset, MsgId)>> {
        Box::pin(self.reads.run(move |connection| consumers::numbers(connection, &records)))
    }
}

impl UserStore for SqliteStore {
    fn user_by_name(&self, name: String) -> Stored<'_, Option<UserRow>> {
        Box::pin(self.reads.run(move |connection| people::user_by_name(connection, &name)))
    }

    fn users(&self, ids: Vec<UserId>) -> Stored<'_, Vec<UserRow>> {
        Box::pin(self.reads.run(move |connection| people::users(connection, &ids)))
    }

    fn users_since(&self, since: Since, count: usize) -> Stored<'_, (Vec<UserRow>, u32)> {
        Box::pin(self.reads.run(move |connection| people::users_since(connection, since, count)))
    }

    fn users_by_name(&self, after: String, count: usize) -> Stored<'_, Vec<UserRow>> {
        Box::pin(self.reads.run(move |connection| people::users_by_name(connection, &after, count)))
    }

    fn add_users(&self, users: Vec<NewUser>, skip_existing: bool) -> Stored<'_, Vec<UserId>> {
        Box::pin(
            self.records
                .run(move |connection| people::add_users(connection, &users, skip_existing)),
        )
    }

    fn change_user(&self, user: UserId, change: UserChange) -> Stored<'_, ()> {
        Box::pin(self.records.run(move |connection| people::change_user(connection, user, &change)))
    }

    fn departments_since(
        &self,
        since: Since,
        count: usize,
    ) -> Stored<'_, (Vec<DepartmentRow>, u32)> {
        Box::pin(
            self.reads.run(move |connection| people::departments_since(connection, since, count)),
        )
    }

    fn set_device_token(
        &self,
        user: UserId,
        client_type: u32,
        token: Option<String>,
    ) -> Stored<'_, ()> {
        Box::pin(self.records.run(move |connection| {
            people::set_device_token(connection, user, client_type, token.as_deref())
        }))
    }

    fn allocate_group(&self, wanted: Option<GroupId>) -> Stored<'_, GroupId> {
        Box::pin(self.records.run(move |connection| people::allocate_group(connection, wanted)))
    }
}

impl TokenStore for SqliteStore {
    fn add_family(&self, family: NewFamily) -> Stored<'_, bool> {
        Box::pin(self.records.run(move |connection| tokens::add_family(connection, &family)))
    }

    fn family(&self, id: FamilyId) -> Stored<'_, Option<FamilyRow>> {
        Box::pin(self.reads.run(move |connection| tokens::family(connection, id)))
    }

    fn change_family(&self, from: FamilyRow, to: FamilyRow) -> Stored<'_, bool> {
        Box::pin(self.records.run(move |connection| tokens::change_family(connection, &from, &to)))
    }

    fn revoke_tokens(
        &self,
        user: UserId,
        family: Option<FamilyId>,
        forget_before_s: u64,
    ) -> Stored<'_, ()> {
        Box::pin(
            self.records
                .run(move |connection| tokens::revoke(connection, user, family, forget_before_s)),
        )
    }

    fn newest_revocation(&self) -> Stored<'_, u32> {
        Box::pin(self.reads.run(|connection| tokens::newest_revocation(connection)))
    }

    fn revocations_after(&self, after: u32, count: usize) -> Stored<'_, Vec<Revocation>> {
        Box::pin(
            self.reads.run(move |connection| tokens::revocations_after(connection, after, count)),
        )
    }

    fn add_ticket(
        &self,
        ticket: TicketRow,
        family: Option<FamilyId>,
        now_s: u64,
    ) -> Stored<'_, bool> {
        Box::pin(
            self.records
                .run(move |connection| tokens::add_ticket(connection, ticket, family, now_s)),
        )
    }

    fn take_ticket(&self, hash: SecretHash) -> Stored<'_, Option<TicketRow>> {
        Box::pin(self.records.run(move |connection| tokens::take_ticket(connection, hash)))
    }
}

impl KeyStore for SqliteStore {
    fn add_key(&self, key: ApiKeyRow) -> Stored<'_, bool> {
        Box::pin(self.records.run(move |connection| keys::add(connection, &key)))
    }

    fn key(&self, id: ApiKeyId) -> Stored<'_, Option<ApiKeyRow>> {
        Box::pin(self.reads.run(move |connection| keys::one(connection, id)))
    }

    fn keys(&self) -> Stored<'_, Vec<ApiKeyRow>> {
        Box::pin(self.reads.run(|connection| keys::all(connection)))
    }

    fn use_key(&self, id: ApiKeyId, used_s: u64) -> Stored<'_, ()> {
        Box::pin(self.records.run(move |connection| keys::used(connection, id, used_s)))
    }

    fn forget_key(&self, name: String) -> Stored<'_, bool> {
        Box::pin(self.records.run(move |connection| keys::forget(connection, &name)))
    }
}

impl WebhookStore for SqliteStore {
    fn add_webhook(&self, row: WebhookRow) -> Stored<'_, Option<u32>> {
        Box::pin(self.records.run(move |connection| webhooks::add(connection, &row)))
    }

    fn webhooks(&self) -> Stored<'_, Vec<WebhookRow>> {
        Box::pin(self.reads.run(|connection| webhooks::all(connection)))
    }

    fn change_webhook(&self, version: u64, row: WebhookRow) -> Stored<'_, bool> {
        Box::pin(self.records.run(move |connection| webhooks::change(connection, version, &row)))
    }

    fn forget_webhook(&self, number: u32) -> Stored<'_, bool> {
        Box::pin(self.records.run(move |connection| webhooks::forget(connection, number)))
    }

    fn give_up(&self, webhook: u32, failure: WebhookFailureRow, keep: u32) -> Stored<'_, bool> {
        let note = move |connection: &mut _| webhooks::give_up(connection, webhook, &failure, keep);
        Box::pin(self.records.run(note))
    }

    fn webhook_failures(
        &self,
        webhook: u32,
        before: u64,
        count: u32,
    ) -> Stored<'_, Vec<WebhookFailureRow>> {
        let read = move |connection: &mut _| webhooks::failures(connection, webhook, before, count);
        Box::pin(self.reads.run(read))
    }
}
