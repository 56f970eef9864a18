//! What becomes of a request when its turn comes: it waits, is answered, is held, or is appended.

use std::time::Instant;

use fold::admission::{self, Admission, Change, Need};
use fold::conversation::Conversation;
use prost::Message as _;
use proto::cluster::wire::Reason;
use proto::ids::ConversationId;
use proto::log::record;
use record_log::embedded::MAX_PAYLOAD_BYTES;

use super::{Admitted, Worker, sent_before};
use crate::queue::{Queue, Wait};
use crate::request::{Outcome, Request};
use crate::state::Inner;

/// What comes of a judgement.
pub(super) enum Judged {
    /// This is to be appended.
    Append(Request, record::Change),
    /// A fact is missing.
    Needs(Request, Need),
    /// Nothing more: the request is answered.
    Told,
}

impl Worker {
    /// Gives the request back, and what it waits for, if it cannot be judged yet.
    pub(super) fn admit(
        &mut self,
        inner: &Inner,
        request: Request,
        now_ms: u64,
    ) -> Option<(Request, Wait)> {
        if !self.held_adds.is_empty()
            && let Some(group) = self.held_before(&request.change)
        {
            self.release(inner, group);
            return Some((request, Wait::Fold));
        }
        if self.is_looked_for_in_batch(&request.change) {
            return Some((request, Wait::Fold));
        }
        match self.judge(inner, request, now_ms) {
            Judged::Append(request, change) => self.append(inner, request, change),
            Judged::Needs(request, need) => return Some((request, Wait::Fact(need))),
            Judged::Told => {}
        }
        None
    }

    /// Whether a message is only looked for, and is in the batch: it is known once that is folded. Others need
    /// not wait, since the fold recognises a message that is appended twice.
    fn is_looked_for_in_batch(&self, change: &Change) -> bool {
        let Change::Send(send) = change else { return false };
        let message = Some((send.identity.sender, send.identity.client_msg_id));
        send.known_only && self.batch.iter().any(|(_payload, admitted)| admitted.message == message)
    }

    /// Answers the request, unless there is more to be done.
    pub(super) fn judge(&self, inner: &Inner, mut request: Request, now_ms: u64) -> Judged {
        let changing = |group| self.changing.contains(&group);
        request.facts.changing = matches!(request.change, Change::Members { .. })
            && request.change.conversation().is_some_and(changing);
        match admission::admit(&inner.fold, &request.change, &request.facts, now_ms) {
            Admission::Needs(need) => return Judged::Needs(request, need),
            Admission::Append(change) => return Judged::Append(request, change),
            Admission::Known(known) => {
                self.owner.metrics.duplicates.inc();
                request.waiter.tell(sent_before(known));
            }
            Admission::Refused(reason) => self.refuse(request, reason),
            Admission::Unchanged => request.waiter.tell(unchanged(inner, &request.change)),
        }
        Judged::Told
    }

    fn refuse(&self, request: Request, reason: Reason) {
        self.owner.metrics.refused.inc();
        request.waiter.tell(Outcome::Refused(reason));
    }

    fn append(&mut self, inner: &Inner, request: Request, change: record::Change) {
        let payload = admission::record(change, self.owner.owned.epoch).encode_to_vec();
        if payload.len() > MAX_PAYLOAD_BYTES {
            self.refuse(request, Reason::TooLarge);
            return;
        }
        if let Change::Members { actor, add, remove, .. } = &request.change
            && let Some(group) = request.change.conversation()
        {
            let adds = !add.is_empty();
            // An administrator's script that adds one by one is not to wait a second for each.
            let may_wait = adds && remove.is_empty() && actor.is_some();
            if may_wait && self.held_adds.is_open(group, Instant::now()) {
                self.hold(inner, group, request, payload.len());
                return;
            }
            self.changes_members(group, adds);
        }
        let Request { change, waiter, origin, .. } = request;
        let message = match change {
            Change::Send(send) => Some((send.identity.sender, send.identity.client_msg_id)),
            _ => None,
        };
        self.push(payload, Admitted { waiter, origin, message });
    }

    /// Notes that the batch changes the members of a group.
    pub(super) fn changes_members(&mut self, group: ConversationId, adds: bool) {
        self.changing.insert(group);
        if adds {
            self.held_adds.appended(group, Instant::now());
        }
    }

    pub(super) fn push(&mut self, payload: Vec<u8>, admitted: Admitted) {
        self.batch_bytes += payload.len();
        self.batch.push((payload.into(), admitted));
    }

    pub(super) fn wait(&mut self, queue: Queue, wait: Wait) {
        match wait {
            Wait::Fact(need) => self.look_up(queue, need),
            Wait::Fold => self.after_batch.push(queue),
        }
    }
}

fn unchanged(inner: &Inner, change: &Change) -> Outcome {
    match change {
        Change::Members { .. } | Change::DeleteGroup { .. } | Change::CreateGroup(_) => {
            Outcome::Members {
                current: change
                    .conversation()
                    .and_then(|id| inner.fold.conversations.get(&id))
                    .map(Conversation::current_members)
                    .unwrap_or_default()
                    .into(),
                added: Vec::new(),
                removed: Vec::new(),
            }
        }
        _ => Outcome::Marked { changed: false },
    }
}
