//! What the thread of a partition owns, and its bounds.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use daemon::ready::Pulse;
use proto::cluster::wire::Owned;
use record_log::Log;

use crate::last_clock::LastClock;
use crate::metrics::PartitionMetrics;
use crate::publisher::Publisher;
use crate::stall::Confirmed;
use crate::state::State;

/// After so long without a sign of life a partition's thread counts as stalled. Of what it waits for, an
/// append takes longest: Kafka has 30 s to confirm it, and a disk that needs longer to flush serves nobody.
pub const STALLED_AFTER: Duration = Duration::from_mins(1);

/// Bounds of one partition.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "a bound says so")]
pub struct Limits {
    /// Requests that wait for the thread. Beyond: retry.
    pub queue_max: usize,
    /// Requests that wait for a missing fact or are held. Beyond: retry.
    pub waiting_max: usize,
    /// Adds of members that are held. Beyond: appended at once.
    pub held_max: usize,
    /// Bytes that the store does not have yet. Beyond: retry.
    pub unstored_bytes_max: usize,
    /// Conversations in memory, not counting those with unstored changes.
    pub conversations_max: usize,
}

/// What the thread owns.
pub struct Owner {
    /// The partition's log.
    pub log: Box<dyn Log>,
    /// What is folded of it.
    pub state: State,
    /// Which partition it is, and since which epoch.
    pub owned: Owned,
    /// The owner's name, in the records that repeat its epoch.
    pub name: String,
    /// How many records lie between these.
    pub epoch_every: u64,
    /// Its bounds.
    pub limits: Limits,
    /// How long an add of members is held after another one of its group.
    pub hold: Duration,
    /// The way to the gateways.
    pub publisher: Arc<Publisher>,
    /// What is shown of it.
    pub metrics: PartitionMetrics,
    /// When the log was last read without a newer owner in it.
    pub confirmed: Confirmed,
    /// What is known about the clock.
    pub last_clock: LastClock,
    /// Beaten by the thread, with a limit of [`STALLED_AFTER`].
    pub pulse: Pulse,
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").field("owned", &self.owned).finish_non_exhaustive()
    }
}
