//! What is counted about links, by the role of the peer.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::Metrics;

use super::identity::Role;

type ByRole<M> = Family<[(&'static str, &'static str); 1], M>;

/// The counters of all links of a daemon. Clones count together. The counters of the default are not
/// registered, so no metrics page shows them.
#[derive(Debug, Clone, Default)]
pub struct LinkMetrics {
    frames_in: ByRole<Counter>,
    frames_out: ByRole<Counter>,
    bytes_in: ByRole<Counter>,
    bytes_out: ByRole<Counter>,
    queued_bytes: ByRole<Gauge>,
    up: ByRole<Gauge>,
    opened: ByRole<Counter>,
    resets: ByRole<Counter>,
    dead: ByRole<Counter>,
    failed_dials: ByRole<Counter>,
    refused: Counter,
}

/// The counters of links to one role, so that counting looks nothing up.
#[derive(Debug, Clone)]
pub(super) struct RoleMetrics {
    pub(super) frames_in: Counter,
    pub(super) frames_out: Counter,
    pub(super) bytes_in: Counter,
    pub(super) bytes_out: Counter,
    pub(super) queued_bytes: Gauge,
    pub(super) up: Gauge,
    pub(super) opened: Counter,
    pub(super) resets: Counter,
    pub(super) dead: Counter,
}

impl LinkMetrics {
    /// Counters on the daemon's page. Call once.
    pub fn register(page: &Metrics) -> Self {
        let new = Self::default();
        Self {
            frames_in: page.register("link_frames_in", "Frames read.", new.frames_in),
            frames_out: page.register("link_frames_out", "Frames written.", new.frames_out),
            bytes_in: page.register("link_bytes_in", "Bytes read.", new.bytes_in),
            bytes_out: page.register("link_bytes_out", "Bytes written.", new.bytes_out),
            queued_bytes: page.register(
                "link_queued_bytes",
                "Bytes waiting to be written, up to half a second ago. If it grows, a peer is slow.",
                new.queued_bytes,
            ),
            up: page.register("links", "Links that are up.", new.up),
            opened: page.register("link_opened", "Links that came up.", new.opened),
            resets: page.register("link_resets", "Links that we closed.", new.resets),
            dead: page.register("link_dead", "Links closed because of silence.", new.dead),
            failed_dials: page.register(
                "link_failed_dials",
                "Attempts to connect that made no link.",
                new.failed_dials,
            ),
            refused: page.register(
                "link_refused",
                "Peers with a wrong key, role, version or certificate.",
                new.refused,
            ),
        }
    }

    /// A peer was refused, or refused us.
    pub(super) fn refused(&self) {
        self.refused.inc();
    }

    /// An attempt to reach a peer of `role` has failed.
    pub(super) fn failed_dial(&self, role: Role) {
        self.failed_dials.get_or_create(&[("role", role.name())]).inc();
    }

    pub(super) fn of(&self, role: Role) -> RoleMetrics {
        let label = [("role", role.name())];
        RoleMetrics {
            frames_in: self.frames_in.get_or_create_owned(&label),
            frames_out: self.frames_out.get_or_create_owned(&label),
            bytes_in: self.bytes_in.get_or_create_owned(&label),
            bytes_out: self.bytes_out.get_or_create_owned(&label),
            queued_bytes: self.queued_bytes.get_or_create_owned(&label),
            up: self.up.get_or_create_owned(&label),
            opened: self.opened.get_or_create_owned(&label),
            resets: self.resets.get_or_create_owned(&label),
            dead: self.dead.get_or_create_owned(&label),
        }
    }

    /// Refusals so far, for tests.
    #[doc(hidden)]
    pub fn refusals(&self) -> u64 {
        self.refused.get()
    }
}
