//! The time that tokens and tickets end by.
//!
//! # Invariants
//!
//! - While the process runs it never goes back: a wall clock that is set back makes nothing last longer.
//!   One that is set forward ends tokens early, for as long as it stands there.

use std::time::Instant;

/// A clock that began when the process did.
#[derive(Debug, Clone)]
pub struct Clock {
    began_s: u64,
    began: Instant,
    #[cfg(test)]
    test_s: Option<std::sync::Arc<std::sync::atomic::AtomicU64>>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            began_s: u64::from(daemon::clock::unix_s()),
            began: Instant::now(),
            #[cfg(test)]
            test_s: None,
        }
    }
}

impl Clock {
    /// Now, Unix seconds.
    pub(crate) fn now_s(&self) -> u64 {
        #[cfg(test)]
        if let Some(test_s) = &self.test_s {
            return test_s.load(std::sync::atomic::Ordering::Relaxed);
        }
        self.read(u64::from(daemon::clock::unix_s()), Instant::now())
    }

    fn read(&self, wall_s: u64, now: Instant) -> u64 {
        wall_s.max(self.began_s + now.duration_since(self.began).as_secs())
    }

    /// A clock that the test sets.
    #[cfg(test)]
    pub(crate) fn set_by(test_s: std::sync::Arc<std::sync::atomic::AtomicU64>) -> Self {
        Self { test_s: Some(test_s), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_is_set_back_does_not_take_time_back() {
        let began = Instant::now();
        let clock = Clock { began_s: 1_000, began, test_s: None };
        let later = began + Duration::from_secs(10);
        for (wall_s, expected) in [(1_010, 1_010), (1_011, 1_011), (0, 1_010), (5_000, 5_000)] {
            assert_eq!(clock.read(wall_s, later), expected, "{wall_s}");
        }
    }
}
