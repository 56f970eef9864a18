//! Rates: how often something may be done, in the long run and at once.
//!
//! Pure: time is an argument, in microseconds from any fixed moment.

use std::time::Duration;

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// A token bucket in the form of the generic cell rate algorithm (ITU-T I.371): one number says
/// when the bucket will be full again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    full_at_ns: u64,
}

/// How fast a [`Bucket`] fills, and how much it holds.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Time in which one token comes.
    interval_ns: u64,
    /// Time in which an empty bucket fills.
    depth_ns: u64,
}

impl Rate {
    /// `per_s` in the long run, `burst` at once after a pause. Both are at least 1.
    pub fn new(per_s: u32, burst: u32) -> Self {
        Self::every(SECOND_NS / u64::from(per_s.max(1)), burst)
    }

    /// `per_minute` of something, all of which may come at once.
    pub fn per_minute(per_minute: u32) -> Self {
        Self::every(60 * SECOND_NS / u64::from(per_minute.max(1)), per_minute)
    }

    fn every(interval_ns: u64, burst: u32) -> Self {
        let interval_ns = interval_ns.max(1);
        Self { interval_ns, depth_ns: interval_ns.saturating_mul(u64::from(burst.max(1))) }
    }
}

impl Bucket {
    /// Takes one token, or says how long until there is one.
    pub fn take(&mut self, rate: Rate, now_us: u64) -> Result<(), Duration> {
        self.take_many(rate, 1, now_us)
    }

    /// Takes `cost` tokens, or says how long until it can. What costs more than the bucket holds
    /// passes when the bucket is full, and what comes after it waits so much longer.
    pub fn take_many(&mut self, rate: Rate, cost: u32, now_us: u64) -> Result<(), Duration> {
        if let Some(wait) = self.wait(rate, cost, now_us) {
            return Err(wait);
        }
        self.pay(rate, cost, now_us);
        Ok(())
    }

    /// How long until `cost` tokens can be taken; `None` if they can be now.
    pub fn wait(self, rate: Rate, cost: u32, now_us: u64) -> Option<Duration> {
        let now = ns(now_us);
        let needed = rate.interval_ns.saturating_mul(u64::from(cost)).min(rate.depth_ns);
        let full_at = self.full_at_ns.max(now).saturating_add(needed);
        let earliest = full_at.saturating_sub(rate.depth_ns);
        // A wait that is rounded down would be too short.
        (earliest > now).then(|| Duration::from_micros((earliest - now).div_ceil(1_000)))
    }

    /// Takes `cost` tokens whether they are there or not.
    pub fn pay(&mut self, rate: Rate, cost: u32, now_us: u64) {
        let price = rate.interval_ns.saturating_mul(u64::from(cost));
        self.full_at_ns = self.full_at_ns.max(ns(now_us)).saturating_add(price);
    }

    /// Whether nothing was taken that has not come back: the bucket is like a new one.
    pub fn is_full(self, now_us: u64) -> bool {
        self.full_at_ns <= ns(now_us)
    }
}

fn ns(us: u64) -> u64 {
    us.saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let rate = Rate::new(50, 200);
        let mut bucket = Bucket::default();
        for _ in 0..200 {
            bucket.take(rate, 1_000_000).unwrap();
        }
        assert_eq!(bucket.take(rate, 1_000_000), Err(Duration::from_millis(20)));
        bucket.take(rate, 1_020_000).unwrap();
        assert_eq!(bucket.take(rate, 1_030_000), Err(Duration::from_millis(10)));
    }

    #[test]
    fn rates_of_more_than_a_token_in_a_microsecond_are_kept() {
        let rate = Rate::new(2_000_000, 20_000_000);
        let mut bucket = Bucket::default();
        bucket.take_many(rate, 20_000_000, 0).unwrap();
        assert_eq!(bucket.take_many(rate, 400_000, 0), Err(Duration::from_millis(200)));
    }

    #[test]
    fn what_costs_more_than_the_bucket_holds_passes_when_it_is_full() {
        let rate = Rate::new(100, 10);
        let mut bucket = Bucket::default();
        bucket.take_many(rate, 100, 0).unwrap();
        assert_eq!(bucket.take(rate, 0), Err(Duration::from_millis(910)));
        assert!(!bucket.is_full(999_999) && bucket.is_full(1_000_000));
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_time_has_given(
            steps in prop::collection::vec((0_u64..50_000, 1_u32..=10), 1..400),
        ) {
            let rate = Rate::new(100, 10);
            let (mut bucket, mut now, mut taken) = (Bucket::default(), 0, 0_u64);
            for (step, cost) in steps {
                now += step;
                if bucket.take_many(rate, cost, now).is_ok() {
                    taken += u64::from(cost);
                }
                prop_assert!(taken <= 10 + now / 10_000);
            }
        }

        #[test]
        fn a_client_that_waits_as_told_gets_what_it_wants(
            now in 0_u64..1_000_000,
            costs in prop::collection::vec(1_u32..50, 0..50),
            per_s in 1_u32..5_000_000,
        ) {
            let rate = Rate::new(per_s, 10);
            let (mut bucket, mut clock) = (Bucket::default(), now);
            for cost in costs {
                if let Err(wait) = bucket.take_many(rate, cost, clock) {
                    clock += u64::try_from(wait.as_micros()).unwrap();
                    prop_assert!(bucket.take_many(rate, cost, clock).is_ok());
                }
            }
        }

        #[test]
        fn what_was_not_let_through_costs_nothing(
            costs in prop::collection::vec((0_u64..100_000, 1_u32..50), 0..50),
        ) {
            let rate = Rate::new(100, 10);
            let (mut bucket, mut eager, mut now) = (Bucket::default(), Bucket::default(), 0);
            for (step, cost) in costs {
                now += step;
                let first = eager.take_many(rate, cost, now).is_ok();
                // One asks again and again, the other once.
                for _ in 0..3 {
                    if !first {
                        prop_assert!(eager.take_many(rate, cost, now).is_err());
                    }
                }
                prop_assert_eq!(first, bucket.take_many(rate, cost, now).is_ok());
            }
        }
    }
}
