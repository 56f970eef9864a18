//! The client library: speaks the protocol of TalkHub, and of the TeamTalk servers before it.
//!
//! Two ways in. [`Client`] keeps the client's side of what the system promises: a message that was
//! handed to it is sent until the server has said what became of it, in order, across reconnects
//! and, with an outbox on disk, across restarts; what others say is delivered once and in order.
//! [`Connection`] is one connection by hand, for tests and tools.
//!
//! # How the modules know each other
//!
//! ```text
//! client ──> engine ──┬──> outgoing    what has no answer yet            (pure)
//!   │                 ├──> timeline    what has come, and what is missing (pure)
//!   │                 ├──> journal ──> outbox   what survives a restart
//!   │                 ├──> token       what the next login is with
//!   │                 ├──> watcher     what else sees what comes
//!   │                 └──> dialer ──┬──> balancer     which gateway
//!   └──> message, push              └──> connection ──> socket
//! ```
//!
//! Client and engine both know `options`, `call` and `event`: what the program gives them, and what it
//! gets.

mod backoff;
mod balancer;
mod call;
mod client;
mod connection;
mod dialer;
mod engine;
mod event;
#[cfg(feature = "faults")]
pub mod faults;
mod file;
mod journal;
mod message;
mod options;
mod outbox;
mod outgoing;
mod push;
mod requests;
mod socket;
mod timeline;
mod tls;
mod token;
mod watcher;

pub use backoff::Backoff;
pub use balancer::{Gateway, LookupError, lookup, lookup_any};
pub use call::CallError;
pub use client::{Client, Sending};
pub use connection::{
    ClientType, Connection, ConnectionError, Login, LoginError, SendReply, hello, password_field,
};
pub use dialer::Servers;
pub use event::{Event, Events};
pub use message::{Conversation, Draft, Kind, Message, NotSent, Outcome, new_client_msg_id};
pub use options::{Limits, Options};
pub use outbox::{FileOutbox, MemoryOutbox, Outbox, Unsent};
pub use push::Push;
pub use socket::{FrameReader, FrameWriter, Socket};
pub use timeline::StartFrom;
pub use tls::{TlsConfig, TlsConfigError};
pub use watcher::Watcher;
