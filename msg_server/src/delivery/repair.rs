//! Fetching what did not come by itself: old clients do not notice what is missing, so they must not
//! miss anything.
//!
//! Whoever opens a gap starts its repair, and there is one for each conversation, however many
//! sessions wait. It goes on until nothing is missing: page by page, with pauses where storage cannot
//! answer, and without an owner until there is one.

use std::sync::Arc;
use std::time::Duration;

use daemon::CallError;
use proto::cluster::wire::{FetchRequest, Fetched, Publish};
use proto::ids::{ConversationId, GroupId};
use tokio::time::sleep;
use tracing::debug;

use super::{Record, changes_members, fanout};
use crate::closing::CloseReason;
use crate::gateway::Gateway;
use crate::metrics::GapEnd;
use crate::outbox::{Ending, Outbox};
use crate::seen::Missing;
use crate::session::Session;
use crate::waves::{close_in_waves, jittered};

/// How long a late copy may take: a publisher tries the next replica after 300 ms at most, and most
/// copies are late by much less.
pub(super) const LATE: Duration = Duration::from_millis(200);

/// Pages that are fetched at a time, which bounds their memory.
pub(super) const FETCHES_MAX: usize = 16;

/// Storage tells the places of at least so many changes of members in one answer, as long as they
/// do not name more users than this.
const CHANGES_PLACED: usize = 64;
const NAMED_PLACED: usize = 50_000;

/// The pause after storage could not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Over how long clients are spread that must come back and ask.
const SYNC_WITHIN: Duration = Duration::from_secs(3);

/// Starts the repair of a conversation, for whoever has opened the gap.
pub(super) fn start(gateway: &Arc<Gateway>, conversation: u64, late: Duration) {
    let to = Arc::clone(gateway);
    gateway.parts.spawn(async move {
        sleep(late).await;
        close_gap(&to, conversation).await;
        to.delivery.part_of(conversation).ended.notify_waiters();
    });
}

/// Lets clients come back and ask, some at a time.
pub(super) fn let_sync(gateway: &Arc<Gateway>, outboxes: Vec<Arc<Outbox>>) {
    if !outboxes.is_empty() {
        gateway.parts.spawn(close_in_waves(outboxes, CloseReason::MustSync, SYNC_WITHIN));
    }
}

async fn close_gap(gateway: &Arc<Gateway>, conversation: u64) {
    while let Some(missing) = gateway.delivery.missing(conversation) {
        if gateway.parts.floor(conversation).is_none() {
            // Whoever needed it has gone. What was held may still concern somebody: who was added.
            gateway.delivery.give_up(conversation);
            fanout::deliver(gateway, conversation);
            return;
        }
        if !repair(gateway, conversation, missing).await {
            pause(gateway, conversation).await;
        }
    }
}

/// Fetches and delivers one page. Whether it brought us on.
async fn repair(gateway: &Arc<Gateway>, conversation: u64, missing: Missing) -> bool {
    let Missing { from, after_offset, known } = missing;
    let request =
        FetchRequest { conversation, from, to: u32::MAX, after_offset: Some(after_offset) };
    // Held until the page is delivered.
    let _one_of_few = gateway.delivery.fetches.acquire().await;
    let Some(page) = fetch(gateway, &request).await else { return false };
    withdraw(gateway, &page);
    let records: Vec<Record> =
        page.publishes.into_iter().map(|publish| gateway.record(publish, true)).collect();
    let complete_to = page.complete.then_some(known);
    let closed = gateway.delivery.fetched(conversation, records, complete_to);
    fanout::deliver(gateway, conversation);
    if closed {
        gateway.parts.metrics.gap_ended(GapEnd::Fetch);
    }
    closed || gateway.delivery.reached(conversation) > after_offset
}

/// Storage tells where among the messages members changed, unless there was very much of that: then
/// the last changes are told as one, after the messages. A message that a removed member does not get
/// is better than one that he must not see.
fn withdraw(gateway: &Gateway, page: &Fetched) {
    let changes = || page.publishes.iter().filter(|publish| changes_members(publish));
    let named = changes().map(|change| change.added.len() + change.removed.len()).sum::<usize>();
    if changes().count() >= CHANGES_PLACED || named >= NAMED_PLACED {
        changes().for_each(|change| fanout::withdraw(gateway, change));
    }
}

/// What storage answers; `None` if it cannot, or is not the owner any more.
async fn fetch(gateway: &Gateway, request: &FetchRequest) -> Option<Fetched> {
    match gateway.parts.storage.fetch(request).await {
        Ok(page) => {
            let partition = gateway.parts.partition_of(request.conversation);
            let current =
                |publish: &Publish| gateway.parts.partitions.is_current(partition, publish.epoch);
            page.publishes.iter().all(current).then_some(page)
        }
        Err(error) => {
            if error != CallError::Closed {
                debug!(%error, conversation = request.conversation, "cannot fetch what is missing");
            }
            None
        }
    }
}

