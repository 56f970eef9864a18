//! What a request cannot be judged without and the owner does not have in memory: asked of the store,
//! or of the gateway that holds the connection.

use std::time::Duration;

use bytes::Bytes;
use fold::admission::{InStore, Need};
use fold::window::{Known, content_crc};
use proto::cluster::wire::FrameQuestion;
use proto::ids::ConversationId;
use store::{FoundMessage, StoreError};
use tokio::time::timeout;

use crate::publisher::Publisher;
use crate::repeats;
use crate::request::Fact;
use crate::state::State;

/// How long a fact may take. After that the requests that wait for it are answered "retry".
const LIMIT: Duration = Duration::from_secs(3);

/// Finds out what `need` names, for a request in the conversation `id`; an error after [`LIMIT`].
pub(super) async fn look_up(
    state: &State,
    publisher: &Publisher,
    id: ConversationId,
    need: Need,
) -> Result<Fact, StoreError> {
    let fact = timeout(LIMIT, find(state, publisher, id, need)).await;
    fact.unwrap_or_else(|_| Err(StoreError::Unavailable("it takes too long".to_owned())))
}

async fn find(
    state: &State,
    publisher: &Publisher,
    id: ConversationId,
    need: Need,
) -> Result<Fact, StoreError> {
    match need {
        Need::Repeats { connection, sender, client_msg_id, offset, age_ms } => {
            let question = FrameQuestion {
                session: connection.session,
                sender: sender.0,
                client_msg_id: Bytes::copy_from_slice(&client_msg_id.0),
            };
            let gateway = publisher.gateway(connection.gateway_boot);
            Ok(Fact::Repeats(offset, repeats::is_repeat(gateway, question, age_ms).await))
        }
        Need::Conversation => state.load(id).await.map(|()| Fact::Loaded),
        Need::PeersExist(one, other) => {
            let found = state.store().users(vec![one, other]).await?;
            Ok(Fact::PeersExist(found.len() == 2))
        }
        Need::Stored(sender, client_msg_id) => {
            let found = state.store().find_message(sender, client_msg_id).await?;
            let known = |FoundMessage { row, sent_crc }: FoundMessage| {
                InStore::Found(Known {
                    conversation: row.conversation,
                    msg_id: Some(row.msg_id),
                    client_msg_id,
                    content_crc: sent_crc.unwrap_or_else(|| content_crc(row.kind, &row.body)),
                    timestamp_ms: row.timestamp_ms,
                })
            };
            Ok(Fact::Stored(found.map_or(InStore::Missing, known)))
        }
        Need::Own { user, from, to, before } => {
            let own = state.store().count_own(id, user, from, to).await?;
            Ok(Fact::Own(to, before + own))
        }
    }
}
