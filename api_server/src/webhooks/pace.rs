//! How many requests an endpoint gets at once, and when it gets none. Pure: time is an argument.
//!
//! One more with each success, half as many with each failure. An endpoint that has taken nothing for a while and
//! then takes an event is back: what waits for its next try need not wait for it.

use std::time::Duration;

use tokio::time::Instant;

/// Requests to one endpoint at once.
pub(super) const AT_ONCE_MAX: usize = 16;

/// An endpoint that fails and has taken nothing for so long is away.
pub(super) const AWAY_AFTER: Duration = Duration::from_mins(5);

/// How many requests an endpoint gets.
#[derive(Debug)]
pub(super) struct Pace {
    at_once: usize,
    /// The endpoint has asked to be left alone until then.
    until: Option<Instant>,
    /// When it took an event last, or failed first if it has taken none.
    well: Option<Instant>,
    /// Whether it has failed since then.
    fails: bool,
    /// How many events it has taken.
    taken: u64,
}

impl Pace {
    /// Nothing is known of the endpoint.
    pub(super) fn new() -> Self {
        Self { at_once: AT_ONCE_MAX, until: None, well: None, fails: false, taken: 0 }
    }

    /// Whether one more request may begin beside so many.
    pub(super) fn allows(&self, under_way: usize, now: Instant) -> bool {
        under_way < self.at_once && self.until.is_none_or(|until| until <= now)
    }

    /// From when on requests may begin.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// How many events the endpoint has taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The endpoint has taken an event. Whether it is back after it was away.
    pub(super) fn took(&mut self, now: Instant) -> bool {
        let was_away =
            self.fails && self.well.is_some_and(|well| now.duration_since(well) >= AWAY_AFTER);
        self.at_once = (self.at_once + 1).min(AT_ONCE_MAX);
        self.well = Some(now);
        self.fails = false;
        self.taken += 1;
        was_away
    }

    /// A try has failed. `leave_alone`: the endpoint has asked for that long.
    pub(super) fn failed(&mut self, leave_alone: Option<Duration>, now: Instant) {
        self.at_once = (self.at_once / 2).max(1);
        self.fails = true;
        self.well.get_or_insert(now);
        if let Some(time) = leave_alone {
            self.until = self.until.max(Some(now + time));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_halve_what_goes_at_once_and_successes_add_one() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        let at_once = |pace: &Pace| (0..99).find(|count| !pace.allows(*count, now)).unwrap();
        assert_eq!(at_once(&pace), AT_ONCE_MAX);
        for expected in [8, 4, 2, 1, 1] {
            pace.failed(None, now);
            assert_eq!(at_once(&pace), expected);
        }
        for expected in (2..=AT_ONCE_MAX).chain([AT_ONCE_MAX]) {
            pace.took(now);
            assert_eq!(at_once(&pace), expected);
        }
        assert_eq!(pace.taken(), AT_ONCE_MAX as u64);
    }

    #[test]
    fn an_endpoint_that_asks_to_be_left_alone_is() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        pace.failed(Some(Duration::from_mins(1)), now);
        pace.failed(Some(Duration::from_secs(30)), now);
        let end = now + Duration::from_mins(1);
        assert_eq!(pace.until(), Some(end));
        assert!(!pace.allows(0, end - Duration::from_millis(1)));
        assert!(pace.allows(0, end));
    }

    #[test]
    fn an_endpoint_is_back_with_the_first_success_after_a_while_of_failures() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        assert!(!pace.took(now));
        assert!(!pace.took(now + AWAY_AFTER), "nothing has failed");
        let now = now + AWAY_AFTER;
        pace.failed(None, now);
        assert!(!pace.took(now + AWAY_AFTER - Duration::from_millis(1)), "that was short");
        let now = now + AWAY_AFTER;
        pace.failed(None, now);
        assert!(pace.took(now + AWAY_AFTER));
        assert!(!pace.took(now + AWAY_AFTER), "it is back already");
        let mut new = Pace::new();
        new.failed(None, now);
        assert!(new.took(now + AWAY_AFTER), "it was away from the beginning");
    }
}
