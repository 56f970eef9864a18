//! What a gateway that missed something is told: messages as they were published, and what changes
//! of a group's members came to.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use proto::cluster::wire::{FetchRequest, Fetched, Owned, Publish};
use proto::ids::{ConversationId, GroupId, MsgId, Offset, UserId};

use crate::changes::Touched;
use crate::conversation::Conversation;
use crate::fold::Fold;
use crate::publish::{MembersChange, members_publication, notices, publication};
use crate::queries::history::{FIRST_PIECE, PAGE_MAX, range};
use crate::state::State;
use crate::store::StoreError;

/// Bytes that one fetch may take.
const FETCH_BYTES_MAX: usize = 4 << 20;

/// Changes of members that are told one by one in one fetch. Beyond, clients are told what all of them
/// came to, and of those who left in between with the last one.
const BETWEEN_MAX: usize = 64;

/// Users that these may name, and that the notices of them may.
const BETWEEN_NAMED_MAX: usize = 100_000;

/// Messages `from..=to` of a conversation, and with `after_offset` only what came after that record:
/// then changes of members too.
pub(crate) async fn fetch(state: &State, request: &FetchRequest, owned: Owned) -> Fetched {
    let Some(id) = ConversationId::from_number(request.conversation) else {
        return Fetched::default();
    };
    let look = state.with_fold(id, |conversation, fold| {
        let version = conversation.group.as_ref().map_or(0, |group| group.version);
        (conversation.head, version, fold.last)
    });
    let Ok((head, version, last)) = look.await else {
        return Fetched { by: Some(owned), ..Fetched::default() };
    };
    let to = MsgId(request.to.min(head.0));
    let mut from = MsgId(request.from.max(1));
    let after = request.after_offset.map(Offset);
    if let Some(after) = after {
        let Ok(first) = first_after(state, id, (from, to), after).await else {
            return Fetched { complete_upto: from.0 - 1, by: Some(owned), ..Fetched::default() };
        };
        from = first;
    }
    let (publishes, next) = messages(state, id, (from, to), (version, owned)).await;
    let complete_upto = (next.0 - 1).min(head.0);
    let mut fetched =
        Fetched { complete: complete_upto >= to.0, complete_upto, publishes, by: Some(owned) };
    let Some(after) = after else { return fetched };

    let given = fetched.publishes.last().map(|last| Offset(last.offset));
    let upto = if !fetched.complete {
        given
    } else if to < head {
        // What comes after the next message is not asked for.
        let next = offset_of(state, id, to.next()).await.ok();
        fetched.complete = next.is_some();
        next.map(|next| Offset(next.0.saturating_sub(1))).or(given)
    } else {
        Some(last)
    };
    let Some(upto) = upto else { return fetched };
    let look = state.with_fold(id, |conversation, fold| {
        let place = |offset: Offset| fetched.publishes.partition_point(|p| p.offset < offset.0);
        members_between(conversation, fold, (after, upto, place), owned)
    });
    match look.await {
        Ok(mut members) => fetched.publishes.append(&mut members),
        Err(_unavailable) => fetched.complete = false,
    }
    fetched.publishes.sort_by_key(|publish| publish.offset);
    fetched
}

/// Messages from the oldest on, as many as fit, and the first that is not among them.
async fn messages(
    state: &State,
    id: ConversationId,
    (mut from, to): (MsgId, MsgId),
    (version, owned): (u32, Owned),
) -> (Vec<Publish>, MsgId) {
    let mut bytes = 0;
    let mut previous = Offset(0);
    let mut publishes = Vec::new();
    while from <= to && bytes < FETCH_BYTES_MAX && publishes.len() < PAGE_MAX as usize {
        let piece = MsgId(from.0.saturating_add(FIRST_PIECE - 1)).min(to);
        let Ok(messages) = range(state, id, from, piece).await else { break };
        for row in messages.into_iter().rev() {
            bytes += row.body.len();
            publishes.push(publication(&row, (previous, version), owned, None));
            previous = row.offset;
        }
        from = piece.next();
    }
    (publishes, from)
}

/// The first of the messages `from..=to` whose record lies after `after`; the one after `to` if none
/// does.
async fn first_after(
    state: &State,
    id: ConversationId,
    (from, to): (MsgId, MsgId),
    after: Offset,
) -> Result<MsgId, StoreError> {
    if from > to {
        return Ok(from);
    }
    let in_memory = state.with(id, |conversation| {
        let recent = &conversation.recent;
        let known = recent.partition_point(|message| message.offset <= after);
        let first = recent.get(known).map_or(conversation.head.next(), |message| message.msg_id);
        // Among those in memory only if one of them lies before.
        (known > 0).then_some(first).ok_or(first)
    });
    let (mut low, mut high) = (from, to.next());
    match in_memory.await? {
        Ok(first) => return Ok(first.clamp(low, high)),
        Err(above) => high = high.min(above).max(low),
    }
    // Later messages have later records.
    while low < high {
        let middle = MsgId(low.0 + (high.0 - low.0) / 2);
        if offset_of(state, id, middle).await? > after {
            high = middle;
        } else {
            low = middle.next();
        }
    }
    Ok(low)
}

async fn offset_of(state: &State, id: ConversationId, msg_id: MsgId) -> Result<Offset, StoreError> {
    let rows = range(state, id, msg_id, msg_id).await?;
    let row = rows.first().map(|row| row.offset);
    row.ok_or_else(|| StoreError::Unavailable(format!("{id} has no message {msg_id:?}")))
}

/// The changes of members in `(after, upto]`, and, where `place` says that messages lie between them,
/// how it was there: so that no member gets a message that was sent after the member had left. Clients
/// are told of each change, unless there were too many: then of what they came to.
fn members_between(
    conversation: &Conversation,
    fold: &Fold,
    (after, upto, place): (Offset, Offset, impl Fn(Offset) -> usize),
    owned: Owned,
) -> Vec<Publish> {
    let id = conversation.id;
    let Some(group) = id.as_group() else { return Vec::new() };
    let records: Vec<_> = fold.published.members_of(id, after, upto).collect();
    let runs: Vec<_> = records.chunk_by(|one, next| place(one.0) == place(next.0)).collect();
    let Some((last_run, before)) = runs.split_last() else { return Vec::new() };
    let current = conversation.current_members();
    let one_by_one = are_few(&records, current.len());
    let tell = |run: &[Change<'_>], later: &Later| {
        let mut told = net(conversation, run, (after, later), owned)?;
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
            // Clients hear what all of it came to.
            let quiet = |told| Publish { frame: Bytes::new(), ..told };
            publishes.extend(if one_by_one { told } else { told.map(quiet) });
        }
        later.add(run);
    }
    publishes
}

/// A change of members, and its place in the log.
type Change<'a> = (Offset, &'a Touched);

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

/// A change as it is told again, with the members of today.
fn change_of<'a>(group: GroupId, touched: &'a Touched, current: &'a [UserId]) -> MembersChange<'a> {
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

/// What changes of a group's members came to, told as one: who of those concerned was a member after
/// them, and who was not. `None` if there were none.
pub(crate) fn net(
    conversation: &Conversation,
    changes: &[Change<'_>],
    (after, later): (Offset, &Later),
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
    Some(members_publication(conversation.id, &change, (*last, after), owned))
}
