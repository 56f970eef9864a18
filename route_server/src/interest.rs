//! Which gateway wants what: the table that fan-out is computed from.
//!
//! A gateway says which users have a session there and which groups have a member there. The table
//! answers the reverse questions, which gateways want a user and which want a group, in time that
//! depends on the answer alone.
//!
//! A gateway sends its table once per link (`begin`, parts, `complete`) and changes after that. It
//! may be asked to send the table again; then what is not in the new one goes at `complete`.
//!
//! # Invariants
//!
//! - A gateway is unknown from its connection, and again from `begin`, until `complete`; whoever
//!   computes recipients adds every unknown gateway.
//! - The reverse indexes hold exactly what the connected gateways have said: adding twice and
//!   removing twice are harmless, and a gateway that is gone has left nothing.
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

/// The device class of PC clients.
pub(crate) const PC: u32 = 0;

/// After so many checksums in a row that differ, the gateway is asked for its table. One may differ
/// because a change and the checksum crossed.
const DIFFERENCES_MAX: u8 = 2;

/// The place of a connected gateway in the table. Used again once the gateway is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(u32);

impl Slot {
    /// For tables beside this one.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// One login of a user, as its gateway has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) slot: Slot,
    pub(crate) client_type: u32,
    pub(crate) session: u64,
    pub(crate) epoch: u64,
    /// When its request came or later, in microseconds since the start of this replica: mostly before
    /// it, after a restart. [`CAME_UNKNOWN`] if its gateway does not say.
    came_us: i64,
}

/// A time at which nothing came: nobody came later.
const CAME_UNKNOWN: i64 = i64::MAX;

impl Claim {
    pub(crate) fn device_class(&self) -> u32 {
        device_class(self.client_type)
    }

    /// How long ago it came, or less.
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
    users: HashMap<u32, Vec<Claim>>,
    /// In order, so that one is found by halving.
    groups: HashMap<u32, Vec<Slot>>,
}

#[derive(Debug)]
struct Gateway {
    boot: u64,
    users: HashSet<u32>,
    groups: HashSet<u32>,
    sum: InterestChecksum,
    /// What has come since `begin`, while the table is sent.
    sending: Option<Sending>,
    known: bool,
    differences: u8,
}

