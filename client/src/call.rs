//! A request of the program to the server, and why it may have no answer.

use bytes::Bytes;
use proto::{Command, Frame};
use tokio::sync::oneshot;

use crate::connection::ConnectionError;

/// A request of the program.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) command: Command,
    pub(crate) body: Bytes,
    /// Whether an answer will come. If not, the call is done when it is written.
    pub(crate) is_answered: bool,
    pub(crate) answer: oneshot::Sender<Result<Frame, CallError>>,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server will not do it: a `RefuseReason`.
    #[error("refused with reason {0}")]
    Refused(u32),
    /// The server could not do it: a result code.
    #[error("failed with result {0}")]
    Failed(u32),
    /// There was no connection, or no answer, in time.
    #[error("no answer in time")]
    TimedOut,
    /// The connection was lost before the answer came.
    #[error("the connection was lost")]
    Lost,
    /// The client has ended.
    #[error("the client has ended")]
    Ended,
    /// The request is larger than a server takes.
    #[error("the request is too large")]
    TooLarge,
    /// Something else came, or something that cannot be read.
    #[error("the answer cannot be read")]
    Answer(#[source] ConnectionError),
}
