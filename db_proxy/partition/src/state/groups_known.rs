//! Which groups users are in, of those that were asked for lately: for logins while the store is away.
//!
//! Pure. What was read once is kept up to date by every change of members that is folded afterwards, so
//! that it is as good as if it were read again.
//!
//! # What bounds it
//!
//! [`KNOWN_MAX`] users and memberships together. If there are more, the user asked for longest ago is
//! forgotten, and cannot log in while the store is away.

use fold::conversation::Conversation;
use lru::LruCache;
use proto::cluster::wire::Membership;
use proto::ids::{GroupId, UserId};

/// Users and their memberships that are known at most, of one partition: some 10 MB.
const KNOWN_MAX: usize = 131_072;

/// The groups of users in one partition.
#[derive(Debug)]
pub(super) struct GroupsKnown {
    of: LruCache<UserId, Vec<Membership>>,
    /// Users and memberships in it.
    count: usize,
}

impl Default for GroupsKnown {
    fn default() -> Self {
        Self { of: LruCache::unbounded(), count: 0 }
    }
}

impl GroupsKnown {
    /// Notes all groups that a user is in.
    pub(super) fn note(&mut self, user: UserId, groups: Vec<Membership>) {
        self.count += 1 + groups.len();
        if let Some(before) = self.of.put(user, groups) {
            self.count -= 1 + before.len();
        }
        self.bound();
    }

    /// The groups that a user is in, if they are known.
    pub(super) fn of(&mut self, user: UserId) -> Option<&[Membership]> {
        self.of.get(&user).map(Vec::as_slice)
    }

    /// Takes in a change of members, after it: `group` is the conversation as it is now.
    pub(super) fn changed(&mut self, group: &Conversation, added: &[UserId], removed: &[UserId]) {
        let Some(id) = group.id.as_group() else { return };
        for user in added.iter().chain(removed) {
            let Some(groups) = self.of.peek_mut(user) else { continue };
            let before = groups.len();
            groups.retain(|membership| GroupId(membership.group) != id);
            groups.extend(membership(group, *user));
            self.count = self.count + groups.len() - before;
        }
        self.bound();
    }

    fn bound(&mut self) {
        while self.count > KNOWN_MAX
            && let Some((_user, groups)) = self.of.pop_lru()
        {
            self.count -= 1 + groups.len();
        }
    }
}

/// The membership of a user that is in a group now.
fn membership(group: &Conversation, user: UserId) -> Option<Membership> {
    let member = group.members.get(&user).filter(|member| member.leave.is_none())?;
    Some(Membership {
        group: group.id.as_group()?.0,
        join_msg_id: member.join.0,
        version: u64::from(group.group.as_ref()?.version),
    })
}

#[cfg(test)]
mod tests {
    use fold::conversation::Member;
    use proto::ids::{ConversationId, MsgId};
    use store::{GroupRow, StoredConversation};

    use super::*;

    const ALICE: UserId = UserId(1);
    const BOB: UserId = UserId(2);

    fn kept(group: u32) -> Membership {
        Membership { group, join_msg_id: 1, version: 1 }
    }

    /// A group at a version, with members since these messages.
    fn group(number: u32, version: u32, members: &[(UserId, u32)]) -> Conversation {
        let id = ConversationId::group(GroupId(number)).unwrap();
        let mut group = Conversation::from_stored(id, StoredConversation::default());
        group.group = Some(GroupRow {
            name: String::new(),
            avatar: String::new(),
            creator: ALICE,
            kind: 1,
            version,
            deleted: false,
        });
        let member =
            |&(user, join): &(UserId, u32)| (user, Member { join: MsgId(join), leave: None });
        group.members = members.iter().map(member).collect();
        group
    }

    #[test]
    fn what_was_noted_follows_every_change_of_members() {
        let mut known = GroupsKnown::default();
        known.note(ALICE, vec![kept(7), kept(8)]);
        assert!(known.of(BOB).is_none());
        known.changed(&group(9, 4, &[(ALICE, 3), (BOB, 3)]), &[ALICE, BOB], &[]);
        let joined = Membership { group: 9, join_msg_id: 3, version: 4 };
        assert_eq!(known.of(ALICE).unwrap(), [kept(7), kept(8), joined]);
        assert!(known.of(BOB).is_none(), "of whom not all groups are known none are");
        known.changed(&group(7, 5, &[(BOB, 1)]), &[], &[ALICE]);
        assert_eq!(known.of(ALICE).unwrap(), [kept(8), joined]);
        // Removed and added again at once.
        known.changed(&group(8, 6, &[(ALICE, 9)]), &[ALICE], &[ALICE]);
        let again = Membership { group: 8, join_msg_id: 9, version: 6 };
        assert_eq!(known.of(ALICE).unwrap(), [joined, again]);
        known.note(ALICE, Vec::new());
        assert!(known.of(ALICE).unwrap().is_empty());
        assert_eq!(known.count, 1);
    }

    #[test]
    fn of_too_many_users_those_who_asked_longest_ago_are_forgotten() {
        let mut known = GroupsKnown::default();
        let each = 99;
        let users = u32::try_from(KNOWN_MAX / (each + 1)).unwrap();
        for user in 0..users {
            known.note(UserId(user), vec![kept(1); each]);
        }
        assert!(known.of(UserId(0)).is_some());
        known.note(UserId(users), vec![kept(1); each]);
        assert!(known.of(UserId(1)).is_none() && known.of(UserId(0)).is_some());
        let mut all = group(2, 1, &[]);
        for user in 2..users {
            all.members.insert(UserId(user), Member { join: MsgId(1), leave: None });
        }
        let everybody: Vec<_> = (2..users).map(UserId).collect();
        known.changed(&all, &everybody, &[]);
        assert!(known.count <= KNOWN_MAX, "{}", known.count);
        let counted: usize = known.of.iter().map(|(_user, groups)| 1 + groups.len()).sum();
        assert_eq!(known.count, counted);
    }

    #[test]
    fn a_former_member_who_is_still_named_is_no_longer_in_the_group() {
        let mut known = GroupsKnown::default();
        known.note(ALICE, vec![kept(7), kept(8)]);
        let mut left = group(7, 2, &[]);
        left.members.insert(ALICE, Member { join: MsgId(1), leave: Some(MsgId(3)) });
        known.changed(&left, &[], &[ALICE]);
        assert_eq!(known.of(ALICE).unwrap(), [kept(8)]);
    }

    #[test]
    fn being_added_does_not_count_as_asking() {
        let mut known = GroupsKnown::default();
        for user in [ALICE, BOB] {
            known.note(user, vec![kept(7)]);
        }
        known.changed(&group(8, 2, &[(ALICE, 1)]), &[ALICE], &[]);
        assert_eq!(known.of.peek_lru().map(|(user, _groups)| *user), Some(ALICE));
    }
}
