//! What is kept for good: conversations, messages, members, marks; users, departments, devices.
//!
//! One trait, so that the embedded database and a server can take each other's place. The fold side
//! (everything a conversation owns) is written only by the store worker, in batches, together with
//! `progress`; the login side (users, departments, device tokens) is written directly.
//!
//! # Invariants
//!
//! - The store obeys the fold: it never refuses or renumbers a message.
//! - A batch and the `progress` it reaches become visible together or not at all.
//! - A batch is taken only from the owner of the current epoch, and only if it continues exactly
//!   where the last one ended.
//! - `(conversation, msg_id)` is the key. The same key with other content is a broken fold and ends
//!   the process.

use proto::client::UserInfo;
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, UserId};
use proto::record::LogId;

use self::keys::KeyStore;
use self::tokens::TokenStore;
use self::webhooks::WebhookStore;

#[cfg(test)]
mod conformance;
mod consumers;
mod error;
pub mod keys;
mod metrics;
#[cfg(feature = "mysql")]
pub mod mysql;
mod rules;
pub mod sqlite;
pub mod table;
#[cfg(any(test, feature = "testing"))]
#[expect(
    missing_docs,
    clippy::unwrap_used,
    reason = "only tests use it, and its names say what it is"
)]
pub mod test;
pub mod tokens;
pub mod webhooks;

pub use self::consumers::{ConsumerCursor, ConsumerRow, ConsumerStore, MessageRecord};
pub use self::error::{StoreError, Stored};
pub use self::metrics::ReplicaMetrics;
pub use fold::rows::{
    Batch, ChangedRow, ConversationRow, FoundMessage, GroupRow, MarkRow, MemberRow, MessageRow,
    StoredConversation, UserConversation,
};

/// How far the store has applied a partition's log, and in which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Grows by one with each change of owner.
    pub epoch: u64,
    /// Everything up to and including this record is stored.
    pub applied: Offset,
    /// The fingerprint of that record (0 while `applied` is 0).
    pub applied_crc: u32,
    /// The fold's rules in force after that record.
    pub fold_version: u32,
}

/// The db_proxy that has taken a partition, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Whose progress it is.
    pub log: LogId,
    /// The owner of the current epoch.
    pub owner: String,
    /// How far it is.
    pub progress: Progress,
}

/// A user as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Number.
    pub id: UserId,
    /// Login name, unique.
    pub name: String,
    /// Argon2id PHC string over the MD5 hex digits that clients send.
    pub password_hash: String,
    /// Display name.
    pub nick: String,
    /// 1 male, 2 female, 0 other.
    pub gender: u32,
    /// Avatar location, may be empty.
    pub avatar: String,
    /// Department number.
    pub department: u32,
    /// Mail address, may be empty.
    pub email: String,
    /// Phone, may be empty.
    pub tel: String,
    /// Latin alias that clients sort and search by.
    pub domain: String,
    /// 0 employed, 1 probation, 2 regular, 3 left, 4 intern. Only 0 may log in.
    pub status: u32,
    /// Signature line, at most 128 bytes.
    pub sign: String,
    /// Rises with every change of any user; clients ask for what changed since.
    pub stamp: u32,
    /// No push at night.
    pub push_shield: bool,
}

impl UserRow {
    /// The status of a user who may log in.
    pub const EMPLOYED: u32 = 0;

    /// The status of a user who has left: hidden from lists, may not log in.
    pub const LEFT: u32 = 3;

    /// The record of a user as clients get it.
    pub fn into_info(self) -> UserInfo {
        UserInfo {
            user_id: self.id.0,
            gender: self.gender,
            nick_name: self.nick,
            avatar_url: self.avatar,
            department_id: self.department,
            email: self.email,
            real_name: self.name,
            phone: self.tel,
            latin_name: self.domain,
            employment: self.status,
            signature: Some(self.sign),
        }
    }
}

/// A user to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// Asked-for number; `None` = the next free one.
    pub id: Option<UserId>,
    /// Login name.
    pub name: String,
    /// Display name.
    pub nick: String,
    /// Argon2id PHC string.
    pub password_hash: String,
    /// Department number.
    pub department: u32,
}

