//! Fetching what did not come by itself: old clients do not notice what is missing, so they must not
//! miss anything.
//!
//! The record that opens a gap starts its repair, and there is one for each conversation, however many
//! sessions wait. It goes on until nothing is missing: page by page, with pauses where storage cannot
//! answer, and without an owner until there is one.

use std::sync::Arc;
use std::time::Duration;

use proto::cluster::wire::{FetchRequest, Fetched};
use proto::ids::ConversationId;
use tokio::time::sleep;

use super::pages::{fetch, pause};
use super::record::{Record, changes_members};
use super::seen::Missing;
use super::shared::Shared;
use super::{fanout, members};
use crate::metrics::GapEnd;
use crate::parts::Parts;

/// How long a late copy may take: a publisher tries the next replica after 300 ms at most, and most
/// copies are late by much less.
pub(super) const LATE: Duration = Duration::from_millis(200);

/// Storage tells the places of at least so many changes of members in one answer, as long as they
/// do not name more users than this.
const CHANGES_PLACED: usize = 64;
const NAMED_PLACED: usize = 50_000;

/// Starts the repair of a conversation. Called once for each gap, when it opens.
pub(super) fn start(shared: &Arc<Shared>, conversation: ConversationId, late: Duration) {
    let to = Arc::clone(shared);
    shared.parts.spawn(async move {
        sleep(late).await;
        close_gap(&to, conversation).await;
        to.delivered.part_of(conversation).ended.notify_waiters();
    });
}

async fn close_gap(shared: &Arc<Shared>, conversation: ConversationId) {
    let Shared { parts, delivered, .. } = &**shared;
    while let Some(missing) = delivered.missing(conversation) {
        if parts.floor(conversation).is_none() {
            // The sessions that needed it have ended. What was held may add a user who is here.
            delivered.give_up(conversation);
            fanout::deliver(shared, conversation);
            return;
        }
        if !repair(shared, conversation, missing).await {
            pause(parts, conversation).await;
        }
    }
}

/// Fetches and delivers one page. Whether it brought us on.
async fn repair(shared: &Arc<Shared>, conversation: ConversationId, missing: Missing) -> bool {
    let Shared { parts, delivered, fetches } = &**shared;
    let Missing { from, after_offset, known } = missing;
    let request = FetchRequest {
        conversation: conversation.number(),
        from,
        to: u32::MAX,
        after_offset: Some(after_offset),
    };
    // Held until the page is delivered.
    let _one_of_few = fetches.acquire().await;
    let Some(page) = fetch(parts, &request).await else { return false };
    withdraw(parts, &page);
    let read = |publish| Record::read(parts, conversation, publish, true);
    let records: Vec<Record> = page.publishes.into_iter().map(read).collect();
    let complete_to = page.complete.then_some(known);
    let closed = delivered.fetched(conversation, records, complete_to);
    fanout::deliver(shared, conversation);
    if closed {
        parts.metrics.gap_ended(GapEnd::Fetch);
    }
    closed || delivered.reached(conversation) > after_offset
}

/// Storage tells where among the messages members changed, unless there was very much of that: then
/// the last changes are told as one, after the messages. A message that a removed member does not get
/// is better than one that a removed member must not see.
fn withdraw(parts: &Parts, page: &Fetched) {
    let changes = || page.publishes.iter().filter(|publish| changes_members(publish));
    let named = changes().map(|change| change.added.len() + change.removed.len()).sum::<usize>();
    if changes().count() >= CHANGES_PLACED || named >= NAMED_PLACED {
        changes().for_each(|change| members::withdraw(parts, change));
    }
}
