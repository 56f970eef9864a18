//! The fold's side, written: taking over, and batches.

use std::sync::Arc;

use mysql_async::Value;
use parking_lot::Mutex;
use proto::ids::{ClientMsgId, ConversationId, MsgId, Offset};
use proto::record::LogId;

use super::bulk::Insert;
use super::failure::Failure;
use super::history;
use super::link::Link;
use super::row::{self, Columns, values};
use crate::{
    Batch, ChangedRow, Claimed, ConversationRow, MarkRow, MemberRow, MessageRow, Progress,
    StoreError, rules,
};

/// What a row weighs besides its texts.
const ROW_BYTES: usize = 64;

const MESSAGES: Insert = Insert {
    head: "INSERT INTO message \
           (conversation, msg_id, sender, client_msg_id, log_offset, timestamp_ms, kind, body) VALUES ",
    row: "(?,?,?,?,?,?,?,?)",
    tail: "",
};

const CHANGED: Insert = Insert {
    head: "INSERT INTO changed_message (conversation, msg_id, sent_crc) VALUES ",
    row: "(?,?,?)",
    tail: "",
};

const CONVERSATIONS: Insert = Insert {
    head: "INSERT INTO conversation \
           (id, part, higher_user, head, last_offset, last_message_ms, \
            group_name, group_avatar, group_creator, group_kind, group_version, \
            group_deleted) VALUES ",
    row: "(?,?,?,?,?,?,?,?,?,?,?,?)",
    tail: " ON DUPLICATE KEY UPDATE part = VALUES(part), head = VALUES(head), \
           last_offset = VALUES(last_offset), last_message_ms = VALUES(last_message_ms), \
           group_name = VALUES(group_name), group_avatar = VALUES(group_avatar), \
           group_creator = VALUES(group_creator), group_kind = VALUES(group_kind), \
           group_version = VALUES(group_version), group_deleted = VALUES(group_deleted)",
};

const MEMBERS: Insert = Insert {
    head: "INSERT INTO `member` (group_id, user_id, join_msg_id, leave_msg_id) VALUES ",
    row: "(?,?,?,?)",
    tail: " ON DUPLICATE KEY UPDATE \
           join_msg_id = VALUES(join_msg_id), leave_msg_id = VALUES(leave_msg_id)",
};

const MARKS: Insert = Insert {
    head: "INSERT INTO mark \
           (conversation, user_id, read_msg_id, own_up_to_read, own_total, removed_at, shield) VALUES ",
    row: "(?,?,?,?,?,?,?)",
    tail: " ON DUPLICATE KEY UPDATE read_msg_id = VALUES(read_msg_id), \
           own_up_to_read = VALUES(own_up_to_read), own_total = VALUES(own_total), \
           removed_at = VALUES(removed_at), shield = VALUES(shield)",
};

const UNREADABLE: Insert = Insert {
    head: "INSERT INTO unreadable (part, log_offset, payload) VALUES ",
    row: "(?,?,?)",
    tail: " ON DUPLICATE KEY UPDATE payload = VALUES(payload)",
};

/// A batch whose COMMIT had no answer: written or not.
///
/// Kept between calls: a caller that got no answer writes the same batch again, and must then hear that
/// it is written, not that another owner has moved on.
#[derive(Debug, Default)]
pub(super) struct Doubt(Mutex<Option<(u64, Offset, u32)>>);

impl Doubt {
    fn set(&self, epoch: u64, batch: &Batch) {
        *self.0.lock() = Some((epoch, batch.applied, batch.applied_crc));
    }

    fn clear(&self) {
        *self.0.lock() = None;
    }

    /// Whether `found` is the progress of the batch in doubt, which is this one.
    fn is_resolved_by(&self, epoch: u64, batch: &Batch, found: Option<Progress>) -> bool {
        let this = (epoch, batch.applied, batch.applied_crc);
        let found = found.map(|found| (found.epoch, found.applied, found.applied_crc));
        *self.0.lock() == Some(this) && found == Some(this)
    }
}

/// A batch on its way into the store.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    pub(super) part: u32,
    pub(super) epoch: u64,
    pub(super) after: Offset,
    pub(super) batch: Arc<Batch>,
    pub(super) doubt: Arc<Doubt>,
    pub(super) broken: fn(&str),
}

