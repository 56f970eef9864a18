//! One client's connection, from accept to close.
//!
//! - [`listener`] accepts, with TLS and without; [`counted`] counts what was opened and closed.
//! - [`connection`] is the task of one socket. It reads frames and hands them to [`crate::commands`].
//!   [`partial`] says how long a frame may take that has only begun.
//! - [`outbox`] is what waits to be written to one client. [`traffic`] counts what was written or read;
//!   [`frames_told`] remembers which of the client's messages were answered.
//! - [`connections`] lists all outboxes, [`waves`] closes many of them one after the other, and
//!   [`closing`] has the reasons for which a connection ends.

pub(crate) mod closing;
pub(crate) mod connection;
pub(crate) mod connections;
pub(crate) mod counted;
pub(crate) mod frames_told;
pub(crate) mod listener;
pub(crate) mod outbox;
pub(crate) mod partial;
pub(crate) mod traffic;
pub(crate) mod waves;
