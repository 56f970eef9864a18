//! Why a connection ends. Every ending is one of these, so that endings can be counted.

use daemon::metrics::EncodeLabelValue;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue, thiserror::Error)]
pub(crate) enum CloseReason {
    #[error("the client left")]
    ClientLeft,
    #[error("the connection to the client broke")]
    ClientReset,
    #[error("the client logged out")]
    LoggedOut,
    #[error("the client did not log in in time")]
    LoginTimedOut,
    #[error("the login was refused")]
    LoginRefused,
    #[error("the client asked for something before its login")]
    NotLoggedIn,
    #[error("the client had not logged in when others needed its place")]
    MadeWay,
    #[error("the client was silent for too long")]
    Idle,
    #[error("a frame was begun and not finished in time")]
    PartialFrame,
    #[error("the client broke the protocol")]
    ProtocolError,
    #[error("the client sent a frame above the limit of its command")]
    TooLong,
    #[error("the client sent too many commands that it may not send")]
    TooMuchJunk,
    #[error("the client reads too slowly")]
    SlowReader,
    #[error("the session was thrown out")]
    Kicked,
    #[error("the session missed something and must synchronise")]
    MustSync,
    #[error("the TLS handshake failed")]
    TlsFailed,
    #[error("the gateway is stopping")]
    Stopping,
}
