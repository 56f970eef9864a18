//! What the partition's thread does with adds of members that are held: when, when not, and how they
//! become one record.
//!
//! # When it is full
//!
//! An add that finds no room is appended at once, with what is held of its group. To turn it away
//! would save no notice, since it comes again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fold::admission::{self, Change};
use prost::Message as _;
use proto::cluster::wire::Origin;
use proto::ids::{ConversationId, UserId};
use proto::log::{MembersChanged, record};

use super::held_adds::Add;
use super::judgement::Judged;
use super::{Admitted, IDLE_AFTER, Worker};
use crate::request::{Outcome, Request, Waiter};
use crate::state::Inner;

/// A request for an add that has become part of a record.
struct Requester {
    waiter: Waiter,
    origin: Option<Origin>,
    asked: Vec<u32>,
}

impl Worker {
    /// How long the thread waits for something to happen.
    pub(super) fn patience(&self) -> Duration {
        let left = |end: Instant| end.saturating_duration_since(Instant::now());
        self.held_adds.next_end().map_or(IDLE_AFTER, |end| left(end).min(IDLE_AFTER))
    }

    /// The group whose held adds must be folded before this is judged: it is by a user whom they
    /// concern, and judged without them it would overtake them; or it takes members away, which ends
    /// what they may do.
    pub(super) fn held_before(&self, change: &Change) -> Option<ConversationId> {
        let group = change.conversation()?;
        let held = self.held_adds.of(group)?;
        let is_behind = match change {
            Change::Send(send) => held.concerns(send.identity.sender),
            Change::Read { user, .. }
            | Change::RemoveSession { user, .. }
            | Change::Shield { user, .. } => held.concerns(*user),
            // One more add, which only a member may ask for.
            Change::Members { actor, remove, .. } if remove.is_empty() => {
                actor.is_some_and(|actor| held.adds(actor))
            }
            Change::Members { .. } | Change::CreateGroup(_) | Change::DeleteGroup { .. } => true,
        };
        is_behind.then_some(group)
    }

    /// Holds an add that is allowed, whose record alone has `len` bytes.
    pub(super) fn hold(
        &mut self,
        inner: &Inner,
        group: ConversationId,
        request: Request,
        len: usize,
    ) {
        if !self.held_adds.fits(group, len) {
            self.release(inner, group);
        }
        let add = add_of(inner, &request.change, len);
        self.held_adds.hold(group, request, add, Instant::now());
        let limits = self.owner.limits;
        if self.held_adds.len() > limits.held_max || self.waiting() > limits.waiting_max {
            self.release(inner, group);
        }
    }

    /// Appends what is held of groups whose window has ended, as many as one batch takes.
    pub(super) fn release_due(&mut self, inner: &Inner) {
        while !self.held_adds.is_empty()
            && self.has_room()
            && let Some(group) = self.held_adds.due(Instant::now())
        {
            self.release(inner, group);
        }
    }

    /// Judges what is held of a group again, and appends what is still allowed as one record, in the
    /// name of the first that asked for it.
    pub(super) fn release(&mut self, inner: &Inner, group: ConversationId) {
        let now_ms = self.clock.now_ms();
        let mut record: Option<MembersChanged> = None;
        let (mut named, mut requesters) = (HashSet::new(), Vec::new());
        for request in self.held_adds.take(group) {
            match self.judge(inner, request, now_ms) {
                Judged::Append(request, record::Change::MembersChanged(one)) => {
                    let Request { waiter, origin, .. } = request;
                    let asked = one.added.clone();
                    let record = record.get_or_insert(MembersChanged { added: Vec::new(), ..one });
                    record.added.extend(asked.iter().filter(|user| named.insert(**user)));
                    requesters.push(Requester { waiter, origin, asked });
                }
                Judged::Told => {}
                // Only adds are held, and what they are judged by stays in memory as long.
                Judged::Append(request, _) | Judged::Needs(request, _) => self.turn_away(request),
            }
        }
        let Some(record) = record else { return };
        let change = record::Change::MembersChanged(record);
        let payload = admission::record(change, self.owner.owned.epoch).encode_to_vec();
        self.changes_members(group, true);
        self.push(payload, admitted(requesters));
    }
}

fn add_of(inner: &Inner, change: &Change, bytes: usize) -> Add {
    let Change::Members { actor, add, .. } = change else {
        return Add { actor: None, joining: Vec::new(), bytes };
    };
    let group = change.conversation().and_then(|id| inner.fold.conversations.get(&id));
    let is_new = |user: &&UserId| group.is_none_or(|group| !group.has_member(**user));
    Add { actor: *actor, joining: add.iter().filter(is_new).copied().collect(), bytes }
}

/// The requests that are answered by one record. Each session gets a notice beside its answer, and the
/// answer says only which users were added at its own request.
fn admitted(mut requesters: Vec<Requester>) -> Admitted {
    if requesters.len() == 1
        && let Some(Requester { waiter, origin, .. }) = requesters.pop()
    {
        return Admitted { waiter, origin, message: None };
    }
    let waiter = Waiter(Some(Box::new(move |outcome| tell_each(requesters, &outcome))));
    Admitted { waiter, origin: None, message: None }
}

fn tell_each(requesters: Vec<Requester>, outcome: &Outcome) {
    let Outcome::Members { current, added, .. } = outcome else {
        for requester in requesters {
            requester.waiter.tell(outcome.clone());
        }
        return;
    };
    // A user whom several asked for was added by the first.
    let mut left: HashSet<UserId> = added.iter().copied().collect();
    for Requester { waiter, asked, .. } in requesters {
        let added = asked.into_iter().map(UserId).filter(|user| left.remove(user)).collect();
        let (current, removed) = (Arc::clone(current), Vec::new());
        waiter.tell(Outcome::Members { current, added, removed });
    }
}
