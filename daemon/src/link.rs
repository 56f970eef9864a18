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
mod handle;
mod handshake;
mod identity;
mod listen;
mod metrics;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use dial::dial;
pub use frame::LinkFrame;
pub use handle::{CallError, Link, LinkError};
pub use identity::{Identity, LinkKey, LinkTls, Peer, Role, new_boot};
pub use listen::listen;
pub use metrics::LinkMetrics;
pub use table::LinkTable;

/// What a daemon does with its links. Everything here is called from the link's own task: it must
/// not block and should be short, since the link reads nothing meanwhile.
pub trait LinkHandler: Send + Sync + 'static {
    /// A link is up: it can be sent to from now on.
    fn up(&self, link: &Link);

    /// A frame has come in that is no answer to a [`Link::call`]. Its body is a part of the read
    /// buffer: copy what is kept for long.
    fn frame(&self, link: &Link, frame: LinkFrame);

    /// All frames of one read have been handed over; for what is better done once for many.
    fn batch_end(&self, _link: &Link) {}

    /// The link is down: nothing sent to it from now on arrives, and of what was sent before, the
    /// last may not have arrived.
    fn down(&self, link: &Link);
}

/// Limits of links. The defaults are right for all but tests.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Bytes that may wait to be written on one link. Beyond, [`LinkError::Full`].
    pub queue_bytes_max: usize,
    /// Links and strangers that a listener holds at once. More wait in the kernel's backlog.
    pub links_max: usize,
    /// How long a handshake may take, connecting and TLS included.
    pub handshake_limit: Duration,
    /// After how much silence of our own a ping is sent.
    pub keep_alive: Duration,
    /// After how much silence of the peer the link counts as dead.
    pub dead_after: Duration,
    /// How often a dialer resolves names again.
    pub resolve_every: Duration,
    /// Where the links are counted.
    pub metrics: LinkMetrics,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            queue_bytes_max: 64 << 20,
            links_max: 4096,
            handshake_limit: Duration::from_secs(2),
            keep_alive: Duration::from_secs(1),
            dead_after: Duration::from_secs(5),
            resolve_every: Duration::from_secs(10),
            metrics: LinkMetrics::default(),
        }
    }
}

impl LinkOptions {
    /// The defaults, counted in `metrics`.
    pub fn counted(metrics: LinkMetrics) -> Self {
        Self { metrics, ..Self::default() }
    }
}
