//! The links between daemons: authenticated framed connections that come back by themselves.
//!
//! One side listens, the other dials; once a link is up both may send at any time. A frame is
//!
//! ```text
//! length u32 | kind u16 | flags u16 | request u64 | body          (big-endian)
//! ```
//!
//! where `length` counts the whole frame, flag bit 0 marks an answer, and an answer repeats the
//! request number of its question. Kinds from 0xFF00 on are the link's own.
//!
//! Before anything else both sides prove with a challenge that they know the cluster's key, and say
//! their role, name and boot number. The key authenticates the peers at the start of a link; only
//! TLS also protects what follows, so a network that others can write to needs `cluster.tls`.
//!
//! # Invariants
//!
//! - [`LinkHandler::up`], then the frames in the order they were sent, then [`LinkHandler::down`]:
//!   from one task, each link exactly once, even if a handler panics.
//! - Sending never waits. Frames are written in the order in which they were sent, and whatever is
//!   queued goes out in one write.
//! - No length is believed: it is checked on the header, before memory is taken for the frame, and
//!   the buffer grows with the bytes that arrive.
//!
//! # What bounds it
//!
//! - Memory: `queue_bytes_max` per link for what waits to be written; then [`Link::send`] fails and
//!   the caller decides. Towards us: 64 KiB, or one frame of at most 16 MiB.
//! - Time: 2 s for the handshake; a ping after a second of silence; a link on which nothing arrives
//!   for 5 s, or which takes nothing for 5 s, is dead.

mod connection;
mod dial;
mod frame;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod handle;
mod handler;
mod handshake;
mod identity;
mod listen;
mod metrics;
mod options;
mod table;
#[cfg(test)]
mod tests;

pub use dial::dial;
pub use frame::LinkFrame;
pub use handle::{CallError, Link, LinkError};
pub use handler::LinkHandler;
pub use identity::{Identity, LinkKey, LinkTls, Peer, Role, new_boot};
pub use listen::listen;
pub use metrics::LinkMetrics;
pub use options::LinkOptions;
pub use table::LinkTable;
