//! A store that answers when the test lets it.

use parking_lot::Mutex;
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, UserId};
use proto::record::LogId;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::PATIENCE;
use crate::keys::{ApiKeyId, ApiKeyRow, KeyStore};
use crate::sqlite::SqliteStore;
use crate::tokens::{
    FamilyId, FamilyRow, NewFamily, Revocation, SecretHash, TicketRow, TokenStore,
};
use crate::webhooks::{WebhookFailureRow, WebhookRow, WebhookStore};
use crate::{
    Batch, ConsumerCursor, ConsumerRow, ConsumerStore, ConversationRow, ConversationStore,
    DepartmentRow, FoundMessage, MessageRecord, MessageRow, NewUser, Progress, Since, StoreError,
    Stored, StoredConversation, UserChange, UserConversation, UserRow, UserStore,
};

/// Whether calls get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// They do.
    Open,
    /// One does, and shuts it.
    One,
    /// They wait.
    Closed,
    /// They fail.
    Away,
}

/// A store behind two gates: one for batches, one for what is read of conversations.
#[derive(Debug)]
pub struct GatedStore {
    store: SqliteStore,
    pub commits: watch::Sender<Gate>,
    pub reads: watch::Sender<Gate>,
    /// How many reads have come to their gate.
    pub asked: watch::Sender<u32>,
    /// How often it was asked what it has flushed.
    pub flushes: watch::Sender<u32>,
    /// What the next read of a conversation waits for before it tells what it has read.
    held: Mutex<Option<oneshot::Receiver<()>>>,
}

impl GatedStore {
    pub fn new(store: SqliteStore) -> Self {
        let gate = || watch::Sender::new(Gate::Open);
        let (asked, held) = (watch::Sender::new(0), Mutex::default());
        let flushes = watch::Sender::new(0);
        Self { store, commits: gate(), reads: gate(), asked, flushes, held }
    }

    /// Keeps what the next read of a conversation has read until the sender is used or dropped.
    pub fn hold_next(&self) -> oneshot::Sender<()> {
        let (release, held) = oneshot::channel();
        *self.held.lock() = Some(held);
        release
    }

    /// Waits until so many reads have come to their gate.
    pub async fn was_asked(&self, times: u32) {
        let mut asked = self.asked.subscribe();
        let waiting = asked.wait_for(|asked| *asked >= times);
        drop(timeout(PATIENCE, waiting).await.expect("it is asked in time").unwrap());
    }

    async fn read(&self) -> Result<(), StoreError> {
        self.asked.send_modify(|asked| *asked += 1);
        pass(&self.reads).await
    }
}

async fn pass(gate: &watch::Sender<Gate>) -> Result<(), StoreError> {
    let mut changes = gate.subscribe();
    let opened = changes.wait_for(|gate| *gate != Gate::Closed).await.map(|gate| *gate);
    match opened {
        Ok(Gate::Open) => Ok(()),
        Ok(Gate::One) => {
            gate.send_replace(Gate::Closed);
            Ok(())
        }
        _ => Err(StoreError::Unavailable("the test says so".to_owned())),
    }
}

