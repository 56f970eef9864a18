//! The fold's side, read.

use std::sync::Arc;

use mysql_async::Value;
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, Parties, UserId};

use super::bulk;
use super::failure::Failure;
use super::link::Link;
use super::row::{self, Columns, limit, values};
use crate::{
    ConversationRow, FoundMessage, GroupRow, MarkRow, MemberRow, MessageRow, StoreError,
    StoredConversation, UserConversation,
};

/// What a row of the answer in [`conversation`] is.
const EPOCH: u32 = 0;
const CONVERSATION: u32 = 1;
const MEMBER: u32 = 2;
const MARK: u32 = 3;
const MESSAGE: u32 = 4;

/// Everything about one conversation but whether its users exist.
///
/// One statement, since a statement sees one moment: rows of five kinds, each with the columns that
/// all of them have, in any order.
pub(super) async fn conversation(
    link: &mut Link,
    part: u32,
    id: ConversationId,
    recent: usize,
) -> Result<StoredConversation, Failure> {
    let number = id.number();
    let group = id.as_group().map_or(0, |group| group.0);
    let rows = link
        .rows(
            "SELECT 0, epoch, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
             FROM progress WHERE part = ?
             UNION ALL
             SELECT 1, head, last_offset, last_message_ms, group_creator, group_kind,
                    group_version, group_deleted, group_name, group_avatar
             FROM conversation WHERE id = ?
             UNION ALL
             SELECT 2, user_id, join_msg_id, leave_msg_id, NULL, NULL, NULL, NULL, NULL, NULL
             FROM `member` WHERE group_id = ?
             UNION ALL
             SELECT 3, user_id, read_msg_id, own_up_to_read, own_total, removed_at, shield,
                    NULL, NULL, NULL
             FROM mark WHERE conversation = ?
             UNION ALL
             (SELECT 4, msg_id, sender, log_offset, timestamp_ms, kind, NULL, NULL, client_msg_id,
                     body
              FROM message WHERE conversation = ? ORDER BY msg_id DESC LIMIT ?)",
            values![part, number, group, number, number, limit(recent)],
        )
        .await?;
    let mut stored = StoredConversation::default();
    for row in rows {
        take(&mut stored, id, &mut Columns::of(row))?;
    }
    stored.recent.sort_unstable_by_key(|message| message.msg_id);
    stored.members.sort_unstable_by_key(|member| member.user);
    stored.marks.sort_unstable_by_key(|mark| mark.user);
    Ok(stored)
}

fn take(
    stored: &mut StoredConversation,
    id: ConversationId,
    columns: &mut Columns,
) -> Result<(), Failure> {
    match columns.next::<u32>()? {
        EPOCH => stored.epoch = columns.next()?,
        CONVERSATION => stored.row = Some(conversation_row(id, columns)?),
        MEMBER => stored.members.push(MemberRow {
            group: id.as_group().unwrap_or(GroupId(0)),
            user: UserId(columns.next()?),
            join: MsgId(columns.next()?),
            leave: columns.next::<Option<u32>>()?.map(MsgId),
        }),
        MARK => stored.marks.push(MarkRow {
            conversation: id,
            user: UserId(columns.next()?),
            read: MsgId(columns.next()?),
            own_up_to_read: columns.next()?,
            own_total: columns.next()?,
            removed_at: MsgId(columns.next()?),
            shield: columns.next()?,
        }),
        MESSAGE => stored.recent.push(recent_message(id, columns)?),
        other => {
            let text = format!("the store answered with a row of kind {other}");
            return Err(StoreError::Refused(text).into());
        }
    }
    Ok(())
}

fn conversation_row(id: ConversationId, columns: &mut Columns) -> Result<ConversationRow, Failure> {
    let head = MsgId(columns.next()?);
    let last_offset = Offset(columns.next()?);
    let last_message_ms = columns.next()?;
    let (creator, kind, version): (Option<u32>, Option<u32>, Option<u32>) =
        (columns.next()?, columns.next()?, columns.next()?);
    let deleted: Option<bool> = columns.next()?;
    let (name, avatar): (Option<String>, Option<String>) = (columns.next()?, columns.next()?);
    let group = name.map(|name| GroupRow {
        name,
        avatar: avatar.unwrap_or_default(),
        creator: UserId(creator.unwrap_or_default()),
        kind: kind.unwrap_or_default(),
        version: version.unwrap_or_default(),
        deleted: deleted.unwrap_or_default(),
    });
    Ok(ConversationRow { id, head, last_offset, last_message_ms, group })
}

