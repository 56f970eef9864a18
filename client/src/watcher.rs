//! Sees what comes on a client's connections.

use std::fmt;

use proto::Frame;

/// Sees what comes on the connections of a client before the client uses it, puts it in order or
/// fetches what is missing: for logs and for tests.
///
/// It is called by the task that reads the connection, one call after the other, so it must not block;
/// a panic in it ends the client.
pub trait Watcher: fmt::Debug + Send + Sync {
    /// A login succeeded: what comes from now on comes on this connection.
    fn logged_in(&self) {}

    /// A frame came, the answer to the login excepted.
    fn heard(&self, frame: &Frame);

    /// The connection is lost, or an attempt to make one failed; the client tries again. Not called
    /// when the client ends.
    fn lost(&self) {}
}
