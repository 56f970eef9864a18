//! The reply to one command of a client, or why there is none.

use partition::Outcome;
use proto::cluster::wire::{Answer, AskStatus};
use store::StoreError;

/// A reply, or why there is none.
pub(crate) type Reply = Result<Answer, NoReply>;

/// Why there is no reply.
#[derive(Debug)]
pub(crate) enum NoReply {
    /// A partition is not owned here. Nothing was done.
    NotOwner,
    /// The body cannot be read, or names what does not exist: ignored, as the original does.
    Ignored,
    /// It could not be answered completely.
    Unavailable,
}

impl From<prost::DecodeError> for NoReply {
    fn from(_unreadable: prost::DecodeError) -> Self {
        Self::Ignored
    }
}

impl From<StoreError> for NoReply {
    fn from(error: StoreError) -> Self {
        tracing::debug!(%error, "a request is not answered");
        match error {
            StoreError::Fenced(_) => Self::NotOwner,
            _ => Self::Unavailable,
        }
    }
}

impl NoReply {
    /// For a change that was not made, or of which that is not known and that may be made twice.
    pub(crate) fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Retry => Some(Self::Unavailable),
            Outcome::Moved => Some(Self::NotOwner),
            _ => None,
        }
    }
}

/// Encodes a reply to a client's request.
pub(crate) fn answered(command: proto::Command, reply: &impl prost::Message) -> Answer {
    Answer {
        status: AskStatus::Answered as i32,
        command: Some(u32::from(command.number())),
        body: Some(reply.encode_to_vec().into()),
        ..ignored()
    }
}

/// No answer: not a request, or not one of ours.
pub(crate) fn ignored() -> Answer {
    Answer { status: AskStatus::Ignored as i32, ..Answer::default() }
}

/// No answer here: another db_proxy owns what was asked about.
pub(crate) fn not_owner() -> Answer {
    Answer { status: AskStatus::NotOwner as i32, ..ignored() }
}

/// No answer now: it would not be complete.
pub(crate) fn unavailable() -> Answer {
    Answer { status: AskStatus::Unavailable as i32, ..ignored() }
}
