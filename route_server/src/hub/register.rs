//! What stays: a gateway's table, its changes, and questions about it.

use std::time::Instant;

use daemon::link::{Link, LinkError, LinkFrame};
use proto::cluster::{Kind, device_class, wire};
use tracing::{info, warn};

use super::{Hub, State};
use crate::claims;
use crate::interest::{PC, Slot};

impl Hub {
    /// Takes a part of a gateway's whole table.
    pub(super) fn table(&self, link: &Link, table: &wire::InterestTable) {
        let mut state = self.state.lock();
        let Some(slot) = state.slots.get(&link.id()).copied() else { return };
        if table.begin() {
            state.interest.begin(slot);
        }
        for user in &table.users {
            state.add_user(slot, user);
            // These sessions are established: whichever is smaller goes at once.
            state.judge(user.user, device_class(user.client_type), None, &self.metrics);
        }
        for &group in &table.groups {
            state.interest.add_group(slot, group);
        }
        if table.complete() {
            for user in state.interest.complete(slot) {
                state.presence.left(user);
            }
            info!(gateway = link.peer().name, size = ?state.interest.size(), "table complete");
            // So that the gateway knows how many there are before the first change.
            let count = state.presence_message(&[], &[]);
            state.tell(slot, Kind::PresenceChanges, &count);
        }
    }

    /// Takes a change of the table.
    pub(super) fn change(&self, link: &Link, frame: &LinkFrame, change: &wire::InterestChange) {
        let mut state = self.state.lock();
        let Some(slot) = state.slots.get(&link.id()).copied() else { return };
        for removed in &change.remove_users {
            if state.interest.remove_user(slot, removed) {
                state.presence.left(removed.user);
            }
        }
        for &group in &change.remove_groups {
            state.interest.remove_group(slot, group);
        }
        for &group in &change.add_groups {
            state.interest.add_group(slot, group);
        }
        for added in &change.add_users {
            state.add_user(slot, added);
            let class = device_class(added.client_type);
            if state.judge(added.user, class, Some((slot, added.session)), &self.metrics) {
                state.spared.add(added.user, class, Instant::now());
            }
        }
        if change.add_users.is_empty() && frame.request == 0 {
            return;
        }
        let registered = state.registered(change.add_users.first());
        drop(state);
        Self::answer(link, frame, Kind::InterestChange, &registered);
    }

    /// Compares a gateway's table with what is held of it.
    pub(super) fn checksum(&self, link: &Link, theirs: &wire::InterestChecksum) {
        let mut state = self.state.lock();
        let Some(slot) = state.slots.get(&link.id()).copied() else { return };
        if !state.interest.differs(slot, theirs) {
            return;
        }
        drop(state);
        warn!(gateway = link.peer().name, "its table differs from what is held here");
        self.metrics.tables_asked.inc();
        let again = wire::InterestAgain {};
        if link.send(Kind::InterestAgain.number(), 0, &again) == Err(LinkError::Full) {
            link.reset(super::NOT_READING);
        }
    }

    /// Says who of these users is online.
    pub(super) fn status(&self, link: &Link, frame: &LinkFrame, asked: &wire::StatusRequest) {
        let state = self.state.lock();
        let online = asked.users.iter().copied().filter(|user| state.presence.is_online(*user));
        let status = wire::Status { online: online.collect() };
        drop(state);
        Self::answer(link, frame, Kind::Status, &status);
    }
}

impl State {
    fn add_user(&mut self, slot: Slot, added: &wire::UserInterest) {
        self.interest.add_user(slot, added);
        if device_class(added.client_type) == PC {
            self.presence.arrived(added.user);
        }
    }

    fn registered(&self, first: Option<&wire::UserInterest>) -> wire::Registered {
        let largest_epoch = first.and_then(|first| {
            let claims = self.interest.claims(first.user);
            claims::largest_epoch(claims, device_class(first.client_type))
        });
        wire::Registered {
            largest_epoch,
            pc_online: first.map(|first| self.presence.is_online(first.user)),
            pc_users_online: Some(self.users_online()),
        }
    }
}