/// A department.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepartmentRow {
    /// Number.
    pub id: u32,
    /// Sort order.
    pub priority: u32,
    /// Name.
    pub name: String,
    /// The department above; 0 = root.
    pub parent: u32,
    /// 0 in use, 1 deleted.
    pub status: u32,
    /// Rises with every change of any department.
    pub stamp: u32,
}

/// A place in a list that is ordered by stamp, then by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Since {
    /// The stamp.
    pub stamp: u32,
    /// The least number that counts among those of this stamp.
    pub id: u32,
}

impl Since {
    /// Everything with this stamp or a later one.
    pub const fn stamp(stamp: u32) -> Self {
        Self { stamp, id: 0 }
    }
}

/// One change to a user's record, made by the user or an administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserChange {
    /// A new password hash.
    Password(String),
    /// The same password, hashed anew, if the stored hash is still `from`. It is no change that others
    /// could see: the stamp stays.
    Rehash {
        /// The hash as it was read.
        from: String,
        /// The new one.
        to: String,
    },
    /// A new employment status; 3 = left (may not log in, hidden from lists).
    Status(u32),
    /// A new signature line.
    Sign(String),
    /// A new avatar location.
    Avatar(String),
    /// No push at night, or again.
    PushShield(bool),
}

impl UserChange {
    /// Whether the user must log in with a password afterwards.
    pub(crate) fn ends_tokens(&self) -> bool {
        matches!(self, Self::Password(_) | Self::Status(_))
    }
}

/// The fold's side: written by the owner of the partition only.
pub trait ConversationStore: Send + Sync {
    /// Takes over the partition for `owner`: raises the epoch by one, registers `log` if none is
    /// registered yet, and refuses another log.
    fn claim(&self, owner: String, log: LogId) -> Stored<'_, Progress>;

    /// Writes one batch. `epoch` and `after` must be those of `progress`, else `Fenced`.
    fn commit(&self, epoch: u64, after: Offset, batch: Batch) -> Stored<'_, ()>;

    /// The progress that survives a power cut now: what the log may be trimmed to. Flushes what a
    /// commit has left unflushed.
    fn flushed_progress(&self) -> Stored<'_, Offset>;

    /// Everything about one conversation in one snapshot, with its newest `recent` messages.
    fn conversation(&self, id: ConversationId, recent: usize) -> Stored<'_, StoredConversation>;

    /// Messages `from..=to`, newest first, at most `count`.
    fn messages(
        &self,
        id: ConversationId,
        from: MsgId,
        to: MsgId,
        count: usize,
    ) -> Stored<'_, Vec<MessageRow>>;

    /// These messages, those that exist, in no order.
    fn messages_at(&self, places: Vec<(ConversationId, MsgId)>) -> Stored<'_, Vec<MessageRow>>;

    /// The first message that a sender gave this id, if one was stored.
    fn find_message(
        &self,
        sender: UserId,
        client_msg_id: ClientMsgId,
    ) -> Stored<'_, Option<FoundMessage>>;

    /// How many of the messages `from..=to` are by `sender`.
    fn count_own(
        &self,
        id: ConversationId,
        sender: UserId,
        from: MsgId,
        to: MsgId,
    ) -> Stored<'_, u32>;

    /// Every conversation of a user: singles with a message, groups they are or were a member of. Several
    /// partitions that are in one database and are asked together are read at once.
    fn conversations_of(&self, user: UserId) -> Stored<'_, Vec<UserConversation>>;

    /// How many groups each of these users is in now; those who are in none are left out.
    fn groups_joined(&self, users: Vec<UserId>) -> Stored<'_, Vec<(UserId, u32)>>;

    /// Groups that are not deleted, with a number above `after`, at most `count`, and how many members each has.
    fn groups(&self, after: u32, count: usize) -> Stored<'_, Vec<(ConversationRow, u32)>>;
}

/// The login side: written directly.
pub trait UserStore: Send + Sync {
    /// The user of this login name.
    fn user_by_name(&self, name: String) -> Stored<'_, Option<UserRow>>;

