//! What stays: a gateway's table, its changes, and questions about it.

use std::time::Instant;

use daemon::link::{Link, LinkError, LinkFrame};
use proto::cluster::{Kind, device_class, wire};
use tracing::{info, warn};

use super::{Hub, State};
use crate::claims::{self, Case};
use crate::interest::{PC, Slot};

impl Hub {
    /// Takes a part of a gateway's whole table.
    pub(super) fn table(&self, link: &Link, table: &wire::InterestTable) {
        let mut state = self.state.lock();
        let Some(slot) = state.slots.get(&link.id()).copied() else { return };
        if table.begin() {
            state.interest.begin(slot);
        }
        let now = Instant::now();
        for user in &table.users {
            let case = self.case(user, None, now);
            state.add_user(slot, user, case.now_us);
            // These sessions are established: whichever is smaller goes at once.
            state.judge(case, now, &self.metrics);
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
        let now = Instant::now();
        for added in &change.add_users {
            let case = self.case(added, Some((slot, added.session)), now);
            state.add_user(slot, added, case.now_us);
            state.judge(case, now, &self.metrics);
        }
        if frame.request == 0 {
            // Nobody waits for an answer.
            return;
        }
        let first = change.add_users.first();
        let first = first.map(|first| self.case(first, Some((slot, first.session)), now));
        let registered = state.registered(first);
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

    fn case(&self, said: &wire::UserInterest, newcomer: Option<(Slot, u64)>, now: Instant) -> Case {
        let class = device_class(said.client_type);
        Case { user: said.user, class, newcomer, now_us: self.us(now) }
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
    fn add_user(&mut self, slot: Slot, added: &wire::UserInterest, now_us: u64) {
        self.interest.add_user(slot, added, now_us);
        if device_class(added.client_type) == PC {
            self.presence.arrived(added.user);
        }
    }

    fn registered(&self, first: Option<Case>) -> wire::Registered {
        let needed = first.and_then(|first| claims::needed_epoch(&self.interest, first));
        let (largest_epoch, largest_age_us) = needed.unzip();
        wire::Registered {
            largest_epoch,
            largest_age_us: largest_age_us.flatten(),
            pc_online: first.map(|first| self.presence.is_online(first.user)),
            pc_users_online: Some(self.users_online()),
        }
    }
}
