//! A circuit breaker: whether a service that may be away is asked at all.
//!
//! ```text
//!            a failed or late answer
//!   closed ────────────────────────────► open for a rest ──► one call tries ──► open for another rest
//!     ▲                                                            │
//!     └────────────────────────────────────────────────────────────┘ it was answered in time
//! ```
//!
//! While it is open no call waits for the service. The one that tries waits for the limit of a call at
//! most, once in a rest.
//!
//! Redis has a breaker of its own, since there a task of its own tries, and what it opens is a connection.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What a call does about the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Asks it.
    Ask,
    /// Asks it, to find out whether it is back.
    Try,
    /// Leaves it alone.
    Leave,
}

/// Closed until a call fails.
#[derive(Debug)]
pub struct Breaker {
    rest: Duration,
    /// While it is open: when a call tries next.
    next_try: Mutex<Option<Instant>>,
}

impl Breaker {
    /// A closed breaker, which will be open for `rest` at a time.
    pub fn new(rest: Duration) -> Self {
        Self { rest, next_try: Mutex::new(None) }
    }

    /// What the call that comes now does.
    pub fn turn(&self, now: Instant) -> Turn {
        let mut next_try = self.next_try.lock();
        match *next_try {
            None => Turn::Ask,
            Some(at) if now < at => Turn::Leave,
            Some(_) => {
                // Before it is known how the try ends: it may be dropped, and never says.
                *next_try = Some(now + self.rest);
                Turn::Try
            }
        }
    }

    /// A call has failed. Whether that has opened the breaker: it may have been open already.
    pub fn failed(&self, now: Instant) -> bool {
        let mut next_try = self.next_try.lock();
        let was_closed = next_try.is_none();
        if was_closed {
            *next_try = Some(now + self.rest);
        }
        was_closed
    }

    /// A try has succeeded. Whether that has closed the breaker.
    pub fn answered(&self) -> bool {
        self.next_try.lock().take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(5);

    #[test]
    fn behind_an_open_breaker_one_call_tries_in_each_rest() {
        let (breaker, began) = (Breaker::new(REST), Instant::now());
        assert_eq!(breaker.turn(began), Turn::Ask);
        assert!(breaker.failed(began));
        assert_eq!(breaker.turn(began), Turn::Leave);
        for rests in 1..4 {
            let now = began + REST * rests;
            assert_eq!(breaker.turn(now), Turn::Try);
            assert_eq!(breaker.turn(now), Turn::Leave);
            assert_eq!(breaker.turn(now + REST / 2), Turn::Leave);
        }
        assert!(breaker.answered());
        assert_eq!(breaker.turn(began), Turn::Ask);
    }

    #[test]
    fn only_the_first_failure_and_the_first_answer_are_a_change() {
        let (breaker, now) = (Breaker::new(REST), Instant::now());
        assert!(!breaker.answered());
        assert!(breaker.failed(now));
        assert!(!breaker.failed(now + REST / 2));
        // A later failure does not make the rest longer.
        assert_eq!(breaker.turn(now + REST), Turn::Try);
        assert!(breaker.answered());
        assert!(!breaker.answered());
    }
}