#[derive(Debug, Default)]
struct Sending {
    sessions: HashSet<(u32, u64)>,
    groups: HashSet<u32>,
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
            sending: None,
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
    pub(crate) fn disconnect(&mut self, slot: Slot) -> Vec<u32> {
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
            if let Entry::Occupied(mut claims) = self.users.entry(user) {
                claims.get_mut().retain(|claim| claim.slot != slot);
                if claims.get().is_empty() {
                    claims.remove();
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
        gateway.sending = Some(Sending::default());
        if std::mem::take(&mut gateway.known) {
            self.unknown.push(slot);
        }
    }

    /// The table is complete, and the gateway known. What the table did not hold goes; returns the
    /// users whose last PC session was among it.
    pub(crate) fn complete(&mut self, slot: Slot) -> Vec<u32> {
        let Some(gateway) = self.gateway_mut(slot) else { return Vec::new() };
        gateway.known = true;
        gateway.differences = 0;
        let sent = gateway.sending.take();
        let users: Vec<u32> = gateway.users.iter().copied().collect();
        let groups = gateway.groups.clone();
        self.unknown.retain(|unknown| *unknown != slot);
        // A table that never began replaces nothing.
        let Some(sent) = sent else { return Vec::new() };

        for &group in groups.difference(&sent.groups) {
            self.remove_group(slot, group);
        }
        let mut stale = Vec::new();
        for user in users {
            let claims = self.claims(user).iter().filter(|claim| claim.slot == slot);
            stale.extend(
                claims
                    .filter(|claim| !sent.sessions.contains(&(user, claim.session)))
                    .map(|claim| (user, claim.session, claim.epoch)),
            );
        }
        stale.retain(|&(user, session, epoch)| {
            let gone = UserInterest { user, session, epoch, ..UserInterest::default() };
            self.remove_user(slot, &gone)
        });
        stale.into_iter().map(|(user, ..)| user).collect()
    }

    /// A session is there. Said again, its epoch is replaced: one link keeps its order, so the last
    /// word is the newest. It is `now_us` since the start of this replica.
    pub(crate) fn add_user(&mut self, slot: Slot, added: &UserInterest, now_us: u64) {
        let &UserInterest { user, session, client_type, epoch, age_us } = added;
        let Some(gateway) = self.gateways.get_mut(slot.index()).and_then(Option::as_mut) else {
            return;
        };
        if let Some(sending) = &mut gateway.sending {
            sending.sessions.insert((user, session));
        }
        // Most users have one session.
        let claims = self.users.entry(user).or_insert_with(|| Vec::with_capacity(1));
        let came_us = age_us.and_then(|age_us| now_us.checked_signed_diff(age_us));
        let came_us = came_us.unwrap_or(CAME_UNKNOWN);
        let mut claim = Claim { slot, client_type, session, epoch, came_us };
        let same = |known: &&mut Claim| known.slot == slot && known.session == session;
        if let Some(known) = claims.iter_mut().find(same) {
            gateway.sum.users_xor ^= interest_hash_user(user, session, known.epoch);
            // What took less time to get here is nearer to the truth.
            claim.came_us = claim.came_us.min(known.came_us);
            *known = claim;
        } else {
            claims.push(claim);
            gateway.users.insert(user);
            gateway.sum.users = gateway.sum.users.saturating_add(1);
        }
        gateway.sum.users_xor ^= interest_hash_user(user, session, epoch);
    }

    /// A session has ended. Whether it was there, under this epoch, and the last PC session of the
    /// user.
    pub(crate) fn remove_user(&mut self, slot: Slot, removed: &UserInterest) -> bool {
        let &UserInterest { user, session, epoch, .. } = removed;
        if faults::planted(Mutant::OfflineWithoutEpoch) {
            return self.users.remove(&user).is_some();
        }
        let Some(gateway) = self.gateways.get_mut(slot.index()).and_then(Option::as_mut) else {
            return false;
        };
        let Entry::Occupied(mut claims) = self.users.entry(user) else { return false };
        let ended =
            |claim: &Claim| claim.slot == slot && claim.session == session && claim.epoch == epoch;
        let Some(index) = claims.get().iter().position(ended) else { return false };
        let was_pc = claims.get_mut().swap_remove(index).device_class() == PC;
        if !claims.get().iter().any(|claim| claim.slot == slot) {
            gateway.users.remove(&user);
        }
        if claims.get().is_empty() {
            claims.remove();
        }
        if let Some(sending) = &mut gateway.sending {
            sending.sessions.remove(&(user, session));
        }
        gateway.sum.users = gateway.sum.users.saturating_sub(1);
        gateway.sum.users_xor ^= interest_hash_user(user, session, epoch);
        was_pc && !self.pc_online(user)
    }

    /// A member of the group is there.
    pub(crate) fn add_group(&mut self, slot: Slot, group: u32) {
        let Some(gateway) = self.gateways.get_mut(slot.index()).and_then(Option::as_mut) else {
            return;
        };
        if let Some(sending) = &mut gateway.sending {
            sending.groups.insert(group);
        }
        if gateway.groups.insert(group) {
            gateway.sum.groups = gateway.sum.groups.saturating_add(1);
            gateway.sum.groups_xor ^= interest_hash_group(group);
            let slots = self.groups.entry(group).or_default();
            if let Err(place) = slots.binary_search(&slot) {
                slots.insert(place, slot);
            }
        }
    }

    /// No member of the group is there any more.
    pub(crate) fn remove_group(&mut self, slot: Slot, group: u32) {
        let Some(gateway) = self.gateway_mut(slot) else { return };
        if let Some(sending) = &mut gateway.sending {
            sending.groups.remove(&group);
        }
        if gateway.groups.remove(&group) {
            gateway.sum.groups = gateway.sum.groups.saturating_sub(1);
            gateway.sum.groups_xor ^= interest_hash_group(group);
            self.unlink_group(slot, group);
        }
    }

    /// Compares what the gateway says with what is held here. Whether it must send its table again.
    pub(crate) fn differs(&mut self, slot: Slot, theirs: &InterestChecksum) -> bool {
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

    /// Every login of the user, on whichever gateway.
    pub(crate) fn claims(&self, user: u32) -> &[Claim] {
        self.users.get(&user).map_or(&[], Vec::as_slice)
    }

    /// Whether a PC client of the user is logged in anywhere.
    pub(crate) fn pc_online(&self, user: u32) -> bool {
        self.claims(user).iter().any(|claim| claim.device_class() == PC)
    }

    /// The gateways with a member of the group.
    pub(crate) fn gateways_of_group(&self, group: u32) -> &[Slot] {
        self.groups.get(&group).map_or(&[], Vec::as_slice)
    }

    /// The gateways that may want anything.
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
    pub(crate) fn all(&self) -> impl Iterator<Item = Slot> {
        let slots = (0_u32..).map(Slot);
        slots.zip(&self.gateways).filter(|(_slot, gateway)| gateway.is_some()).map(|(slot, _)| slot)
    }

    /// Slots ever given out: every [`Slot::index`] is below.
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

    fn unlink_group(&mut self, slot: Slot, group: u32) {
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