/// Until it makes sense to ask about a conversation again.
async fn pause(gateway: &Gateway, conversation: u64) {
    let partition = gateway.parts.partition_of(conversation);
    if gateway.parts.storage.is_owned(partition) {
        sleep(jittered(PAUSE)).await;
    } else {
        gateway.parts.storage.owned(partition).await;
    }
}

/// Sessions that were added to a group.
#[derive(Debug)]
pub(super) struct Beginners {
    pub(super) sessions: Vec<Arc<Session>>,
    pub(super) group: GroupId,
    /// The place of the change that added them.
    pub(super) added_at: u64,
    /// Removals up to this place are over: they are members again.
    pub(super) changed_at: u64,
}

/// Gives them what was said from their first message on, and lets them see the group from there.
pub(super) fn start_begin(
    gateway: &Arc<Gateway>,
    beginners: Beginners,
    first_visible: Option<u32>,
    announced: crate::hub::Announced,
) {
    let to = Arc::clone(gateway);
    gateway.parts.spawn(async move {
        to.parts.hub.settle(announced).await;
        to.parts.registry.confirm(&[beginners.group.0]);
        match first_visible {
            Some(join) => begin(&to, beginners, join).await,
            None => begin_unknown(&to, beginners).await,
        }
    });
}

async fn begin(gateway: &Arc<Gateway>, beginners: Beginners, join: u32) {
    let Beginners { mut sessions, group, added_at, changed_at } = beginners;
    let mut again = Beginners { sessions: Vec::new(), group, added_at, changed_at };
    let Some(conversation) = ConversationId::group(group).map(ConversationId::number) else {
        return;
    };
    let (mut from, mut given) = (join.max(1), 0);
    loop {
        sessions.retain(|session| is_beginning(gateway, session, (group, added_at)));
        if sessions.is_empty() {
            break;
        }
        // What was taken before storage is asked is in its answer.
        let reached = gateway.delivery.reached(conversation).max(changed_at);
        let request = FetchRequest { conversation, from, to: u32::MAX, after_offset: Some(given) };
        let one_of_few = gateway.delivery.fetches.acquire().await;
        let Some(page) = fetch(gateway, &request).await else {
            drop(one_of_few);
            pause(gateway, conversation).await;
            continue;
        };
        sessions.retain(|session| is_beginning(gateway, session, (group, added_at)));
        let before = from;
        for publish in page.publishes {
            if changes_members(&publish) {
                // Whoever was removed hears nothing of what was said then. If he came back, his
                // part of the history begins elsewhere.
                let is_out = |session: &mut Arc<Session>| {
                    publish.offset > changed_at && publish.removed.contains(&session.user())
                };
                again.sessions.extend(sessions.extract_if(.., is_out));
                again.changed_at = again.changed_at.max(publish.offset);
            } else if publish.msg_id >= from {
                (from, given) = (publish.msg_id.saturating_add(1), given.max(publish.offset));
                fanout::deliver_to(gateway, &sessions, publish, join);
            }
        }
        if page.complete {
            given = given.max(reached);
            let show = || {
                for session in &sessions {
                    gateway.parts.registry.set_join(session, group.0, (added_at, join, given));
                }
            };
            // If something was taken meanwhile, they have not got it: once more.
            if gateway.delivery.at(conversation, given, show) {
                break;
            }
        } else if from == before {
            drop(one_of_few);
            pause(gateway, conversation).await;
        }
    }
    if !again.sessions.is_empty() {
        Box::pin(begin_unknown(gateway, again)).await;
    }
}

/// As [`begin`], where the change did not say from where on: each user's list of groups does.
async fn begin_unknown(gateway: &Arc<Gateway>, beginners: Beginners) {
    let Beginners { sessions, group, added_at, changed_at } = beginners;
    let Some(conversation) = ConversationId::group(group).map(ConversationId::number) else {
        return;
    };
    let partition = gateway.parts.partition_of(conversation);
    for session in sessions {
        let groups = loop {
            if !is_beginning(gateway, &session, (group, added_at)) {
                break Vec::new();
            }
            match gateway.parts.storage.memberships_in(session.user(), partition).await {
                Some(groups) => break groups,
                None => pause(gateway, conversation).await,
            }
        };
        // If it is not in the list he was removed again; the change that says so is on its way.
        if let Some(membership) = groups.iter().find(|one| one.group == group.0) {
            let beginners = Beginners { sessions: vec![session], group, added_at, changed_at };
            begin(gateway, beginners, membership.join_msg_id).await;
        }
    }
}

/// Whether a session is still to be given its first messages because of this addition. A session that
/// was removed and added again is given them because of the later one.
fn is_beginning(gateway: &Gateway, session: &Session, (group, added_at): (GroupId, u64)) -> bool {
    session.outbox.ending() == Ending::Open
        && gateway.parts.registry.is_beginning(session, group.0, added_at)
}
