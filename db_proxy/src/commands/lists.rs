//! A user's own lists: unread counts, recent sessions, read marks, removed sessions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use fold::admission::Change;
use futures_util::future::try_join_all;
use partition::Outcome;
use partition::messages;
use partition::publisher::seconds;
use prost::Message as _;
use proto::Command;
use proto::client::{
    ReadAck, RecentSession, RecentSessionsReply, RecentSessionsRequest, RemoveSessionReply,
    RemoveSessionRequest, SessionStatus, SessionType, UnreadCountReply, UnreadSession,
};
use proto::cluster::wire::Answer;
use proto::ids::{ConversationId, MsgId};
use proto::lists::{ENTRIES_MAX, Placeholders, Room, SESSIONS_MAX, is_left, rest_after};
use store::{MessageRow, StoreError, UserConversation};

use crate::commands::asker::Asker;
use crate::commands::reply::{NoReply, Reply, answered, ignored};
use crate::partitions::Served;

/// Newest messages read at once: each may be as large as a frame.
const PIECE: usize = 16;

/// 0x0307: every session with unread messages, the newest first, in as many parts as it takes. Each
/// part tells how many messages there are in all.
pub(crate) async fn unread(asker: &Asker) -> Reply {
    let mut unread = conversations_of(asker).await?;
    unread.retain(|(_, seen)| seen.unread() > 0);
    newest_first(&mut unread);
    let count = |sum: u32, (_, seen): &Mine| sum.saturating_add(seen.unread());
    let total_count = unread.iter().fold(0, count);
    if let Some(told) = &asker.rest {
        unread.retain(|(_, seen)| is_left(told, place(seen)));
    }
    let is_cut = unread.len() > ENTRIES_MAX;
    unread.truncate(ENTRIES_MAX);
    let ends = unread.first().zip(unread.last()).filter(|_ends| is_cut);
    let rest = ends
        .map(|((_, first), (_, last))| rest_after(place(first), place(last), asker.rest.as_ref()));
    let newest = newest_messages(&unread, &asker.placeholders).await?;
    let sessions = unread
        .iter()
        .zip(newest)
        .filter_map(|((_, seen), newest)| {
            Some(UnreadSession {
                session_id: seen.row.id.session_of(asker.user)?,
                session_type: session_type(seen.row.id) as i32,
                unread_count: seen.unread(),
                latest_msg_id: seen.row.head.0,
                latest_msg_data: newest.data,
                latest_msg_type: newest.kind,
                latest_msg_from: newest.sender,
            })
        })
        .collect();
    let user_id = asker.user.0;
    let reply = UnreadCountReply { user_id, total_count, sessions, attach_data: None };
    let newest_ms = stamps(&unread);
    Ok(Answer { newest_ms, rest, ..answered(Command::UnreadCountReply, &reply) })
}

/// 0x0201: sessions changed since, newest first. Whatever changed in the very second that the client
/// names comes again: it may have changed once more after it was told.
pub(crate) async fn recent(asker: &Asker, body: Bytes) -> Reply {
    let request = RecentSessionsRequest::decode(body)?;
    let mut recent = conversations_of(asker).await?;
    recent.retain(|(_, seen)| {
        seen.listed() && seconds(seen.row.last_message_ms) >= request.latest_update_time
    });
    newest_first(&mut recent);
    recent.truncate(SESSIONS_MAX);
    let newest = newest_messages(&recent, &asker.placeholders).await?;
    let sessions = recent
        .iter()
        .zip(newest)
        .filter_map(|((_, seen), newest)| {
            Some(RecentSession {
                session_id: seen.row.id.session_of(asker.user)?,
                session_type: session_type(seen.row.id) as i32,
                status: SessionStatus::Ok as i32,
                updated_time: seconds(seen.row.last_message_ms),
                latest_msg_id: seen.row.head.0,
                latest_msg_data: newest.data,
                latest_msg_type: newest.kind,
                latest_msg_from: newest.sender,
            })
        })
        .collect();
    let reply = RecentSessionsReply { user_id: asker.user.0, sessions, attach_data: None };
    Ok(Answer { newest_ms: stamps(&recent), ..answered(Command::RecentSessionsReply, &reply) })
}

/// A conversation of the asker, and the partition it belongs to.
type Mine = (Arc<Served>, UserConversation);

/// Every conversation of the asker, of the partitions that are asked about. They are asked together,
/// without a wait between them: that way those in one database are one query there.
pub(super) async fn conversations_of(asker: &Asker) -> Result<Vec<Mine>, NoReply> {
    let asked = asker.all_asked()?;
    let of_one = asked.into_iter().map(|served| async move {
        let found = served.partition.state().conversations_of(asker.user).await?;
        Ok::<_, StoreError>(found.into_iter().map(move |seen| (Arc::clone(&served), seen)))
    });
    Ok(try_join_all(of_one).await?.into_iter().flatten().collect())
}

