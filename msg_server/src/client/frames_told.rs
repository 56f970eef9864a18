//! What one connection was told of the messages that came on it.
//!
//! The outbox keeps it, since it writes the answers; what follows from it is said in
//! [`crate::submission::frames`].

use proto::ids::ClientMsgId;
use tokio::time::Instant;

/// What one connection was told of its frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FramesTold {
    /// The last message that was answered, and when.
    pub(crate) last: Option<(ClientMsgId, Instant)>,
    /// Whether that answer was written.
    pub(crate) written: bool,
    /// Whether any message is not answered.
    pub(crate) unanswered: bool,
    /// The last message that was given up without an answer. It may be stored.
    pub(crate) given_up: Option<ClientMsgId>,
}

impl FramesTold {
    /// Whether an answer was written, and none waits.
    pub(crate) const fn was_told_one(&self) -> bool {
        self.last.is_some() && self.written
    }
}
