//! How many partitions there are, and for each of them the newest epoch of an owner that this
//! daemon has heard of.
//!
//! # Invariants
//!
//! - The number of partitions is learnt once and never changes.
//! - Epochs only grow. An answer of an older epoch may leave out what was acknowledged since.
//!
//! Reading takes no lock: every record that is published passes here.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::cluster::partition_of;
use proto::cluster::wire::Owned;
use proto::ids::ConversationId;

/// More than any cluster has. A peer that says so many is not believed.
const PARTITIONS_MAX: u32 = 4096;

/// What is known of the partitions.
#[derive(Debug, Default)]
pub struct Partitions {
    /// By partition.
    newest: OnceLock<Box<[AtomicU64]>>,
}

impl Partitions {
    /// Whether there can be so many partitions: the number is in range, and no other number is known.
    pub(crate) fn can_be(&self, count: u32) -> bool {
        (1..=PARTITIONS_MAX).contains(&count) && [0, count].contains(&self.count())
    }

    /// Sets how many partitions there are. Only the first call has an effect.
    pub fn set(&self, count: u32) {
        self.newest.get_or_init(|| (0..count).map(|_partition| AtomicU64::new(0)).collect());
    }

    /// How many there are; 0 before this is known.
    pub fn count(&self) -> u32 {
        let count = self.newest.get().map_or(0, |newest| newest.len());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Where a conversation belongs; `None` before it is known how many partitions there are.
    pub fn of(&self, conversation: ConversationId) -> Option<u32> {
        let count = self.count();
        (count > 0).then(|| partition_of(conversation.number(), count))
    }

    /// Whether what an owner says in this epoch counts: no newer epoch of the partition is known
    /// here. The epoch is known from now on. False for a partition that does not exist.
    pub fn is_current(&self, partition: u32, epoch: u64) -> bool {
        let newest = self.newest.get().and_then(|newest| newest.get(partition as usize));
        newest.is_some_and(|newest| newest.fetch_max(epoch, Ordering::Relaxed) <= epoch)
    }

    /// As [`Self::is_current`], for all partitions that an answer was read from. All their epochs
    /// are learnt.
    pub(crate) fn are_current<'a>(&self, by: impl IntoIterator<Item = &'a Owned>) -> bool {
        let mut all = true;
        for owned in by {
            all &= self.is_current(owned.partition, owned.epoch);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_there_are_is_learnt_once() {
        let partitions = Partitions::default();
        let seven = ConversationId::from_number(7).unwrap();
        assert_eq!((partitions.count(), partitions.of(seven)), (0, None));
        assert!(!partitions.is_current(0, 1), "there is none yet");
        assert!(!partitions.can_be(0) && !partitions.can_be(PARTITIONS_MAX + 1));
        assert!(partitions.can_be(4) && partitions.can_be(8));
        partitions.set(4);
        assert!(partitions.can_be(4) && !partitions.can_be(8));
        assert_eq!((partitions.count(), partitions.of(seven)), (4, Some(partition_of(7, 4))));
    }

    #[test]
    fn an_older_epoch_never_counts_again_and_another_partition_has_its_own() {
        let partitions = Partitions::default();
        partitions.set(4);
        assert!(partitions.is_current(1, 5) && partitions.is_current(1, 5));
        assert!(!partitions.is_current(1, 4));
        assert!(partitions.is_current(2, 4), "of another partition");
        assert!(!partitions.is_current(4, 9), "no such partition");
        let by = [Owned { partition: 1, epoch: 4 }, Owned { partition: 2, epoch: 9 }];
        assert!(!partitions.are_current(&by));
        assert!(
            !partitions.is_current(2, 8),
            "the rest of a refused answer is learnt all the same"
        );
        assert!(partitions.are_current([]));
    }

    #[test]
    fn only_the_first_number_of_partitions_is_taken_up_to_the_greatest() {
        let partitions = Partitions::default();
        assert!(partitions.can_be(1) && partitions.can_be(PARTITIONS_MAX));
        partitions.set(3);
        partitions.set(PARTITIONS_MAX);
        assert_eq!(partitions.count(), 3);
        assert!(partitions.is_current(2, 1) && !partitions.is_current(3, 1));
        assert!(partitions.is_current(0, u64::MAX) && !partitions.is_current(0, u64::MAX - 1));
    }
}
