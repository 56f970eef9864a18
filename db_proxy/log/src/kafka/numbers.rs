//! How far a partition is: in the topic, in the store, and before what retention deletes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::ids::Offset;

/// How often what Kafka is told or asked for the metrics is brought up to date.
pub(super) const NUMBERS_EVERY: Duration = Duration::from_secs(5);

/// The numbers of one partition, as of a few seconds ago. For metrics: nothing is decided by them.
#[derive(Debug, Default)]
pub struct Numbers {
    first: AtomicU64,
    next: AtomicU64,
    applied: AtomicU64,
}

impl Numbers {
    /// The first record that the topic still has.
    pub(crate) fn first(&self) -> Offset {
        Offset(self.first.load(Ordering::Relaxed))
    }

    /// The record that comes next.
    pub(crate) fn next(&self) -> Offset {
        Offset(self.next.load(Ordering::Relaxed))
    }

    /// The last record that the store has.
    pub(crate) fn applied(&self) -> Offset {
        Offset(self.applied.load(Ordering::Relaxed))
    }

    /// How many records the store is behind.
    pub fn lag(&self) -> u64 {
        self.next().0.saturating_sub(1).saturating_sub(self.applied().0)
    }

    /// How many stored records the topic still has: retention deletes these before it deletes what
    /// is not stored.
    pub fn margin(&self) -> u64 {
        self.applied().next().0.saturating_sub(self.first().0)
    }

    pub(super) fn set_range(&self, first: Offset, next: Offset) {
        self.first.store(first.0, Ordering::Relaxed);
        self.next.store(next.0, Ordering::Relaxed);
    }

    pub(super) fn set_first(&self, first: Offset) {
        self.first.fetch_max(first.0, Ordering::Relaxed);
    }

    pub(super) fn set_next(&self, next: Offset) {
        self.next.store(next.0, Ordering::Relaxed);
    }

    pub(super) fn set_applied(&self, applied: Offset) {
        self.applied.store(applied.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_and_margin_are_counted_in_records() {
        let numbers = Numbers::default();
        numbers.set_range(Offset(11), Offset(101));
        numbers.set_applied(Offset(90));
        assert_eq!((numbers.lag(), numbers.margin()), (10, 80));
        numbers.set_applied(Offset(100));
        assert_eq!((numbers.lag(), numbers.margin()), (0, 90));
        numbers.set_first(Offset(101));
        assert_eq!((numbers.lag(), numbers.margin()), (0, 0));
    }
}