fn newest_first(of: &mut [Mine]) {
    of.sort_unstable_by_key(|(_, seen)| std::cmp::Reverse(place(seen)));
}

/// Its place in the order of lists.
fn place(seen: &UserConversation) -> (u64, u64) {
    (seen.row.last_message_ms, seen.row.id.number())
}

fn stamps(of: &[Mine]) -> Vec<u64> {
    of.iter().map(|(_, seen)| seen.row.last_message_ms).collect()
}

/// The session type of a conversation.
fn session_type(id: ConversationId) -> SessionType {
    if id.as_group().is_some() { SessionType::Group } else { SessionType::Single }
}

/// 0x0303: has no reply; `changed` says whether the user's other devices are to be told.
pub(crate) async fn read_ack(asker: &Asker, body: Bytes) -> Reply {
    let request = ReadAck::decode(body)?;
    let id = ConversationId::of_session(asker.user, request.session_type, request.session_id);
    let conversation = id.ok_or(NoReply::Ignored)?;
    let change = Change::Read { conversation, user: asker.user, upto: MsgId(request.msg_id) };
    match asker.of(conversation)?.partition.change(change).await {
        Outcome::Marked { changed } => Ok(Answer { changed: Some(changed), ..ignored() }),
        outcome => Err(NoReply::of(&outcome).unwrap_or(NoReply::Ignored)),
    }
}

/// 0x0206: the session is gone from the list and read, until the next message.
pub(crate) async fn remove_session(asker: &Asker, body: Bytes) -> Reply {
    let request = RemoveSessionRequest::decode(body)?;
    let id = ConversationId::of_session(asker.user, request.session_type, request.session_id);
    let outcome = match id {
        Some(conversation) => {
            let change = Change::RemoveSession { conversation, user: asker.user };
            asker.of(conversation)?.partition.change(change).await
        }
        None => Outcome::Marked { changed: false },
    };
    if let Some(none) = NoReply::of(&outcome) {
        return Err(none);
    }
    let changed = outcome == Outcome::Marked { changed: true };
    let done = matches!(outcome, Outcome::Marked { .. });
    let reply = RemoveSessionReply {
        user_id: asker.user.0,
        result_code: u32::from(!done),
        session_type: request.session_type,
        session_id: request.session_id,
        attach_data: None,
    };
    let mut answer = answered(Command::RemoveSessionReply, &reply);
    answer.changed = Some(changed);
    Ok(answer)
}

/// A conversation's newest message, as its entry in a list shows it.
struct Newest {
    data: Bytes,
    kind: i32,
    sender: u32,
}

/// The newest messages of these conversations, in the same order, to fit one frame together.
async fn newest_messages(
    of: &[Mine],
    placeholders: &Placeholders,
) -> Result<Vec<Newest>, StoreError> {
    let mut room = Room::of_sessions(of.len());
    let mut newest = Vec::with_capacity(of.len());
    for piece in of.chunks(PIECE) {
        let mut heads = heads(piece).await?;
        for (_, seen) in piece {
            let (id, head) = (seen.row.id, seen.row.head);
            let message = heads
                .remove(&id)
                .ok_or_else(|| StoreError::Unavailable(format!("{id} has no message {head:?}")))?;
            let kind = i32::try_from(message.kind).unwrap_or_default();
            let mut data = message.body;
            room.fit(placeholders, kind, &mut data);
            newest.push(Newest { data, kind, sender: message.sender.0 });
        }
    }
    Ok(newest)
}

/// The messages at the heads of these conversations.
async fn heads(of: &[Mine]) -> Result<HashMap<ConversationId, MessageRow>, StoreError> {
    let mut found = HashMap::with_capacity(of.len());
    let mut places: BTreeMap<u32, (&Served, Vec<_>)> = BTreeMap::new();
    for (served, UserConversation { row, .. }) in of {
        let inner = served.partition.state().lock();
        let conversation = inner.fold.conversations.get(&row.id);
        let recent = conversation.map(|conversation| conversation.recent.iter().rev());
        let newest =
            recent.and_then(|mut recent| recent.find(|message| message.msg_id == row.head));
        if let Some(message) = newest {
            found.insert(row.id, message.clone());
            continue;
        }
        // What is not in memory, or no longer, is stored.
        let of_one = places.entry(served.owned.partition);
        of_one.or_insert_with(|| (served, Vec::new())).1.push((row.id, row.head));
    }
    for (served, places) in places.into_values() {
        let messages = messages::stored_at(served.partition.state(), places).await?;
        found.extend(messages.into_iter().map(|message| (message.conversation, message)));
    }
    Ok(found)
}
