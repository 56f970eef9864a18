//! Webhooks, and events that were given up.

use std::sync::Arc;

use super::failure::Failure;
use super::link::Link;
use super::people::Turn;
use super::row::{self, Columns, values};
use crate::rules;
use crate::webhooks::{WebhookFailureRow, WebhookRow};

const WEBHOOK: &str = "SELECT number, name, url, events, state, secret, old_secret, old_until_s,
    made_ms, from_ms, begun_ms, run, version, failures FROM webhook";

/// Keeps a webhook. If the answer to this is lost and it is tried again, the webhook that is there is this one:
/// no two have one secret.
pub(super) async fn add(link: &mut Link, row: Arc<WebhookRow>) -> Result<Option<u32>, Failure> {
    let counter = Turn::Webhooks.take(link).await?;
    let made = "SELECT number FROM webhook WHERE secret = ?";
    let made = link.row(made, values![row.secret.as_bytes()]).await?;
    if let Some(number) = row::one(made, Columns::next)? {
        link.roll_back().await?;
        return Ok(Some(number));
    }
    // Webhooks that were brought from another store are not counted.
    let greatest = "SELECT COALESCE(MAX(number), 0) FROM webhook";
    let greatest: Option<u32> = row::one(link.row(greatest, Vec::new()).await?, Columns::next)?;
    let number = rules::number_after(counter.max(greatest.unwrap_or(0)), "webhook")?;
    let name = if row.name.is_empty() { format!("webhook-{number}") } else { row.name.clone() };
    let taken = link.row("SELECT 1 FROM webhook WHERE name = ?", values![name.as_bytes()]).await?;
    if taken.is_some() {
        link.roll_back().await?;
        return Ok(None);
    }
    insert(link, number, &name, &row).await?;
    link.execute("UPDATE counter SET value = ? WHERE name = 'webhook'", values![number]).await?;
    link.commit().await?;
    Ok(Some(number))
}

async fn insert(link: &mut Link, number: u32, name: &str, row: &WebhookRow) -> Result<(), Failure> {
    link.execute(
        "INSERT INTO webhook (number, name, url, events, state, secret, old_secret, old_until_s,
         made_ms, from_ms, begun_ms, run, version, failures)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        values![
            number,
            name.as_bytes(),
            row.url.as_bytes(),
            row.events,
            row.state,
            row.secret.as_bytes(),
            row.old_secret.as_bytes(),
            row.old_until_s,
            row.made_ms,
            row.from_ms,
            row.begun_ms,
            row.run,
            row.version,
            row.failures,
        ],
    )
    .await?;
    Ok(())
}

/// All webhooks, by number.
pub(super) async fn all(link: &mut Link) -> Result<Vec<WebhookRow>, Failure> {
    row::all(link.rows(&format!("{WEBHOOK} ORDER BY number"), Vec::new()).await?, webhook_row)
}

/// Changes a webhook that has this version. If the answer to this is lost and it is tried again, a webhook
/// that is as it was to become was changed by this.
pub(super) async fn change(
    link: &mut Link,
    version: u64,
    row: Arc<WebhookRow>,
) -> Result<bool, Failure> {
    let changed = link
        .execute(
            "UPDATE webhook SET url = ?, events = ?, state = ?, secret = ?, old_secret = ?,
             old_until_s = ?, from_ms = ?, begun_ms = ?, run = ?, version = ?
             WHERE number = ? AND version = ?",
            values![
                row.url.as_bytes(),
                row.events,
                row.state,
                row.secret.as_bytes(),
                row.old_secret.as_bytes(),
                row.old_until_s,
                row.from_ms,
                row.begun_ms,
                row.run,
                row.version,
                row.number,
                version,
            ],
        )
        .await?;
    if changed > 0 {
        return Ok(true);
    }
    let now = link.row(&format!("{WEBHOOK} WHERE number = ?"), values![row.number]).await?;
    let as_wanted = |now: WebhookRow| WebhookRow { failures: row.failures, ..now } == *row;
    Ok(row::one(now, webhook_row)?.is_some_and(as_wanted))
}

/// Forgets a webhook.
pub(super) async fn forget(link: &mut Link, number: u32) -> Result<bool, Failure> {
    link.begin().await?;
    let forgotten = link.execute("DELETE FROM webhook WHERE number = ?", values![number]).await?;
    link.execute("DELETE FROM webhook_failure WHERE webhook = ?", values![number]).await?;
    link.commit().await?;
    Ok(forgotten > 0)
}

/// Notes an event that was given up.
pub(super) async fn give_up(
    link: &mut Link,
    webhook: u32,
    failure: Arc<WebhookFailureRow>,
    keep: u32,
) -> Result<bool, Failure> {
    link.begin().await?;
    let count = "SELECT failures FROM webhook WHERE number = ? FOR UPDATE";
    let count: Option<u64> = row::one(link.row(count, values![webhook]).await?, Columns::next)?;
    let Some(count) = count else {
        link.roll_back().await?;
        return Ok(false);
    };
    let newest = count + 1;
    let noted = "SELECT 1 FROM webhook_failure WHERE webhook = ? AND event_id = ?";
    if link.row(noted, values![webhook, failure.event_id.as_bytes()]).await?.is_some() {
        link.roll_back().await?;
        return Ok(true);
    }
    link.execute(
        "INSERT INTO webhook_failure
         (webhook, number, event_id, event_type, happened_ms, given_up_ms, status, tries)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        values![
            webhook,
            newest,
            failure.event_id.as_bytes(),
            failure.event_type.as_bytes(),
            failure.happened_ms,
            failure.given_up_ms,
            failure.status,
            failure.tries,
        ],
    )
    .await?;
    link.execute("UPDATE webhook SET failures = ? WHERE number = ?", values![newest, webhook])
        .await?;
    link.execute(
        "DELETE FROM webhook_failure WHERE webhook = ? AND number <= ?",
        values![webhook, newest.saturating_sub(keep.into())],
    )
    .await?;
    link.commit().await?;
    Ok(true)
}

/// Events that were given up, the last first.
pub(super) async fn failures(
    link: &mut Link,
    webhook: u32,
    before: u64,
    count: u32,
) -> Result<Vec<WebhookFailureRow>, Failure> {
    let rows = link
        .rows(
            "SELECT number, event_id, event_type, happened_ms, given_up_ms, status, tries
             FROM webhook_failure WHERE webhook = ? AND number < ?
             ORDER BY number DESC LIMIT ?",
            values![webhook, before, count],
        )
        .await?;
    row::all(rows, |columns| {
        Ok(WebhookFailureRow {
            number: columns.next()?,
            event_id: columns.next()?,
            event_type: columns.next()?,
            happened_ms: columns.next()?,
            given_up_ms: columns.next()?,
            status: columns.next()?,
            tries: columns.next()?,
        })
    })
}

fn webhook_row(columns: &mut Columns) -> Result<WebhookRow, Failure> {
    Ok(WebhookRow {
        number: columns.next()?,
        name: columns.next()?,
        url: columns.next()?,
        events: columns.next()?,
        state: columns.next()?,
        secret: columns.next()?,
        old_secret: columns.next()?,
        old_until_s: columns.next()?,
        made_ms: columns.next()?,
        from_ms: columns.next()?,
        begun_ms: columns.next()?,
        run: columns.next()?,
        version: columns.next()?,
        failures: columns.next()?,
    })
}
