//! Pages of what is missing, as the owners have them.

use std::time::Duration;

use daemon::CallError;
use proto::cluster::wire::{FetchRequest, Fetched, Publish};
use proto::ids::ConversationId;
use tokio::time::sleep;
use tracing::debug;

use crate::client::waves::jittered;
use crate::parts::Parts;

/// Pages that are fetched at a time, which bounds their memory.
pub(super) const FETCHES_MAX: usize = 16;

/// The pause after storage could not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks the owner of the conversation. `None` if it does not answer, or another owner is known by then.
pub(super) async fn fetch(parts: &Parts, request: &FetchRequest) -> Option<Fetched> {
    match parts.storage.fetch(request).await {
        Ok(page) => {
            let conversation = ConversationId::from_number(request.conversation)?;
            let partition = parts.partition_of(conversation);
            let current = |publish: &Publish| parts.partitions.is_current(partition, publish.epoch);
            page.publishes.iter().all(current).then_some(page)
        }
        Err(error) => {
            if error != CallError::Closed {
                debug!(%error, conversation = request.conversation, "cannot fetch what is missing");
            }
            None
        }
    }
}

/// Until it makes sense to ask about a conversation again.
pub(super) async fn pause(parts: &Parts, conversation: ConversationId) {
    let partition = parts.partition_of(conversation);
    if parts.storage.is_owned(partition) {
        sleep(jittered(PAUSE)).await;
    } else {
        parts.storage.owned(partition).await;
    }
}
