//! Changes of a group's members told again to a gateway that missed them: each by itself if they are few,
//! else what they came to.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use fold::conversation::Conversation;
use fold::effects::Fold;
use fold::publications::MemberChange;
use proto::cluster::wire::{Owned, Publish};
use proto::ids::{ConversationId, GroupId, Offset, UserId};

use crate::publisher::{MembersChange, RecordPlace, members_publication, notices};

/// Changes of members that are told one by one in one fetch. If there are more, clients are told
/// what all of them came to; users who left in between are told with the last one.
const BETWEEN_MAX: usize = 64;

/// Users that these may name, and that the notices of them may.
const BETWEEN_NAMED_MAX: usize = 100_000;

/// Records after one offset, up to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// Not included.
    pub after: Offset,
    /// Included.
    pub upto: Offset,
}

/// The changes of members in a range, and, where `place` says that messages lie between them,
/// how it was there: so that no member gets a message that was sent after the member had left. Clients
/// are told of each change, unless there were too many: then of what they came to.
pub fn members_between(
    conversation: &Conversation,
    fold: &Fold,
    range: OffsetRange,
    place: impl Fn(Offset) -> usize,
    owned: Owned,
) -> Vec<Publish> {
    let OffsetRange { after, upto } = range;
    let id = conversation.id;
    let Some(group) = id.as_group() else { return Vec::new() };
    let records: Vec<_> = fold.published.members_of(id, after, upto).collect();
    let runs: Vec<_> = records.chunk_by(|one, next| place(one.0) == place(next.0)).collect();
    let Some((last_run, before)) = runs.split_last() else { return Vec::new() };
    let current = conversation.current_members();
    let one_by_one = are_few(&records, current.len());
    let tell = |run: &[Change<'_>], later: &Later| {
        let mut told = net_change(conversation, run, after, later, owned)?;
        if one_by_one {
            let each = run.iter().map(|(_, touched)| notices(&change_of(group, touched, &current)));
            told.frame = each.collect::<Vec<_>>().concat().into();
        }
        Some(told)
    };
    let mut later = Later::after(fold, id, upto);
    let mut publishes = Vec::new();
    publishes.extend(tell(if one_by_one { last_run } else { &records }, &later));
    later.add(last_run);
    let mut named = 0;
    let apart = before.iter().take(BETWEEN_MAX).take_while(|run| {
        named += named_in(run);
        named <= BETWEEN_NAMED_MAX
    });
    let apart = apart.count();
    for (place, run) in before.iter().enumerate().rev() {
        if place < apart {
            let told = tell(run, &later);
            // Clients are told what all of it came to.
            let quiet = |told| Publish { frame: Bytes::new(), ..told };
            publishes.extend(if one_by_one { told } else { told.map(quiet) });
        }
        later.add(run);
    }
    publishes
}

/// A change of members, and its place in the log.
type Change<'a> = (Offset, &'a MemberChange);

/// What changed a group's members after something.
#[derive(Debug, Default)]
pub(crate) struct Later {
    users: HashSet<UserId>,
    records: u32,
}

impl Later {
    /// After a place in the log.
    pub(crate) fn after(fold: &Fold, id: ConversationId, offset: Offset) -> Self {
        let mut later = Self::default();
        fold.published.members_of(id, offset, fold.last).for_each(|change| later.add(&[change]));
        later
    }

    fn add(&mut self, changes: &[Change<'_>]) {
        for (_offset, touched) in changes {
            self.users.extend(touched.added.iter().chain(&*touched.removed));
            self.records += 1;
        }
    }
}

fn named_in(changes: &[Change<'_>]) -> usize {
    changes.iter().map(|(_offset, touched)| touched.count()).sum()
}

/// Whether clients can be told of each of these changes. Every notice names the members, too.
fn are_few(changes: &[Change<'_>], members: usize) -> bool {
    let named = named_in(changes) + changes.len() * members;
    changes.len() <= BETWEEN_MAX && named <= BETWEEN_NAMED_MAX
}

/// A change as it is told again, with the current members.
fn change_of<'a>(
    group: GroupId,
    touched: &'a MemberChange,
    current: &'a [UserId],
) -> MembersChange<'a> {
    MembersChange {
        group,
        actor: touched.actor,
        current,
        added: &touched.added,
        removed: &touched.removed,
        quiet: touched.created,
        version: 0,
        first_visible: None,
        origin: None,
    }
}

/// What changes of a group's members after `after` came to, told as one: which of the users concerned
/// were members after them, and which were not. `later` is what changed the members since. `None` if
/// there were no changes.
pub(crate) fn net_change(
    conversation: &Conversation,
    changes: &[Change<'_>],
    after: Offset,
    later: &Later,
    owned: Owned,
) -> Option<Publish> {
    let group = conversation.id.as_group()?;
    let (last, newest) = changes.last()?;
    let mut users = BTreeMap::new();
    for (_offset, touched) in changes {
        users.extend(touched.added.iter().map(|user| (*user, true)));
        users.extend(touched.removed.iter().map(|user| (*user, false)));
    }
    for (user, is_member) in &mut users {
        // A record that is only remembered may name what was no change; so the state is asked.
        if !later.users.contains(user) {
            *is_member = conversation.has_member(*user);
        }
    }
    let those = |who: bool| {
        users.iter().filter(|(_, is)| **is == who).map(|(user, _)| *user).collect::<Vec<_>>()
    };
    let (added, removed) = (those(true), those(false));
    let first_visible = match added[..] {
        [user] if !later.users.contains(&user) => conversation.visible_from(user),
        _ => None,
    };
    let version = conversation.group.as_ref().map_or(0, |group| group.version);
    let current = conversation.current_members();
    let change = MembersChange {
        added: &added,
        removed: &removed,
        quiet: changes.iter().all(|(_offset, touched)| touched.created),
        version: version.saturating_sub(later.records).max(1),
        first_visible,
        ..change_of(group, newest, &current)
    };
    let place = RecordPlace { offset: *last, previous: after };
    Some(members_publication(conversation.id, &change, place, owned))
}
