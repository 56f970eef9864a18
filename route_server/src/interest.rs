//! Which gateway wants what: the table that fan-out is computed from.
//!
//! A gateway says which users have a session there and which groups have a member there. The table
//! answers the reverse questions, which gateways want a user and which want a group, in time that
//! depends on the answer alone.
//!
//! A gateway sends its table once per link (`begin`, parts, `complete`) and changes after that. It
//! may be asked to send the table again. Then what is not in the new table is removed at `complete`.
//!
//! # Invariants
//!
//! - A gateway is unknown from its connection, and again from `begin`, until `complete`. Every unknown
//!   gateway is a recipient of everything.
//! - The reverse indexes hold exactly what the connected gateways have said: adding twice and
//!   removing twice are harmless, and nothing is left of a gateway that is gone.
//! - A session is removed only under the epoch it was last added with, so a late removal cannot
//!   undo a newer login.
//! - The checksum of a gateway is kept with every change and never recomputed.
//!
//! No socket, no clock, no lock.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use daemon::faults::{self, Mutant};
use proto::cluster::wire::{InterestChecksum, UserInterest};
use proto::cluster::{device_class, interest_hash_group, interest_hash_user};
use proto::ids::{GroupId, UserId};

/// The device class of PC clients.
pub(crate) const PC: u32 = 0;

/// After so many checksums in a row that differ, the gateway is asked for its table. One may differ
/// because a change and the checksum crossed.
const DIFFERENCES_MAX: u8 = 2;

/// The place of a connected gateway in the table. Another gateway gets it once this one is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(u32);

impl Slot {
    /// For tables beside this one.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a gateway says of a session that begins or ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) user: UserId,
    /// The number of the session on its gateway.
    pub(crate) session: u64,
    pub(crate) client_type: u32,
    pub(crate) epoch: u64,
    /// How long ago the request for the login came, in microseconds. Some gateways do not say.
    pub(crate) age_us: Option<u64>,
}

impl From<&UserInterest> for Announcement {
    fn from(said: &UserInterest) -> Self {
        let &UserInterest { user, session, client_type, epoch, age_us } = said;
        Self { user: UserId(user), session, client_type, epoch, age_us }
    }
}

impl Announcement {
    pub(crate) fn device_class(&self) -> u32 {
        device_class(self.client_type)
    }
}

/// A session among those of all gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionKey {
    pub(crate) slot: Slot,
    /// Its number on that gateway.
    pub(crate) session: u64,
}

/// A session of a user, as the table holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) key: SessionKey,
    client_type: u32,
    pub(crate) epoch: u64,
    /// When the request for its login came, or later, in microseconds since the start of this replica.
    /// Negative for most sessions that are older than the replica. [`CAME_UNKNOWN`] if the gateway does
    /// not say.
    came_us: i64,
}

/// Later than everything: no session can have come after one with this time.
const CAME_UNKNOWN: i64 = i64::MAX;

impl Session {
    pub(crate) fn slot(&self) -> Slot {
        self.key.slot
    }

    pub(crate) fn device_class(&self) -> u32 {
        device_class(self.client_type)
    }

    /// How long ago it came, or less; microseconds.
    pub(crate) fn age_us(&self, now_us: u64) -> Option<u64> {
        let age_us = now_us.saturating_sub_signed(self.came_us);
        (self.came_us != CAME_UNKNOWN).then_some(age_us)
    }
}

/// How much the table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Size {
    pub(crate) gateways_known: usize,
    pub(crate) gateways_unknown: usize,
    pub(crate) users: usize,
    pub(crate) groups: usize,
}

/// The table of one replica.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    gateways: Vec<Option<Gateway>>,
    free: Vec<Slot>,
    by_boot: HashMap<u64, Slot>,
    unknown: Vec<Slot>,
    /// The sessions of each user.
    users: HashMap<UserId, Vec<Session>>,
    /// The gateways of each group, sorted.
    groups: HashMap<GroupId, Vec<Slot>>,
}

#[derive(Debug)]
struct Gateway {
    boot: u64,
    users: HashSet<UserId>,
    groups: HashSet<GroupId>,
    sum: InterestChecksum,
    /// What has come since `begin`, until `complete`.
    new_table: Option<NewTable>,
    known: bool,
    /// Checksums in a row that differed.
    differences: u8,
}

#[derive(Debug, Default)]
struct NewTable {
    /// By user and session number.
    sessions: HashSet<(UserId, u64)>,
    groups: HashSet<GroupId>,
}