fn recent_message(id: ConversationId, columns: &mut Columns) -> Result<MessageRow, Failure> {
    let msg_id = MsgId(columns.next()?);
    let sender = UserId(columns.next()?);
    let offset = Offset(columns.next()?);
    let timestamp_ms = columns.next()?;
    let kind = columns.next()?;
    columns.skip(2);
    Ok(MessageRow {
        conversation: id,
        msg_id,
        sender,
        client_msg_id: columns.client_msg_id()?,
        offset,
        timestamp_ms,
        kind,
        body: columns.next::<Vec<u8>>()?.into(),
    })
}

/// A range of messages, newest first.
pub(super) async fn messages(
    link: &mut Link,
    id: ConversationId,
    (from, to): (MsgId, MsgId),
    count: usize,
) -> Result<Vec<MessageRow>, Failure> {
    let rows = link
        .rows(
            "SELECT conversation, msg_id, sender, client_msg_id, log_offset, timestamp_ms, kind,
                    body
             FROM message WHERE conversation = ? AND msg_id BETWEEN ? AND ?
             ORDER BY msg_id DESC LIMIT ?",
            values![id.number(), from.0, to.0, limit(count)],
        )
        .await?;
    row::all(rows, Columns::message)
}

/// Messages by their places.
pub(super) async fn messages_at(
    link: &mut Link,
    places: Arc<[(ConversationId, MsgId)]>,
) -> Result<Vec<MessageRow>, Failure> {
    let mut found = Vec::with_capacity(places.len());
    for list in bulk::lists(&places) {
        let query = bulk::joined(
            (
                "SELECT conversation, msg_id, sender, client_msg_id, log_offset, timestamp_ms, kind,
                        body
                 FROM message WHERE ",
                "(conversation = ? AND msg_id = ?)",
                "",
            ),
            " OR ",
            list.len(),
        );
        let place = |(id, msg_id): (ConversationId, MsgId)| values![id.number(), msg_id.0];
        let rows = link.rows(&query, list.into_iter().flat_map(place).collect()).await?;
        found.append(&mut row::all(rows, Columns::message)?);
    }
    Ok(found)
}

/// The first message that a sender gave this id.
pub(super) async fn find_message(
    link: &mut Link,
    sender: UserId,
    client_msg_id: ClientMsgId,
) -> Result<Option<FoundMessage>, Failure> {
    let row = link
        .row(
            "SELECT conversation, msg_id, sender, client_msg_id, log_offset, timestamp_ms, kind,
                    body, sent_crc
             FROM message LEFT JOIN changed_message USING (conversation, msg_id)
             WHERE sender = ? AND client_msg_id = ? ORDER BY log_offset LIMIT 1",
            values![sender.0, &client_msg_id.0[..]],
        )
        .await?;
    row::one(row, |columns| Ok(FoundMessage { row: columns.message()?, sent_crc: columns.next()? }))
}

/// How many messages of a range are by `sender`.
pub(super) async fn count_own(
    link: &mut Link,
    id: ConversationId,
    sender: UserId,
    (from, to): (MsgId, MsgId),
) -> Result<u32, Failure> {
    // Not by the other index: it would go through all that the sender ever wrote.
    let row = link
        .row(
            "SELECT COUNT(*) FROM message FORCE INDEX (PRIMARY)
             WHERE conversation = ? AND msg_id BETWEEN ? AND ? AND sender = ?",
            values![id.number(), from.0, to.0, sender.0],
        )
        .await?;
    Ok(row::one(row, Columns::next)?.unwrap_or_default())
}

