//! What the fold reads and writes: rows as the store keeps them.

use bytes::Bytes;
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, UserId};

/// A message as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRow {
    /// Where it belongs.
    pub conversation: ConversationId,
    /// Its place there.
    pub msg_id: MsgId,
    /// Its author.
    pub sender: UserId,
    /// The author's id for it.
    pub client_msg_id: ClientMsgId,
    /// Its record in the log.
    pub offset: Offset,
    /// Unix milliseconds of that record.
    pub timestamp_ms: u64,
    /// The client protocol's message type.
    pub kind: u32,
    /// What the client sent.
    pub body: Bytes,
}

/// A message whose body a hook has changed before it was admitted. A repeat of it comes with the body that
/// its sender sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedRow {
    /// Where it belongs.
    pub conversation: ConversationId,
    /// Its place there.
    pub msg_id: MsgId,
    /// The checksum of its type and of the body that was sent: [`content_crc`](crate::window::content_crc).
    pub sent_crc: u32,
}

/// A message that was looked for by its sender's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundMessage {
    /// The message.
    pub row: MessageRow,
    /// The checksum of what was sent, if a hook has changed it.
    pub sent_crc: Option<u32>,
}

/// A conversation's own row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationRow {
    /// Which conversation.
    pub id: ConversationId,
    /// The highest msg_id; 0 while there is no message.
    pub head: MsgId,
    /// The last record that was published: a message or a change of members.
    pub last_offset: Offset,
    /// When the newest message was written, Unix milliseconds; 0 while there is none.
    pub last_message_ms: u64,
    /// What a group has besides.
    pub group: Option<GroupRow>,
}

/// What a group has besides its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRow {
    /// Name to show.
    pub name: String,
    /// Avatar location, may be empty.
    pub avatar: String,
    /// Who made it.
    pub creator: UserId,
    /// 1 normal (made by administrators), 2 temporary (made by users).
    pub kind: u32,
    /// Version of the member list: 1 at creation, one more with each change.
    pub version: u32,
    /// All members have left, and none can be added afterwards.
    pub deleted: bool,
}

/// One user's membership of a group, past or present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberRow {
    /// Which group.
    pub group: GroupId,
    /// Who.
    pub user: UserId,
    /// The first message the member may see.
    pub join: MsgId,
    /// The last one, once no longer a member; `None` while a member.
    pub leave: Option<MsgId>,
}

/// What one user did in one conversation: only where there is something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkRow {
    /// Which conversation.
    pub conversation: ConversationId,
    /// Whose mark.
    pub user: UserId,
    /// Everything up to this was read.
    pub read: MsgId,
    /// How many of the messages up to `read` are the user's own.
    pub own_up_to_read: u32,
    /// How many of all messages are the user's own.
    pub own_total: u32,
    /// The session was removed from the user's list when the head was this; 0 = never.
    pub removed_at: MsgId,
    /// The user wants no push notification for it.
    pub shield: bool,
}

/// Everything the fold needs to know of one conversation, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct StoredConversation {
    /// Its row; `None` if nothing was ever recorded for it.
    pub row: Option<ConversationRow>,
    /// Members, past ones included.
    pub members: Vec<MemberRow>,
    /// Marks.
    pub marks: Vec<MarkRow>,
    /// The newest messages, oldest first; at most as many as asked for.
    pub recent: Vec<MessageRow>,
    /// Whether both users of a single conversation exist.
    pub peers_exist: bool,
    /// The epoch of the partition when this was read, in the same snapshot.
    pub epoch: u64,
}

/// One conversation of one user, as the user's lists show it.
#[derive(Debug, Clone)]
pub struct UserConversation {
    /// The conversation.
    pub row: ConversationRow,
    /// The user's membership, if it is a group's.
    pub member: Option<MemberRow>,
    /// The user's mark, if there is one.
    pub mark: Option<MarkRow>,
}

/// What the store worker writes in one transaction.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The last record this batch covers, its fingerprint, and the fold's rules after it.
    pub applied: Offset,
    /// The fingerprint of that record.
    pub applied_crc: u32,
    /// The fold's rules in force after it.
    pub fold_version: u32,
    /// New messages, in the order of the log.
    pub messages: Vec<MessageRow>,
    /// Those of them whose body a hook has changed.
    pub changed: Vec<ChangedRow>,
    /// The final state of every conversation that changed.
    pub conversations: Vec<ConversationRow>,
    /// The final state of every membership that changed.
    pub members: Vec<MemberRow>,
    /// The final state of every mark that changed.
    pub marks: Vec<MarkRow>,
    /// Records that could not be parsed, kept for inspection: offset and payload.
    pub unreadable: Vec<(Offset, Bytes)>,
}
