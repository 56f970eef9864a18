//! How long to wait before the next attempt: doubling, up to a longest wait, with jitter.
//!
//! Each wait lies between half of the current step and the whole of it, so that clients which lost
//! the same gateway at the same moment do not come back at the same moment.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The steps that waits are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The step before the first repeat.
    pub first: Duration,
    /// The longest step.
    pub longest: Duration,
}

impl Backoff {
    /// Steps from `first`, doubling up to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// Returns how long to wait after `failures` failures in a row, which is at least 1.
    pub(crate) fn wait(&self, failures: u32) -> Duration {
        self.wait_with(failures, RandomState::new().hash_one(failures))
    }

    fn wait_with(&self, failures: u32, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let step = self.first.saturating_mul(1 << doublings).min(self.longest);
        let half = step / 2;
        let half_us = u64::try_from(half.as_micros()).unwrap_or(u64::MAX - 1);
        half + Duration::from_micros(random % (half_us + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

    #[test]
    fn waits_double_up_to_the_longest() {
        let least: Vec<_> = (1..=6).map(|n| BACKOFF.wait_with(n, 0).as_millis()).collect();
        assert_eq!(least, [50, 100, 200, 400, 500, 500]);
        assert_eq!(BACKOFF.wait_with(u32::MAX, 0).as_millis(), 500);
    }

    #[test]
    fn every_wait_lies_in_the_upper_half_of_its_step() {
        for random in [0, 1, 49_999, 50_000, 50_001, u64::MAX] {
            let wait = BACKOFF.wait_with(1, random);
            assert!((50..=100).contains(&wait.as_millis()), "{wait:?}");
        }
    }
}