impl Interest {
    /// Enters a gateway, unknown and without interest. An older link of the same boot must have
    /// been disconnected first.
    pub(crate) fn connect(&mut self, boot: u64) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = u32::try_from(self.gateways.len()).expect("a link costs more than a slot");
            self.gateways.push(None);
            Slot(slot)
        });
        let sum = InterestChecksum { users: 0, users_xor: 0, groups: 0, groups_xor: 0 };
        let gateway = Gateway {
            boot,
            users: HashSet::new(),
            groups: HashSet::new(),
            sum,
            new_table: None,
            known: false,
            differences: 0,
        };
        if let Some(place) = self.gateways.get_mut(slot.index()) {
            *place = Some(gateway);
        }
        self.by_boot.insert(boot, slot);
        self.unknown.push(slot);
        slot
    }

    /// Forgets a gateway and all it wanted. Returns the users who had a PC session there and have
    /// none anywhere now.
    pub(crate) fn disconnect(&mut self, slot: Slot) -> Vec<UserId> {
        let Some(gateway) = self.gateways.get_mut(slot.index()).and_then(Option::take) else {
            return Vec::new();
        };
        self.unknown.retain(|unknown| *unknown != slot);
        if self.by_boot.get(&gateway.boot) == Some(&slot) {
            self.by_boot.remove(&gateway.boot);
        }
        for group in gateway.groups {
            self.unlink_group(slot, group);
        }
        let mut gone = Vec::new();
        for user in gateway.users {
            let was_online = self.pc_online(user);
            if let Entry::Occupied(mut sessions) = self.users.entry(user) {
                sessions.get_mut().retain(|session| session.slot() != slot);
                if sessions.get().is_empty() {
                    sessions.remove();
                }
            }
            if was_online && !self.pc_online(user) {
                gone.push(user);
            }
        }
        self.free.push(slot);
        gone
    }

    /// A table begins: the gateway is unknown until it is complete.
    pub(crate) fn begin(&mut self, slot: Slot) {
        let Some(gateway) = self.gateway_mut(slot) else { return };
        gateway.new_table = Some(NewTable::default());
        if std::mem::take(&mut gateway.known) {
            self.unknown.push(slot);
        }
    }

    /// The table is complete, and the gateway known. Removes what the table did not hold, and returns
    /// the users whose last PC session was among it.
    pub(crate) fn complete(&mut self, slot: Slot) -> Vec<UserId> {
        let Some(gateway) = self.gateway_mut(slot) else { return Vec::new() };
        gateway.known = true;
        gateway.differences = 0;
        let new_table = gateway.new_table.take();
        let users: Vec<UserId> = gateway.users.iter().copied().collect();
        let groups = gateway.groups.clone();
        self.unknown.retain(|unknown| *unknown != slot);
        // A table that never began replaces nothing.
        let Some(new_table) = new_table else { return Vec::new() };

        for &group in groups.difference(&new_table.groups) {
            self.remove_group(slot, group);
        }
        let mut stale = Vec::new();
        for user in users {
            let here = self.sessions(user).iter().filter(|session| session.slot() == slot);
            let ended = here.filter(|here| !new_table.sessions.contains(&(user, here.key.session)));
            stale.extend(ended.map(|session| Announcement {
                user,
                session: session.key.session,
                client_type: session.client_type,
                epoch: session.epoch,
                age_us: None,
            }));
        }
        stale.retain(|ended| self.remove_session(slot, ended));
        stale.into_iter().map(|ended| ended.user).collect()
    }

    /// A session is there. If it is announced again, its epoch is replaced: a link keeps the order, so
    /// what came last is the newest. `now_us` is the time since the start of this replica.
    pub(crate) fn add_session(&mut self, slot: Slot, added: &Announcement, now_us: u64) {
        let &Announcement { user, session, client_type, epoch, age_us } = added;
        let Some(gateway) = self.gateways.get_mut(slot.index()).and_then(Option::as_mut) else {
            return;
        };
        if let Some(new_table) = &mut gateway.new_table {
            new_table.sessions.insert((user, session));
        }
        // Most users have one session.
        let sessions = self.users.entry(user).or_insert_with(|| Vec::with_capacity(1));
        let came_us = age_us.and_then(|age_us| now_us.checked_signed_diff(age_us));
        let came_us = came_us.unwrap_or(CAME_UNKNOWN);
        let key = SessionKey { slot, session };
        let mut newest = Session { key, client_type, epoch, came_us };
        if let Some(known) = sessions.iter_mut().find(|known| known.key == key) {
            gateway.sum.users_xor ^= interest_hash_user(user.0, session, known.epoch);
            // The announcement that took less time to get here is nearer to the truth.
            newest.came_us = newest.came_us.min(known.came_us);
            *known = newest;
        } else {
            sessions.push(newest);
            gateway.users.insert(user);
            gateway.sum.users = gateway.sum.users.saturating_add(1);
        }
        gateway.sum.users_xor ^= interest_hash_user(user.0, session, epoch);
    }

    /// A session has ended. Whether it was there, under this epoch, and the last PC session of the
    /// user.
    pub(crate) fn remove_session(&mut self, slot: Slot, removed: &Announcement) -> bool {
        let &Announcement { user, session, epoch, .. } = removed;
        if faults::planted(Mutant::OfflineWithoutEpoch) {
            return self.users.remove(&user).is_some();
        }
        let Some(gateway) = self.gateways.get_mut(slot.index()).and_then(Option::as_mut) else {
            return false;
        };
        let Entry::Occupied(mut sessions) = self.users.entry(user) else { return false };
        let key = SessionKey { slot, session };
        let ended = |known: &Session| known.key == key && known.epoch == epoch;
        let Some(index) = sessions.get().iter().position(ended) else { return false };
        let was_pc = sessions.get_mut().swap_remove(index).device_class() == PC;
        if !sessions.get().iter().any(|session| session.slot() == slot) {
            gateway.users.remove(&user);
        }
        if sessions.get().is_empty() {
            sessions.remove();
        }
        if let Some(new_table) = &mut gateway.new_table {
            new_table.sessions.remove(&(user, session));
        }
        gateway.sum.users = gateway.sum.users.saturating_sub(1);
        gateway.sum.users_xor ^= interest_hash_user(user.0, session, epoch);
        was_pc && !self.pc_online(user)
    }

    /// A member of the group is there.
    pub(crate) fn add_group(&mut self, slot: Slot, group: GroupId) {
        let Some(gateway) = self.gateways.get_mut(slot.index()).and_then(Option::as_mut) else {
            return;
        };
        if let Some(new_table) = &mut gateway.new_table {
            new_table.groups.insert(group);
        }
        if gateway.groups.insert(group) {
            gateway.sum.groups = gateway.sum.groups.saturating_add(1);
            gateway.sum.groups_xor ^= interest_hash_group(group.0);
            let slots = self.groups.entry(group).or_default();
            if let Err(place) = slots.binary_search(&slot) {
                slots.insert(place, slot);
            }
        }
    }

    /// The last member of the group has left that gateway.
    pub(crate) fn remove_group(&mut self, slot: Slot, group: GroupId) {
        let Some(gateway) = self.gateway_mut(slot) else { return };
        if let Some(new_table) = &mut gateway.new_table {
            new_table.groups.remove(&group);
        }
        if gateway.groups.remove(&group) {
            gateway.sum.groups = gateway.sum.groups.saturating_sub(1);
            gateway.sum.groups_xor ^= interest_hash_group(group.0);
            self.unlink_group(slot, group);
        }
    }

    /// Compares what the gateway says with what is held here. Whether it must send its table again.
    pub(crate) fn must_send_again(&mut self, slot: Slot, theirs: &InterestChecksum) -> bool {
        let Some(gateway) = self.gateway_mut(slot) else { return false };
        if !gateway.known || gateway.sum == *theirs {
            gateway.differences = 0;
            return false;
        }
        gateway.differences += 1;
        let again = gateway.differences >= DIFFERENCES_MAX;
        if again {
            gateway.differences = 0;
        }
        again
    }

    /// The sessions of the user on all gateways.
    pub(crate) fn sessions(&self, user: UserId) -> &[Session] {
        self.users.get(&user).map_or(&[], Vec::as_slice)
    }

    /// Whether a PC client of the user is logged in anywhere.
    pub(crate) fn pc_online(&self, user: UserId) -> bool {
        self.sessions(user).iter().any(|session| session.device_class() == PC)
    }

    /// The gateways with a member of the group.
    pub(crate) fn gateways_of_group(&self, group: GroupId) -> &[Slot] {
        self.groups.get(&group).map_or(&[], Vec::as_slice)
    }

    /// The gateways whose table is not complete: they may want anything.
    pub(crate) fn unknown(&self) -> &[Slot] {
        &self.unknown
    }

    /// The gateway with this boot number.
    pub(crate) fn by_boot(&self, boot: u64) -> Option<Slot> {
        self.by_boot.get(&boot).copied()
    }

    /// The boot number of a connected gateway.
    pub(crate) fn boot(&self, slot: Slot) -> Option<u64> {
        self.gateways.get(slot.index())?.as_ref().map(|gateway| gateway.boot)
    }

    /// All connected gateways.
    pub(crate) fn connected(&self) -> impl Iterator<Item = Slot> {
        let slots = (0_u32..).map(Slot);
        slots.zip(&self.gateways).filter(|(_slot, gateway)| gateway.is_some()).map(|(slot, _)| slot)
    }

    /// How many slots were ever given out: every [`Slot::index`] is less.
    pub(crate) fn slots(&self) -> usize {
        self.gateways.len()
    }

    /// How much the table holds.
    pub(crate) fn size(&self) -> Size {
        let gateways = self.gateways.len() - self.free.len();
        Size {
            gateways_known: gateways - self.unknown.len(),
            gateways_unknown: self.unknown.len(),
            users: self.users.len(),
            groups: self.groups.len(),
        }
    }

    fn gateway_mut(&mut self, slot: Slot) -> Option<&mut Gateway> {
        self.gateways.get_mut(slot.index())?.as_mut()
    }

    fn unlink_group(&mut self, slot: Slot, group: GroupId) {
        if let Entry::Occupied(mut slots) = self.groups.entry(group) {
            if let Ok(place) = slots.get().binary_search(&slot) {
                slots.get_mut().remove(place);
            }
            if slots.get().is_empty() {
                slots.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests;
