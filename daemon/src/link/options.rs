//! The limits of links, and where they are counted.

use std::time::Duration;

use super::metrics::LinkMetrics;

/// Limits of links. The defaults are right for all but tests.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Bytes that may wait to be written on one link. More is
    /// [`LinkError::Full`](super::LinkError::Full).
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
