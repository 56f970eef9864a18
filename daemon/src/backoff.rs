//! How long to wait before the next attempt: 50 ms, doubling up to 1 s, with jitter.
//!
//! The randomness can be chosen, as tests do. Each wait lies between
//! half of the current step and the whole of it, so that callers that lost the same peer at the same
//! moment do not come back at the same moment.

use std::time::Duration;

use crate::random::random_u64;

/// The step that the first wait is taken from.
pub(crate) const FIRST: Duration = Duration::from_millis(50);
/// The step that the last waits are taken from. Short, because gateways must have everything again
/// within 5 s of the end of a fault; there are tens of daemons, not thousands.
pub(crate) const LAST: Duration = Duration::from_secs(1);

/// An endless iterator over waits. `R` returns random numbers.
#[derive(Debug, Clone)]
pub struct Backoff<R> {
    step: Duration,
    random: R,
}

impl Backoff<fn() -> u64> {
    /// As [`Self::new`], with random numbers of the kernel's.
    pub fn jittered() -> Self {
        Self::new(random_u64)
    }
}

impl<R: FnMut() -> u64> Backoff<R> {
    /// A sequence of waits that begins with the shortest.
    pub fn new(random: R) -> Self {
        Self { step: FIRST, random }
    }

    /// Begins again with the shortest wait; for after a success.
    pub fn reset(&mut self) {
        self.step = FIRST;
    }

    /// The next wait. The sequence has no end, so unlike [`Iterator::next`] this needs no `Option`.
    pub fn next_wait(&mut self) -> Duration {
        let half = self.step / 2;
        let half_us = u64::try_from(half.as_micros()).expect("half of a step is at most 0.5 s");
        let jitter = Duration::from_micros((self.random)() % (half_us + 1));
        self.step = (self.step * 2).min(LAST);
        half + jitter
    }
}

impl<R: FnMut() -> u64> Iterator for Backoff<R> {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.next_wait())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(waits: impl Iterator<Item = Duration>) -> Vec<u128> {
        waits.map(|wait| wait.as_millis()).collect()
    }

    #[test]
    fn waits_double_up_to_the_last_step() {
        let shortest = Backoff::new(|| 0);
        assert_eq!(
            millis(shortest.take(9)),
            [25, 50, 100, 200, 400, 500, 500, 500, 500],
            "without jitter a wait is half of its step"
        );
    }

    #[test]
    fn every_wait_lies_between_half_its_step_and_the_whole() {
        let mut state = 1_u64;
        let random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 11
        };
        let mut step = FIRST;
        for wait in Backoff::new(random).take(1_000) {
            assert!(step / 2 <= wait && wait <= step, "{wait:?} is no part of {step:?}");
            step = (step * 2).min(LAST);
        }
    }

    #[test]
    fn a_reset_begins_with_the_shortest_wait() {
        let mut backoff = Backoff::new(|| 0);
        assert_eq!(millis(backoff.by_ref().take(3)), [25, 50, 100]);
        backoff.reset();
        assert_eq!(backoff.next_wait(), FIRST / 2);
    }
}
