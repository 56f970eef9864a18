//! When an event is tried again, and when it is given up. Pure.
//!
//! The waits are those of Standard Webhooks: about 75 hours in all. How old an event is decides whether it is
//! given up, not how often this process has tried it: a restart makes the tries begin anew and the end stay.
//!
//! An endpoint that answers other events, and not this one, is not down: it refuses the event. Such an event
//! is given up after [`REFUSED_AFTER`] tries, because what is behind it waits for it.

use std::time::Duration;

/// The waits between tries.
pub(super) const WAITS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];

/// An event that is older than all waits together is given up by its next failure.
pub(super) const GIVEN_UP_AFTER: Duration =
    Duration::from_secs(5 + 5 * 60 + 30 * 60 + (2 + 5 + 10 + 14 + 20 + 24) * 3_600);

/// So many tries has an event to which an endpoint says no while it takes others: some two and a half hours.
pub(super) const REFUSED_AFTER: u32 = 5;

/// The longest that an endpoint may ask to be left alone.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// How far an event has come that has just failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failed {
    /// How often it was tried by this process.
    pub(super) tries: u32,
    /// Since it happened, or since the webhook began if that is later.
    pub(super) age: Duration,
    /// Whether the endpoint has taken another event since the first try of this one.
    pub(super) others_taken: bool,
}

/// What is done with an event that has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is tried again after that time.
    After(Duration),
    /// It is given up.
    GiveUp,
}

/// What is done with an event that has failed. `random` is any number: the wait is up to a quarter longer, so that
/// what failed together does not come back together.
pub(super) fn next(failed: Failed, retry_after: Option<Duration>, random: u64) -> Next {
    let is_refused = failed.others_taken && failed.tries >= REFUSED_AFTER;
    if is_refused || failed.age >= GIVEN_UP_AFTER {
        return Next::GiveUp;
    }
    let index = usize::try_from(failed.tries.saturating_sub(1)).unwrap_or(usize::MAX);
    let wait = WAITS.get(index).or(WAITS.last()).copied().unwrap_or_default();
    let quarter_ms = u64::try_from(wait.as_millis() / 4).unwrap_or(u64::MAX);
    let jitter = Duration::from_millis(random % (quarter_ms + 1));
    let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    Next::After((wait + jitter).max(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(tries: u32) -> Failed {
        Failed { tries, age: Duration::ZERO, others_taken: false }
    }

    #[test]
    fn the_waits_are_those_of_the_standard_and_up_to_a_quarter_longer() {
        for (tries, wait) in (1..).zip(WAITS) {
            assert_eq!(next(failed(tries), None, 0), Next::After(wait), "{tries}");
            let Next::After(longest) = next(failed(tries), None, u64::MAX) else { panic!() };
            assert!(longest >= wait && longest <= wait + wait / 4, "{tries}: {longest:?}");
        }
        assert_eq!(next(failed(u32::MAX), None, 0), Next::After(WAITS[8]), "the last one stays");
        assert_eq!(WAITS.iter().sum::<Duration>(), GIVEN_UP_AFTER);
    }

    #[test]
    fn an_event_is_given_up_when_it_is_older_than_all_waits() {
        let age = GIVEN_UP_AFTER;
        assert_eq!(next(Failed { age, ..failed(1) }, None, 0), Next::GiveUp);
        let age = GIVEN_UP_AFTER.saturating_sub(Duration::from_millis(1));
        assert_ne!(next(Failed { age, ..failed(40) }, None, 0), Next::GiveUp);
    }

    #[test]
    fn an_event_that_is_refused_while_others_are_taken_is_given_up_after_some_tries() {
        let refused = |tries| Failed { others_taken: true, ..failed(tries) };
        assert_ne!(next(refused(REFUSED_AFTER - 1), None, 0), Next::GiveUp);
        assert_eq!(next(refused(REFUSED_AFTER), None, 0), Next::GiveUp);
        assert_ne!(next(failed(REFUSED_AFTER), None, 0), Next::GiveUp, "the endpoint is down");
    }

    #[test]
    fn an_endpoint_may_ask_for_a_longer_wait_but_not_for_any() {
        let asked = |seconds| next(failed(1), Some(Duration::from_secs(seconds)), 0);
        assert_eq!(asked(1), Next::After(WAITS[0]), "never sooner");
        assert_eq!(asked(600), Next::After(Duration::from_mins(10)));
        assert_eq!(asked(u64::MAX), Next::After(RETRY_AFTER_MAX));
    }
}