impl ConversationStore for GatedStore {
    fn claim(&self, owner: String, log: LogId) -> Stored<'_, Progress> {
        self.store.claim(owner, log)
    }

    fn commit(&self, epoch: u64, after: Offset, batch: Batch) -> Stored<'_, ()> {
        Box::pin(async move {
            pass(&self.commits).await?;
            self.store.commit(epoch, after, batch).await
        })
    }

    fn flushed_progress(&self) -> Stored<'_, Offset> {
        self.flushes.send_modify(|flushes| *flushes += 1);
        self.store.flushed_progress()
    }

    fn conversation(&self, id: ConversationId, recent: usize) -> Stored<'_, StoredConversation> {
        Box::pin(async move {
            let Some(held) = self.held.lock().take() else {
                self.read().await?;
                return self.store.conversation(id, recent).await;
            };
            let read = self.store.conversation(id, recent).await;
            self.read().await?;
            if held.await.is_err() {
                // Dropped: go on too.
            }
            read
        })
    }

    fn messages(
        &self,
        id: ConversationId,
        from: MsgId,
        to: MsgId,
        count: usize,
    ) -> Stored<'_, Vec<MessageRow>> {
        self.store.messages(id, from, to, count)
    }

    fn messages_at(&self, places: Vec<(ConversationId, MsgId)>) -> Stored<'_, Vec<MessageRow>> {
        self.store.messages_at(places)
    }

    fn find_message(
        &self,
        sender: UserId,
        client_msg_id: ClientMsgId,
    ) -> Stored<'_, Option<FoundMessage>> {
        Box::pin(async move {
            self.read().await?;
            self.store.find_message(sender, client_msg_id).await
        })
    }

    fn count_own(
        &self,
        id: ConversationId,
        sender: UserId,
        from: MsgId,
        to: MsgId,
    ) -> Stored<'_, u32> {
        Box::pin(async move {
            self.read().await?;
            self.store.count_own(id, sender, from, to).await
        })
    }

    fn conversations_of(&self, user: UserId) -> Stored<'_, Vec<UserConversation>> {
        Box::pin(async move {
            self.read().await?;
            self.store.conversations_of(user).await
        })
    }

    fn groups_joined(&self, users: Vec<UserId>) -> Stored<'_, Vec<(UserId, u32)>> {
        self.store.groups_joined(users)
    }

    fn groups(&self, after: u32, count: usize) -> Stored<'_, Vec<(ConversationRow, u32)>> {
        self.store.groups(after, count)
    }
}

impl ConsumerStore for GatedStore {
    fn consumers(&self) -> Stored<'_, Vec<ConsumerRow>> {
        Box::pin(async move {
            self.read().await?;
            self.store.consumers().await
        })
    }

    fn move_consumer(
        &self,
        epoch: u64,
        name: String,
        from: Option<ConsumerCursor>,
        to: ConsumerCursor,
    ) -> Stored<'_, bool> {
        Box::pin(async move {
            pass(&self.commits).await?;
            self.store.move_consumer(epoch, name, from, to).await
        })
    }

    fn forget_consumer(&self, name: String) -> Stored<'_, bool> {
        self.store.forget_consumer(name)
    }

    fn numbers(&self, records: Vec<MessageRecord>) -> Stored<'_, Vec<(Offset, MsgId)>> {
        Box::pin(async move {
            self.read().await?;
            self.store.numbers(records).await
        })
    }
}

impl TokenStore for GatedStore {
    fn add_family(&self, family: NewFamily) -> Stored<'_, bool> {
        Box::pin(async move {
            self.read().await?;
            self.store.add_family(family).await
        })
    }

    fn family(&self, id: FamilyId) -> Stored<'_, Option<FamilyRow>> {
        Box::pin(async move {
            self.read().await?;
            self.store.family(id).await
        })
    }

    fn change_family(&self, from: FamilyRow, to: FamilyRow) -> Stored<'_, bool> {
        Box::pin(async move {
            self.read().await?;
            self.store.change_family(from, to).await
        })
    }

    fn revoke_tokens(
        &self,
        user: UserId,
        family: Option<FamilyId>,
        forget_before_s: u64,
    ) -> Stored<'_, ()> {
        Box::pin(async move {
            pass(&self.commits).await?;
            self.store.revoke_tokens(user, family, forget_before_s).await
        })
    }

    fn newest_revocation(&self) -> Stored<'_, u32> {
        Box::pin(async move {
            self.read().await?;
            self.store.newest_revocation().await
        })
    }

    fn revocations_after(&self, after: u32, count: usize) -> Stored<'_, Vec<Revocation>> {
        Box::pin(async move {
            self.read().await?;
            self.store.revocations_after(after, count).await
        })
    }

    fn add_ticket(
        &self,
        ticket: TicketRow,
        family: Option<FamilyId>,
        now_s: u64,
    ) -> Stored<'_, bool> {
        Box::pin(async move {
            self.read().await?;
            self.store.add_ticket(ticket, family, now_s).await
        })
    }

    fn take_ticket(&self, hash: SecretHash) -> Stored<'_, Option<TicketRow>> {
        Box::pin(async move {
            self.read().await?;
            self.store.take_ticket(hash).await
        })
    }
}

