//! What a db_proxy is told: again and again until it has noted it.

use std::time::Duration;

use db_client::DbClient;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    AdminError, AdminRequest, WebhookFailureLine, WebhookGaveUp, WebhookGone,
};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::asking::CALL_LIMIT;

/// Before it is told once more.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// An event is given up.
pub(super) async fn gave_up(client: &DbClient, webhook: u32, failure: WebhookFailureLine) {
    tell(client, What::WebhookGaveUp(WebhookGaveUp { webhook, failure })).await;
}

/// An endpoint is gone.
pub(super) async fn gone(client: &DbClient, webhook: u32, version: u64) {
    tell(client, What::WebhookGone(WebhookGone { webhook, version })).await;
}

async fn tell(client: &DbClient, what: What) {
    let request = AdminRequest { what: Some(what), by: None };
    loop {
        let until = Instant::now() + CALL_LIMIT;
        match client.administer(&request, until, Duration::ZERO).await {
            Ok(answer) if answer.done => return,
            // The webhook was removed: nobody wants to know.
            Ok(answer) if answer.error_code() == AdminError::NotFound => return,
            Ok(answer) => warn!(error = answer.error(), "a webhook's failure is not noted now"),
            Err(error) => warn!(%error, "a webhook's failure is not noted now"),
        }
        sleep(AGAIN_AFTER).await;
    }
}