/// Takes over for `owner`.
pub(super) async fn claim(
    link: &mut Link,
    part: u32,
    owner: Arc<str>,
    log: LogId,
) -> Result<Progress, Failure> {
    link.begin().await?;
    // First of all, and always a write: from here on it is ours until the end of the transaction.
    link.execute(
        "INSERT INTO progress
            (part, epoch, owner, log_id, applied_offset, applied_crc, fold_version)
         VALUES (?, 1, ?, ?, 0, 0, 0)
         ON DUPLICATE KEY UPDATE epoch = epoch + 1, owner = VALUES(owner)",
        values![part, owner.as_bytes(), &log.0[..]],
    )
    .await?;
    let known = link.row("SELECT log_id FROM progress WHERE part = ?", values![part]).await?;
    let known: Option<Vec<u8>> = row::one(known, Columns::next)?;
    match known.and_then(|known| known.try_into().ok()).map(LogId) {
        Some(known) if known == log => {}
        Some(known) => return Err(rules::other_log(known, log).into()),
        None => return Err(StoreError::Refused("the store lost its progress".to_owned()).into()),
    }
    let progress = progress(link, part).await?;
    link.commit().await?;
    progress.ok_or_else(|| StoreError::Refused("the store lost its progress".to_owned()).into())
}

/// How far the partition is; `None` before the first owner.
pub(super) async fn progress(link: &mut Link, part: u32) -> Result<Option<Progress>, Failure> {
    let row = link
        .row(
            "SELECT epoch, applied_offset, applied_crc, fold_version FROM progress WHERE part = ?",
            values![part],
        )
        .await?;
    row::one(row, |columns| {
        Ok(Progress {
            epoch: columns.next()?,
            applied: Offset(columns.next()?),
            applied_crc: columns.next()?,
            fold_version: columns.next()?,
        })
    })
}

/// The owner of the partition; `None` before the first owner.
pub(super) async fn claimed(link: &mut Link, part: u32) -> Result<Option<Claimed>, Failure> {
    let row = link.row("SELECT log_id, owner FROM progress WHERE part = ?", values![part]).await?;
    let known = row::one(row, |columns| {
        let (log, owner): (Vec<u8>, Vec<u8>) = (columns.next()?, columns.next()?);
        Ok((log, String::from_utf8_lossy(&owner).into_owned()))
    })?;
    let known = known.and_then(|(log, owner)| Some((log.try_into().ok()?, owner)));
    let progress = progress(link, part).await?;
    Ok(known.zip(progress).map(|((log, owner), progress)| Claimed {
        log: LogId(log),
        owner,
        progress,
    }))
}

/// Writes one batch.
pub(super) async fn commit(link: &mut Link, writing: Writing) -> Result<(), Failure> {
    let Writing { part, epoch, after, batch, doubt, broken } = writing;
    link.begin().await?;
    // First of all: the messages of a batch that is not to be written are there already, and must
    // not be taken for a broken fold. It also waits for an earlier try whose connection was lost,
    // until that is either written or taken back.
    let moved = link
        .execute(
            "UPDATE progress SET applied_offset = ?, applied_crc = ?, fold_version = ?
             WHERE part = ? AND epoch = ? AND applied_offset = ?",
            values![batch.applied.0, batch.applied_crc, batch.fold_version, part, epoch, after.0],
        )
        .await?;
    if moved != 1 {
        let found = progress(link, part).await?;
        link.roll_back().await?;
        if doubt.is_resolved_by(epoch, &batch, found) {
            doubt.clear();
            return Ok(());
        }
        return Err(rules::fenced(epoch, after, found).into());
    }
    doubt.clear();
    // In the order of each table's key: neighbours share a page.
    let place = |message: &&MessageRow| (message.conversation, message.msg_id);
    put_messages(link, &sorted(&batch.messages, place), broken).await?;
    let place = |row: &&ChangedRow| (row.conversation, row.msg_id);
    CHANGED
        .put_all(
            link,
            &sorted(&batch.changed, place),
            |_row| ROW_BYTES,
            |row, to| {
                to.extend(values![row.conversation.number(), row.msg_id.0, row.sent_crc]);
            },
        )
        .await?;
    put_conversations(link, part, &sorted(&batch.conversations, |row| row.id)).await?;
    put_members(link, &sorted(&batch.members, |member| (member.group, member.user))).await?;
    put_marks(link, &sorted(&batch.marks, |mark| (mark.conversation, mark.user))).await?;
    UNREADABLE
        .put_all(
            link,
            &batch.unreadable,
            |(_, payload)| payload.len() + ROW_BYTES,
            |(offset, payload), to| to.extend(values![part, offset.0, payload.as_ref()]),
        )
        .await?;
    doubt.set(epoch, &batch);
    link.commit().await?;
    doubt.clear();
    Ok(())
}