/// What a user's lists show of some partitions, each conversation with its partition.
pub(super) async fn conversations_of(
    link: &mut Link,
    parts: Arc<[u32]>,
    user: UserId,
) -> Result<Vec<(u32, UserConversation)>, Failure> {
    if user == UserId(0) {
        return Ok(Vec::new()); // The range of ids below would be that of all groups.
    }
    let first = u64::from(user.0) << 32;
    let last = first | u64::from(u32::MAX);
    let UserId(user) = user;
    let mut found = Vec::new();
    for list in bulk::lists(&parts) {
        let parts = bulk::repeated("(", "?", ")", list.len());
        let of_list = || list.iter().map(|part| Value::from(*part));
        let query = format!(
            "SELECT c.part, c.id, c.head, c.last_offset, c.last_message_ms,
                    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                    k.conversation, k.user_id, k.read_msg_id, k.own_up_to_read, k.own_total,
                    k.removed_at, k.shield
             FROM conversation c
             LEFT JOIN mark k ON k.conversation = c.id AND k.user_id = ?
             WHERE c.id BETWEEN ? AND ? AND c.head > 0 AND c.part IN {parts}
             UNION ALL
             SELECT c.part, c.id, c.head, c.last_offset, c.last_message_ms,
                    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                    k.conversation, k.user_id, k.read_msg_id, k.own_up_to_read, k.own_total,
                    k.removed_at, k.shield
             FROM conversation c
             LEFT JOIN mark k ON k.conversation = c.id AND k.user_id = ?
             WHERE c.higher_user = ? AND c.head > 0 AND c.part IN {parts}
             UNION ALL
             SELECT c.part, c.id, c.head, c.last_offset, c.last_message_ms,
                    c.group_name, c.group_avatar, c.group_creator, c.group_kind, c.group_version,
                    c.group_deleted,
                    m.group_id, m.user_id, m.join_msg_id, m.leave_msg_id,
                    k.conversation, k.user_id, k.read_msg_id, k.own_up_to_read, k.own_total,
                    k.removed_at, k.shield
             FROM `member` m
             JOIN conversation c ON c.id = m.group_id AND c.part IN {parts}
             LEFT JOIN mark k ON k.conversation = c.id AND k.user_id = ?
             WHERE m.user_id = ?"
        );
        let mut values = values![user, first, last];
        values.extend(of_list());
        values.extend(values![user, user]);
        values.extend(of_list().chain(of_list()));
        values.extend(values![user, user]);
        let rows = link.rows(&query, values).await?;
        found.append(&mut row::all(rows, |columns| {
            let part = columns.next()?;
            let (row, member, mark) = (columns.conversation()?, columns.member()?, columns.mark()?);
            Ok((part, UserConversation { row, member, mark }))
        })?);
    }
    Ok(found)
}

/// How many groups each of the users is in, of those who are in some.
pub(super) async fn groups_joined(
    link: &mut Link,
    part: u32,
    users: Arc<[UserId]>,
) -> Result<Vec<(UserId, u32)>, Failure> {
    let mut joined = Vec::new();
    for list in bulk::lists(&users) {
        let query = bulk::repeated(
            "SELECT m.user_id, COUNT(*) FROM `member` m
             JOIN conversation c ON c.id = m.group_id AND c.part = ?
             WHERE m.leave_msg_id IS NULL AND m.user_id IN (",
            "?",
            ") GROUP BY m.user_id",
            list.len(),
        );
        let users = list.iter().map(|user| Value::from(user.0));
        let values = [Value::from(part)].into_iter().chain(users).collect();
        let rows = link.rows(&query, values).await?;
        let count = |columns: &mut Columns| Ok((UserId(columns.next()?), columns.next()?));
        joined.append(&mut row::all(rows, count)?);
    }
    Ok(joined)
}

/// Groups by number, with the count of their members.
pub(super) async fn groups(
    link: &mut Link,
    part: u32,
    after: u32,
    count: usize,
) -> Result<Vec<(ConversationRow, u32)>, Failure> {
    let rows = link
        .rows(
            "SELECT c.id, c.head, c.last_offset, c.last_message_ms,
                    c.group_name, c.group_avatar, c.group_creator, c.group_kind, c.group_version,
                    c.group_deleted,
                    (SELECT COUNT(*) FROM `member` m
                     WHERE m.group_id = c.id AND m.leave_msg_id IS NULL)
             FROM conversation c
             WHERE c.part = ? AND c.id > ? AND c.id <= ? AND c.group_name IS NOT NULL
               AND COALESCE(c.group_deleted, 0) = 0
             ORDER BY c.id LIMIT ?",
            values![part, after, u32::MAX, limit(count)],
        )
        .await?;
    row::all(rows, |columns| Ok((columns.conversation()?, columns.next()?)))
}

/// Which of these groups have a conversation here.
pub(super) async fn groups_between(
    link: &mut Link,
    first: u32,
    last: u32,
) -> Result<Vec<u32>, Failure> {
    let rows = link
        .rows("SELECT id FROM conversation WHERE id BETWEEN ? AND ?", values![first, last])
        .await?;
    row::all(rows, Columns::next)
}

/// Whether both users of a single conversation exist. Asked on the login side.
pub(super) async fn peers_exist(link: &mut Link, id: ConversationId) -> Result<bool, Failure> {
    let Parties::Single(low, high) = id.parties() else { return Ok(false) };
    let query = "SELECT COUNT(*) FROM user WHERE id IN (?, ?)";
    let count: Option<u32> =
        row::one(link.row(query, values![low.0, high.0]).await?, Columns::next)?;
    Ok(count == Some(2))
}
