//! When an event is tried again, and when it is given up. Pure.
//!
//! The waits are those of Standard Webhooks: about 75 hours in all. How old an event is decides whether it is
//! given up, not how often this process has tried it: a restart makes the tries begin anew and the end stay.
//!
//! An endpoint that takes other events, and not this one, is not down: it refuses the event. Such an event is
//! given up after [`REFUSALS_MAX`] refusals, because what is behind it waits for it. What failed while the
//! endpoint took nothing does not count.

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

/// An event is given up that was refused so often: some two and a half hours after the first try.
pub(super) const REFUSALS_MAX: u32 = 4;

/// The longest that an endpoint may ask to be left alone.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// How often an event was tried by this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tries {
    pub(super) all: u32,
    /// Those of them before which the endpoint had taken another event since the try before.
    pub(super) of_a_working_endpoint: u32,
}

/// What is done with an event that has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is tried again after that time.
    After(Duration),
    /// It is given up.
    GiveUp,
}

/// What is done with an event that has failed. `age`: since it happened, or since the webhook began if that is
/// later. `random` is any number: the wait is up to a quarter longer, so that what failed together does not come back
/// together.
pub(super) fn next(
    tries: Tries,
    age: Duration,
    retry_after: Option<Duration>,
    random: u64,
) -> Next {
    let refusals = tries.of_a_working_endpoint;
    if refusals >= REFUSALS_MAX || age >= GIVEN_UP_AFTER {
        return Next::GiveUp;
    }
    // How long the endpoint was down before says nothing of an event that it refuses.
    let waits = if refusals > 0 { refusals } else { tries.all.saturating_sub(1) };
    let index = usize::try_from(waits).unwrap_or(usize::MAX);
    let wait = WAITS.get(index).or(WAITS.last()).copied().unwrap_or_default();
    let quarter_ms = u64::try_from(wait.as_millis() / 4).unwrap_or(u64::MAX);
    let jitter = Duration::from_millis(random % (quarter_ms + 1));
    let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    Next::After((wait + jitter).max(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Duration = Duration::ZERO;

    fn down(all: u32) -> Tries {
        Tries { all, of_a_working_endpoint: 0 }
    }

    #[test]
    fn the_waits_are_those_of_the_standard_and_up_to_a_quarter_longer() {
        for (tries, wait) in (1..).zip(WAITS) {
            assert_eq!(next(down(tries), NEW, None, 0), Next::After(wait), "{tries}");
            let Next::After(longest) = next(down(tries), NEW, None, u64::MAX) else { panic!() };
            assert!(longest >= wait && longest <= wait + wait / 4, "{tries}: {longest:?}");
        }
        assert_eq!(next(down(u32::MAX), NEW, None, 0), Next::After(WAITS[8]), "the last one stays");
        assert_eq!(WAITS.iter().sum::<Duration>(), GIVEN_UP_AFTER);
    }

    #[test]
    fn an_event_is_given_up_when_it_is_older_than_all_waits() {
        assert_eq!(next(down(1), GIVEN_UP_AFTER, None, 0), Next::GiveUp);
        let age = GIVEN_UP_AFTER.saturating_sub(Duration::from_millis(1));
        assert_ne!(next(down(40), age, None, 0), Next::GiveUp, "the endpoint is down");
    }

    #[test]
    fn an_event_that_is_refused_while_others_are_taken_is_given_up_after_some_tries() {
        let mut waited = Duration::ZERO;
        for refusals in 0..REFUSALS_MAX {
            let tries = Tries { all: refusals + 1, of_a_working_endpoint: refusals };
            let Next::After(wait) = next(tries, NEW, None, 0) else { panic!("{refusals}") };
            waited += wait;
        }
        assert!((8_000..10_000).contains(&waited.as_secs()), "{waited:?}");
        let tries = |all| Tries { all, of_a_working_endpoint: REFUSALS_MAX };
        assert_eq!(next(tries(REFUSALS_MAX + 1), NEW, None, 0), Next::GiveUp);
    }

    #[test]
    fn an_event_that_is_refused_after_an_outage_has_the_tries_of_any_other() {
        let tries = Tries { all: 9, of_a_working_endpoint: 1 };
        assert_eq!(next(tries, NEW, None, 0), Next::After(WAITS[1]));
    }

    #[test]
    fn an_endpoint_may_ask_for_a_longer_wait_but_not_for_any() {
        let asked = |seconds| next(down(1), NEW, Some(Duration::from_secs(seconds)), 0);
        assert_eq!(asked(1), Next::After(WAITS[0]), "never sooner");
        assert_eq!(asked(600), Next::After(Duration::from_mins(10)));
        assert_eq!(asked(u64::MAX), Next::After(RETRY_AFTER_MAX));
    }
}
