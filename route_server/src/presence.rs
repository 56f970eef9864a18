//! Who is online, and what of it is news.
//!
//! A user is online while one of the user's PC clients is logged in anywhere. Changes are gathered and
//! flushed together. If a user came and left between two flushes, only the leaving is news, because
//! a client may have asked in between. A user whose gateway was lost, rather than one who logged out,
//! stays online for [`LOST_GRACE`], because the client is probably on its way to another gateway.
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

use proto::ids::UserId;

/// How long a user whose gateway was lost still counts as online.
pub(crate) const LOST_GRACE: Duration = Duration::from_secs(15);

/// The news since the last flush.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) online: Vec<UserId>,
    pub(crate) offline: Vec<UserId>,
}

/// The users of the whole cluster, as this replica knows.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    users: HashMap<UserId, User>,
    /// Users to be looked at by the next flush, each once.
    changed: Vec<UserId>,
    /// In order of time. One whose user has returned is ignored.
    grace_ends: VecDeque<GraceEnd>,
    online: usize,
}

/// When a user whose gateway was lost stops being online.
#[derive(Debug, Clone, Copy)]
struct GraceEnd {
    at: Instant,
    user: UserId,
}

#[derive(Debug, Default)]
struct User {
    status: Status,
    /// What gateways were told last: online or not.
    announced: bool,
    /// Whether the user is in the list of those changed.
    queued: bool,
    /// Whether the user was online at any time since the last flush. A gateway that asked then was told
    /// so.
    was_online: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// A PC client is logged in.
    LoggedIn,
    /// The gateway of the last PC client was lost. Counts as online until then.
    GatewayLost { until: Instant },
    #[default]
    Offline,
}

impl Status {
    fn is_online(self) -> bool {
        self != Self::Offline
    }
}

impl Presence {
    /// A PC client of the user is logged in.
    pub(crate) fn arrived(&mut self, user: UserId) {
        self.set(user, Status::LoggedIn);
    }

    /// The last PC client of the user has logged out.
    pub(crate) fn left(&mut self, user: UserId) {
        if self.is_online(user) {
            self.set(user, Status::Offline);
        }
    }

    /// The gateway of the user's last PC client was lost.
    pub(crate) fn lost(&mut self, user: UserId, now: Instant) {
        if self.is_online(user) {
            let until = now + LOST_GRACE;
            self.set(user, Status::GatewayLost { until });
            self.grace_ends.push_back(GraceEnd { at: until, user });
        }
    }

    /// Whether the user counts as online.
    pub(crate) fn is_online(&self, user: UserId) -> bool {
        self.users.get(&user).is_some_and(|known| known.status.is_online())
    }

    /// How many users count as online.
    pub(crate) fn online(&self) -> usize {
        self.online
    }

    /// Returns what has changed since the last flush, as of now.
    pub(crate) fn flush(&mut self, now: Instant) -> News {
        while let Some(GraceEnd { at, user }) = self.grace_ends.pop_front_if(|end| end.at <= now) {
            let lost = Status::GatewayLost { until: at };
            if self.users.get(&user).is_some_and(|known| known.status == lost) {
                self.set(user, Status::Offline);
            }
        }
        let mut news = News::default();
        for user in mem::take(&mut self.changed) {
            let Some(known) = self.users.get_mut(&user) else { continue };
            known.queued = false;
            let online = known.status.is_online();
            let was_online = mem::replace(&mut known.was_online, online);
            let announced = mem::replace(&mut known.announced, online);
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

    fn set(&mut self, user: UserId, status: Status) {
        let known = self.users.entry(user).or_default();
        match (known.status.is_online(), status.is_online()) {
            (false, true) => self.online += 1,
            (true, false) => self.online -= 1,
            (false, false) | (true, true) => {}
        }
        known.status = status;
        known.was_online |= status.is_online();
        if !mem::replace(&mut known.queued, true) {
            self.changed.push(user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: UserId = UserId(1);

    fn news(online: &[UserId], offline: &[UserId]) -> News {
        News { online: online.to_vec(), offline: offline.to_vec() }
    }

    #[test]
    fn a_change_is_news_once() {
        let (mut presence, now) = (Presence::default(), Instant::now());
        presence.arrived(USER);
        presence.arrived(USER);
        assert_eq!(presence.flush(now), news(&[USER], &[]));
        presence.arrived(USER);
        assert_eq!(presence.flush(now), news(&[], &[]));
        presence.left(USER);
        assert!(!presence.is_online(USER));
        assert_eq!(presence.flush(now), news(&[], &[USER]));
        presence.left(USER);
        assert_eq!(presence.flush(now), news(&[], &[]));
        assert!(presence.users.is_empty(), "a user who is offline costs nothing");
    }

    #[test]
    fn of_coming_and_leaving_within_a_flush_only_the_end_is_news() {
        let (mut presence, now) = (Presence::default(), Instant::now());
        presence.arrived(USER);
        presence.left(USER);
        // A phone of this user that logged in meanwhile believes that the user is online.
        assert_eq!(presence.flush(now), news(&[], &[USER]));
        assert!(presence.users.is_empty());
        presence.arrived(USER);
        assert_eq!(presence.flush(now), news(&[USER], &[]));
        presence.left(USER);
        presence.arrived(USER);
        assert_eq!(presence.flush(now), news(&[], &[]));
        assert_eq!(presence.online(), 1);
    }

    #[test]
    fn a_lost_user_is_announced_offline_after_the_grace_and_not_before() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        presence.arrived(USER);
        presence.flush(start);
        presence.lost(USER, start);
        let almost = (start + LOST_GRACE).checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(presence.flush(almost), news(&[], &[]));
        assert!(presence.is_online(USER));
        assert_eq!(presence.flush(start + LOST_GRACE), news(&[], &[USER]));
        assert_eq!(presence.online(), 0);
    }

    #[test]
    fn a_lost_user_who_returns_was_never_away() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        presence.arrived(USER);
        presence.flush(start);
        presence.lost(USER, start);
        presence.arrived(USER);
        assert_eq!(presence.flush(start + 2 * LOST_GRACE), news(&[], &[]));
        presence.left(USER);
        assert_eq!(
            presence.flush(start + 2 * LOST_GRACE),
            news(&[], &[USER]),
            "a logout has no grace"
        );
    }

    #[test]
    fn a_second_loss_starts_the_grace_again() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        presence.arrived(USER);
        presence.flush(start);
        presence.lost(USER, start);
        presence.arrived(USER);
        let later = start + LOST_GRACE / 2;
        presence.lost(USER, later);
        assert_eq!(presence.flush(start + LOST_GRACE), news(&[], &[]));
        assert_eq!(presence.flush(later + LOST_GRACE), news(&[], &[USER]));
    }

    #[test]
    fn a_user_who_was_never_here_cannot_be_lost() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        presence.lost(USER, start);
        presence.left(USER);
        assert_eq!(presence.flush(start + LOST_GRACE), news(&[], &[]));
        assert!(presence.users.is_empty() && presence.grace_ends.is_empty());
    }
}
