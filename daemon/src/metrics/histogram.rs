//! How long something took, counted in buckets.
//!
//! An observation is two atomic additions: no lock, no allocation, no floating point. So it may stand on
//! the way of a message.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The longest duration of each bucket but the last, in microseconds. All histograms have the same, so
/// that the steps of one way can be compared.
const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// How often something took how long. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Each counts what is longer than the bound before its own. The last has no bound.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    /// The sum of all durations. It wraps after 584 years of waiting, which shows as a restart would.
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let index = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(bucket) = self.inner.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.inner.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = BOUNDS_US.iter().map(|us| Duration::from_micros(*us).as_secs_f64());
        let counts = self.inner.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        // The sum of the buckets as just read, so that the last bucket is never below the count.
        let count = buckets.iter().map(|(_bound, count)| count).sum();
        let sum = Duration::from_nanos(self.inner.sum_ns.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_is_not_too_short_and_in_all_longer_ones() {
        let metrics = Metrics::new("test");
        let took = metrics.seconds("work_seconds", "How long work took.");
        for us in [0, 100, 101, 250, 9_999_999, 10_000_001] {
            took.clone().observe(Duration::from_micros(us));
        }
        assert_eq!(took.count(), 6);
        let page = metrics.encode().unwrap();
        for line in [
            "# TYPE talkhub_test_work_seconds histogram",
            "talkhub_test_work_seconds_bucket{le=\"0.0001\"} 2",
            "talkhub_test_work_seconds_bucket{le=\"0.00025\"} 4",
            "talkhub_test_work_seconds_bucket{le=\"5.0\"} 4",
            "talkhub_test_work_seconds_bucket{le=\"10.0\"} 5",
            "talkhub_test_work_seconds_bucket{le=\"+Inf\"} 6",
            "talkhub_test_work_seconds_count 6",
            "talkhub_test_work_seconds_sum 20.000451",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
    }

    #[test]
    fn threads_that_count_at_once_lose_nothing() {
        let took = Histogram::default();
        std::thread::scope(|scope| {
            for _thread in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|us| took.observe(Duration::from_micros(us))));
            }
        });
        assert_eq!(took.count(), 40_000);
        let sum = Duration::from_nanos(took.inner.sum_ns.load(Ordering::Relaxed));
        // Four times the sum of the numbers below 10,000, in microseconds.
        assert_eq!(sum, Duration::from_millis(199_980));
    }
}
