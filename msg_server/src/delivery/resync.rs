//! Sessions that miss something which cannot be fetched: their clients must reconnect and ask for it.

use std::sync::Arc;
use std::time::Duration;

use proto::ids::{ConversationId, Parties};

use super::shared::Shared;
use crate::client::closing::CloseReason;
use crate::client::outbox::Outbox;
use crate::client::waves::close_in_waves;
use crate::parts::Parts;
use crate::sessions::session::Session;

/// Over how long clients are spread that must come back and ask.
const SYNC_WITHIN: Duration = Duration::from_secs(3);

/// The sessions of conversations that were forgotten although something was missing.
pub(super) fn let_lost_sync(shared: &Shared) {
    for conversation in shared.delivered.take_lost() {
        must_sync(&shared.parts, &concerned(&shared.parts, conversation));
    }
}

/// Closes the connections of sessions that miss something which cannot be fetched: their clients
/// reconnect and ask for everything.
pub(super) fn must_sync(parts: &Parts, sessions: &[Arc<Session>]) {
    // None may hear of what came after what it missed.
    for session in sessions {
        session.outbox.stop_pushes();
    }
    let outboxes: Vec<Arc<Outbox>> =
        sessions.iter().map(|session| Arc::clone(&session.outbox)).collect();
    if !outboxes.is_empty() {
        // Some at a time.
        parts.spawn(close_in_waves(outboxes, CloseReason::MustSync, SYNC_WITHIN));
    }
}

/// The sessions of a conversation.
fn concerned(parts: &Parts, conversation: ConversationId) -> Vec<Arc<Session>> {
    match conversation.parties() {
        Parties::Single(low, high) => {
            [low, high].iter().flat_map(|user| parts.registry.sessions_of(*user)).collect()
        }
        Parties::Group(group) => {
            let members = parts.registry.group(group).unwrap_or_default();
            members.iter().map(|member| Arc::clone(&member.session)).collect()
        }
    }
}
