//! The fold's side, read.

use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Parties, UserId};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::fold;
use super::row::{self, key, limit};
use crate::{
    ConversationRow, FoundMessage, MarkRow, MemberRow, MessageRow, StoreError, StoredConversation,
    UserConversation,
};

/// Everything about one conversation, as of one moment.
pub(super) fn conversation(
    connection: &mut Connection,
    id: ConversationId,
    recent: usize,
) -> Result<StoredConversation, StoreError> {
    // One snapshot for all that follows; dropped, since there is nothing to commit.
    let snapshot = connection.transaction()?;
    let mut newest = messages(&snapshot, id, (MsgId(0), MsgId(u32::MAX)), recent)?;
    newest.reverse();
    Ok(StoredConversation {
        row: conversation_row(&snapshot, id)?,
        members: id.as_group().map_or(Ok(Vec::new()), |group| members(&snapshot, group))?,
        marks: marks(&snapshot, id)?,
        recent: newest,
        peers_exist: peers_exist(&snapshot, id)?,
        epoch: fold::progress(&snapshot)?.map_or(0, |progress| progress.epoch),
    })
}

/// A range of messages, newest first.
pub(super) fn messages(
    connection: &Connection,
    id: ConversationId,
    (from, to): (MsgId, MsgId),
    count: usize,
) -> Result<Vec<MessageRow>, StoreError> {
    collect(
        connection,
        "SELECT conversation, msg_id, sender, client_msg_id, log_offset, timestamp_ms, kind, body
         FROM message WHERE conversation = ?1 AND msg_id BETWEEN ?2 AND ?3
         ORDER BY msg_id DESC LIMIT ?4",
        params![key(id), from.0, to.0, limit(count)],
        row::message,
    )
}

/// Messages by their places.
pub(super) fn messages_at(
    connection: &mut Connection,
    places: &[(ConversationId, MsgId)],
) -> Result<Vec<MessageRow>, StoreError> {
    let snapshot = connection.transaction()?;
    let mut found = Vec::with_capacity(places.len());
    for &(id, msg_id) in places {
        found.append(&mut messages(&snapshot, id, (msg_id, msg_id), 1)?);
    }
    Ok(found)
}

/// The first message that a sender gave this id.
pub(super) fn find_message(
    connection: &Connection,
    sender: UserId,
    client_msg_id: ClientMsgId,
) -> Result<Option<FoundMessage>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT conversation, msg_id, sender, client_msg_id, log_offset, timestamp_ms, kind, body,
                sent_crc
         FROM message LEFT JOIN changed_message USING (conversation, msg_id)
         WHERE sender = ?1 AND client_msg_id = ?2 ORDER BY log_offset LIMIT 1",
    )?;
    let found = statement.query_row(params![sender.0, client_msg_id.0], |row| {
        Ok(FoundMessage { row: row::message(row)?, sent_crc: row.get(8)? })
    });
    Ok(found.optional()?)
}

/// How many messages of a range are by `sender`.
pub(super) fn count_own(
    connection: &Connection,
    id: ConversationId,
    sender: UserId,
    (from, to): (MsgId, MsgId),
) -> Result<u32, StoreError> {
    // The plus keeps SQLite from going through all that the sender ever wrote.
    let mut statement = connection.prepare_cached(
        "SELECT COUNT(*) FROM message
         WHERE conversation = ?1 AND msg_id BETWEEN ?3 AND ?4 AND +sender = ?2",
    )?;
    let count = statement.query_row(params![key(id), sender.0, from.0, to.0], |row| row.get(0))?;
    Ok(count)
}

/// What a user's lists show.
pub(super) fn conversations_of(
    connection: &Connection,
    user: UserId,
) -> Result<Vec<UserConversation>, StoreError> {
    if user == UserId(0) {
        return Ok(Vec::new()); // The range of ids below would be that of all groups.
    }
    let first = (u64::from(user.0) << 32).cast_signed();
    let last = first | i64::from(u32::MAX);
    collect(
        connection,
        "SELECT c.id, c.head, c.last_offset, c.last_message_ms,
                NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                k.conversation, k.user_id, k.read_msg_id, k.own_up_to_read, k.own_total,
                k.removed_at, k.shield
         FROM conversation c
         LEFT JOIN mark k ON k.conversation = c.id AND k.user_id = ?1
         WHERE c.id BETWEEN ?2 AND ?3 AND c.head > 0
         UNION ALL
         SELECT c.id, c.head, c.last_offset, c.last_message_ms,
                NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                k.conversation, k.user_id, k.read_msg_id, k.own_up_to_read, k.own_total,
                k.removed_at, k.shield
         FROM conversation c
         LEFT JOIN mark k ON k.conversation = c.id AND k.user_id = ?1
         WHERE c.higher_user = ?1 AND c.head > 0
         UNION ALL
         SELECT c.id, c.head, c.last_offset, c.last_message_ms,
                c.group_name, c.group_avatar, c.group_creator, c.group_kind, c.group_version,
                c.group_deleted,
                m.group_id, m.user_id, m.join_msg_id, m.leave_msg_id,
                k.conversation, k.user_id, k.read_msg_id, k.own_up_to_read, k.own_total,
                k.removed_at, k.shield
         FROM member m
         JOIN conversation c ON c.id = m.group_id
         LEFT JOIN mark k ON k.conversation = c.id AND k.user_id = ?1
         WHERE m.user_id = ?1",
        params![user.0, first, last],
        user_conversation,
    )
}

