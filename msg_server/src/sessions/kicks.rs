//! Which users' older logins have ended lately: after a changed password, or a disabled account.
//!
//! A login is checked by a db_proxy and becomes a session here a moment later. A kick that passes
//! between the two would find no session, and the login would slip in behind it. So a kick that names
//! a stamp of the user's row is remembered, and ends what was checked before that stamp whenever it
//! comes.
//!
//! # Invariants
//!
//! - A kick is noted before the sessions there are are looked through, and a login looks here after
//!   its session was entered: whichever comes second sees the other.
//!
//! # What bounds it
//!
//! [`KEPT`] is longer than the check of a login may take. [`USERS_MAX`] users; the one noted first
//! gives way, and a login of theirs that was under way may then be missed.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use proto::ids::UserId;
use tokio::time::Instant;

/// How long a kick is remembered: gateways wait 5 s for the check of a login.
const KEPT: Duration = Duration::from_mins(1);

/// Users remembered.
const USERS_MAX: usize = 65_536;

/// The kicks of the last minute.
#[derive(Debug, Default)]
pub(crate) struct Kicks {
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// Logins of the user that were checked at a stamp below this have ended.
    before: HashMap<UserId, LastKick>,
    /// What was put into it, the oldest first.
    noted: VecDeque<(Instant, UserId)>,
}

#[derive(Debug)]
struct LastKick {
    before: u32,
    noted: Instant,
}

impl Kicks {
    /// Logins of `user` that were checked at a stamp below `before` have ended.
    pub(crate) fn note(&self, user: UserId, before: u32, now: Instant) {
        let mut recent = self.recent.lock();
        recent.forget(now);
        let known = recent.before.get(&user).map_or(0, |known| known.before);
        recent.before.insert(user, LastKick { before: before.max(known), noted: now });
        recent.noted.push_back((now, user));
    }

    /// Whether a login of `user` that was checked at the stamp `verified` has ended by now.
    pub(crate) fn has_ended(&self, user: UserId, verified: u32, now: Instant) -> bool {
        let mut recent = self.recent.lock();
        recent.forget(now);
        recent.before.get(&user).is_some_and(|ended| verified < ended.before)
    }
}

impl Recent {
    fn forget(&mut self, now: Instant) {
        while let Some(&(at, user)) = self.noted.front()
            && (self.noted.len() > USERS_MAX || now.duration_since(at) >= KEPT)
        {
            self.noted.pop_front();
            // Unless it was noted again since.
            if self.before.get(&user).is_some_and(|ended| ended.noted == at) {
                self.before.remove(&user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_that_was_checked_before_the_kick_has_ended_and_a_later_one_has_not() {
        let (kicks, now) = (Kicks::default(), Instant::now());
        assert!(!kicks.has_ended(UserId(1), 0, now));
        kicks.note(UserId(1), 10, now);
        for (user, verified, ended) in [(1, 0, true), (1, 9, true), (1, 10, false), (2, 0, false)] {
            assert_eq!(kicks.has_ended(UserId(user), verified, now), ended, "{user} {verified}");
        }
        kicks.note(UserId(1), 5, now);
        assert!(kicks.has_ended(UserId(1), 9, now), "an older kick takes nothing back");
    }

    #[test]
    fn a_kick_is_remembered_for_a_minute_from_when_it_was_last_noted() {
        let (kicks, now) = (Kicks::default(), Instant::now());
        kicks.note(UserId(1), 10, now);
        kicks.note(UserId(1), 10, now + KEPT / 2);
        assert!(kicks.has_ended(UserId(1), 9, now + KEPT));
        assert!(!kicks.has_ended(UserId(1), 9, now + KEPT + KEPT / 2));
        assert!(kicks.recent.lock().before.is_empty(), "nothing is left of it");
    }

    #[test]
    fn of_too_many_the_one_noted_first_gives_way() {
        let (kicks, now) = (Kicks::default(), Instant::now());
        let users = u32::try_from(USERS_MAX).unwrap() + 2;
        for user in 1..=users {
            kicks.note(UserId(user), 10, now);
        }
        assert!(!kicks.has_ended(UserId(1), 9, now) && kicks.has_ended(UserId(users), 9, now));
        assert!(kicks.recent.lock().before.len() <= USERS_MAX + 1);
    }
}
