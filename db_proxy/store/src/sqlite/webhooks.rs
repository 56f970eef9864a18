//! Webhooks, and events that were given up.

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::row::number;
use crate::webhooks::{WebhookFailureRow, WebhookRow};
use crate::{StoreError, rules};

const WEBHOOK: &str = "SELECT number, name, url, events, state, secret, old_secret, old_until_s,
    made_ms, from_ms, begun_ms, run, version, failures FROM webhook";

/// Keeps a webhook.
pub(super) fn add(
    connection: &mut Connection,
    row: &WebhookRow,
) -> Result<Option<u32>, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Webhooks that were brought from another store are not counted.
    let newest: u32 = transaction.query_row(
        "SELECT max(value, (SELECT coalesce(max(number), 0) FROM webhook))
         FROM counter WHERE name = 'webhook'",
        [],
        |row| row.get(0),
    )?;
    let number = rules::number_after(newest, "webhook")?;
    let name = if row.name.is_empty() { format!("webhook-{number}") } else { row.name.clone() };
    let added = transaction.execute(
        "INSERT OR IGNORE INTO webhook (number, name, url, events, state, secret, old_secret,
         old_until_s, made_ms, from_ms, begun_ms, run, version, failures)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            number,
            name,
            row.url,
            row.events,
            row.state,
            row.secret,
            row.old_secret,
            row.old_until_s.cast_signed(),
            row.made_ms.cast_signed(),
            row.from_ms.cast_signed(),
            row.begun_ms.cast_signed(),
            row.run,
            row.version.cast_signed(),
            row.failures.cast_signed(),
        ],
    )?;
    transaction.execute("UPDATE counter SET value = ?1 WHERE name = 'webhook'", [number])?;
    transaction.commit()?;
    Ok((added > 0).then_some(number))
}

/// All webhooks, by number.
pub(super) fn all(connection: &Connection) -> Result<Vec<WebhookRow>, StoreError> {
    let mut statement = connection.prepare_cached(&format!("{WEBHOOK} ORDER BY number"))?;
    let rows = statement.query_map([], webhook_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Changes a webhook that has this version.
pub(super) fn change(
    connection: &mut Connection,
    version: u64,
    row: &WebhookRow,
) -> Result<bool, StoreError> {
    let changed = connection.execute(
        "UPDATE webhook SET url = ?3, events = ?4, state = ?5, secret = ?6, old_secret = ?7,
         old_until_s = ?8, from_ms = ?9, begun_ms = ?10, run = ?11, version = ?12
         WHERE number = ?1 AND version = ?2",
        params![
            row.number,
            version.cast_signed(),
            row.url,
            row.events,
            row.state,
            row.secret,
            row.old_secret,
            row.old_until_s.cast_signed(),
            row.from_ms.cast_signed(),
            row.begun_ms.cast_signed(),
            row.run,
            row.version.cast_signed(),
        ],
    )?;
    Ok(changed > 0)
}

/// Forgets a webhook.
pub(super) fn forget(connection: &mut Connection, number: u32) -> Result<bool, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute("DELETE FROM webhook_failure WHERE webhook = ?1", [number])?;
    let forgotten = transaction.execute("DELETE FROM webhook WHERE number = ?1", [number])?;
    transaction.commit()?;
    Ok(forgotten > 0)
}

/// Notes an event that was given up.
pub(super) fn give_up(
    connection: &mut Connection,
    webhook: u32,
    failure: &WebhookFailureRow,
    keep: u32,
) -> Result<bool, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let count = "SELECT failures FROM webhook WHERE number = ?1";
    let count = transaction.query_row(count, [webhook], |row| number(row, 0)).optional()?;
    let Some(count) = count else { return Ok(false) };
    let newest = count + 1;
    let noted = transaction.execute(
        "INSERT OR IGNORE INTO webhook_failure
         (webhook, number, event_id, event_type, happened_ms, given_up_ms, status, tries)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            webhook,
            newest.cast_signed(),
            failure.event_id,
            failure.event_type,
            failure.happened_ms.cast_signed(),
            failure.given_up_ms.cast_signed(),
            failure.status,
            failure.tries,
        ],
    )?;
    if noted > 0 {
        transaction.execute(
            "UPDATE webhook SET failures = ?2 WHERE number = ?1",
            params![webhook, newest.cast_signed()],
        )?;
        transaction.execute(
            "DELETE FROM webhook_failure WHERE webhook = ?1 AND number <= ?2",
            params![webhook, newest.saturating_sub(keep.into()).cast_signed()],
        )?;
    }
    transaction.commit()?;
    Ok(true)
}

/// Events that were given up, the last first.
pub(super) fn failures(
    connection: &Connection,
    webhook: u32,
    before: u64,
    count: u32,
) -> Result<Vec<WebhookFailureRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT number, event_id, event_type, happened_ms, given_up_ms, status, tries
         FROM webhook_failure WHERE webhook = ?1 AND number < ?2 ORDER BY number DESC LIMIT ?3",
    )?;
    let before = before.min(i64::MAX as u64).cast_signed();
    let rows = statement.query_map(params![webhook, before, count], |row| {
        Ok(WebhookFailureRow {
            number: number(row, 0)?,
            event_id: row.get(1)?,
            event_type: row.get(2)?,
            happened_ms: number(row, 3)?,
            given_up_ms: number(row, 4)?,
            status: row.get(5)?,
            tries: row.get(6)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn webhook_row(row: &Row<'_>) -> rusqlite::Result<WebhookRow> {
    Ok(WebhookRow {
        number: row.get(0)?,
        name: row.get(1)?,
        url: row.get(2)?,
        events: row.get(3)?,
        state: row.get(4)?,
        secret: row.get(5)?,
        old_secret: row.get(6)?,
        old_until_s: number(row, 7)?,
        made_ms: number(row, 8)?,
        from_ms: number(row, 9)?,
        begun_ms: number(row, 10)?,
        run: row.get(11)?,
        version: number(row, 12)?,
        failures: number(row, 13)?,
    })
}
