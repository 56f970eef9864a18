//! What a gateway that missed something is told: messages as they were published, and between them the
//! changes of a group's members.

use partition::member_changes::{OffsetRange, members_between};
use partition::messages::{MsgRange, range};
use partition::publisher::{FoldedMessage, publication};
use partition::state::State;
use proto::cluster::wire::{FetchRequest, Fetched, Owned, Publish};
use proto::ids::{ConversationId, MsgId, Offset};
use store::StoreError;

use crate::commands::history::{FIRST_PIECE, PAGE_MAX};

/// Bytes that one fetch may take.
const FETCH_BYTES_MAX: usize = 4 << 20;

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
        let Ok(first) = first_after(state, id, MsgRange { from, to }, after).await else {
            return Fetched { complete_upto: from.0 - 1, by: Some(owned), ..Fetched::default() };
        };
        from = first;
    }
    let (publishes, next) = messages(state, id, MsgRange { from, to }, version, owned).await;
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
        members_between(conversation, fold, OffsetRange { after, upto }, place, owned)
    });
    match look.await {
        Ok(mut members) => fetched.publishes.append(&mut members),
        Err(_unavailable) => fetched.complete = false,
    }
    fetched.publishes.sort_by_key(|publish| publish.offset);
    fetched
}

/// The messages of a range from the oldest on, as many as fit, and the first that is not among them.
/// `version` is that of the member list.
async fn messages(
    state: &State,
    id: ConversationId,
    MsgRange { mut from, to }: MsgRange,
    version: u32,
    owned: Owned,
) -> (Vec<Publish>, MsgId) {
    let mut bytes = 0;
    let mut previous = Offset(0);
    let mut publishes = Vec::new();
    while from <= to && bytes < FETCH_BYTES_MAX && publishes.len() < PAGE_MAX as usize {
        let last = MsgId(from.0.saturating_add(FIRST_PIECE - 1)).min(to);
        let Ok(messages) = range(state, id, MsgRange { from, to: last }).await else { break };
        for row in messages.into_iter().rev() {
            bytes += row.body.len();
            let message =
                FoldedMessage { row: &row, previous, member_version: version, origin: None };
            publishes.push(publication(&message, owned));
            previous = row.offset;
        }
        from = last.next();
    }
    (publishes, from)
}

/// The first message of a range whose record lies after `after`; the one after the range if none does.
async fn first_after(
    state: &State,
    id: ConversationId,
    MsgRange { from, to }: MsgRange,
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
    let rows = range(state, id, MsgRange { from: msg_id, to: msg_id }).await?;
    let row = rows.first().map(|row| row.offset);
    row.ok_or_else(|| StoreError::Unavailable(format!("{id} has no message {msg_id:?}")))
}