    /// The users of these numbers, those that exist.
    fn users(&self, ids: Vec<UserId>) -> Stored<'_, Vec<UserRow>>;

    /// Users at or after `since`, ordered by stamp and number, at most `count`; and the newest
    /// stamp of all users.
    fn users_since(&self, since: Since, count: usize) -> Stored<'_, (Vec<UserRow>, u32)>;

    /// Users with a name after `after`, ordered by name, at most `count`.
    fn users_by_name(&self, after: String, count: usize) -> Stored<'_, Vec<UserRow>>;

    /// Makes users in one transaction. With `skip_existing`, those whose name exists stay as they
    /// are; else the first taken name or number refuses all. Returns the ids made. The stamp rises
    /// at least once every 256 users.
    fn add_users(&self, users: Vec<NewUser>, skip_existing: bool) -> Stored<'_, Vec<UserId>>;

    /// Changes one user's record and raises the stamp of users.
    fn change_user(&self, user: UserId, change: UserChange) -> Stored<'_, ()>;

    /// Departments at or after `since`, ordered by stamp and number, at most `count`; and the newest
    /// stamp of all.
    fn departments_since(
        &self,
        since: Since,
        count: usize,
    ) -> Stored<'_, (Vec<DepartmentRow>, u32)>;

    /// Sets the push token of a user's phone, or forgets it.
    fn set_device_token(
        &self,
        user: UserId,
        client_type: u32,
        token: Option<String>,
    ) -> Stored<'_, ()>;

    /// Gives out a group number, never the same twice. With `wanted`, that one, or `Taken`.
    fn allocate_group(&self, wanted: Option<GroupId>) -> Stored<'_, GroupId>;
}

/// All sides.
pub trait Store:
    ConversationStore
    + ConsumerStore
    + UserStore
    + TokenStore
    + KeyStore
    + WebhookStore
    + std::fmt::Debug
{
}

impl<T> Store for T where
    T: ConversationStore
        + ConsumerStore
        + UserStore
        + TokenStore
        + KeyStore
        + WebhookStore
        + std::fmt::Debug
{
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_a_user_without_the_password_and_each_field_in_its_place() {
        let user = UserRow {
            id: UserId(1),
            name: "alice".to_owned(),
            password_hash: "$argon2id$secret".to_owned(),
            nick: "Alice".to_owned(),
            gender: 2,
            avatar: "a.png".to_owned(),
            department: 3,
            email: "a@example.com".to_owned(),
            tel: "0123".to_owned(),
            domain: "latin".to_owned(),
            status: 4,
            sign: "away".to_owned(),
            stamp: 5,
            push_shield: true,
        };
        let expected = UserInfo {
            user_id: 1,
            gender: 2,
            nick_name: "Alice".to_owned(),
            avatar_url: "a.png".to_owned(),
            department_id: 3,
            email: "a@example.com".to_owned(),
            real_name: "alice".to_owned(),
            phone: "0123".to_owned(),
            latin_name: "latin".to_owned(),
            employment: 4,
            signature: Some("away".to_owned()),
        };
        let info = user.into_info();
        assert_eq!(info, expected);
        assert!(!format!("{info:?}").contains("secret"));
    }

    #[test]
    fn only_what_a_login_rests_on_ends_the_logins_of_a_user() {
        let text = String::new;
        for (change, ends) in [
            (UserChange::Password(text()), true),
            (UserChange::Status(UserRow::EMPLOYED), true),
            (UserChange::Status(UserRow::LEFT), true),
            (UserChange::Rehash { from: text(), to: text() }, false),
            (UserChange::Sign(text()), false),
            (UserChange::Avatar(text()), false),
            (UserChange::PushShield(true), false),
        ] {
            assert_eq!(change.ends_tokens(), ends, "{change:?}");
        }
    }

    #[test]
    fn a_place_in_a_list_is_before_another_by_stamp_first() {
        let at = |stamp, id| Since { stamp, id };
        assert_eq!(Since::default(), at(0, 0));
        assert_eq!(Since::stamp(7), at(7, 0));
        assert!(at(7, 9) < at(8, 0) && at(7, 1) < at(7, 2));
    }
}
