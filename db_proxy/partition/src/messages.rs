//! Messages of one conversation: from the owner's memory, from the cache where it has them, and from the
//! store otherwise.
//!
//! What a message says at its place never changes, so it does not matter where it comes from. Which
//! places there are is decided before, by the owner's memory and the store.

use std::collections::HashMap;

use cache::WINDOW;
use proto::ids::{ConversationId, MsgId};
use store::{MessageRow, StoreError};

use crate::state::State;

/// Messages of one conversation, from one number up to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsgRange {
    /// The first.
    pub from: MsgId,
    /// The last.
    pub to: MsgId,
}

/// The messages of a range, newest first, every one of them.
pub async fn range(
    state: &State,
    id: ConversationId,
    range: MsgRange,
) -> Result<Vec<MessageRow>, StoreError> {
    let MsgRange { from, to } = range;
    if from > to {
        return Ok(Vec::new());
    }
    let look =
        state.with(id, |conversation| (conversation.recent_range(from, to), conversation.head));
    let ((mut newest, in_memory_from), head) = look.await?;
    newest.reverse();
    if from < in_memory_from {
        let stored = MsgRange { from, to: MsgId(in_memory_from.0 - 1).min(to) };
        newest.extend(stored_range(state, id, stored, head).await?);
    }
    let expected = usize::try_from(to.0 - from.0 + 1).unwrap_or(usize::MAX);
    if newest.len() != expected {
        // Every number up to the head is a message, so a page with a hole would be wrong.
        let problem = format!("{id} has {} of {expected} messages {from:?}..={to:?}", newest.len());
        return Err(StoreError::Unavailable(problem));
    }
    Ok(newest)
}

/// These messages, in no order. Ids must be within the conversation.
pub async fn at(
    state: &State,
    id: ConversationId,
    wanted: &[MsgId],
) -> Result<Vec<MessageRow>, StoreError> {
    let Some((first, last)) = wanted.first().copied().zip(wanted.last().copied()) else {
        return Ok(Vec::new());
    };
    let look = state.with(id, |conversation| conversation.recent_range(first, last));
    let (mut found, in_memory_from) = look.await?;
    found.retain(|message| wanted.contains(&message.msg_id));
    let older: Vec<_> = wanted
        .iter()
        .filter(|msg_id| **msg_id < in_memory_from)
        .map(|msg_id| (id, *msg_id))
        .collect();
    if !older.is_empty() {
        found.extend(stored_at(state, older).await?);
    }
    Ok(found)
}

/// The stored messages of a range, newest first. `head` is the newest there is.
async fn stored_range(
    state: &State,
    id: ConversationId,
    range: MsgRange,
    head: MsgId,
) -> Result<Vec<MessageRow>, StoreError> {
    let MsgRange { from, to } = range;
    let window = MsgId(head.0.saturating_sub(WINDOW - 1)).max(from);
    let mut kept = HashMap::new();
    if let Some((cache, log)) = state.cache()
        && window <= to
    {
        let places: Vec<_> = (window.0..=to.0).map(|msg_id| (id, MsgId(msg_id))).collect();
        let found = cache.messages(log, &places).await;
        kept.extend(found.into_iter().map(|message| (message.msg_id, message)));
    }
    let is_missing = |msg_id: &MsgId| *msg_id < window || !kept.contains_key(msg_id);
    let mut missing = (from.0..=to.0).map(MsgId).filter(is_missing);
    let Some(first) = missing.next() else { return Ok(newest_first(kept)) };
    let last = missing.next_back().unwrap_or(first);
    // One read of everything between the first and the last that are missing.
    let count = usize::try_from(last.0 - first.0 + 1).unwrap_or(usize::MAX);
    let read = state.store().messages(id, first, last, count).await?;
    if let Some((cache, log)) = state.cache() {
        let of_window = read.partition_point(|message| message.msg_id >= window);
        cache.keep_messages(log, read.get(..of_window).unwrap_or_default());
    }
    kept.retain(|msg_id, _| !(first..=last).contains(msg_id));
    kept.extend(read.into_iter().map(|message| (message.msg_id, message)));
    Ok(newest_first(kept))
}

/// The stored messages at these places, those that exist, in no order.
pub async fn stored_at(
    state: &State,
    mut places: Vec<(ConversationId, MsgId)>,
) -> Result<Vec<MessageRow>, StoreError> {
    let Some((cache, log)) = state.cache() else {
        return state.store().messages_at(places).await;
    };
    let mut found = cache.messages(log, &places).await;
    let kept: std::collections::HashSet<_> =
        found.iter().map(|message| (message.conversation, message.msg_id)).collect();
    places.retain(|place| !kept.contains(place));
    if !places.is_empty() {
        let read = state.store().messages_at(places).await?;
        cache.keep_messages(log, &read);
        found.extend(read);
    }
    Ok(found)
}

fn newest_first(messages: HashMap<MsgId, MessageRow>) -> Vec<MessageRow> {
    let mut messages: Vec<_> = messages.into_values().collect();
    messages.sort_unstable_by_key(|message| std::cmp::Reverse(message.msg_id));
    messages
}
