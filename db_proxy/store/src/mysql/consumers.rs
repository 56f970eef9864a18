//! The consumers of the log: how far they are, and the numbers of messages.

use std::sync::Arc;

use proto::ids::{MsgId, Offset};
use proto::record::LogId;

use super::failure::Failure;
use super::fold;
use super::link::Link;
use super::row::{self, values};
use crate::{ConsumerCursor, ConsumerRow, MessageRecord, StoreError, rules};

/// Records that one query asks about.
const RECORDS_AT_ONCE: usize = 256;

/// Every consumer of a partition, by name.
pub(super) async fn all(link: &mut Link, part: u32) -> Result<Vec<ConsumerRow>, Failure> {
    let rows = link
        .rows(
            "SELECT name, log_id, log_offset, epoch FROM consumer WHERE part = ? ORDER BY name",
            values![part],
        )
        .await?;
    row::all(rows, |columns| {
        let (name, log): (Vec<u8>, Vec<u8>) = (columns.next()?, columns.next()?);
        let damaged = || StoreError::Refused("the store is damaged: a consumer".to_owned());
        Ok(ConsumerRow {
            name: String::from_utf8(name).map_err(|_error| damaged())?,
            cursor: ConsumerCursor {
                log: LogId(log.try_into().map_err(|_log| damaged())?),
                offset: Offset(columns.next()?),
                epoch: columns.next()?,
            },
        })
    })
}

/// A consumer that is to be moved.
#[derive(Debug, Clone)]
pub(super) struct Moving {
    pub(super) part: u32,
    /// The epoch of the owner.
    pub(super) epoch: u64,
    pub(super) name: Arc<str>,
    pub(super) from: Option<ConsumerCursor>,
    pub(super) to: ConsumerCursor,
}

/// Moves a consumer, or makes it.
pub(super) async fn move_to(link: &mut Link, moving: Moving) -> Result<bool, Failure> {
    let Moving { part, epoch, name, from, to } = moving;
    let name = name.as_bytes();
    let changed = match from {
        Some(from) => {
            link.execute(
                "UPDATE consumer AS moved JOIN progress ON progress.part = moved.part
                 SET moved.log_id = ?, moved.log_offset = ?, moved.epoch = ?
                 WHERE moved.part = ? AND moved.name = ? AND moved.log_id = ?
                 AND moved.log_offset = ? AND progress.epoch = ?",
                values![
                    &to.log.0[..],
                    to.offset.0,
                    to.epoch,
                    part,
                    name,
                    &from.log.0[..],
                    from.offset.0,
                    epoch
                ],
            )
            .await?
        }
        None => {
            link.execute(
                "INSERT INTO consumer (part, name, log_id, log_offset, epoch)
                 SELECT part, ?, ?, ?, ? FROM progress
                 WHERE part = ? AND epoch = ? AND NOT EXISTS
                 (SELECT 1 FROM consumer AS made WHERE made.part = ? AND made.name = ?)",
                values![name, &to.log.0[..], to.offset.0, to.epoch, part, epoch, part, name],
            )
            .await?
        }
    };
    if changed > 0 {
        return Ok(true);
    }
    let progress = fold::progress(link, part).await?;
    if progress.is_some_and(|progress| progress.epoch == epoch) {
        return Ok(false);
    }
    Err(rules::fenced_consumer(epoch).into())
}

/// Forgets a consumer.
pub(super) async fn forget(link: &mut Link, part: u32, name: Arc<str>) -> Result<bool, Failure> {
    let forget = "DELETE FROM consumer WHERE part = ? AND name = ?";
    Ok(link.execute(forget, values![part, name.as_bytes()]).await? > 0)
}

/// The numbers of messages, by their records.
pub(super) async fn numbers(
    link: &mut Link,
    records: Arc<[MessageRecord]>,
) -> Result<Vec<(Offset, MsgId)>, Failure> {
    let mut found = Vec::with_capacity(records.len());
    for some in records.chunks(RECORDS_AT_ONCE) {
        let places = vec![
            "(sender = ? AND client_msg_id = ? AND log_offset = ? AND conversation = ?)";
            some.len()
        ];
        let query = format!("SELECT log_offset, msg_id FROM message WHERE {}", places.join(" OR "));
        let values = some.iter().flat_map(|record| {
            let MessageRecord { offset, conversation, sender, client_msg_id } = *record;
            values![sender.0, &client_msg_id.0[..], offset.0, conversation.number()]
        });
        let rows = link.rows(&query, values.collect()).await?;
        let some = row::all(rows, |columns| Ok((Offset(columns.next()?), MsgId(columns.next()?))))?;
        found.extend(some);
    }
    Ok(found)
}