fn sorted<T, K: Ord>(rows: &[T], key: impl Fn(&&T) -> K) -> Vec<&T> {
    let mut sorted: Vec<&T> = rows.iter().collect();
    sorted.sort_by_key(key);
    sorted
}

async fn put_messages(
    link: &mut Link,
    messages: &[&MessageRow],
    broken: fn(&str),
) -> Result<(), Failure> {
    for (piece, size) in MESSAGES.pieces(messages, |message| message.body.len() + ROW_BYTES) {
        let put = MESSAGES.put(link, piece, size, |message, to| message_values(message, to)).await;
        match put {
            Ok(()) => {}
            Err(failure) if failure.is_duplicate() => {
                let text = rules::number_given_twice(first_taken(link, piece).await?);
                broken(&text);
                return Err(StoreError::Refused(text).into());
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

fn message_values(message: &MessageRow, to: &mut Vec<Value>) {
    let ClientMsgId(client_msg_id) = message.client_msg_id;
    to.extend(values![
        message.conversation.number(),
        message.msg_id.0,
        message.sender.0,
        &client_msg_id[..],
        message.offset.0,
        message.timestamp_ms,
        message.kind,
        message.body.as_ref(),
    ]);
}

/// The first of these messages whose place is taken, be it by another of them.
async fn first_taken<'a>(
    link: &mut Link,
    piece: &[&'a MessageRow],
) -> Result<&'a MessageRow, Failure> {
    let place = |message: &MessageRow| (message.conversation, message.msg_id);
    let places: Vec<(ConversationId, MsgId)> = piece.iter().map(|message| place(message)).collect();
    let stored = history::messages_at(link, places.clone().into()).await?;
    let mut taken: std::collections::HashSet<_> = stored.iter().map(place).collect();
    let twice = piece.iter().find(|message| !taken.insert(place(message)));
    twice
        .copied()
        .ok_or_else(|| StoreError::Unavailable("a message's place was taken".to_owned()).into())
}

async fn put_conversations(
    link: &mut Link,
    part: u32,
    conversations: &[&ConversationRow],
) -> Result<(), Failure> {
    let weight = |row: &&ConversationRow| {
        let texts = row.group.as_ref().map_or(0, |group| group.name.len() + group.avatar.len());
        texts + ROW_BYTES
    };
    CONVERSATIONS
        .put_all(link, conversations, weight, |row, to| {
            let group = row.group.as_ref();
            to.extend(values![
                row.id.number(),
                part,
                rules::higher_user(row.id),
                row.head.0,
                row.last_offset.0,
                row.last_message_ms,
                group.map(|group| group.name.as_str()),
                group.map(|group| group.avatar.as_str()),
                group.map(|group| group.creator.0),
                group.map(|group| group.kind),
                group.map(|group| group.version),
                group.map(|group| group.deleted),
            ]);
        })
        .await
}

async fn put_members(link: &mut Link, members: &[&MemberRow]) -> Result<(), Failure> {
    MEMBERS
        .put_all(
            link,
            members,
            |_| ROW_BYTES,
            |member, to| {
                let leave = member.leave.map(|leave| leave.0);
                to.extend(values![member.group.0, member.user.0, member.join.0, leave]);
            },
        )
        .await
}

async fn put_marks(link: &mut Link, marks: &[&MarkRow]) -> Result<(), Failure> {
    MARKS
        .put_all(
            link,
            marks,
            |_| ROW_BYTES,
            |mark, to| {
                to.extend(values![
                    mark.conversation.number(),
                    mark.user.0,
                    mark.read.0,
                    mark.own_up_to_read,
                    mark.own_total,
                    mark.removed_at.0,
                    mark.shield,
                ]);
            },
        )
        .await
}
