//! Who is logged in here, and which of them are in which group.
//!
//! # Invariants
//!
//! - Of one user and device class, the session whose login came last has the largest epoch here.
//! - A group's list is never changed while a delivery uses it: a delivery works on the list as
//!   it was, and takes no lock while it writes to sockets.
//! - What the hub is told of us changes only under [`Hub`](crate::cluster::hub::Hub)'s order,
//!   so that the hub hears of changes in the order in which they happened.
//!
//! # What bounds it
//!
//! Connections, and the groups of their users. A group without sessions is forgotten by
//! [`Registry::take_empty_groups`], some seconds later.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use daemon::faults::{self, Mutant};
use parking_lot::RwLock;
use proto::cluster::wire::{InterestChecksum, Membership, UserInterest};
use proto::cluster::{interest_hash_group, interest_hash_user};
use proto::ids::{GroupId, Parties, UserId};
use proto::seat::{Phase, Standing};

use crate::sessions::membership::Change;
use crate::sessions::session::Session;

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
    /// Nobody without a session.
    users: HashMap<UserId, Vec<Arc<Session>>>,
    groups: HashMap<GroupId, Group>,
    sessions: usize,
}

#[derive(Debug, Default)]
struct Group {
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
    /// Up to this place in the log of the group's partition it has been given the group's messages
    /// already. As long as `join` is not known: where it was added.
    given: u64,
}

/// From where on a session that was added to a group sees what is said there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning {
    /// The place in the log of the change that added it.
    pub(crate) added_at: u64,
    /// The first message that it may see.
    pub(crate) join: u32,
    /// Up to this place in the log it has been given the messages already.
    pub(crate) given: u64,
}

impl Member {
    /// Up to where in the log the session needs nothing of the group; `partition` is the
    /// group's.
    pub(crate) fn floor(&self, partition: u32) -> Option<u64> {
        let given = (self.given > 0).then_some(self.given);
        // `None` is the smallest.
        self.session.floor(partition).max(given)
    }

    fn is_beginning(&self, added_at: u64) -> bool {
        self.join == JOIN_UNKNOWN && self.given == added_at
    }
}

