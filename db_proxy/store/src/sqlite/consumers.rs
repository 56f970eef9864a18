//! The consumers of the log: how far they are, and the numbers of messages.

use proto::ids::{MsgId, Offset};
use proto::record::LogId;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::fold::{self, PART};
use super::row::{key, number};
use crate::{ConsumerCursor, ConsumerRow, MessageRecord, StoreError, rules};

/// Every consumer, by name.
pub(super) fn all(connection: &Connection) -> Result<Vec<ConsumerRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT name, log_id, log_offset, epoch FROM consumer WHERE part = ?1 ORDER BY name",
    )?;
    let rows = statement.query_map([PART], |row| {
        let cursor = ConsumerCursor {
            log: LogId(row.get(1)?),
            offset: Offset(number(row, 2)?),
            epoch: number(row, 3)?,
        };
        Ok(ConsumerRow { name: row.get(0)?, cursor })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Moves a consumer, or makes it.
pub(super) fn move_to(
    connection: &mut Connection,
    epoch: u64,
    name: &str,
    from: Option<ConsumerCursor>,
    to: ConsumerCursor,
) -> Result<bool, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let progress = fold::progress(&transaction)?;
    if progress.is_none_or(|progress| progress.epoch != epoch) {
        return Err(rules::fenced_consumer(epoch));
    }
    let (offset, to_epoch) = (to.offset.0.cast_signed(), to.epoch.cast_signed());
    let changed = match from {
        Some(from) => transaction.execute(
            "UPDATE consumer SET log_id = ?3, log_offset = ?4, epoch = ?5
             WHERE part = ?1 AND name = ?2 AND log_id = ?6 AND log_offset = ?7",
            params![
                PART,
                name,
                to.log.0,
                offset,
                to_epoch,
                from.log.0,
                from.offset.0.cast_signed()
            ],
        )?,
        None => transaction.execute(
            "INSERT OR IGNORE INTO consumer (part, name, log_id, log_offset, epoch)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![PART, name, to.log.0, offset, to_epoch],
        )?,
    };
    transaction.commit()?;
    Ok(changed > 0)
}

/// Forgets a consumer.
pub(super) fn forget(connection: &mut Connection, name: &str) -> Result<bool, StoreError> {
    let changed = connection
        .execute("DELETE FROM consumer WHERE part = ?1 AND name = ?2", params![PART, name])?;
    Ok(changed > 0)
}

/// The numbers of messages, by their records.
pub(super) fn numbers(
    connection: &Connection,
    records: &[MessageRecord],
) -> Result<Vec<(Offset, MsgId)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT msg_id FROM message
         WHERE sender = ?1 AND client_msg_id = ?2 AND log_offset = ?3 AND conversation = ?4",
    )?;
    let mut found = Vec::with_capacity(records.len());
    for record in records {
        let MessageRecord { offset, conversation, sender, client_msg_id } = *record;
        let place = params![sender.0, client_msg_id.0, offset.0.cast_signed(), key(conversation)];
        let msg_id: Option<u32> = statement.query_row(place, |row| row.get(0)).optional()?;
        found.extend(msg_id.map(|msg_id| (offset, MsgId(msg_id))));
    }
    Ok(found)
}