impl WebhookStore for GatedStore {
    fn add_webhook(&self, row: WebhookRow) -> Stored<'_, Option<u32>> {
        Box::pin(async move {
            pass(&self.commits).await?;
            self.store.add_webhook(row).await
        })
    }

    fn webhooks(&self) -> Stored<'_, Vec<WebhookRow>> {
        Box::pin(async move {
            self.read().await?;
            self.store.webhooks().await
        })
    }

    fn change_webhook(&self, version: u64, row: WebhookRow) -> Stored<'_, bool> {
        Box::pin(async move {
            pass(&self.commits).await?;
            self.store.change_webhook(version, row).await
        })
    }

    fn forget_webhook(&self, number: u32) -> Stored<'_, bool> {
        Box::pin(async move {
            pass(&self.commits).await?;
            self.store.forget_webhook(number).await
        })
    }

    fn give_up(&self, webhook: u32, failure: WebhookFailureRow, keep: u32) -> Stored<'_, bool> {
        Box::pin(async move {
            pass(&self.commits).await?;
            self.store.give_up(webhook, failure, keep).await
        })
    }

    fn webhook_failures(
        &self,
        webhook: u32,
        before: u64,
        count: u32,
    ) -> Stored<'_, Vec<WebhookFailureRow>> {
        Box::pin(async move {
            self.read().await?;
            self.store.webhook_failures(webhook, before, count).await
        })
    }
}

impl KeyStore for GatedStore {
    fn add_key(&self, key: ApiKeyRow) -> Stored<'_, bool> {
        Box::pin(async move {
            pass(&self.commits).await?;
            self.store.add_key(key).await
        })
    }

    fn key(&self, id: ApiKeyId) -> Stored<'_, Option<ApiKeyRow>> {
        Box::pin(async move {
            self.read().await?;
            self.store.key(id).await
        })
    }

    fn keys(&self) -> Stored<'_, Vec<ApiKeyRow>> {
        Box::pin(async move {
            self.read().await?;
            self.store.keys().await
        })
    }

    fn use_key(&self, id: ApiKeyId, used_s: u64) -> Stored<'_, ()> {
        self.store.use_key(id, used_s)
    }

    fn forget_key(&self, name: String) -> Stored<'_, bool> {
        Box::pin(async move {
            pass(&self.commits).await?;
            self.store.forget_key(name).await
        })
    }
}

impl UserStore for GatedStore {
    fn user_by_name(&self, name: String) -> Stored<'_, Option<UserRow>> {
        Box::pin(async move {
            self.read().await?;
            self.store.user_by_name(name).await
        })
    }

    fn users(&self, ids: Vec<UserId>) -> Stored<'_, Vec<UserRow>> {
        self.store.users(ids)
    }

    fn users_since(&self, since: Since, count: usize) -> Stored<'_, (Vec<UserRow>, u32)> {
        self.store.users_since(since, count)
    }

    fn users_by_name(&self, after: String, count: usize) -> Stored<'_, Vec<UserRow>> {
        self.store.users_by_name(after, count)
    }

    fn add_users(&self, users: Vec<NewUser>, skip_existing: bool) -> Stored<'_, Vec<UserId>> {
        self.store.add_users(users, skip_existing)
    }

    fn change_user(&self, user: UserId, change: UserChange) -> Stored<'_, ()> {
        self.store.change_user(user, change)
    }

    fn departments_since(
        &self,
        since: Since,
        count: usize,
    ) -> Stored<'_, (Vec<DepartmentRow>, u32)> {
        self.store.departments_since(since, count)
    }

    fn set_device_token(
        &self,
        user: UserId,
        client_type: u32,
        token: Option<String>,
    ) -> Stored<'_, ()> {
        self.store.set_device_token(user, client_type, token)
    }

    fn allocate_group(&self, wanted: Option<GroupId>) -> Stored<'_, GroupId> {
        self.store.allocate_group(wanted)
    }
}
