//! The numbers that are shown of partitions.

use daemon::Metrics;
use daemon::metrics::{Counter, Gauge, Histogram};
use proto::ids::Offset;

/// Shows how far something is.
pub(crate) fn show(gauge: &Gauge, offset: Offset) {
    gauge.set(i64::try_from(offset.0).unwrap_or(i64::MAX));
}

/// The metrics of one partition.
#[derive(Debug, Clone)]
pub struct OneMetrics {
    /// Those of its thread.
    pub partition: PartitionMetrics,
    /// Those of its store worker.
    pub store_writer: StoreWriterMetrics,
    /// Those of what gateways follow of it.
    pub followers: FollowersMetrics,
    /// Those of the consumers that read its log.
    pub consumers: ConsumersMetrics,
}

impl OneMetrics {
    /// Registers them. The gauges are those of one partition: how they are shown is for the caller.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            partition: PartitionMetrics::new(metrics),
            store_writer: StoreWriterMetrics::new(metrics),
            followers: FollowersMetrics::new(metrics),
            consumers: ConsumersMetrics::new(metrics),
        }
    }
}

/// The metrics of a partition's thread.
#[derive(Debug, Clone)]
pub struct PartitionMetrics {
    /// Flushes of the log.
    pub batches: Counter,
    /// How long an append with its flush took.
    pub append: Histogram,
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
            append: metrics.seconds(
                "log_append_seconds",
                "From handing a batch of records to the log to all of it being durable",
            ),
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

/// The metrics of the publisher.
#[derive(Debug, Clone)]
pub struct PublishMetrics {
    /// What was published.
    pub publications: Counter,
    /// From the fold to a route_server's acknowledgement.
    pub publish: Histogram,
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
            publish: metrics.seconds(
                "publish_seconds",
                "From the fold of a message to the acknowledgement of a route_server, repeats included",
            ),
            direct: metrics.counter("publications_direct", "Published without a route_server"),
            sent_again: metrics.counter("publications_again", "Not acknowledged in time"),
            missed: metrics.counter("publications_missed", "Gateways served for a route_server"),
            gateways_reset: metrics.counter("gateways_reset", "Gateways that did not read"),
        }
    }
}

/// The metrics of the store worker.
#[derive(Debug, Clone)]
pub struct StoreWriterMetrics {
    /// Transactions.
    pub batches: Counter,
    /// How long those took that succeeded.
    pub commit: Histogram,
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
            commit: metrics.seconds(
                "store_commit_seconds",
                "From handing a batch to the store to its commit, of those that succeeded",
            ),
            messages: metrics.counter("store_messages", "Messages written to the store"),
            failures: metrics.counter("store_failures", "Transactions that had to be repeated"),
            stored_offset: Gauge::default(),
        }
    }
}

/// The metrics of what gateways follow.
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

/// The metrics of the consumers of the log.
#[derive(Debug, Clone)]
pub struct ConsumersMetrics {
    /// Names under which one is linked.
    pub served: Gauge,
    /// How many records the one furthest behind has not handled, linked or not.
    pub behind: Gauge,
    /// Records sent to them.
    pub records: Counter,
    /// How often one was behind what the log has.
    pub fallen_behind: Counter,
}

impl ConsumersMetrics {
    fn new(metrics: &Metrics) -> Self {
        let fallen_behind = "Consumers that were behind for longer than the log reaches back";
        Self {
            served: Gauge::default(),
            behind: Gauge::default(),
            records: metrics.counter("consumer_records", "Records sent to consumers of the log"),
            fallen_behind: metrics.counter("consumers_fallen_behind", fallen_behind),
        }
    }

    pub(crate) fn show_served(&self, count: usize) {
        self.served.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn show_behind(&self, records: u64) {
        self.behind.set(i64::try_from(records).unwrap_or(i64::MAX));
    }
}
