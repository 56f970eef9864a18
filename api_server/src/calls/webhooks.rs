//! Webhooks: added, listed, switched off and on, removed; what was given up, and replays.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use proto::api_key::Scope;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    WebhookAdd, WebhookFailureLine, WebhookFailures, WebhookLine, WebhookList, WebhookRemove,
    WebhookReplay, WebhookRotate, WebhookState, WebhookSwitch,
};
use serde::{Deserialize, Serialize};

use crate::asking::{administer, carry_out};
use crate::input::{Allowed, Json, Number, Query};
use crate::keys::Key;
use crate::paging::{self, Page, Wanted};
use crate::problem::Problem;
use crate::state::Api;

type Admin = Allowed<{ Scope::Admin.bit() }>;

/// How long the secret before signs as well, if the program does not say: a day, in seconds.
const OLD_FOR_S: u32 = 86_400;

/// A webhook, as programs see it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Webhook {
    /// The number of the webhook.
    id: u32,
    /// What people call it.
    name: String,
    /// Where events are sent.
    url: String,
    /// The types of events that are sent.
    events: Vec<String>,
    /// `on`, `off` (switched off), or `gone` (the endpoint has answered 410).
    state: WhetherSent,
    /// When it was made, in Unix seconds.
    created: u32,
    /// How many events were given up and are not listed any longer.
    forgotten_failures: u32,
}

/// Whether events are sent.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
enum WhetherSent {
    On,
    /// Switched off.
    Off,
    /// The endpoint has answered 410.
    Gone,
}

impl From<WebhookLine> for Webhook {
    fn from(line: WebhookLine) -> Self {
        let state = match line.state() {
            WebhookState::On => WhetherSent::On,
            WebhookState::Off => WhetherSent::Off,
            WebhookState::Gone => WhetherSent::Gone,
        };
        let WebhookLine { number, name, url, events, made_ms, forgotten_failures, .. } = line;
        let created = seconds(made_ms);
        let forgotten_failures = u32::try_from(forgotten_failures).unwrap_or(u32::MAX);
        Self { id: number, name, url, events, state, created, forgotten_failures }
    }
}

/// A webhook that was made, with its secret: it is not told again.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Made {
    #[serde(flatten)]
    webhook: Webhook,
    /// What events are signed with: `whsec_` and Base64. It is not told again.
    secret: String,
}

/// An event that was given up.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Failure {
    /// The `webhook-id` that it was sent with.
    event: String,
    /// The type of the event.
    r#type: String,
    /// When it happened, in Unix seconds.
    happened: u32,
    /// When it was given up, in Unix seconds.
    given_up: u32,
    /// The last status; nothing if there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u32>,
    /// How often it was tried since the last start of the server.
    tries: u32,
}

impl From<WebhookFailureLine> for Failure {
    fn from(line: WebhookFailureLine) -> Self {
        let WebhookFailureLine {
            event_id,
            event_type,
            happened_ms,
            given_up_ms,
            status,
            tries,
            ..
        } = line;
        Self {
            event: event_id,
            r#type: event_type,
            happened: seconds(happened_ms),
            given_up: seconds(given_up_ms),
            status: Some(status).filter(|status| *status != 0),
            tries,
        }
    }
}

async fn all(api: &Api, key: &Key) -> Result<Vec<WebhookLine>, Problem> {
    let list = What::WebhookList(WebhookList { secrets: None });
    Ok(administer(&api.client, key, list).await?.webhooks)
}

/// `GET /v1/webhooks`: all, by number, on one page.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Allowed(key): Admin,
) -> Result<Answer<Page<Webhook>>, Problem> {
    let lines = all(&api, &key).await?;
    Ok(Answer(Page { items: lines.into_iter().map(Webhook::from).collect(), next: None }))
}

/// `GET /v1/webhooks/{webhook}`.
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Allowed(key): Admin,
    Number(webhook): Number,
) -> Result<Answer<Webhook>, Problem> {
    let lines = all(&api, &key).await?;
    let line = lines.into_iter().find(|line| line.number == webhook);
    let line = line.ok_or_else(|| Problem::not_found("there is no such webhook"))?;
    Ok(Answer(line.into()))
}

/// A webhook to be made.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct NewWebhook {
    /// Where events are sent: an http or https URL of at most 2,000 bytes.
    #[cfg_attr(test, schema(max_length = 2000, example = "https://example.com/talkhub"))]
    url: String,
    /// Which events: `message.created`, `group.created`, `members.changed`.
    #[cfg_attr(test, schema(min_items = 1, example = json!(["message.created"])))]
    events: Vec<String>,
    /// What people call it: 1 to 64 letters, digits, `-`, `_` and `.`; made of its number if not said.
    #[cfg_attr(test, schema(max_length = 64))]
    name: Option<String>,
}