impl Registry {
    /// A number that no other session of this process has.
    pub(crate) fn next_session_id(&self) -> u64 {
        self.last_session.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Enters a session, with an epoch of at least `epoch` that is larger than those of the sessions
    /// which it displaces: the user's others of this class. Returns them. One whose login came later
    /// is not displaced; then the session that enters is the one that will not stay.
    pub(crate) fn enter(&self, session: &Arc<Session>, epoch: u64) -> Vec<Arc<Session>> {
        let mut tables = self.tables.write();
        tables.sessions += 1;
        let others = tables.users.entry(session.user()).or_insert_with(|| Vec::with_capacity(1));
        let of_class = others.iter().filter(|other| other.class() == session.class());
        let mut standing = session.standing();
        standing.enter(epoch, of_class.clone().map(|other| other.standing()));
        session.set_standing(standing);
        let displaced = of_class.filter(|other| {
            let other = other.standing();
            let stays = other.phase == Phase::Over || faults::planted(Mutant::TwoSeats);
            !stays && standing.displaces(&other)
        });
        let displaced: Vec<Arc<Session>> = displaced.cloned().collect();
        for older in &displaced {
            older.set_standing(Standing { phase: Phase::Over, ..older.standing() });
        }
        others.push(Arc::clone(session));
        displaced
    }

    /// Takes a session out, of its groups too. Whether it was there.
    pub(crate) fn leave(&self, session: &Session) -> bool {
        let mut tables = self.tables.write();
        let Tables { users, groups, sessions } = &mut *tables;
        let Some(of_user) = users.get_mut(&session.user()) else { return false };
        let before = of_user.len();
        let all_of_them = faults::planted(Mutant::OfflineWithoutEpoch);
        of_user.retain(|other| other.id() != session.id() && !all_of_them);
        let was_here = of_user.len() < before;
        if of_user.is_empty() {
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
    pub(crate) fn sessions_of(&self, user: UserId) -> Vec<Arc<Session>> {
        let tables = self.tables.read();
        tables.users.get(&user).cloned().unwrap_or_default()
    }

    /// The members of a group who are here, as they were at one moment.
    pub(crate) fn group(&self, group: GroupId) -> Option<Arc<Vec<Member>>> {
        Some(Arc::clone(&self.tables.read().groups.get(&group)?.members))
    }

    /// The smallest floor of those here who are in a conversation of that partition; `None` if nobody
    /// is, or only clients whose login is not that far.
    pub(crate) fn floor(&self, parties: Parties, partition: u32) -> Option<u64> {
        let tables = self.tables.read();
        match parties {
            Parties::Single(low, high) => {
                let sessions = [low, high].map(|user| tables.users.get(&user));
                let sessions = sessions.into_iter().flatten().flatten();
                sessions.filter_map(|session| session.floor(partition)).min()
            }
            Parties::Group(group) => {
                let members = tables.groups.get(&group)?.members.iter();
                let served = members.filter(|member| member.join != JOIN_UNKNOWN);
                served.filter_map(|member| member.floor(partition)).min()
            }
        }
    }

    /// The smallest floor of all sessions in a partition.
    pub(crate) fn smallest_floor(&self, partition: u32) -> Option<u64> {
        let tables = self.tables.read();
        tables.users.values().flatten().filter_map(|session| session.floor(partition)).min()
    }

    /// Enters a session into the groups that storage has named, as far as nothing newer is known.
    /// Returns the groups that some replica may not know us to be interested in.
    pub(crate) fn join_all(
        &self,
        session: &Arc<Session>,
        memberships: &[Membership],
    ) -> Vec<GroupId> {
        let mut tables = self.tables.write();
        if !tables.has(session) {
            return Vec::new();
        }
        let mut known = session.groups.lock();
        for membership in memberships {
            let group = GroupId(membership.group);
            if known.learn(group, membership.version, true) == Change::Entered {
                tables.add_member(group, session, membership.join_msg_id, 0);
            }
        }
        let unconfirmed = |group: &GroupId| tables.groups.get(group).is_some_and(|g| !g.confirmed);
        known.joined().filter(unconfirmed).collect()
    }

    /// Takes in that the user was added to a group at this place in the log, or removed from it if
    /// there is none. A session that was added sees nothing until [`Self::set_join`].
    pub(crate) fn change(
        &self,
        session: &Arc<Session>,
        group: GroupId,
        version: u64,
        added_at: Option<u64>,
    ) -> Change {
        let mut tables = self.tables.write();
        if !tables.has(session) {
            return Change::None;
        }
        let change = session.groups.lock().learn(group, version, added_at.is_some());
        match change {
            Change::Entered => {
                tables.add_member(group, session, JOIN_UNKNOWN, added_at.unwrap_or_default());
            }
            Change::Left => remove_member(&mut tables.groups, group, session.id()),
            Change::None => {}
        }
        change
    }

    /// Whether a session is in a group, was added at this place in the log, and sees nothing yet.
    pub(crate) fn is_beginning(&self, session: &Session, group: GroupId, added_at: u64) -> bool {
        self.group(group).is_some_and(|members| {
            let place = members.binary_search_by_key(&session.id(), |member| member.session.id());
            let member = place.ok().and_then(|place| members.get(place));
            member.is_some_and(|member| member.is_beginning(added_at))
        })
    }

    /// From which message on a member that is beginning may see what is said, and up to which place in
    /// the log it has been given that already.
    pub(crate) fn set_join(
        &self,
        session: &Session,
        group: GroupId,
        Beginning { added_at, join, given }: Beginning,
    ) {
        let mut tables = self.tables.write();
        if let Some(group) = tables.groups.get_mut(&group) {
            let members = Arc::make_mut(&mut group.members);
            if let Ok(index) = members.binary_search_by_key(&session.id(), |m| m.session.id())
                && let Some(member) = members.get_mut(index)
                && member.is_beginning(added_at)
            {
                member.join = join;
                member.given = given;
            }
        }
    }

    /// Every replica knows that we are interested in these groups.
    pub(crate) fn confirm(&self, groups: &[GroupId]) {
        let mut tables = self.tables.write();
        for group in groups {
            if let Some(group) = tables.groups.get_mut(group) {
                group.confirmed = true;
            }
        }
    }

    /// Forgets the groups without sessions, and names them.
    pub(crate) fn take_empty_groups(&self) -> Vec<GroupId> {
        let mut tables = self.tables.write();
        let empty = |(_id, group): &(&GroupId, &Group)| group.members.is_empty();
        let taken: Vec<GroupId> =
            tables.groups.iter().filter(empty).map(|(id, _group)| *id).collect();
        for group in &taken {
            tables.groups.remove(group);
        }
        taken
    }

    /// What the hub should know of us, `now_us` after the start of the gateway.
    pub(crate) fn interest(&self, now_us: u64) -> (Vec<UserInterest>, Vec<GroupId>) {
        let tables = self.tables.read();
        let sessions = tables.users.values().flatten();
        let users = sessions.map(|session| session.claim(now_us)).collect();
        (users, tables.groups.keys().copied().collect())
    }

    /// A short form of [`Self::interest`].
    pub(crate) fn checksum(&self) -> InterestChecksum {
        let tables = self.tables.read();
        let sessions = tables.users.values().flatten();
        let users_xor = sessions
            .map(|session| interest_hash_user(session.user().0, session.id(), session.epoch()))
            .fold(0, |xor, hash| xor ^ hash);
        let groups_xor =
            tables.groups.keys().fold(0, |xor, group| xor ^ interest_hash_group(group.0));
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
        tables.users.values().flatten().cloned().collect()
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
            .is_some_and(|sessions| sessions.iter().any(|other| other.id() == session.id()))
    }

    fn add_member(&mut self, group: GroupId, session: &Arc<Session>, join: u32, given: u64) {
        let group = self.groups.entry(group).or_default();
        let members = Arc::make_mut(&mut group.members);
        // Sessions mostly enter in the order of their numbers, so this is mostly the end.
        if let Err(index) = members.binary_search_by_key(&session.id(), |m| m.session.id()) {
            members.insert(index, Member { session: Arc::clone(session), join, given });
        }
    }
}

fn remove_member(groups: &mut HashMap<GroupId, Group>, group: GroupId, session: u64) {
    if let Some(group) = groups.get_mut(&group) {
        let members = Arc::make_mut(&mut group.members);
        if let Ok(index) = members.binary_search_by_key(&session, |m| m.session.id()) {
            members.remove(index);
        }
    }
}

#[cfg(test)]
mod tests;
