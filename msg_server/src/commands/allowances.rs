//! What each user may spend of what belongs to all: messages, bytes, questions, changes that others
//! are told of.
//!
//! The buckets belong to the user, not to a connection: all sessions of a user at this gateway share
//! them, and a client that comes back finds them as it left them.
//!
//! # What bounds it
//!
//! One entry of some 100 bytes for each user who is logged in here or was until [`Allowances::tidy`]
//! found all buckets full again, which takes a minute at the default rates.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::ids::UserId;

use crate::config::LimitsConfig;
use daemon::rates::{Bucket, Rate};

/// How fast one user may spend each thing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    sends: Rate,
    sent_bytes: Rate,
    questions: Rate,
    profile_changes: Rate,
    group_changes: Rate,
}

impl Rates {
    pub(crate) fn new(limits: &LimitsConfig) -> Self {
        Self {
            sends: Rate::new(limits.sends_per_s, limits.sends_burst),
            sent_bytes: Rate::new(limits.sent_bytes_per_s, limits.sent_bytes_burst),
            questions: Rate::new(limits.questions_per_s, limits.questions_burst),
            profile_changes: Rate::per_minute(limits.profile_changes_per_minute),
            group_changes: Rate::per_minute(limits.group_changes_per_minute),
        }
    }
}

/// What one user has spent.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    sends: Bucket,
    sent_bytes: Bucket,
    questions: Bucket,
    profile_changes: Bucket,
    group_changes: Bucket,
}

/// What a request is paid with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Price {
    /// A question, which costs so much.
    Question(u32),
    /// A change of what the user shows of themselves.
    ProfileChange,
    /// A group made, or members added.
    GroupChange,
    /// Nothing.
    Free,
}

impl Allowance {
    /// Takes what a message of `bytes` costs, or says how long until it can.
    pub(crate) fn send(&mut self, rates: &Rates, bytes: u32, now_us: u64) -> Result<(), Duration> {
        // Nothing is taken from one bucket while the other lets nothing through.
        let wait = self.sends.wait(rates.sends, 1, now_us).max(self.sent_bytes.wait(
            rates.sent_bytes,
            bytes,
            now_us,
        ));
        if let Some(wait) = wait {
            return Err(wait);
        }
        self.sends.pay(rates.sends, 1, now_us);
        self.sent_bytes.pay(rates.sent_bytes, bytes, now_us);
        Ok(())
    }

    /// Takes what a request costs, or says how long until it can.
    pub(crate) fn pay(&mut self, rates: &Rates, price: Price, now_us: u64) -> Result<(), Duration> {
        match price {
            Price::Question(cost) => self.questions.take_many(rates.questions, cost, now_us),
            Price::ProfileChange => self.profile_changes.take(rates.profile_changes, now_us),
            Price::GroupChange => self.group_changes.take(rates.group_changes, now_us),
            Price::Free => Ok(()),
        }
    }

    /// Whether nothing is spent that has not come back.
    fn is_whole(&self, now_us: u64) -> bool {
        let buckets =
            [self.sends, self.sent_bytes, self.questions, self.profile_changes, self.group_changes];
        buckets.iter().all(|bucket| bucket.is_full(now_us))
    }
}

/// The users' allowances.
#[derive(Debug, Default)]
pub(crate) struct Allowances {
    by_user: Mutex<HashMap<UserId, Arc<Mutex<Allowance>>>>,
}

impl Allowances {
    /// A user's allowance, the same for all of the user's sessions here.
    pub(crate) fn of(&self, user: UserId) -> Arc<Mutex<Allowance>> {
        Arc::clone(self.by_user.lock().entry(user).or_default())
    }

    /// Forgets those that nobody uses and that are like new.
    pub(crate) fn tidy(&self, now_us: u64) {
        let mut by_user = self.by_user.lock();
        by_user.retain(|_user, allowance| {
            // Under the lock nobody can begin to use one that only the table knows.
            Arc::strong_count(allowance) > 1 || !allowance.lock().is_whole(now_us)
        });
        if by_user.capacity() > 2 * by_user.len() + 1024 {
            by_user.shrink_to_fit();
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_user.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        Rates::new(&LimitsConfig {
            sends_per_s: 10,
            sends_burst: 10,
            sent_bytes_per_s: 1_000,
            sent_bytes_burst: 5_000,
            questions_per_s: 10,
            questions_burst: 100,
            profile_changes_per_minute: 60,
            group_changes_per_minute: 10,
            ..LimitsConfig::default()
        })
    }

    #[test]
    fn a_message_is_paid_by_number_and_by_bytes_and_only_if_both_are_there() {
        let mut allowance = Allowance::default();
        for _ in 0..5 {
            allowance.send(&rates(), 1_000, 0).unwrap();
        }
        assert_eq!(allowance.send(&rates(), 1_000, 0), Err(Duration::from_secs(1)));
        // The number was not touched by what the bytes have stopped: five are left.
        for _ in 0..5 {
            allowance.send(&rates(), 0, 0).unwrap();
        }
        assert_eq!(allowance.send(&rates(), 0, 0), Err(Duration::from_millis(100)));
    }

    #[test]
    fn each_kind_of_request_has_a_bucket_of_its_own() {
        let mut allowance = Allowance::default();
        for _ in 0..10 {
            allowance.pay(&rates(), Price::GroupChange, 0).unwrap();
        }
        assert_eq!(allowance.pay(&rates(), Price::GroupChange, 0), Err(Duration::from_secs(6)));
        allowance.pay(&rates(), Price::Question(100), 0).unwrap();
        assert!(allowance.pay(&rates(), Price::Question(1), 0).is_err());
        allowance.pay(&rates(), Price::ProfileChange, 0).unwrap();
        allowance.pay(&rates(), Price::Free, 0).unwrap();
    }

    #[test]
    fn a_user_who_comes_back_finds_the_buckets_as_they_were() {
        let allowances = Allowances::default();
        allowances.of(UserId(5)).lock().pay(&rates(), Price::Question(100), 0).unwrap();
        allowances.tidy(1_000_000);
        assert!(
            allowances.of(UserId(5)).lock().pay(&rates(), Price::Question(100), 1_000_000).is_err()
        );
        // Full again, and nobody is logged in.
        allowances.tidy(10_000_000);
        assert_eq!(allowances.len(), 0);
    }

    #[test]
    fn the_allowance_of_a_session_is_never_forgotten() {
        let allowances = Allowances::default();
        let held = allowances.of(UserId(5));
        allowances.tidy(10_000_000);
        assert!(Arc::ptr_eq(&held, &allowances.of(UserId(5))));
    }

    #[test]
    fn an_allowance_stays_small() {
        assert!(size_of::<Mutex<Allowance>>() <= 48, "{}", size_of::<Mutex<Allowance>>());
    }
}