/// `POST /v1/webhooks`.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Allowed(key): Admin,
    Json(NewWebhook { url, events, name }): Json<NewWebhook>,
) -> Result<(StatusCode, Answer<Made>), Problem> {
    let add = What::WebhookAdd(WebhookAdd { name, url, events });
    let made = administer(&api.client, &key, add).await?;
    let line = made.webhooks.into_iter().next().unwrap_or_default();
    let secret = made.webhook_secret.unwrap_or_default();
    Ok((StatusCode::CREATED, Answer(Made { webhook: line.into(), secret })))
}

/// `DELETE /v1/webhooks/{webhook}`.
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Allowed(key): Admin,
    Number(webhook): Number,
) -> Result<StatusCode, Problem> {
    carry_out(&api.client, &key, What::WebhookRemove(WebhookRemove { webhook })).await
}

/// `PUT /v1/webhooks/{webhook}/disabled`: nothing is sent until it is enabled.
pub(super) async fn disable(
    State(api): State<Arc<Api>>,
    Allowed(key): Admin,
    Number(webhook): Number,
) -> Result<StatusCode, Problem> {
    carry_out(&api.client, &key, What::WebhookSwitch(WebhookSwitch { webhook, on: false })).await
}

/// `DELETE /v1/webhooks/{webhook}/disabled`: goes on from there, also if the endpoint was gone.
pub(super) async fn enable(
    State(api): State<Arc<Api>>,
    Allowed(key): Admin,
    Number(webhook): Number,
) -> Result<StatusCode, Problem> {
    carry_out(&api.client, &key, What::WebhookSwitch(WebhookSwitch { webhook, on: true })).await
}

/// How a secret takes the place of another.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct NewSecret {
    /// How long the secret before signs as well, in seconds; a day if not said.
    #[cfg_attr(test, schema(maximum = 31_536_000))]
    old_for: Option<u32>,
}

/// A secret that was made: it is not told again.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct MadeSecret {
    /// What events are signed with from now on.
    secret: String,
}

/// `POST /v1/webhooks/{webhook}/secrets`.
pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    Allowed(key): Admin,
    Number(webhook): Number,
    Json(NewSecret { old_for }): Json<NewSecret>,
) -> Result<(StatusCode, Answer<MadeSecret>), Problem> {
    let old_for_s = old_for.unwrap_or(OLD_FOR_S).into();
    let rotate = What::WebhookRotate(WebhookRotate { webhook, old_for_s });
    let secret = administer(&api.client, &key, rotate).await?.webhook_secret;
    Ok((StatusCode::CREATED, Answer(MadeSecret { secret: secret.unwrap_or_default() })))
}

/// `GET /v1/webhooks/{webhook}/failures`: what was given up, the last first.
pub(super) async fn failures(
    State(api): State<Arc<Api>>,
    Allowed(key): Admin,
    Number(webhook): Number,
    Query(wanted): Query<Wanted>,
) -> Result<Answer<Page<Failure>>, Problem> {
    let list = format!("failures {webhook}");
    let before = wanted.cursor.map(|cursor| paging::number(&list, &cursor)).transpose()?;
    let count = Some(paging::limit(wanted.limit)?);
    let asked = What::WebhookFailures(WebhookFailures { webhook, before, count });
    let page = administer(&api.client, &key, asked).await?;
    let last = page.webhook_failures.last().filter(|_| page.more());
    let next = last.map(|failure| paging::cursor(&list, &failure.number.to_string()));
    let items = page.webhook_failures.into_iter().map(Failure::from).collect();
    Ok(Answer(Page { items, next }))
}

/// From when on events are sent again.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Replay {
    /// Unix seconds, in the past.
    since: u32,
}

/// `POST /v1/webhooks/{webhook}/replays`: what happened since then is sent again, as far as the log reaches
/// back.
pub(super) async fn replay(
    State(api): State<Arc<Api>>,
    Allowed(key): Admin,
    Number(webhook): Number,
    Json(Replay { since }): Json<Replay>,
) -> Result<StatusCode, Problem> {
    let since_ms = u64::from(since) * 1_000;
    carry_out(&api.client, &key, What::WebhookReplay(WebhookReplay { webhook, since_ms })).await
}

fn seconds(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms / 1_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
