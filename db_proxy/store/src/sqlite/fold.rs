//! The fold's side, written: taking over, batches, and what of them is on disk.

use proto::ids::Offset;
use proto::record::LogId;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::row::{self, key};
use crate::{
    Batch, ChangedRow, ConversationRow, MarkRow, MemberRow, MessageRow, Progress, StoreError, rules,
};

#[cfg(feature = "faults")]
mod mutants;

/// The embedded store has one partition.
pub(super) const PART: u32 = 0;

/// Takes over for `owner`.
pub(super) fn claim(
    connection: &mut Connection,
    owner: &str,
    log: LogId,
) -> Result<Progress, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let known: Option<[u8; 16]> = transaction
        .query_row("SELECT log_id FROM progress WHERE part = ?1", [PART], |row| row.get(0))
        .optional()?;
    if let Some(known) = known.filter(|known| *known != log.0) {
        return Err(rules::other_log(LogId(known), log));
    }
    transaction.execute(
        "INSERT INTO progress
            (part, epoch, owner, log_id, applied_offset, applied_crc, fold_version)
         VALUES (?1, 1, ?2, ?3, 0, 0, 0)
         ON CONFLICT (part) DO UPDATE SET epoch = epoch + 1, owner = excluded.owner",
        params![PART, owner, log.0],
    )?;
    let progress = progress(&transaction)?;
    transaction.commit()?;
    progress.ok_or_else(|| StoreError::Refused("the store lost its progress".to_owned()))
}

/// How far the partition is; `None` before the first owner.
pub(super) fn progress(connection: &Connection) -> Result<Option<Progress>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT epoch, applied_offset, applied_crc, fold_version FROM progress WHERE part = ?1",
    )?;
    let progress = statement.query_row([PART], |row| {
        Ok(Progress {
            epoch: row::number(row, 0)?,
            applied: Offset(row::number(row, 1)?),
            applied_crc: row.get(2)?,
            fold_version: row.get(3)?,
        })
    });
    Ok(progress.optional()?)
}

/// Writes one batch. `broken` hears of a message whose place is taken.
pub(super) fn commit(
    connection: &mut Connection,
    epoch: u64,
    after: Offset,
    batch: &Batch,
    broken: fn(&str),
) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // First of all: the messages of a batch that is not to be written are there already, and must
    // not be taken for a broken fold.
    advance(&transaction, epoch, after, batch)?;
    #[cfg(feature = "faults")]
    if mutants::after_progress(&transaction, batch)? {
        return Ok(transaction.commit()?);
    }
    put_messages(&transaction, &batch.messages, broken)?;
    put_changed(&transaction, &batch.changed)?;
    put_conversations(&transaction, &batch.conversations)?;
    put_members(&transaction, &batch.members)?;
    put_marks(&transaction, &batch.marks)?;
    let mut keep = transaction.prepare_cached(
        "INSERT OR REPLACE INTO unreadable (log_offset, payload) VALUES (?1, ?2)",
    )?;
    for (offset, payload) in &batch.unreadable {
        keep.execute(params![offset.0.cast_signed(), payload.as_ref()])?;
    }
    drop(keep);
    transaction.commit()?;
    Ok(())
}

/// Moves everything committed into the main file and flushes it. Returns what is on disk then, or
/// `None` if a reader or another program was in the way.
pub(super) fn flush(connection: &mut Connection) -> Result<Option<Offset>, StoreError> {
    // Read before: what is committed meanwhile may be flushed too, but need not be.
    let applied = progress(connection)?.map_or(Offset(0), |progress| progress.applied);
    let complete = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let (busy, frames, moved): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(busy == 0 && frames >= 0 && frames == moved)
    })?;
    Ok(complete.then_some(applied))
}

