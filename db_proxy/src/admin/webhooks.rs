//! Webhooks: URLs of other systems that are told of events. An api_server tells them; what it must know of them,
//! and which events it has given up, is kept here.

use daemon::clock::{unix_ms, unix_s};
use daemon::http_client::HttpUrl;
use daemon::webhook_signature::WebhookSecret;
use logins::names::check_key_name;
use proto::cluster::wire::{
    AdminAnswer, WebhookAdd, WebhookFailureLine, WebhookFailures, WebhookGaveUp, WebhookGone,
    WebhookLine, WebhookList, WebhookRemove, WebhookReplay, WebhookRotate, WebhookState,
    WebhookSwitch,
};
use proto::webhook::EventType;
use store::webhooks::{WebhookFailureRow, WebhookRow};

use super::{Admin, AdminError, Done, LINES_MAX, Problem, done};

/// Webhooks that a site may have: each of them reads the log.
pub(crate) const WEBHOOKS_MAX: usize = 32;

/// Events of one webhook that were given up and are listed. The oldest go first.
pub(crate) const FAILURES_MAX: u32 = 1_000;

/// The longest URL, in bytes.
pub(crate) const URL_LEN_MAX: usize = 2_000;

/// How long the secret before the newest may sign as well.
pub(crate) const OLD_SECRET_MAX_S: u64 = 365 * 86_400;

/// How often a change is tried that somebody else comes before.
const TRIES: usize = 8;

impl Admin<'_> {
    pub(super) async fn add_webhook(&self, WebhookAdd { name, url, events }: WebhookAdd) -> Done {
        if let Some(name) = &name {
            check_key_name(name).map_err(|problem| format!("the name of a webhook {problem}"))?;
        }
        if url.len() > URL_LEN_MAX {
            return Err(format!("a URL has at most {URL_LEN_MAX} bytes").into());
        }
        url.parse::<HttpUrl>().map_err(|problem| format!("the URL {problem}"))?;
        let events = bits(&events)?;
        let store = self.logins.store();
        if store.webhooks().await?.len() >= WEBHOOKS_MAX {
            return Err(format!("a site has at most {WEBHOOKS_MAX} webhooks").into());
        }
        let now_ms = unix_ms();
        let row = WebhookRow {
            number: 0,
            name: name.unwrap_or_default(),
            url,
            events,
            state: WebhookRow::ON,
            secret: WebhookSecret::random().expose(),
            old_secret: String::new(),
            old_until_s: 0,
            made_ms: now_ms,
            from_ms: now_ms,
            begun_ms: now_ms,
            run: 0,
            version: 1,
            failures: 0,
        };
        let Some(number) = store.add_webhook(row.clone()).await? else {
            let taken = format!("the webhook {} exists", row.name);
            return Err(Problem::Said(AdminError::Taken, taken));
        };
        let secret = Some(row.secret.clone());
        let kept = self.webhook(number).await?;
        let (id, webhooks) = (Some(number), vec![line(kept, false)]);
        Ok(AdminAnswer { id, webhooks, webhook_secret: secret, ..done() })
    }

    pub(super) async fn list_webhooks(&self, list: WebhookList) -> Done {
        let rows = self.logins.store().webhooks().await?;
        let webhooks = rows.into_iter().map(|row| line(row, list.secrets())).collect();
        Ok(AdminAnswer { webhooks, ..done() })
    }

    pub(super) async fn remove_webhook(&self, WebhookRemove { webhook }: WebhookRemove) -> Done {
        if self.logins.store().forget_webhook(webhook).await? {
            return Ok(done());
        }
        Err(missing(webhook))
    }

    pub(super) async fn switch_webhook(&self, switch: WebhookSwitch) -> Done {
        self.change_webhook(switch.webhook, |row| {
            let state = if switch.on { WebhookRow::ON } else { WebhookRow::OFF };
            // Switched on again, it is tried at once, and for as long as what happens now.
            let begun_ms = if switch.on { unix_ms() } else { row.begun_ms };
            WebhookRow { state, begun_ms, ..row }
        })
        .await?;
        Ok(done())
    }

    pub(super) async fn rotate_webhook(&self, rotate: WebhookRotate) -> Done {
        let WebhookRotate { webhook, old_for_s } = rotate;
        if old_for_s > OLD_SECRET_MAX_S {
            return Err("the secret before may be good for a year at most".into());
        }
        let secret = WebhookSecret::random().expose();
        self.change_webhook(webhook, |row| {
            let old_secret = if old_for_s == 0 { String::new() } else { row.secret.clone() };
            let old_until_s =
                if old_for_s == 0 { 0 } else { u64::from(unix_s()).saturating_add(old_for_s) };
            WebhookRow { secret: secret.clone(), old_secret, old_until_s, ..row }
        })
        .await?;
        Ok(AdminAnswer { webhook_secret: Some(secret), ..done() })
    }

    pub(super) async fn replay_webhook(&self, replay: WebhookReplay) -> Done {
        let WebhookReplay { webhook, since_ms } = replay;
        let now_ms = unix_ms();
        if since_ms > now_ms {
            return Err("a replay begins in the past".into());
        }
        self.change_webhook(webhook, |row| WebhookRow {
            run: row.run.wrapping_add(1),
            from_ms: since_ms,
            begun_ms: now_ms,
            ..row
        })
        .await?;
        Ok(done())
    }

    pub(super) async fn webhook_failures(&self, failures: WebhookFailures) -> Done {
        let WebhookFailures { webhook, before, count } = failures;
        self.webhook(webhook).await?;
        let count = count.unwrap_or(LINES_MAX).clamp(1, LINES_MAX);
        let before = before.unwrap_or(u64::MAX);
        let store = self.logins.store();
        // One more tells whether there is more.
        let mut rows = store.webhook_failures(webhook, before, count + 1).await?;
        let more = rows.len() > count as usize;
        rows.truncate(count as usize);
        let webhook_failures = rows.into_iter().map(failure_line).collect();
        Ok(AdminAnswer { webhook_failures, more: Some(more), ..done() })
    }

    pub(super) async fn give_up_event(&self, gave_up: WebhookGaveUp) -> Done {
        let WebhookGaveUp { webhook, failure } = gave_up;
        let row = WebhookFailureRow {
            number: 0,
            event_id: failure.event_id,
            event_type: failure.event_type,
            happened_ms: failure.happened_ms,
            given_up_ms: failure.given_up_ms,
            status: failure.status,
            tries: failure.tries,
        };
        if self.logins.store().give_up(webhook, row, FAILURES_MAX).await? {
            return Ok(done());
        }
        Err(missing(webhook))
    }

    pub(super) async fn webhook_gone(&self, WebhookGone { webhook, version }: WebhookGone) -> Done {
        let row = self.webhook(webhook).await?;
        if row.version == version {
            let gone = WebhookRow { state: WebhookRow::GONE, version: version + 1, ..row };
            // If it is changed at this moment, the answer was to what it was before.
            self.logins.store().change_webhook(version, gone).await?;
        }
        Ok(done())
    }

    async fn webhook(&self, number: u32) -> Result<WebhookRow, Problem> {
        let rows = self.logins.store().webhooks().await?;
        rows.into_iter().find(|row| row.number == number).ok_or_else(|| missing(number))
    }

    async fn change_webhook(
        &self,
        number: u32,
        change: impl Fn(WebhookRow) -> WebhookRow,
    ) -> Result<(), Problem> {
        for _try in 0..TRIES {
            let row = self.webhook(number).await?;
            let version = row.version;
            let changed = WebhookRow { version: version + 1, ..change(row) };
            if self.logins.store().change_webhook(version, changed).await? {
                return Ok(());
            }
        }
        Err(Problem::not_now("others change the webhook"))
    }
}

