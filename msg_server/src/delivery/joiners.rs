//! Sessions that were added to a group: they are given what was said from their first message on, and
//! see the group from there.

use std::sync::Arc;

use proto::cluster::wire::FetchRequest;
use proto::ids::{ConversationId, GroupId};

use super::pages::{fetch, pause};
use super::parcel::deliver_to;
use super::record::{Record, changes_members};
use super::shared::Shared;
use crate::client::outbox::Ending;
use crate::cluster::hub::Announced;
use crate::parts::Parts;
use crate::sessions::registry::Beginning;
use crate::sessions::session::Session;

/// Sessions that were added to a group.
#[derive(Debug)]
pub(super) struct Joiners {
    pub(super) sessions: Vec<Arc<Session>>,
    pub(super) group: GroupId,
    /// The place of the change that added them.
    pub(super) added_at: u64,
    /// Removals up to this place are over: they are members again.
    pub(super) changed_at: u64,
}

/// Gives them what was said from their first message on, and lets them see the group from there.
pub(super) fn start(
    shared: &Arc<Shared>,
    joiners: Joiners,
    first_visible: Option<u32>,
    announced: Announced,
) {
    let to = Arc::clone(shared);
    shared.parts.spawn(async move {
        to.parts.hub.settle(announced).await;
        to.parts.registry.confirm(&[joiners.group]);
        match first_visible {
            Some(join) => begin(&to, joiners, join).await,
            None => begin_unknown(&to, joiners).await,
        }
    });
}

async fn begin(shared: &Arc<Shared>, joiners: Joiners, join: u32) {
    let Shared { parts, delivered, fetches } = &**shared;
    let Joiners { mut sessions, group, added_at, changed_at } = joiners;
    let mut again = Joiners { sessions: Vec::new(), group, added_at, changed_at };
    let Some(conversation) = ConversationId::group(group) else { return };
    let (mut from, mut given) = (join.max(1), 0);
    loop {
        sessions.retain(|session| is_beginning(parts, session, group, added_at));
        if sessions.is_empty() {
            break;
        }
        // What was taken before storage is asked is in its answer.
        let reached = delivered.reached(conversation).max(changed_at);
        let request = FetchRequest {
            conversation: conversation.number(),
            from,
            to: u32::MAX,
            after_offset: Some(given),
        };
        let one_of_few = fetches.acquire().await;
        let Some(page) = fetch(parts, &request).await else {
            drop(one_of_few);
            pause(parts, conversation).await;
            continue;
        };
        sessions.retain(|session| is_beginning(parts, session, group, added_at));
        let before = from;
        for publish in page.publishes {
            if changes_members(&publish) {
                // A user who was removed hears nothing of what was said then. For one who came back
                // the history begins elsewhere.
                let is_out = |session: &mut Arc<Session>| {
                    publish.offset > changed_at && publish.removed.contains(&session.user().0)
                };
                again.sessions.extend(sessions.extract_if(.., is_out));
                again.changed_at = again.changed_at.max(publish.offset);
            } else if publish.msg_id >= from {
                (from, given) = (publish.msg_id.saturating_add(1), given.max(publish.offset));
                let record = Record::read(parts, conversation, publish, true);
                deliver_to(parts, &sessions, &record, join);
            }
        }
        if page.complete {
            given = given.max(reached);
            let beginning = Beginning { added_at, join, given };
            let show = || show_from(parts, &sessions, group, beginning);
            // If something was taken meanwhile, they have not got it: once more.
            if delivered.at(conversation, given, show) {
                break;
            }
        } else if from == before {
            drop(one_of_few);
            pause(parts, conversation).await;
        }
    }
    if !again.sessions.is_empty() {
        Box::pin(begin_unknown(shared, again)).await;
    }
}

fn show_from(parts: &Parts, sessions: &[Arc<Session>], group: GroupId, beginning: Beginning) {
    for session in sessions {
        parts.registry.set_join(session, group, beginning);
    }
}

/// As [`begin`], where the change did not say from where on: each user's list of groups does.
async fn begin_unknown(shared: &Arc<Shared>, joiners: Joiners) {
    let parts = &shared.parts;
    let Joiners { sessions, group, added_at, changed_at } = joiners;
    let Some(conversation) = ConversationId::group(group) else { return };
    let partition = parts.partition_of(conversation);
    for session in sessions {
        let groups = loop {
            if !is_beginning(parts, &session, group, added_at) {
                break Vec::new();
            }
            match parts.storage.memberships_in(session.user(), partition).await {
                Some(groups) => break groups,
                None => pause(parts, conversation).await,
            }
        };
        // If it is not in the list the user was removed again; the change that says so is on its way.
        if let Some(membership) = groups.iter().find(|one| one.group == group.0) {
            let joiners = Joiners { sessions: vec![session], group, added_at, changed_at };
            begin(shared, joiners, membership.join_msg_id).await;
        }
    }
}

/// Whether a session is still to be given its first messages because of this addition. A session that
/// was removed and added again is given them because of the later one.
fn is_beginning(parts: &Parts, session: &Session, group: GroupId, added_at: u64) -> bool {
    session.outbox.ending() == Ending::Open && parts.registry.is_beginning(session, group, added_at)
}
