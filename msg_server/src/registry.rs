//! Who is logged in here, and which of them are in which group.
//!
//! # Invariants
//!
//! - Of one user and device class, the session that entered last has the largest epoch here.
//! - A group's list is never changed while somebody delivers by it: a delivery works on the list as
//!   it was, and takes no lock while it writes to sockets.
//! - Whatever changes what the hub is told of us is changed under [`Hub`](crate::hub::Hub)'s order,
//!   so that the hub hears of changes in the order in which they happened.
//!
//! # What bounds it
//!
//! Connections, and the groups of their users. A group without sessions is forgotten by
//! [`Registry::take_empty_groups`], some seconds later.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use proto::cluster::wire::{InterestChecksum, Membership, UserInterest};
use proto::cluster::{interest_hash_group, interest_hash_user};
use tokio::time::Instant;

use crate::membership::Change;
use crate::session::Session;

/// Nothing passes: where the session's part of the history begins is not known yet.
pub(crate) const JOIN_UNKNOWN: u32 = u32::MAX;

/// The sessions of this gateway.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    tables: RwLock<Tables>,
    last_session: AtomicU64,
}

#[derive(Debug, Default)]
struct Tables {
    users: HashMap<u32, User>,
    groups: HashMap<u32, Group>,
    sessions: usize,
}

#[derive(Debug)]
struct User {
    /// Since when there has always been a session of this user here.
    since: Instant,
    sessions: Vec<Arc<Session>>,
}

#[derive(Debug)]
struct Group {
    /// Since when the hub has been told that we are interested.
    since: Instant,
    /// Whether every replica has heard of our interest.
    confirmed: bool,
    /// Sorted by session.
    members: Arc<Vec<Member>>,
}

/// A session's place in a group.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) session: Arc<Session>,
    /// The first message that it may see.
    pub(crate) join: u32,
}

/// A group as it was at one moment.
#[derive(Debug, Clone)]
pub(crate) struct GroupView {
    /// Since when everything in the group has come here.
    pub(crate) since: Instant,
    pub(crate) members: Arc<Vec<Member>>,
}