fn missing(webhook: u32) -> Problem {
    Problem::missing(format_args!("webhook {webhook}"))
}

fn bits(events: &[String]) -> Result<u32, Problem> {
    let mut bits = 0;
    for event in events {
        let known = || EventType::ALL.map(EventType::name).join(", ");
        let event = EventType::named(event);
        bits |= event.ok_or_else(|| format!("an event is one of: {}", known()))?.bit();
    }
    if bits == 0 {
        return Err("a webhook wants at least one type of event".into());
    }
    Ok(bits)
}

fn line(row: WebhookRow, secrets: bool) -> WebhookLine {
    let state = match row.state {
        WebhookRow::ON => WebhookState::On,
        WebhookRow::GONE => WebhookState::Gone,
        _ => WebhookState::Off,
    };
    WebhookLine {
        number: row.number,
        name: row.name,
        url: row.url,
        events: EventType::of_bits(row.events).map(|event| event.name().to_owned()).collect(),
        state: state.into(),
        made_ms: row.made_ms,
        from_ms: row.from_ms,
        run: row.run,
        version: row.version,
        begun_ms: row.begun_ms,
        old_until_s: row.old_until_s,
        forgotten_failures: row.failures.saturating_sub(FAILURES_MAX.into()),
        secret: secrets.then_some(row.secret),
        old_secret: Some(row.old_secret).filter(|old| secrets && !old.is_empty()),
    }
}

fn failure_line(row: WebhookFailureRow) -> WebhookFailureLine {
    WebhookFailureLine {
        number: row.number,
        event_id: row.event_id,
        event_type: row.event_type,
        happened_ms: row.happened_ms,
        given_up_ms: row.given_up_ms,
        status: row.status,
        tries: row.tries,
    }
}
