//! Fetching what did not come by itself: old clients do not notice what is missing, so they must not
//! miss anything.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use daemon::CallError;
use proto::cluster::wire::{FetchRequest, Publish};
use proto::ids::{ConversationId, GroupId};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::{Batch, fanout};
use crate::closing::CloseReason;
use crate::gateway::Gateway;
use crate::metrics::GapEnd;
use crate::session::Session;

/// How long a late copy may take: a publisher tries the next replica after 300 ms at most, and most
/// copies are late by much less.
const LATE: Duration = Duration::from_millis(200);

/// How often, and after which pauses, storage is asked. After that the gap stays.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(500);

/// Waits for the late copy, then fetches what is missing, then delivers everything in order.
pub(super) async fn close_gap(gateway: &Arc<Gateway>, conversation: u64) {
    sleep(LATE).await;
    let mut fetched = None;
    for _try in 0..TRIES {
        let Some((from, to)) = gateway.delivery.missing(conversation) else { return };
        fetched = fetch(gateway, conversation, from, to).await;
        if fetched.is_some() {
            break;
        }
        sleep(PAUSE).await;
    }
    let by = if fetched.is_some() { GapEnd::Fetch } else { GapEnd::Nothing };
    let fetched = fetched.into_iter().flatten().map(|publish| gateway.record(publish)).collect();
    let records = gateway.delivery.close_gap(conversation, fetched);
    if records.is_empty() {
        return;
    }
    gateway.metrics.gap_ended(by);
    fanout::deliver(gateway, records);
}

/// Looks whether anything was said in the conversations of the last minute that did not come here.
/// An owner that dies between folding a record and publishing it does not publish it afterwards.
pub(super) async fn sweep(gateway: &Arc<Gateway>) {
    for (conversation, from, last) in gateway.delivery.recent() {
        // Whoever came later has asked for himself.
        if gateway.continuous_since(conversation).is_none_or(|since| since > last) {
            continue;
        }
        let request = FetchRequest { conversation, from, to: u32::MAX, after_offset: None };
        match gateway.storage.fetch(&request).await {
            Ok(fetched) => {
                let mut batch = Batch::default();
                for publish in fetched.publishes {
                    gateway.take_publish(publish, &mut batch);
                }
                gateway.deliver_batch(&mut batch);
            }
            // Away again: it will be looked at when it comes back.
            Err(CallError::Closed) => return,
            Err(error) => debug!(%error, conversation, "cannot look what was missed"),
        }
    }
}

/// The messages of a range, all of them, in order; `None` if storage cannot tell now.
async fn fetch(gateway: &Gateway, conversation: u64, from: u32, to: u32) -> Option<Vec<Publish>> {
    if from > to {
        // Only a change of members is missing, which has no message id to be fetched by.
        return Some(Vec::new());
    }
    let request = FetchRequest { conversation, from, to, after_offset: None };
    match gateway.storage.fetch(&request).await {
        Ok(fetched) if fetched.complete || fetched.complete_upto >= to => {
            let mut publishes = fetched.publishes;
            publishes.sort_by_key(|publish| publish.msg_id);
            Some(publishes)
        }
        Ok(_incomplete) => None,
        Err(error) => {
            debug!(%error, conversation, "cannot fetch what is missing");
            None
        }
    }
}

/// Lets sessions that were added to a group see it from `join` on, and gives them what was said
/// since.
pub(super) async fn begin(
    gateway: &Arc<Gateway>,
    sessions: &[Arc<Session>],
    group: GroupId,
    join: u32,
) {
    for session in sessions {
        gateway.registry.set_join(session, group.0, join);
    }
    let Some(conversation) = ConversationId::group(group) else { return };
    for _try in 0..TRIES {
        let request = FetchRequest {
            conversation: conversation.number(),
            from: join.max(1),
            to: u32::MAX,
            after_offset: None,
        };
        if let Ok(fetched) = gateway.storage.fetch(&request).await {
            for publish in fetched.publishes {
                for session in sessions {
                    fanout::deliver_to(gateway, session, publish.clone(), join);
                }
            }
            return;
        }
        sleep(PAUSE).await;
    }
    give_up(sessions, group);
}

/// As [`begin`], where the change did not say from where on: each user's list of groups does.
pub(super) async fn begin_unknown(
    gateway: &Arc<Gateway>,
    sessions: &[Arc<Session>],
    group: GroupId,
) {
    for session in sessions {
        let mut known = None;
        for _try in 0..TRIES {
            known = gateway.storage.memberships(session.user()).await.ok();
            if known.as_ref().is_some_and(|memberships| memberships.complete) {
                break;
            }
            sleep(PAUSE).await;
        }
        let Some(known) = known else {
            give_up(slice::from_ref(session), group);
            continue;
        };
        // If it is not in the list he was removed again; the change that says so is on its way.
        if let Some(membership) = known.groups.iter().find(|one| one.group == group.0) {
            begin(gateway, slice::from_ref(session), group, membership.join_msg_id).await;
        }
    }
}

/// They would miss messages without knowing. Their clients come back and ask.
fn give_up(sessions: &[Arc<Session>], group: GroupId) {
    warn!(group = group.0, sessions = sessions.len(), "cannot read a new membership");
    for session in sessions {
        session.outbox.close(CloseReason::MustSync);
    }
}
