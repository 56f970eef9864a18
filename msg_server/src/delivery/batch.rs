//! The conversations that one read of a link has brought something of.

use std::sync::Arc;

use super::shared::Shared;
use super::{fanout, resync};

/// The conversations with records that were taken and not delivered yet.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    conversations: Vec<u64>,
}

impl Batch {
    /// Adds a conversation of which something is to be delivered.
    pub(super) fn add(&mut self, conversation: u64) {
        if self.conversations.last() != Some(&conversation) {
            self.conversations.push(conversation);
        }
    }

    /// Delivers what was taken.
    pub(super) fn deliver(&mut self, shared: &Arc<Shared>) {
        // Before anything that came after what they miss.
        resync::let_lost_sync(shared);
        for conversation in self.conversations.drain(..) {
            fanout::deliver(shared, conversation);
        }
    }
}
