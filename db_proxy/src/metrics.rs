//! The numbers this daemon shows, one struct a component.

use daemon::Metrics;
use daemon::metrics::{Counter, EncodeLabelSet, Family, Gauge};
use proto::ids::Offset;

use crate::partition::Ended;

/// Shows how far something is.
pub(crate) fn show(gauge: &Gauge, offset: Offset) {
    gauge.set(i64::try_from(offset.0).unwrap_or(i64::MAX));
}

/// Which partition a number is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    partition: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    why: &'static str,
}

/// Of the sharing of partitions between db_proxies.
#[derive(Debug, Clone)]
pub struct SharingMetrics {
    lost: Family<Why, Counter>,
    /// Partitions that cannot be taken before somebody has looked at them.
    pub refused: Gauge,
    /// How often the partitions were shared out anew.
    pub rebalances: Gauge,
    lag: Family<Of, Gauge>,
    margin: Family<Of, Gauge>,
}

impl SharingMetrics {
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
    pub fn lost(&self, why: Ended) -> Counter {
        let why = match why {
            Ended::Fenced => "fenced",
            Ended::Unknown => "unknown",
        };
        self.lost.get_or_create(&Why { why }).clone()
    }

    /// How far a partition's log is before the store, and retention behind it, in records.
    pub fn show_log(&self, partition: u32, lag: u64, margin: u64) {
        for (family, number) in [(&self.lag, lag), (&self.margin, margin)] {
            family.get_or_create(&Of { partition }).set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }
}

/// Of the owned partitions: counters of all of them together, and how far each is.
#[derive(Debug, Clone)]
pub struct OwnedMetrics {
    partition: PartitionMetrics,
    storing: StoringMetrics,
    following: FollowingMetrics,
    sharing: SharingMetrics,
    offset: Family<Of, Gauge>,
    log_full: Family<Of, Gauge>,
    stored_offset: Family<Of, Gauge>,
    followers: Family<Of, Gauge>,
}

/// Of one partition.
#[derive(Debug, Clone)]
pub struct OneMetrics {
    /// Of its thread.
    pub partition: PartitionMetrics,
    /// Of its store worker.
    pub storing: StoringMetrics,
    /// Of what gateways follow of it.
    pub following: FollowingMetrics,
}

impl OwnedMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let gauges = |name, help| metrics.register(name, help, Family::<Of, Gauge>::default());
        Self {
            offset: gauges("log_offset", "Log offset up to which all is folded"),
            log_full: gauges("log_full", "1 while the log has no room for new records"),
            stored_offset: gauges("store_offset", "Log offset up to which all is stored"),
            followers: gauges("followers", "Gateways that follow what changes"),
            partition: PartitionMetrics::new(metrics),
            storing: StoringMetrics::new(metrics),
            following: FollowingMetrics::new(metrics),
            sharing: SharingMetrics::new(metrics),
        }
    }

    /// Those of the sharing.
    pub fn sharing(&self) -> &SharingMetrics {
        &self.sharing
    }

    /// Those of one partition, whose gauges are shown until [`Self::forget`].
    pub fn of(&self, partition: u32) -> OneMetrics {
        let gauge = |family: &Family<Of, Gauge>| family.get_or_create(&Of { partition }).clone();
        let Self { offset, log_full, stored_offset, followers, .. } = self;
        OneMetrics {
            partition: PartitionMetrics {
                offset: gauge(offset),
                log_full: gauge(log_full),
                ..self.partition.clone()
            },
            storing: StoringMetrics { stored_offset: gauge(stored_offset), ..self.storing.clone() },
            following: FollowingMetrics { followers: gauge(followers), ..self.following.clone() },
        }
    }

    /// A partition is not owned any more.
    pub fn forget(&self, partition: u32) {
        let SharingMetrics { lag, margin, .. } = &self.sharing;
        let Self { offset, log_full, stored_offset, followers, .. } = self;
        for family in [offset, log_full, stored_offset, followers, lag, margin] {
            family.remove(&Of { partition });
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
pub struct StoringMetrics {
    /// Transactions.
    pub batches: Counter,
    /// Messages written.
    pub messages: Counter,
    /// Transactions that failed and were tried again.
    pub failures: Counter,
    /// How far the store is.
    pub stored_offset: Gauge,
}

impl StoringMetrics {
    fn new(metrics: &Metrics) -> Self {
        Self {
            batches: metrics.counter("store_batches", "Transactions of the store worker"),
            messages: metrics.counter("store_messages", "Messages written to the store"),
            failures: metrics.counter("store_failures", "Transactions that had to be repeated"),
            stored_offset: Gauge::default(),
        }
    }
}

/// Of the replicas that history is read from.
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

/// Of requests and logins.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    /// Requests answered.
    pub answered: Counter,
    /// Requests that could not be answered completely.
    pub unavailable: Counter,
    /// Requests turned away because too many were being answered.
    pub overloaded: Counter,
    /// Logins accepted.
    pub logins: Counter,
    /// Logins refused.
    pub logins_refused: Counter,
    /// Logins for which a password hash had to be computed.
    pub hashes: Counter,
    /// Logins with a token or a ticket that were accepted.
    pub resumed: Counter,
    /// The same, while the store was away.
    pub resumed_alone: Counter,
    /// Logins with a token or a ticket that were refused.
    pub resumes_refused: Counter,
    /// Tokens that were shown again after a newer one had taken their place.
    pub tokens_copied: Counter,
}

impl RequestMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            answered: metrics.counter("requests_answered", "Requests of gateways answered"),
            unavailable: metrics.counter("requests_unavailable", "Requests without an answer"),
            overloaded: metrics.counter("requests_overloaded", "Requests turned away"),
            logins: metrics.counter("logins", "Logins accepted"),
            logins_refused: metrics.counter("logins_refused", "Logins refused"),
            hashes: metrics.counter("password_hashes", "Password hashes computed"),
            resumed: metrics.counter("logins_resumed", "Logins accepted by a token or a ticket"),
            resumed_alone: metrics
                .counter("logins_resumed_alone", "Logins accepted by a token, the store away"),
            resumes_refused: metrics
                .counter("logins_resumed_refused", "Logins by a token or a ticket refused"),
            tokens_copied: metrics
                .counter("tokens_copied", "Tokens shown again after they were replaced"),
        }
    }
}

/// Of what gateways follow.
#[derive(Debug, Clone)]
pub struct FollowingMetrics {
    /// Gateways that follow.
    pub followers: Gauge,
    /// Messages to them about what changed.
    pub changes: Counter,
    /// How often one was too far behind, or followed another log.
    pub forgotten: Counter,
}

impl FollowingMetrics {
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

/// Of a cache that is a server of its own.
#[derive(Debug, Clone)]
pub struct CacheMetrics {
    /// What was asked for and kept.
    pub hits: Counter,
    /// What was asked for and not kept, or not given in time.
    pub misses: Counter,
    /// Answers that were late or errors.
    pub failures: Counter,
    /// Writes that did not reach it.
    pub writes_lost: Counter,
    /// Whether it is away.
    pub away: Gauge,
}

impl CacheMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            hits: metrics.counter("cache_hits", "Entries found in the cache"),
            misses: metrics.counter("cache_misses", "Entries not found in the cache"),
            failures: metrics.counter("cache_failures", "Late or failed answers of the cache"),
            writes_lost: metrics.counter("cache_writes_lost", "Writes that missed the cache"),
            away: metrics.gauge("cache_away", "1 while the cache is away"),
        }
    }
}
