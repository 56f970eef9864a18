//! Ends sessions of users, on every gateway.
//!
//! # Invariants
//!
//! - A kick that ends what was checked before a change is told again to every gateway that links
//!   within [`REPEATED`]: its link may have been down when it was told first. Such a kick does not
//!   touch what was checked later, so that it does no harm twice.
//!
//! # What bounds it
//!
//! [`RECENT_MAX`] kicks are repeated, the newest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use daemon::{Link, LinkTable};
use parking_lot::Mutex;
use proto::client::KickReason;
use proto::cluster::Kind;
use proto::cluster::wire::Kick;
use proto::ids::UserId;
use tokio::time::Instant;

/// How long a kick is told to gateways that link. One that was cut off for longer from all db_proxies
/// has been told to send its clients elsewhere meanwhile.
const REPEATED: Duration = Duration::from_mins(5);

/// Kicks that are repeated at most: an administrator disables so many users in that time.
const RECENT_MAX: usize = 4_096;

/// The way to the sessions of users.
#[derive(Debug)]
pub struct Kicks {
    gateways: Arc<LinkTable>,
    recent: Mutex<VecDeque<(Instant, Kick)>>,
}

impl Kicks {
    /// Kicks on these gateways.
    pub fn new(gateways: Arc<LinkTable>) -> Self {
        Self { gateways, recent: Mutex::default() }
    }

    /// The gateways that are linked.
    pub fn gateways(&self) -> &LinkTable {
        &self.gateways
    }

    /// Ends the sessions that a user has now. The user may log in again.
    pub fn end_sessions(&self, user: UserId) {
        self.tell_all(&kick(user, None));
    }

    /// Ends those that the user has now on devices of a class.
    pub fn end_sessions_of(&self, user: UserId, device_class: u32) {
        self.tell_all(&Kick { device_class: Some(device_class), ..kick(user, None) });
    }

    /// Ends the sessions whose login was checked against the user's row at a stamp below `before`, and
    /// those that are about to begin.
    pub fn end_logins_before(&self, user: UserId, before: u32) {
        let kick = kick(user, Some(before));
        let now = Instant::now();
        let mut recent = self.recent.lock();
        recent.retain(|(at, _kick)| now.duration_since(*at) < REPEATED);
        if recent.len() >= RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back((now, kick));
        drop(recent);
        self.tell_all(&kick);
    }

    /// A gateway is linked, and one of the table already.
    pub fn gateway_up(&self, gateway: &Link) {
        let now = Instant::now();
        let recent = self.recent.lock().clone();
        for (at, kick) in recent {
            if now.duration_since(at) < REPEATED {
                tell(gateway, &kick);
            }
        }
    }

    fn tell_all(&self, kick: &Kick) {
        for gateway in self.gateways.all().iter() {
            tell(gateway, kick);
        }
    }
}

fn tell(gateway: &Link, kick: &Kick) {
    if gateway.send(Kind::Kick.number(), 0, kick).is_err() {
        // It is told what is to be repeated once it is back.
        gateway.reset("it does not take kicks");
    }
}

/// With the notice that old clients show and stop at: they know no reason for an account's change.
fn kick(user: UserId, verified_before: Option<u32>) -> Kick {
    let reason = u32::try_from(i32::from(KickReason::DuplicateLogin)).ok();
    Kick { user: user.0, reason, verified_before, ..Kick::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kicks_are_repeated_for_five_minutes_and_so_many_at_most() {
        let kicks = Kicks::new(Arc::default());
        let users = || kicks.recent.lock().iter().map(|(_at, kick)| kick.user).collect::<Vec<_>>();
        kicks.recent.lock().push_back((Instant::now() - REPEATED, kick(UserId(1), Some(1))));
        for user in [2, 3] {
            kicks.end_logins_before(UserId(user), 1);
        }
        assert_eq!(users(), [2, 3]);
        for _more in 0..RECENT_MAX - 1 {
            kicks.end_logins_before(UserId(4), 1);
        }
        assert_eq!((users().len(), users()[0]), (RECENT_MAX, 3));
    }
}