/// Groups by number, with the count of their members.
pub(super) fn groups(
    connection: &Connection,
    after: u32,
    count: usize,
) -> Result<Vec<(ConversationRow, u32)>, StoreError> {
    collect(
        connection,
        "SELECT c.id, c.head, c.last_offset, c.last_message_ms,
                c.group_name, c.group_avatar, c.group_creator, c.group_kind, c.group_version,
                c.group_deleted,
                (SELECT COUNT(*) FROM member m
                 WHERE m.group_id = c.id AND m.leave_msg_id IS NULL)
         FROM conversation c
         WHERE c.id > ?1 AND c.id <= ?2 AND c.group_name IS NOT NULL
           AND COALESCE(c.group_deleted, 0) = 0
         ORDER BY c.id LIMIT ?3",
        params![after, u32::MAX, limit(count)],
        |row| Ok((row::conversation(row)?, row.get(10)?)),
    )
}

/// How many groups each of the users is in, of those who are in some.
pub(super) fn groups_joined(
    connection: &Connection,
    users: &[UserId],
) -> Result<Vec<(UserId, u32)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT COUNT(*) FROM member WHERE user_id = ?1 AND leave_msg_id IS NULL",
    )?;
    let mut joined = Vec::new();
    for user in users {
        let count = statement.query_row([user.0], |row| row.get(0))?;
        if count > 0 {
            joined.push((*user, count));
        }
    }
    Ok(joined)
}

fn conversation_row(
    connection: &Connection,
    id: ConversationId,
) -> Result<Option<ConversationRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, head, last_offset, last_message_ms,
                group_name, group_avatar, group_creator, group_kind, group_version, group_deleted
         FROM conversation WHERE id = ?1",
    )?;
    Ok(statement.query_row([key(id)], row::conversation).optional()?)
}

fn members(connection: &Connection, group: GroupId) -> Result<Vec<MemberRow>, StoreError> {
    collect(
        connection,
        "SELECT group_id, user_id, join_msg_id, leave_msg_id
         FROM member WHERE group_id = ?1 ORDER BY user_id",
        params![group.0],
        |row| row::member(row, 0),
    )
}

fn marks(connection: &Connection, id: ConversationId) -> Result<Vec<MarkRow>, StoreError> {
    collect(
        connection,
        "SELECT conversation, user_id, read_msg_id, own_up_to_read, own_total, removed_at, shield
         FROM mark WHERE conversation = ?1 ORDER BY user_id",
        params![key(id)],
        |row| row::mark(row, 0),
    )
}

fn peers_exist(connection: &Connection, id: ConversationId) -> Result<bool, StoreError> {
    let Parties::Single(low, high) = id.parties() else {
        return Ok(false);
    };
    let mut statement =
        connection.prepare_cached("SELECT COUNT(*) = 2 FROM user WHERE id IN (?1, ?2)")?;
    Ok(statement.query_row([low.0, high.0], |row| row.get(0))?)
}

/// Reads what [`conversations_of`] selects: a conversation, then the membership and the mark, each
/// of which may be missing.
fn user_conversation(row: &Row<'_>) -> rusqlite::Result<UserConversation> {
    const MEMBER: usize = 10;
    const MARK: usize = 14;
    let has = |at: usize| row.get::<_, Option<i64>>(at).map(|value| value.is_some());
    Ok(UserConversation {
        row: row::conversation(row)?,
        member: has(MEMBER)?.then(|| row::member(row, MEMBER)).transpose()?,
        mark: has(MARK)?.then(|| row::mark(row, MARK)).transpose()?,
    })
}

/// All rows of a query.
pub(super) fn collect<T>(
    connection: &Connection,
    query: &str,
    parameters: &[&dyn ToSql],
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare_cached(query)?;
    let rows = statement.query_map(parameters, read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}
