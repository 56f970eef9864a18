//! What is kept: a gateway's table, its changes, and questions about it.

use std::time::Instant;

use daemon::link::{Link, LinkError, LinkFrame};
use proto::cluster::{Kind, wire};
use proto::ids::{GroupId, UserId};
use tracing::{info, warn};

use super::{Links, Tables};
use crate::interest::{Announcement, PC, SessionKey, Slot};
use crate::seats::{self, Case, Seat};

impl Links {
    /// Takes a part of a gateway's whole table.
    pub(super) fn table(&self, link: &Link, part: &wire::InterestTable) {
        let mut tables = self.tables.lock();
        let Some(slot) = tables.slots.get(&link.id()).copied() else { return };
        if part.begin() {
            tables.interest.begin(slot);
        }
        let now = Instant::now();
        for added in part.users.iter().map(Announcement::from) {
            let case = self.case(&added, None, now);
            tables.add_session(slot, &added, case.now_us);
            // These sessions are established: the one with the smaller epoch goes at once.
            tables.judge(case, now, &self.metrics);
        }
        for &group in &part.groups {
            tables.interest.add_group(slot, GroupId(group));
        }
        if part.complete() {
            for user in tables.interest.complete(slot) {
                tables.presence.left(user);
            }
            info!(gateway = link.peer().name, size = ?tables.interest.size(), "table complete");
            // So that the gateway knows how many there are before the first change.
            let count = tables.presence_message(&[], &[]);
            tables.tell(slot, Kind::PresenceChanges, &count);
        }
    }

    /// Takes a change of the table.
    pub(super) fn change(&self, link: &Link, frame: &LinkFrame, change: &wire::InterestChange) {
        let mut tables = self.tables.lock();
        let Some(slot) = tables.slots.get(&link.id()).copied() else { return };
        for removed in change.remove_users.iter().map(Announcement::from) {
            if tables.interest.remove_session(slot, &removed) {
                tables.presence.left(removed.user);
            }
        }
        for &group in &change.remove_groups {
            tables.interest.remove_group(slot, GroupId(group));
        }
        for &group in &change.add_groups {
            tables.interest.add_group(slot, GroupId(group));
        }
        let now = Instant::now();
        let mut first = None;
        for added in change.add_users.iter().map(Announcement::from) {
            let newcomer = SessionKey { slot, session: added.session };
            let case = self.case(&added, Some(newcomer), now);
            first = first.or(Some(case));
            tables.add_session(slot, &added, case.now_us);
            tables.judge(case, now, &self.metrics);
        }
        if frame.request == 0 {
            // The gateway does not wait for an answer.
            return;
        }
        let registered = tables.registered(first);
        drop(tables);
        Self::answer(link, frame, Kind::InterestChange, &registered);
    }

    /// Compares a gateway's table with what is held of it.
    pub(super) fn checksum(&self, link: &Link, theirs: &wire::InterestChecksum) {
        let mut tables = self.tables.lock();
        let Some(slot) = tables.slots.get(&link.id()).copied() else { return };
        if !tables.interest.must_send_again(slot, theirs) {
            return;
        }
        drop(tables);
        warn!(gateway = link.peer().name, "its table differs from what is held here");
        self.metrics.tables_asked.inc();
        let again = wire::InterestAgain {};
        if link.send(Kind::InterestAgain.number(), 0, &again) == Err(LinkError::Full) {
            link.reset(super::NOT_READING);
        }
    }

    fn case(&self, added: &Announcement, newcomer: Option<SessionKey>, now: Instant) -> Case {
        let seat = Seat { user: added.user, device_class: added.device_class() };
        Case { seat, newcomer, now_us: self.since_start_us(now) }
    }

    /// Says which of these users are online.
    pub(super) fn status(&self, link: &Link, frame: &LinkFrame, asked: &wire::StatusRequest) {
        let tables = self.tables.lock();
        let online = asked.users.iter().copied();
        let online = online.filter(|user| tables.presence.is_online(UserId(*user)));
        let status = wire::Status { online: online.collect() };
        drop(tables);
        Self::answer(link, frame, Kind::Status, &status);
    }
}

impl Tables {
    fn add_session(&mut self, slot: Slot, added: &Announcement, now_us: u64) {
        self.interest.add_session(slot, added, now_us);
        if added.device_class() == PC {
            self.presence.arrived(added.user);
        }
    }

    fn registered(&self, first: Option<Case>) -> wire::Registered {
        let needed = first.and_then(|first| seats::needed_epoch(&self.interest, first));
        wire::Registered {
            largest_epoch: needed.map(|needed| needed.epoch),
            largest_age_us: needed.and_then(|needed| needed.other_age_us),
            pc_online: first.map(|first| self.presence.is_online(first.seat.user)),
            pc_users_online: Some(self.users_online()),
        }
    }
}
