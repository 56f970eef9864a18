//! Rates: how fast a client may send, and how much nonsense it may say.
//!
//! Pure: time is an argument, in microseconds from any fixed moment.

use std::time::Duration;

/// A token bucket in the form of the generic cell rate algorithm (ITU-T I.371): one number says
/// when the bucket will be full again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bucket {
    full_at_us: u64,
}

/// How fast a [`Bucket`] fills, and how much it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    interval_us: u64,
    depth_us: u64,
}

impl Rate {
    /// `per_s` in the long run, `burst` at once after a pause. Both are at least 1.
    pub(crate) fn new(per_s: u32, burst: u32) -> Self {
        let interval_us = 1_000_000 / u64::from(per_s.max(1));
        Self { interval_us, depth_us: interval_us * u64::from(burst.max(1)) }
    }

    /// `per_minute` of something, all of which may come at once.
    pub(crate) fn per_minute(per_minute: u32) -> Self {
        let interval_us = 60_000_000 / u64::from(per_minute.max(1));
        Self { interval_us, depth_us: interval_us * u64::from(per_minute.max(1)) }
    }
}

impl Bucket {
    /// Takes one token, or says how long until there is one.
    pub(crate) fn take(&mut self, rate: Rate, now_us: u64) -> Result<(), Duration> {
        let full_at = self.full_at_us.max(now_us) + rate.interval_us;
        let earliest = full_at.saturating_sub(rate.depth_us);
        if earliest > now_us {
            return Err(Duration::from_micros(earliest - now_us));
        }
        self.full_at_us = full_at;
        Ok(())
    }
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

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_time_has_given(
            steps in prop::collection::vec(0_u64..50_000, 1..400),
        ) {
            let rate = Rate::new(100, 10);
            let (mut bucket, mut now, mut taken) = (Bucket::default(), 0, 0_u64);
            for step in steps {
                now += step;
                if bucket.take(rate, now).is_ok() {
                    taken += 1;
                }
                prop_assert!(taken <= 10 + now / 10_000);
            }
        }

        #[test]
        fn whoever_waits_as_told_gets_a_token(now in 0_u64..1_000_000, taken in 0_u32..50) {
            let rate = Rate::new(100, 10);
            let mut bucket = Bucket::default();
            let mut clock = now;
            for _ in 0..taken {
                if let Err(wait) = bucket.take(rate, clock) {
                    clock += u64::try_from(wait.as_micros()).unwrap();
                    prop_assert!(bucket.take(rate, clock).is_ok());
                }
            }
        }
    }
}
