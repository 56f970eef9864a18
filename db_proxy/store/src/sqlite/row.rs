//! Between columns and rows of ours.
//!
//! SQLite has signed numbers only. 64-bit numbers are kept bit by bit, so that none is refused;
//! ranges of conversation ids stay ranges, since the sign is in the lower user's half.

use bytes::Bytes;
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, UserId};
use rusqlite::{Error, Result, Row};

use crate::{ConversationRow, DepartmentRow, GroupRow, MarkRow, MemberRow, MessageRow, UserRow};

/// Reads `conversation, msg_id, sender, client_msg_id, log_offset, timestamp_ms, kind, body`.
pub(super) fn message(row: &Row<'_>) -> Result<MessageRow> {
    Ok(MessageRow {
        conversation: conversation_id(row, 0)?,
        msg_id: MsgId(row.get(1)?),
        sender: UserId(row.get(2)?),
        client_msg_id: ClientMsgId(row.get(3)?),
        offset: Offset(number(row, 4)?),
        timestamp_ms: number(row, 5)?,
        kind: row.get(6)?,
        body: Bytes::copy_from_slice(row.get_ref(7)?.as_blob()?),
    })
}

/// Reads `id, head, last_offset, last_message_ms`, then `group_name, group_avatar, group_creator,
/// group_kind, group_version, group_deleted`.
pub(super) fn conversation(row: &Row<'_>) -> Result<ConversationRow> {
    Ok(ConversationRow {
        id: conversation_id(row, 0)?,
        head: MsgId(row.get(1)?),
        last_offset: Offset(number(row, 2)?),
        last_message_ms: number(row, 3)?,
        group: row.get::<_, Option<String>>(4)?.map(|name| group(row, name)).transpose()?,
    })
}

fn group(row: &Row<'_>, name: String) -> Result<GroupRow> {
    Ok(GroupRow {
        name,
        avatar: row.get(5)?,
        creator: UserId(row.get(6)?),
        kind: row.get(7)?,
        version: row.get(8)?,
        deleted: row.get::<_, Option<bool>>(9)?.unwrap_or(false),
    })
}

/// Reads `group_id, user_id, join_msg_id, leave_msg_id` from column `at` on.
pub(super) fn member(row: &Row<'_>, at: usize) -> Result<MemberRow> {
    Ok(MemberRow {
        group: GroupId(row.get(at)?),
        user: UserId(row.get(at + 1)?),
        join: MsgId(row.get(at + 2)?),
        leave: row.get::<_, Option<u32>>(at + 3)?.map(MsgId),
    })
}

/// Reads `conversation, user_id, read_msg_id, own_up_to_read, own_total, removed_at, shield` from
/// column `at` on.
pub(super) fn mark(row: &Row<'_>, at: usize) -> Result<MarkRow> {
    Ok(MarkRow {
        conversation: conversation_id(row, at)?,
        user: UserId(row.get(at + 1)?),
        read: MsgId(row.get(at + 2)?),
        own_up_to_read: row.get(at + 3)?,
        own_total: row.get(at + 4)?,
        removed_at: MsgId(row.get(at + 5)?),
        shield: row.get(at + 6)?,
    })
}

/// Reads the columns of `user` in the order of the table.
pub(super) fn user(row: &Row<'_>) -> Result<UserRow> {
    Ok(UserRow {
        id: UserId(row.get(0)?),
        name: row.get(1)?,
        password_hash: row.get(2)?,
        nick: row.get(3)?,
        gender: row.get(4)?,
        avatar: row.get(5)?,
        department: row.get(6)?,
        email: row.get(7)?,
        tel: row.get(8)?,
        domain: row.get(9)?,
        status: row.get(10)?,
        sign: row.get(11)?,
        stamp: row.get(12)?,
        push_shield: row.get(13)?,
    })
}

/// Reads `id, priority, name, parent, status, stamp`.
pub(super) fn department(row: &Row<'_>) -> Result<DepartmentRow> {
    Ok(DepartmentRow {
        id: row.get(0)?,
        priority: row.get(1)?,
        name: row.get(2)?,
        parent: row.get(3)?,
        status: row.get(4)?,
        stamp: row.get(5)?,
    })
}

/// Reads a 64-bit number without a sign.
pub(super) fn number(row: &Row<'_>, at: usize) -> Result<u64> {
    Ok(row.get::<_, i64>(at)?.cast_unsigned())
}

/// Reads the number of a conversation.
pub(super) fn conversation_id(row: &Row<'_>, at: usize) -> Result<ConversationId> {
    let number: i64 = row.get(at)?;
    ConversationId::from_number(number.cast_unsigned())
        .ok_or(Error::IntegralValueOutOfRange(at, number))
}

/// The number of a conversation as a column holds it.
pub(super) fn key(id: ConversationId) -> i64 {
    id.number().cast_signed()
}

/// A limit as SQL takes it.
pub(super) fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
