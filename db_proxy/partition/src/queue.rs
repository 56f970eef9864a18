//! The queues in which requests wait until they can be judged.

use fold::admission::{Change, Need};
use proto::ids::{ConversationId, UserId};

/// Requests that wait, and are judged one after another. What waits for a fact that concerns one user
/// alone keeps no other user waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Queue {
    /// All changes of a conversation.
    Conversation(ConversationId),
    /// What a user says there, and changes after that.
    Sender(ConversationId, UserId),
    /// A user's read marks there. They are about what was said before, so that what the user says does
    /// not wait for them.
    Marks(ConversationId, UserId),
}

impl Queue {
    /// Where a change waits that needs a fact about the user that asks for it.
    pub(crate) fn of_one(change: &Change) -> Option<Self> {
        let queue = match change {
            Change::Read { user, .. } => Self::Marks(change.conversation()?, *user),
            Change::Send(send) => Self::Sender(send.conversation, send.identity.sender),
            Change::RemoveSession { user, .. } | Change::Shield { user, .. } => {
                Self::Sender(change.conversation()?, *user)
            }
            Change::Members { actor, .. } | Change::DeleteGroup { actor, .. } => {
                Self::Sender(change.conversation()?, (*actor)?)
            }
            Change::CreateGroup(_) => return None,
        };
        Some(queue)
    }

    pub(crate) fn conversation(self) -> ConversationId {
        let (Self::Conversation(id) | Self::Sender(id, _) | Self::Marks(id, _)) = self;
        id
    }
}

/// What a request waits for.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    /// A fact.
    Fact(Need),
    /// The fold of what is in the batch.
    Fold,
}

/// Where a change waits for this.
pub(crate) fn queue_of(id: ConversationId, change: &Change, wait: Wait) -> Queue {
    let of_one = match wait {
        Wait::Fact(Need::Own { .. } | Need::Stored(..) | Need::Repeats { .. }) => {
            Queue::of_one(change)
        }
        Wait::Fact(Need::Conversation | Need::PeersExist(..)) | Wait::Fold => None,
    };
    of_one.unwrap_or(Queue::Conversation(id))
}
