//! The numbers that are shown of replicas.

use daemon::Metrics;
use daemon::metrics::{Counter, Gauge};

/// The metrics of the replicas that history is read from.
#[derive(Debug, Clone, Default)]
pub struct ReplicaMetrics {
    /// Messages that came from one.
    pub reads: Counter,
    /// Messages that one was asked for and did not have yet.
    pub misses: Counter,
    /// How many are not asked now.
    pub away: Gauge,
}

impl ReplicaMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            reads: metrics.counter("replica_reads", "Messages read from replicas"),
            misses: metrics.counter("replica_misses", "Messages that a replica did not have yet"),
            away: metrics.gauge("replica_away", "Replicas that are away"),
        }
    }
}