impl Registry {
    /// A number that no other session of this process has.
    pub(crate) fn next_session_id(&self) -> u64 {
        self.last_session.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Enters a session, with an epoch of at least `epoch` that is larger than those of the user's
    /// other sessions. Returns the sessions of the same class, which it displaces.
    pub(crate) fn enter(&self, session: &Arc<Session>, epoch: u64) -> Vec<Arc<Session>> {
        let mut tables = self.tables.write();
        tables.sessions += 1;
        let user = tables
            .users
            .entry(session.user())
            .or_insert_with(|| User { since: Instant::now(), sessions: Vec::with_capacity(1) });
        let largest = user.sessions.iter().map(|other| other.epoch() + 1).max();
        session.set_epoch(epoch.max(largest.unwrap_or(0)));
        let displaced = user.sessions.iter().filter(|other| other.class() == session.class());
        let displaced = displaced.cloned().collect();
        user.sessions.push(Arc::clone(session));
        displaced
    }

    /// Takes a session out, of its groups too. Whether it was there.
    pub(crate) fn leave(&self, session: &Session) -> bool {
        let mut tables = self.tables.write();
        let Tables { users, groups, sessions } = &mut *tables;
        let Some(user) = users.get_mut(&session.user()) else { return false };
        let before = user.sessions.len();
        user.sessions.retain(|other| other.id() != session.id());
        let was_here = user.sessions.len() < before;
        if user.sessions.is_empty() {
            users.remove(&session.user());
        }
        if was_here {
            *sessions -= 1;
            for group in session.groups.lock().joined() {
                remove_member(groups, group, session.id());
            }
        }
        was_here
    }

    /// The sessions of a user.
    pub(crate) fn sessions_of(&self, user: u32) -> Vec<Arc<Session>> {
        let tables = self.tables.read();
        tables.users.get(&user).map(|user| user.sessions.clone()).unwrap_or_default()
    }

    /// Since when there has always been a session of this user here.
    pub(crate) fn here_since(&self, user: u32) -> Option<Instant> {
        self.tables.read().users.get(&user).map(|user| user.since)
    }

    /// A group with sessions here.
    pub(crate) fn group(&self, group: u32) -> Option<GroupView> {
        let tables = self.tables.read();
        let group = tables.groups.get(&group)?;
        Some(GroupView { since: group.since, members: Arc::clone(&group.members) })
    }

    /// Enters a session into the groups that storage has named, as far as nothing newer is known.
    /// Returns the groups that some replica may not know us to be interested in.
    pub(crate) fn join_all(&self, session: &Arc<Session>, memberships: &[Membership]) -> Vec<u32> {
        let mut tables = self.tables.write();
        if !tables.has(session) {
            return Vec::new();
        }
        let mut known = session.groups.lock();
        for membership in memberships {
            if known.learn(membership.group, membership.version, true) == Change::Entered {
                tables.add_member(membership.group, session, membership.join_msg_id);
            }
        }
        known.shrink();
        let unconfirmed = |group: &u32| tables.groups.get(group).is_some_and(|g| !g.confirmed);
        known.joined().filter(unconfirmed).collect()
    }

    /// Takes in that the user was added to a group, or removed from it. Whoever was added sees
    /// nothing until [`Self::set_join`].
    pub(crate) fn change(
        &self,
        session: &Arc<Session>,
        group: u32,
        version: u64,
        member: bool,
    ) -> Change {
        let mut tables = self.tables.write();
        if !tables.has(session) {
            return Change::None;
        }
        let change = session.groups.lock().learn(group, version, member);
        match change {
            Change::Entered => tables.add_member(group, session, JOIN_UNKNOWN),
            Change::Left => remove_member(&mut tables.groups, group, session.id()),
            Change::None => {}
        }
        change
    }

    /// From which message on a member may see what is said.
    pub(crate) fn set_join(&self, session: &Session, group: u32, join: u32) {
        let mut tables = self.tables.write();
        if let Some(group) = tables.groups.get_mut(&group) {
            let members = Arc::make_mut(&mut group.members);
            if let Ok(index) = members.binary_search_by_key(&session.id(), |m| m.session.id())
                && let Some(member) = members.get_mut(index)
            {
                member.join = join;
            }
        }
    }

    /// Every replica knows that we are interested in these groups.
    pub(crate) fn confirm(&self, groups: &[u32]) {
        let mut tables = self.tables.write();
        for group in groups {
            if let Some(group) = tables.groups.get_mut(group) {
                group.confirmed = true;
            }
        }
    }

    /// Forgets the groups without sessions, and names them.
    pub(crate) fn take_empty_groups(&self) -> Vec<u32> {
        let mut tables = self.tables.write();
        let empty = |(_id, group): &(&u32, &Group)| group.members.is_empty();
        let taken: Vec<u32> = tables.groups.iter().filter(empty).map(|(id, _group)| *id).collect();
        for group in &taken {
            tables.groups.remove(group);
        }
        taken
    }

    /// What the hub should know of us.
    pub(crate) fn interest(&self) -> (Vec<UserInterest>, Vec<u32>) {
        let tables = self.tables.read();
        let sessions = tables.users.values().flat_map(|user| &user.sessions);
        let users = sessions.map(|session| session.interest()).collect();
        (users, tables.groups.keys().copied().collect())
    }

    /// A short form of [`Self::interest`].
    pub(crate) fn checksum(&self) -> InterestChecksum {
        let tables = self.tables.read();
        let sessions = tables.users.values().flat_map(|user| &user.sessions);
        let users_xor = sessions
            .map(|session| interest_hash_user(session.user(), session.id(), session.epoch()))
            .fold(0, |xor, hash| xor ^ hash);
        let groups_xor =
            tables.groups.keys().fold(0, |xor, group| xor ^ interest_hash_group(*group));
        InterestChecksum {
            users: u32::try_from(tables.sessions).unwrap_or(u32::MAX),
            users_xor,
            groups: u32::try_from(tables.groups.len()).unwrap_or(u32::MAX),
            groups_xor,
        }
    }

    /// All sessions, as they are at this moment.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        let tables = self.tables.read();
        tables.users.values().flat_map(|user| &user.sessions).cloned().collect()
    }

    /// How many sessions and groups there are.
    pub(crate) fn size(&self) -> (usize, usize) {
        let tables = self.tables.read();
        (tables.sessions, tables.groups.len())
    }
}

impl Tables {
    fn has(&self, session: &Session) -> bool {
        self.users
            .get(&session.user())
            .is_some_and(|user| user.sessions.iter().any(|other| other.id() == session.id()))
    }

    fn add_member(&mut self, group: u32, session: &Arc<Session>, join: u32) {
        let group = self.groups.entry(group).or_insert_with(|| Group {
            since: Instant::now(),
            confirmed: false,
            members: Arc::default(),
        });
        let members = Arc::make_mut(&mut group.members);
        // Sessions mostly enter in the order of their numbers, so this is mostly the end.
        if let Err(index) = members.binary_search_by_key(&session.id(), |m| m.session.id()) {
            members.insert(index, Member { session: Arc::clone(session), join });
        }
    }
}

fn remove_member(groups: &mut HashMap<u32, Group>, group: u32, session: u64) {
    if let Some(group) = groups.get_mut(&group) {
        let members = Arc::make_mut(&mut group.members);
        if let Ok(index) = members.binary_search_by_key(&session, |m| m.session.id()) {
            members.remove(index);
        }
    }
}

#[cfg(test)]
mod tests;
