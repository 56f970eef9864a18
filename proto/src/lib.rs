//! What the programs of TalkHub say to clients and to each other: schemas, frames, commands.
//!
//! No IO, no clock, no task: bytes in, values out, and back. The client protocol is fixed by the
//! clients that exist ([`client`], [`frame`], [`command`], [`lists`], [`text`]); the cluster's
//! protocol and the log's records are ours ([`cluster`], [`log`], [`record`], [`seat`]).

#![deny(clippy::indexing_slicing)] // Peers choose the bytes, and an index out of range is a panic.

pub mod api_key;
pub mod cluster;
pub mod command;
pub mod content;
pub mod credential;
pub mod features;
pub mod frame;
pub mod fuzzing;
pub mod ids;
pub mod limits;
pub mod lists;
pub mod record;
pub mod seat;
pub mod text;
pub mod webhook;

/// The messages of the client protocol, from `schema/`. The body of a command is the message of
/// the same name.
#[expect(missing_docs, clippy::pedantic, reason = "generated")]
pub mod client {
    include!(concat!(env!("OUT_DIR"), "/talkhub.client.rs"));
}

/// The payload of a record in the durable log, from `schema/log.proto`.
#[expect(missing_docs, clippy::pedantic, reason = "generated")]
pub mod log {
    include!(concat!(env!("OUT_DIR"), "/talkhub.log.rs"));
}

pub use command::{
    Command, Direction, EarlyCommand, GatewayCommand, MergedCommand, PushCommand, ServedBy, State,
    StorageCommand,
};
pub use frame::{Frame, FrameError, encode_message};
