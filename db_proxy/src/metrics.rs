//! The numbers this daemon shows, one struct a component.

#![cfg_attr(
    not(feature = "kafka"),
    expect(dead_code, reason = "partitions are shared out on Kafka alone")
)]

use daemon::Metrics;
use daemon::metrics::{Counter, EncodeLabelSet, Family, Gauge};
use partition::Ended;
use partition::metrics::{
    ConsumersMetrics, FollowersMetrics, OneMetrics, PartitionMetrics, StoreWriterMetrics,
};

/// Which partition a number is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    partition: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    why: &'static str,
}

/// The metrics of the consumer group that shares the partitions out.
#[derive(Debug, Clone)]
pub(crate) struct GroupMetrics {
    lost: Family<Why, Counter>,
    /// Partitions that cannot be taken before an operator has looked at them.
    pub(crate) refused: Gauge,
    /// How often the partitions were shared out anew.
    pub(crate) rebalances: Gauge,
    lag: Family<Of, Gauge>,
    margin: Family<Of, Gauge>,
}

impl GroupMetrics {
    fn new(metrics: &Metrics) -> Self {
        let gauges = |name, help| metrics.register(name, help, Family::<Of, Gauge>::default());
        let this = Self {
            lost: metrics.register(
                "partitions_lost",
                "Ownerships that ended by themselves",
                Family::default(),
            ),
            refused: metrics.gauge("partitions_refused", "Partitions that cannot be taken"),
            rebalances: metrics.gauge("rebalances", "How often the partitions were shared out"),
            lag: gauges("log_lag", "Records in Kafka that the store does not have"),
            margin: gauges("log_margin", "Stored records that retention has not deleted"),
        };
        // Shown from the start.
        for why in [Ended::Fenced, Ended::Unknown] {
            this.lost(why);
        }
        this
    }

    /// How often ownerships ended for this reason.
    pub(crate) fn lost(&self, why: Ended) -> Counter {
        let why = match why {
            Ended::Fenced => "fenced",
            Ended::Unknown => "unknown",
        };
        self.lost.get_or_create(&Why { why }).clone()
    }

    /// How far a partition's log is before the store, and retention behind it, in records.
    pub(crate) fn show_log(&self, partition: u32, lag: u64, margin: u64) {
        for (family, number) in [(&self.lag, lag), (&self.margin, margin)] {
            family.get_or_create(&Of { partition }).set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }
}

/// The metrics of the owned partitions: counters of all of them together, and how far each is.
#[derive(Debug, Clone)]
pub(crate) struct OwnedMetrics {
    /// Their counters are those of all owned partitions.
    one: OneMetrics,
    group: GroupMetrics,
    offset: Family<Of, Gauge>,
    log_full: Family<Of, Gauge>,
    stored_offset: Family<Of, Gauge>,
    followers: Family<Of, Gauge>,
    consumers: Family<Of, Gauge>,
    consumers_behind: Family<Of, Gauge>,
}

impl OwnedMetrics {
    /// Registers them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let gauges = |name, help| metrics.register(name, help, Family::<Of, Gauge>::default());
        Self {
            offset: gauges("log_offset", "Log offset up to which all is folded"),
            log_full: gauges("log_full", "1 while the log has no room for new records"),
            stored_offset: gauges("store_offset", "Log offset up to which all is stored"),
            followers: gauges("followers", "Gateways that follow what changes"),
            consumers: gauges("consumers", "Consumers of the log that are linked"),
            consumers_behind: gauges(
                "consumers_behind",
                "Records that the consumer furthest behind has not handled",
            ),
            one: OneMetrics::new(metrics),
            group: GroupMetrics::new(metrics),
        }
    }

    /// Those of the consumer group.
    pub(crate) fn group(&self) -> &GroupMetrics {
        &self.group
    }

    /// Those of one partition, whose gauges are shown until [`Self::forget`].
    pub(crate) fn of(&self, partition: u32) -> OneMetrics {
        let gauge = |family: &Family<Of, Gauge>| family.get_or_create(&Of { partition }).clone();
        let Self { offset, log_full, stored_offset, followers, .. } = self;
        let Self { consumers, consumers_behind, .. } = self;
        OneMetrics {
            partition: PartitionMetrics {
                offset: gauge(offset),
                log_full: gauge(log_full),
                ..self.one.partition.clone()
            },
            store_writer: StoreWriterMetrics {
                stored_offset: gauge(stored_offset),
                ..self.one.store_writer.clone()
            },
            followers: FollowersMetrics {
                followers: gauge(followers),
                ..self.one.followers.clone()
            },
            consumers: ConsumersMetrics {
                served: gauge(consumers),
                behind: gauge(consumers_behind),
                ..self.one.consumers.clone()
            },
        }
    }

    /// A partition is no longer owned.
    pub(crate) fn forget(&self, partition: u32) {
        let GroupMetrics { lag, margin, .. } = &self.group;
        let Self { offset, log_full, stored_offset, followers, .. } = self;
        let Self { consumers, consumers_behind, .. } = self;
        let of_log = [offset, log_full, stored_offset, lag, margin];
        for family in of_log.into_iter().chain([followers, consumers, consumers_behind]) {
            family.remove(&Of { partition });
        }
    }
}

/// The metrics of requests.
#[derive(Debug, Clone)]
pub(crate) struct RequestMetrics {
    /// Requests answered.
    pub(crate) answered: Counter,
    /// Requests that could not be answered completely.
    pub(crate) unavailable: Counter,
    /// Requests turned away because too many were being answered.
    pub(crate) overloaded: Counter,
}

impl RequestMetrics {
    /// Registers them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            answered: metrics.counter("requests_answered", "Requests of gateways answered"),
            unavailable: metrics.counter("requests_unavailable", "Requests without an answer"),
            overloaded: metrics.counter("requests_overloaded", "Requests turned away"),
        }
    }
}
