//! The numbers that are shown of partitions.

use daemon::Metrics;
use daemon::metrics::{Counter, Gauge};
use proto::ids::Offset;

/// Shows how far something is.
pub(crate) fn show(gauge: &Gauge, offset: Offset) {
    gauge.set(i64::try_from(offset.0).unwrap_or(i64::MAX));
}

/// Of one partition.
#[derive(Debug, Clone)]
pub struct OneMetrics {
    /// Of its thread.
    pub partition: PartitionMetrics,
    /// Of its store worker.
    pub store_writer: StoreWriterMetrics,
    /// Of what gateways follow of it.
    pub followers: FollowersMetrics,
}

impl OneMetrics {
    /// Registers them. The gauges are those of one partition: how they are shown is for the caller.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            partition: PartitionMetrics::new(metrics),
            store_writer: StoreWriterMetrics::new(metrics),
            followers: FollowersMetrics::new(metrics),
        }
    }
}

/// Of a partition's thread.
#[derive(Debug, Clone)]
pub struct PartitionMetrics {
    /// Flushes of the log.
    pub batches: Counter,
    /// Records appended.
    pub records: Counter,
    /// The last offset that is folded.
    pub offset: Gauge,
    /// Changes that were known already.
    pub duplicates: Counter,
    /// Changes that were not allowed.
    pub refused: Counter,
    /// Changes that were turned away for lack of room.
    pub retries: Counter,
    /// Changes in the queue.
    pub queued: Gauge,
    /// Changes that wait for a fact from the store, or are held.
    pub waiting: Gauge,
    /// Whether the log has no room now.
    pub log_full: Gauge,
}

impl PartitionMetrics {
    fn new(metrics: &Metrics) -> Self {
        Self {
            batches: metrics.counter("log_batches", "Appends to the log, each flushed once"),
            records: metrics.counter("log_records", "Records appended to the log"),
            offset: Gauge::default(),
            duplicates: metrics.counter("duplicates", "Messages that were sent again and known"),
            refused: metrics.counter("refused", "Changes that were not allowed"),
            retries: metrics.counter("retries", "Changes turned away for lack of room"),
            queued: metrics.gauge("changes_queued", "Changes that wait for the log"),
            waiting: metrics.gauge(
                "changes_waiting",
                "Changes that wait for a look into the store, and adds of members that are held",
            ),
            log_full: Gauge::default(),
        }
    }
}

/// Of the publisher.
#[derive(Debug, Clone)]
pub struct PublishMetrics {
    /// What was published.
    pub publications: Counter,
    /// Publications sent to every gateway without a route_server.
    pub direct: Counter,
    /// Publications that were not acknowledged in time.
    pub sent_again: Counter,
    /// Gateways that a route_server could not reach.
    pub missed: Counter,
    /// Links to gateways that were reset because they did not take what was sent.
    pub gateways_reset: Counter,
}

impl PublishMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            publications: metrics.counter("publications", "Messages and member changes published"),
            direct: metrics.counter("publications_direct", "Published without a route_server"),
            sent_again: metrics.counter("publications_again", "Not acknowledged in time"),
            missed: metrics.counter("publications_missed", "Gateways served for a route_server"),
            gateways_reset: metrics.counter("gateways_reset", "Gateways that did not read"),
        }
    }
}

/// Of the store worker.
#[derive(Debug, Clone)]
pub struct StoreWriterMetrics {
    /// Transactions.
    pub batches: Counter,
    /// Messages written.
    pub messages: Counter,
    /// Transactions that failed and were tried again.
    pub failures: Counter,
    /// How far the store is.
    pub stored_offset: Gauge,
}

impl StoreWriterMetrics {
    fn new(metrics: &Metrics) -> Self {
        Self {
            batches: metrics.counter("store_batches", "Transactions of the store worker"),
            messages: metrics.counter("store_messages", "Messages written to the store"),
            failures: metrics.counter("store_failures", "Transactions that had to be repeated"),
            stored_offset: Gauge::default(),
        }
    }
}

/// Of what gateways follow.
#[derive(Debug, Clone)]
pub struct FollowersMetrics {
    /// Gateways that follow.
    pub followers: Gauge,
    /// Messages to them about what changed.
    pub changes: Counter,
    /// How often one was too far behind, or followed another log.
    pub forgotten: Counter,
}

impl FollowersMetrics {
    fn new(metrics: &Metrics) -> Self {
        Self {
            followers: Gauge::default(),
            changes: metrics.counter("changes", "Messages to gateways about what changed"),
            forgotten: metrics.counter("forgotten", "Gateways too far behind to be told"),
        }
    }

    pub(crate) fn show_followers(&self, count: usize) {
        self.followers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
