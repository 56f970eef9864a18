//! A user's own lists: unread counts, recent sessions, read marks, removed sessions.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use proto::Command;
use proto::client::{
    MessageType, ReadAck, RecentSession, RecentSessionsReply, RecentSessionsRequest,
    RemoveSessionReply, RemoveSessionRequest, SessionStatus, UnreadCountReply, UnreadSession,
};
use proto::ids::{ConversationId, MsgId};
use proto::limits::LIMIT_TO_CLIENT;
use proto::text::VOICE_PLACEHOLDER;

use crate::admission::Change;
use crate::partition::Outcome;
use crate::publish::seconds;
use crate::queries::{Asker, NoReply, Reply, conversation, history, session_type};
use crate::requests::answered;
use crate::state::State;
use crate::store::{MessageRow, StoreError, UserConversation};

/// Sessions in one list at most (TeamTalk protocol, sessions).
const SESSIONS_MAX: usize = 100;

/// What an entry takes besides its message.
const ENTRY_OVERHEAD: usize = 64;

/// 0x0307: every session with unread messages. Of more than fit a frame, the newest.
pub(crate) async fn unread(asker: &Asker) -> Reply {
    let state = asker.partition.state();
    let mut unread = state.conversations_of(asker.user).await?;
    unread.retain(|seen| seen.unread() > 0);
    unread.sort_unstable_by_key(|seen| std::cmp::Reverse(seen.row.last_message_ms));
    let total_count = unread.iter().map(UserConversation::unread).sum();
    let newest = newest_messages(state, &unread).await?;
    let mut room = LIMIT_TO_CLIENT - 2 * ENTRY_OVERHEAD;
    let sessions = unread
        .iter()
        .filter_map(|seen| {
            let message = newest.get(&seen.row.id)?;
            let data = preview(message);
            room = room.checked_sub(data.len() + ENTRY_OVERHEAD)?;
            Some(UnreadSession {
                session_id: seen.row.id.session_of(asker.user)?,
                session_type: session_type(seen.row.id) as i32,
                unread_count: seen.unread(),
                latest_msg_id: seen.row.head.0,
                latest_msg_data: data,
                latest_msg_type: i32::try_from(message.kind).unwrap_or_default(),
                latest_msg_from: message.sender.0,
            })
        })
        .collect();
    let user_id = asker.user.0;
    let reply = UnreadCountReply { user_id, total_count, sessions, attach_data: None };
    Ok(answered(Command::UnreadCountReply, &reply))
}

/// 0x0201: sessions changed since, newest first.
pub(crate) async fn recent(asker: &Asker, body: Bytes) -> Reply {
    let request = RecentSessionsRequest::decode(body)?;
    let state = asker.partition.state();
    let mut recent = state.conversations_of(asker.user).await?;
    recent.retain(|seen| {
        seen.listed() && seconds(seen.row.last_message_ms) > request.latest_update_time
    });
    recent.sort_unstable_by_key(|seen| std::cmp::Reverse(seen.row.last_message_ms));
    recent.truncate(SESSIONS_MAX);
    let newest = newest_messages(state, &recent).await?;
    let mut room = LIMIT_TO_CLIENT - 2 * ENTRY_OVERHEAD;
    let sessions = recent
        .iter()
        .filter_map(|seen| {
            let message = newest.get(&seen.row.id)?;
            room = room.checked_sub(message.body.len() + ENTRY_OVERHEAD)?;
            Some(RecentSession {
                session_id: seen.row.id.session_of(asker.user)?,
                session_type: session_type(seen.row.id) as i32,
                status: SessionStatus::Ok as i32,
                updated_time: seconds(seen.row.last_message_ms),
                latest_msg_id: seen.row.head.0,
                latest_msg_data: preview(message),
                latest_msg_type: i32::try_from(message.kind).unwrap_or_default(),
                latest_msg_from: message.sender.0,
            })
        })
        .collect();
    let reply = RecentSessionsReply { user_id: asker.user.0, sessions, attach_data: None };
    Ok(answered(Command::RecentSessionsReply, &reply))
}

/// 0x0303: has no reply; `changed` says whether the user's other devices are to be told.
pub(crate) async fn read_ack(asker: &Asker, body: Bytes) -> Reply {
    let request = ReadAck::decode(body)?;
    let id = conversation(asker.user, request.session_type, request.session_id);
    let conversation = id.ok_or(NoReply::Ignored)?;
    let change = Change::Read { conversation, user: asker.user, upto: MsgId(request.msg_id) };
    match asker.partition.change(change).await {
        Outcome::Marked { changed } => Ok(proto::cluster::wire::Answer {
            changed: Some(changed),
            ..crate::requests::ignored()
        }),
        Outcome::Retry => Err(NoReply::Unavailable),
        _ => Err(NoReply::Ignored),
    }
}

/// 0x0206: the session is gone from the list and read, until the next message.
pub(crate) async fn remove_session(asker: &Asker, body: Bytes) -> Reply {
    let request = RemoveSessionRequest::decode(body)?;
    let id = conversation(asker.user, request.session_type, request.session_id);
    let outcome = match id {
        Some(conversation) => {
            let change = Change::RemoveSession { conversation, user: asker.user };
            asker.partition.change(change).await
        }
        None => Outcome::Marked { changed: false },
    };
    let changed = match outcome {
        Outcome::Marked { changed } => changed,
        Outcome::Retry => return Err(NoReply::Unavailable),
        _ => false,
    };
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

async fn newest_messages(
    state: &State,
    of: &[UserConversation],
) -> Result<HashMap<ConversationId, MessageRow>, StoreError> {
    let mut newest = HashMap::with_capacity(of.len());
    let mut stored = Vec::new();
    {
        let inner = state.lock();
        for seen in of {
            let conversation = inner.fold.conversations.get(&seen.row.id);
            match conversation.and_then(|conversation| conversation.recent.back()) {
                Some(message) => {
                    newest.insert(seen.row.id, message.clone());
                }
                None => stored.push((seen.row.id, seen.row.head)),
            }
        }
    }
    if !stored.is_empty() {
        let found = state.store().messages_at(stored.clone()).await?;
        newest.extend(found.into_iter().map(|message| (message.conversation, message)));
    }
    // A conversation that was evicted since was stored before, so the store has it by now.
    for (id, head) in stored {
        if head > MsgId(0) && !newest.contains_key(&id) {
            let mut message = history::at(state, id, &[head]).await?;
            let message = message
                .pop()
                .ok_or_else(|| StoreError::Unavailable(format!("{id} has no message {head:?}")))?;
            newest.insert(id, message);
        }
    }
    Ok(newest)
}

/// What a list shows of a message: voice as the fixed text that stands for it, encrypted.
fn preview(message: &MessageRow) -> Bytes {
    let voice = [MessageType::SingleVoice as i32, MessageType::GroupVoice as i32];
    if voice.contains(&i32::try_from(message.kind).unwrap_or_default()) {
        Bytes::from_static(VOICE_PLACEHOLDER)
    } else {
        message.body.clone()
    }
}
