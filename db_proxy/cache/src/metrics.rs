//! The numbers that are shown of a cache that is a server of its own.

use daemon::Metrics;
use daemon::metrics::{Counter, Gauge};

/// The metrics of a cache that is a server of its own.
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
