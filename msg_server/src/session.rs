//! One client's place in the cluster, from its accepted login to its end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use daemon::faults::{self, Mutant};
use parking_lot::Mutex;
use proto::client::ClientType;
use proto::cluster::device_class;
use proto::cluster::wire::{Kick, Origin, UserInterest};
use proto::{Command, client, encode_message};

use crate::closing::CloseReason;
use crate::membership::Groups;
use crate::outbox::Outbox;

/// A floor that is not known yet.
const NO_FLOOR: u64 = u64::MAX;

/// Users that one client hears of when many are online.
const WATCHED_MAX: usize = 1000;

/// What distinguishes one login from all others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Login {
    /// Unique in this process.
    pub(crate) id: u64,
    pub(crate) user: u32,
    /// Windows 1, Mac 2, iOS 0x11, Android 0x12.
    pub(crate) client_type: u32,
}

/// Up to where in the log of each partition the client asks for everything itself. With one partition
/// there is nothing to allocate, and a session is as small as can be.
enum Floors {
    One(AtomicU64),
    Many(Box<[AtomicU64]>),
}

/// A logged-in client.
pub(crate) struct Session {
    pub(crate) login: Login,
    pub(crate) outbox: Arc<Outbox>,
    /// Of two sessions of one user and device class, the one with the larger epoch stays.
    epoch: AtomicU64,
    /// Whether the epoch is final: until then a kick by epoch is meant for the number, not for us.
    settled: AtomicBool,
    floors: Floors,
    /// Changed only by the registry.
    pub(crate) groups: Mutex<Groups>,
    /// Sorted.
    watched: Mutex<Box<[u32]>>,
}

impl Session {
    /// `partitions` is how many there are.
    pub(crate) fn new(login: Login, outbox: Arc<Outbox>, partitions: u32) -> Self {
        Self {
            login,
            outbox,
            epoch: AtomicU64::new(0),
            settled: AtomicBool::new(false),
            floors: Floors::new(partitions),
            groups: Mutex::default(),
            watched: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.login.id
    }

    pub(crate) fn user(&self) -> u32 {
        self.login.user
    }

    pub(crate) fn class(&self) -> u32 {
        device_class(self.login.client_type)
    }

    pub(crate) fn is_pc(&self) -> bool {
        self.class() == 0
    }

    /// Whether the client repeats frames by itself, those that were not answered: of the original's
    /// clients only Windows does (TeamTalk protocol, timers of clients).
    pub(crate) fn repeats_frames(&self) -> bool {
        self.login.client_type == ClientType::Windows as u32
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// The epoch is final.
    pub(crate) fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Up to where in the log of a partition the client asks for everything itself; `None` before its
    /// login is that far: then it will ask for everything that is known to exist now.
    pub(crate) fn floor(&self, partition: u32) -> Option<u64> {
        let floor = self.floors.get(partition)?.load(Ordering::Relaxed);
        Some(floor).filter(|floor| *floor != NO_FLOOR)
    }

    /// Sets the floors, by partition.
    pub(crate) fn set_floors(&self, floors: &[u64]) {
        for (partition, floor) in (0..).zip(floors) {
            if let Some(place) = self.floors.get(partition) {
                place.store((*floor).min(NO_FLOOR - 1), Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn origin(&self, gateway_boot: u64) -> Origin {
        Origin { gateway_boot, session: self.id() }
    }

    /// What the hub is told of this session.
    pub(crate) fn interest(&self) -> UserInterest {
        UserInterest {
            user: self.user(),
            session: self.id(),
            client_type: self.login.client_type,
            epoch: self.epoch(),
        }
    }

    /// Whether `kick` is meant for this session.
    pub(crate) fn is_meant(&self, kick: &Kick) -> bool {
        let class = kick.device_class.is_none_or(|class| class == self.class());
        let epoch = kick
            .below_epoch
            .is_none_or(|below| self.settled.load(Ordering::Relaxed) && self.epoch() < below);
        let epoch = epoch || faults::planted(Mutant::OfflineWithoutEpoch);
        kick.user == self.user() && class && epoch
    }

    /// Ends the session, telling the client why if there is a reason that clients know.
    pub(crate) fn kick(&self, reason: Option<u32>) {
        let notice = reason.and_then(|reason| i32::try_from(reason).ok()).map(|reason| {
            let notice = client::KickNotify { user_id: self.user(), reason };
            encode_message(Command::KickNotify, 0, &notice)
        });
        // A login that is not answered yet just ends: nothing may come before its answer.
        self.outbox.finish(notice.filter(|_| !self.outbox.is_held()), CloseReason::Kicked);
    }

    /// Remembers that the client asked about these users.
    pub(crate) fn watch(&self, users: &[u32]) {
        let mut watched = self.watched.lock();
        let mut added: Vec<u32> = watched.iter().chain(users).copied().collect();
        added.sort_unstable();
        added.dedup();
        // Beyond the limit those asked about before stay, and of the new ones some.
        if added.len() > WATCHED_MAX {
            let mut room = WATCHED_MAX.saturating_sub(watched.len());
            added.retain(|user| {
                let old = watched.binary_search(user).is_ok();
                let taken = old || room > 0;
                room -= usize::from(!old && taken);
                taken
            });
        }
        *watched = added.into_boxed_slice();
    }

    /// Which of the users the client asked about. `users` is sorted by user.
    pub(crate) fn watched_of<'a, T>(&self, users: &'a [(u32, T)]) -> Vec<&'a (u32, T)> {
        let watched = self.watched.lock();
        if watched.is_empty() {
            return Vec::new();
        }
        users.iter().filter(|(user, _news)| watched.binary_search(user).is_ok()).collect()
    }

    /// Pushes one frame.
    pub(crate) fn push(&self, frame: &Bytes) -> bool {
        self.outbox.push(frame, 1)
    }
}

impl Floors {
    fn new(partitions: u32) -> Self {
        let unknown = || AtomicU64::new(NO_FLOOR);
        match partitions {
            0 | 1 => Self::One(unknown()),
            many => Self::Many((0..many).map(|_partition| unknown()).collect()),
        }
    }

    fn get(&self, partition: u32) -> Option<&AtomicU64> {
        match self {
            Self::One(floor) => (partition == 0).then_some(floor),
            Self::Many(floors) => floors.get(partition as usize),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session {} of user {}", self.id(), self.user())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_are_unknown_until_they_are_set_and_each_partition_has_its_own() {
        for partitions in [1, 3] {
            let floors = Floors::new(partitions);
            let unknown = |one| {
                floors
                    .get(one)
                    .is_some_and(|floor: &AtomicU64| floor.load(Ordering::Relaxed) == NO_FLOOR)
            };
            assert!((0..partitions).all(unknown));
            assert!(floors.get(partitions).is_none());
        }
    }

    #[test]
    fn a_session_stays_small() {
        // One allocation of 128 bytes, with the counts of its `Arc`.
        assert!(size_of::<Session>() <= 112, "{}", size_of::<Session>());
    }
}
