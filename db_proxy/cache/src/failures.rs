//! Failed logins, counted in the memory of one process.
//!
//! It has no clock: the caller says what time it is.
//!
//! # What bounds it
//!
//! [`FAILURES_MAX`] counts of what went wrong, and as many of what went well: the least recently counted
//! is forgotten first, which makes no login wait longer. [`LIFTED_MAX`] names that were lifted.

use std::fmt;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Count, LIFTED_KEPT, Throttle};
use crate::bounded;

/// Counts of each kind that are remembered.
const FAILURES_MAX: usize = 65_536;

/// Names of which it is remembered that they were lifted.
const LIFTED_MAX: usize = 4_096;

/// Failures that were counted.
struct Counted {
    failures: u32,
    since: Instant,
    waits_until: Instant,
    of: Option<String>,
}

/// Counts failures in memory.
pub struct Failures {
    bad: Mutex<LruCache<String, Counted>>,
    good: Mutex<LruCache<String, Counted>>,
    lifted: Mutex<LruCache<String, Instant>>,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            bad: Mutex::new(bounded(FAILURES_MAX)),
            good: Mutex::new(bounded(FAILURES_MAX)),
            lifted: Mutex::new(bounded(LIFTED_MAX)),
        }
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").field("bad", &self.bad.lock().len()).finish_non_exhaustive()
    }
}

impl Failures {
    fn counts(&self, throttle: &Throttle) -> &Mutex<LruCache<String, Counted>> {
        if throttle.is_good { &self.good } else { &self.bad }
    }

    /// What is known of these, in their order.
    pub fn of(&self, throttles: &[Throttle], now: Instant) -> Vec<Count> {
        let of = |throttle: &Throttle| {
            let counts = self.counts(throttle).lock();
            let counted = counts.peek(&throttle.key)?;
            let failures = if now - counted.since < throttle.within { counted.failures } else { 0 };
            Some(Count { failures, waits: now < counted.waits_until })
        };
        throttles.iter().map(|throttle| of(throttle).unwrap_or_default()).collect()
    }

    /// Counts one failure of each.
    pub fn count(&self, throttles: &[Throttle], now: Instant) {
        for throttle in throttles {
            let mut counts = self.counts(throttle).lock();
            let counted = counts.get_or_insert_mut(throttle.key.clone(), || Counted {
                failures: 0,
                since: now,
                waits_until: now,
                of: throttle.of.clone(),
            });
            if now - counted.since >= throttle.within {
                (counted.failures, counted.since) = (0, now);
            }
            counted.failures = counted.failures.saturating_add(1);
            counted.waits_until = now + throttle.delay(counted.failures);
        }
    }

    /// Forgets one.
    pub fn forget(&self, throttle: &Throttle) {
        self.counts(throttle).lock().pop(&throttle.key);
    }

    /// Forgets all of a name. Looks at everything there is: an administrator asks for it.
    pub fn lift(&self, name: &str, now: Instant) {
        let mut bad = self.bad.lock();
        let of_name = |counted: &Counted| counted.of.as_deref() == Some(name);
        let keys = bad.iter().filter(|(_key, counted)| of_name(counted));
        let keys: Vec<String> = keys.map(|(key, _counted)| key.clone()).collect();
        for key in keys {
            bad.pop(&key);
        }
        self.lifted.lock().put(name.to_owned(), now);
    }

    /// Whether a name was lifted lately.
    pub fn is_lifted(&self, name: &str, now: Instant) -> bool {
        self.lifted.lock().peek(name).is_some_and(|at| now - *at < LIFTED_KEPT)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_went_wrong_pushes_out_the_oldest_of_its_kind_and_nothing_that_went_well() {
        let (failures, now) = (Failures::default(), Instant::now());
        let bad = |key: usize| Throttle::new(key.to_string(), 0, Duration::from_hours(1));
        let good = Throttle { is_good: true, ..bad(0) };
        failures.count(std::slice::from_ref(&good), now);
        for key in 0..=FAILURES_MAX {
            failures.count(&[bad(key)], now);
        }
        let seen = failures.of(&[bad(0), bad(1), bad(FAILURES_MAX), good], now);
        let seen: Vec<u32> = seen.iter().map(|count| count.failures).collect();
        assert_eq!(seen, [0, 1, 1, 1]);
    }

    #[test]
    fn of_too_many_names_the_one_that_was_lifted_longest_ago_is_forgotten() {
        let (failures, now) = (Failures::default(), Instant::now());
        for name in 0..=LIFTED_MAX {
            failures.lift(&name.to_string(), now);
        }
        let lifted = [0, 1, LIFTED_MAX].map(|name| failures.is_lifted(&name.to_string(), now));
        assert_eq!(lifted, [false, true, true]);
    }
}
