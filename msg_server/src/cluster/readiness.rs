//! Whether clients can log in here, as far as storage is concerned.
//!
//! # Invariants
//!
//! - Not ready before everything was served once.
//! - Not ready once nobody has served logins for [`LOGINS_LIMIT`], or a partition has had no owner for
//!   [`OWNERS_LIMIT`]. A shorter gap is a link that comes back, or an owner that is replaced.
//! - Ready again as soon as what was missing is back.

use std::time::Duration;

use daemon::Readiness;
use daemon::ready::Condition;
use db_client::Owners;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long nobody may serve logins.
const LOGINS_LIMIT: Duration = Duration::from_secs(1);

/// How long a partition may have no owner: some seconds more than a dead owner's membership and the
/// opening of what it had take together.
const OWNERS_LIMIT: Duration = Duration::from_secs(20);

/// What is there of something that must be there, with one interruption allowed that is short.
#[derive(Debug)]
struct Steady {
    limit: Duration,
    /// It was there once.
    was_there: bool,
    missing_since: Option<Instant>,
}

impl Steady {
    fn new(limit: Duration) -> Self {
        Self { limit, was_there: false, missing_since: None }
    }

    /// Takes what is seen now, and says whether that is good enough.
    fn look(&mut self, is_there: bool, now: Instant) -> bool {
        if is_there {
            self.was_there = true;
            self.missing_since = None;
            return true;
        }
        let since = *self.missing_since.get_or_insert(now);
        self.was_there && now.saturating_duration_since(since) < self.limit
    }
}

/// The conditions of readiness that storage is behind.
#[derive(Debug)]
pub(crate) struct StorageReadiness {
    /// Held from the look to what is said, so that what is said last is what is.
    state: Mutex<Conditions>,
}

#[derive(Debug)]
struct Conditions {
    logins: Steady,
    owners: Steady,
    can_log_in: Condition,
    are_owned: Condition,
}

impl StorageReadiness {
    /// Adds the conditions to `ready`, unmet.
    pub(crate) fn new(ready: &Readiness) -> Self {
        let state = Conditions {
            logins: Steady::new(LOGINS_LIMIT),
            owners: Steady::new(OWNERS_LIMIT),
            can_log_in: ready.condition("db_proxy"),
            are_owned: ready.condition("owners of all partitions"),
        };
        Self { state: Mutex::new(state) }
    }

    /// Shows what is so now. Called whenever what storage claims has changed, and by the clock.
    pub(crate) fn look(&self, storage: &Owners) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Conditions { logins, owners, can_log_in, are_owned } = &mut *state;
        can_log_in.set(logins.look(storage.serves_logins(), now));
        are_owned.set(owners.look(storage.is_whole(), now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_was_never_there_is_not_there_however_short_it_is_missed() {
        let mut steady = Steady::new(LOGINS_LIMIT);
        assert!(!steady.look(false, Instant::now()));
        assert!(steady.look(true, Instant::now()));
        assert!(steady.look(false, Instant::now()));
    }

    #[test]
    fn a_gap_counts_from_its_limit_on_and_until_its_end() {
        let (mut steady, start) = (Steady::new(LOGINS_LIMIT), Instant::now());
        steady.look(true, start);
        assert!(steady.look(false, start));
        assert!(steady.look(false, start + LOGINS_LIMIT - MS), "a link that comes back");
        assert!(!steady.look(false, start + LOGINS_LIMIT));
        assert!(steady.look(true, start + LOGINS_LIMIT + MS), "back at once");
        assert!(steady.look(false, start + LOGINS_LIMIT * 3), "the next gap is counted anew");
    }
}