fn advance(
    transaction: &Transaction<'_>,
    epoch: u64,
    after: Offset,
    batch: &Batch,
) -> Result<(), StoreError> {
    let mut statement = transaction.prepare_cached(
        "UPDATE progress SET applied_offset = ?4, applied_crc = ?5, fold_version = ?6
         WHERE part = ?1 AND epoch = ?2 AND applied_offset = ?3",
    )?;
    let moved = statement.execute(params![
        PART,
        epoch.cast_signed(),
        after.0.cast_signed(),
        batch.applied.0.cast_signed(),
        batch.applied_crc,
        batch.fold_version,
    ])?;
    if moved == 1 {
        return Ok(());
    }
    Err(rules::fenced(epoch, after, progress(transaction)?))
}

fn put_messages(
    transaction: &Transaction<'_>,
    messages: &[MessageRow],
    broken: fn(&str),
) -> Result<(), StoreError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO message
            (conversation, msg_id, sender, client_msg_id, log_offset, timestamp_ms, kind, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for message in messages {
        let put = statement.execute(params![
            key(message.conversation),
            message.msg_id.0,
            message.sender.0,
            message.client_msg_id.0,
            message.offset.0.cast_signed(),
            message.timestamp_ms.cast_signed(),
            message.kind,
            message.body.as_ref(),
        ]);
        match put {
            Ok(_) => {}
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                let text = rules::number_given_twice(message);
                broken(&text);
                return Err(StoreError::Refused(text));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn put_changed(transaction: &Transaction<'_>, changed: &[ChangedRow]) -> Result<(), StoreError> {
    if changed.is_empty() {
        return Ok(());
    }
    let mut statement = transaction.prepare_cached(
        "INSERT INTO changed_message (conversation, msg_id, sent_crc) VALUES (?1, ?2, ?3)",
    )?;
    for row in changed {
        statement.execute(params![key(row.conversation), row.msg_id.0, row.sent_crc])?;
    }
    Ok(())
}

fn put_conversations(
    transaction: &Transaction<'_>,
    conversations: &[ConversationRow],
) -> Result<(), StoreError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO conversation
            (id, higher_user, head, last_offset, last_message_ms,
             group_name, group_avatar, group_creator, group_kind, group_version, group_deleted)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (id) DO UPDATE SET
            head = excluded.head,
            last_offset = excluded.last_offset,
            last_message_ms = excluded.last_message_ms,
            group_name = excluded.group_name,
            group_avatar = excluded.group_avatar,
            group_creator = excluded.group_creator,
            group_kind = excluded.group_kind,
            group_version = excluded.group_version,
            group_deleted = excluded.group_deleted",
    )?;
    for row in conversations {
        let group = row.group.as_ref();
        statement.execute(params![
            key(row.id),
            rules::higher_user(row.id),
            row.head.0,
            row.last_offset.0.cast_signed(),
            row.last_message_ms.cast_signed(),
            group.map(|group| &group.name),
            group.map(|group| &group.avatar),
            group.map(|group| group.creator.0),
            group.map(|group| group.kind),
            group.map(|group| group.version),
            group.map(|group| group.deleted),
        ])?;
    }
    Ok(())
}

fn put_members(transaction: &Transaction<'_>, members: &[MemberRow]) -> Result<(), StoreError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO member (group_id, user_id, join_msg_id, leave_msg_id)
         VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (group_id, user_id) DO UPDATE SET
            join_msg_id = excluded.join_msg_id,
            leave_msg_id = excluded.leave_msg_id",
    )?;
    for member in members {
        statement.execute(params![
            member.group.0,
            member.user.0,
            member.join.0,
            member.leave.map(|leave| leave.0),
        ])?;
    }
    Ok(())
}

fn put_marks(transaction: &Transaction<'_>, marks: &[MarkRow]) -> Result<(), StoreError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO mark
            (conversation, user_id, read_msg_id, own_up_to_read, own_total, removed_at, shield)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (conversation, user_id) DO UPDATE SET
            read_msg_id = excluded.read_msg_id,
            own_up_to_read = excluded.own_up_to_read,
            own_total = excluded.own_total,
            removed_at = excluded.removed_at,
            shield = excluded.shield",
    )?;
    for mark in marks {
        statement.execute(params![
            key(mark.conversation),
            mark.user.0,
            mark.read.0,
            mark.own_up_to_read,
            mark.own_total,
            mark.removed_at.0,
            mark.shield,
        ])?;
    }
    Ok(())
}
