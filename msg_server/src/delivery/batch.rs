//! The conversations that one read of a link has brought something of.

use std::sync::Arc;

use proto::ids::ConversationId;
use tokio::time::Instant;

use super::shared::Shared;
use super::{fanout, resync};

/// The conversations with records that were taken and not delivered yet.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    conversations: Vec<ConversationId>,
    /// When the first record came.
    since: Option<Instant>,
}

impl Batch {
    /// A record has come.
    pub(super) fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Adds a conversation of which something is to be delivered.
    pub(super) fn add(&mut self, conversation: ConversationId) {
        if self.conversations.last() != Some(&conversation) {
            self.conversations.push(conversation);
        }
    }

    /// Delivers what was taken.
    pub(super) fn deliver(&mut self, shared: &Arc<Shared>) {
        // Before anything that came after what they miss.
        resync::let_lost_sync(shared);
        let since = self.since.take().filter(|_since| !self.conversations.is_empty());
        for conversation in self.conversations.drain(..) {
            fanout::deliver(shared, conversation);
        }
        // Once for the batch, however many messages and clients.
        if let Some(since) = since {
            shared.parts.metrics.delivery.observe(since.elapsed());
        }
    }
}
