//! Who is online, and what of it is news.
//!
//! A user is online while a PC client of his is logged in anywhere. Changes are gathered and flushed
//! together: of whoever came and left in between, only the leaving is news, for somebody may have
//! asked in between. A user whose gateway was lost, rather than one who logged out, stays online for
//! [`GRACE`], because he is probably on his way to another one.
//!
//! # Invariants
//!
//! - What was announced last for a user, corrected by the next flush, is what is true then.
//! - A user who is offline and announced as such costs no memory.
//!
//! No socket, no clock: time is an argument.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

/// How long a user whose gateway was lost still counts as online.
pub(crate) const GRACE: Duration = Duration::from_secs(15);

/// The news since the last flush.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) online: Vec<u32>,
    pub(crate) offline: Vec<u32>,
}

/// The users of the whole cluster, as this replica knows.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    users: HashMap<u32, State>,
    /// Users to be looked at by the next flush, each once.
    changed: Vec<u32>,
    /// When the grace of whom ends, in order of time. An entry whose user has returned is ignored.
    grace_ends: VecDeque<(Instant, u32)>,
    online: usize,
}

#[derive(Debug, Default)]
struct State {
    is: Is,
    announced: bool,
    queued: bool,
    /// Whether he was online at any time since the last flush. Whoever asked then was told so.
    was_online: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Is {
    /// A PC client is logged in.
    Here,
    /// His gateway was lost.
    LostUntil(Instant),
    #[default]
    Away,
}

impl Presence {
    /// A PC client of the user is logged in.
    pub(crate) fn arrived(&mut self, user: u32) {
        self.set(user, Is::Here);
    }

    /// The last PC client of the user has logged out.
    pub(crate) fn left(&mut self, user: u32) {
        if self.is_online(user) {
            self.set(user, Is::Away);
        }
    }

    /// The gateway of the user's last PC client was lost.
    pub(crate) fn lost(&mut self, user: u32, now: Instant) {
        if self.is_online(user) {
            self.set(user, Is::LostUntil(now + GRACE));
            self.grace_ends.push_back((now + GRACE, user));
        }
    }

    /// Whether the user counts as online.
    pub(crate) fn is_online(&self, user: u32) -> bool {
        self.users.get(&user).is_some_and(|state| state.is != Is::Away)
    }

    /// How many users count as online.
    pub(crate) fn online(&self) -> usize {
        self.online
    }

    /// Returns what has changed since the last flush, as of now.
    pub(crate) fn flush(&mut self, now: Instant) -> News {
        while let Some((end, user)) = self.grace_ends.pop_front_if(|(end, _user)| *end <= now) {
            if self.users.get(&user).is_some_and(|state| state.is == Is::LostUntil(end)) {
                self.set(user, Is::Away);
            }
        }
        let mut news = News::default();
        for user in mem::take(&mut self.changed) {
            let Some(state) = self.users.get_mut(&user) else { continue };
            state.queued = false;
            let online = state.is != Is::Away;
            let was_online = mem::replace(&mut state.was_online, online);
            let announced = mem::replace(&mut state.announced, online);
            if online && !announced {
                news.online.push(user);
            } else if !online {
                if announced || was_online {
                    news.offline.push(user);
                }
                self.users.remove(&user);
            }
        }
        news
    }

    fn set(&mut self, user: u32, is: Is) {
        let state = self.users.entry(user).or_default();
        match (state.is != Is::Away, is != Is::Away) {
            (false, true) => self.online += 1,
            (true, false) => self.online -= 1,
            (false, false) | (true, true) => {}
        }
        state.is = is;
        state.was_online |= is != Is::Away;
        if !mem::replace(&mut state.queued, true) {
            self.changed.push(user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(online: &[u32], offline: &[u32]) -> News {
        News { online: online.to_vec(), offline: offline.to_vec() }
    }

    #[test]
    fn a_change_is_news_once() {
        let (mut presence, now) = (Presence::default(), Instant::now());
        presence.arrived(1);
        presence.arrived(1);
        assert_eq!(presence.flush(now), news(&[1], &[]));
        presence.arrived(1);
        assert_eq!(presence.flush(now), news(&[], &[]));
        presence.left(1);
        assert!(!presence.is_online(1));
        assert_eq!(presence.flush(now), news(&[], &[1]));
        presence.left(1);
        assert_eq!(presence.flush(now), news(&[], &[]));
        assert!(presence.users.is_empty(), "who is away costs nothing");
    }

    #[test]
    fn of_coming_and_leaving_within_a_flush_only_the_end_is_news() {
        let (mut presence, now) = (Presence::default(), Instant::now());
        presence.arrived(1);
        presence.left(1);
        // A phone of his that logged in meanwhile believes that he is online.
        assert_eq!(presence.flush(now), news(&[], &[1]));
        assert!(presence.users.is_empty());
        presence.arrived(1);
        assert_eq!(presence.flush(now), news(&[1], &[]));
        presence.left(1);
        presence.arrived(1);
        assert_eq!(presence.flush(now), news(&[], &[]));
        assert_eq!(presence.online(), 1);
    }

    #[test]
    fn a_lost_user_is_announced_offline_after_the_grace_and_not_before() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        presence.arrived(1);
        presence.flush(start);
        presence.lost(1, start);
        let almost = (start + GRACE).checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(presence.flush(almost), news(&[], &[]));
        assert!(presence.is_online(1));
        assert_eq!(presence.flush(start + GRACE), news(&[], &[1]));
        assert_eq!(presence.online(), 0);
    }

    #[test]
    fn a_lost_user_who_returns_was_never_away() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        presence.arrived(1);
        presence.flush(start);
        presence.lost(1, start);
        presence.arrived(1);
        assert_eq!(presence.flush(start + 2 * GRACE), news(&[], &[]));
        presence.left(1);
        assert_eq!(presence.flush(start + 2 * GRACE), news(&[], &[1]), "a logout has no grace");
    }

    #[test]
    fn a_second_loss_starts_the_grace_again() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        presence.arrived(1);
        presence.flush(start);
        presence.lost(1, start);
        presence.arrived(1);
        let later = start + GRACE / 2;
        presence.lost(1, later);
        assert_eq!(presence.flush(start + GRACE), news(&[], &[]));
        assert_eq!(presence.flush(later + GRACE), news(&[], &[1]));
    }

    #[test]
    fn who_was_never_here_cannot_be_lost() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        presence.lost(1, start);
        presence.left(1);
        assert_eq!(presence.flush(start + GRACE), news(&[], &[]));
        assert!(presence.users.is_empty() && presence.grace_ends.is_empty());
    }
}
