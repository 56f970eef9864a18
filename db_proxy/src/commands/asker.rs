//! The session that asks, and the partitions its answer is read from.

use std::sync::Arc;

use logins::login::Logins;
use parking_lot::Mutex;
use proto::cluster::wire::{Origin, Owned, Rest};
use proto::ids::{ConversationId, UserId};
use proto::lists::Placeholders;

use crate::commands::group_limits::GroupLimits;
use crate::commands::reply::NoReply;
use crate::partitions::{Partitions, Served};

/// The session that asks, and where its answer comes from.
#[derive(Debug)]
pub(crate) struct Asker {
    /// The user of the session.
    pub(crate) user: UserId,
    /// The client kind of the session.
    pub(crate) client_type: u32,
    /// The session, which is answered and needs no notice of what it changes.
    pub(crate) origin: Origin,
    /// The partitions.
    pub(crate) partitions: Arc<Partitions>,
    /// The partitions whose conversations a question about several is answered for; all if none is
    /// named.
    pub(crate) asked: Vec<u32>,
    /// Where the answer goes on, if its beginning was told before.
    pub(crate) rest: Option<Rest>,
    /// The login side.
    pub(crate) logins: Logins,
    /// How many groups a user may have.
    pub(crate) groups: GroupLimits,
    /// What lists show in place of messages.
    pub(crate) placeholders: Placeholders,
    /// Whose partitions the answer was read from, so far.
    pub(crate) by: Mutex<Vec<Owned>>,
}

impl Asker {
    /// The partition of a conversation.
    pub(crate) fn of(&self, id: ConversationId) -> Result<Arc<Served>, NoReply> {
        self.served(self.partitions.number_of(id))
    }

    /// The partitions of a question about several conversations.
    pub(crate) fn all_asked(&self) -> Result<Vec<Arc<Served>>, NoReply> {
        if self.asked.is_empty() {
            return (0..self.partitions.count()).map(|number| self.served(number)).collect();
        }
        self.asked.iter().map(|number| self.served(*number)).collect()
    }

    /// Whether an answer is to tell of a conversation.
    pub(crate) fn asks_about(&self, id: ConversationId) -> bool {
        self.asked.is_empty() || self.asked.contains(&self.partitions.number_of(id))
    }

    fn served(&self, partition: u32) -> Result<Arc<Served>, NoReply> {
        let served = self.partitions.get(partition).ok_or(NoReply::NotOwner)?;
        let mut by = self.by.lock();
        if !by.contains(&served.owned) {
            by.push(served.owned);
        }
        Ok(served)
    }
}
