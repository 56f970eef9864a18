//! Messages: sent as a user, read as a user sees them, and how many are unread.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use db_client::NewMessage;
use futures_util::{StreamExt, stream};
use proto::api_key::Scope;
use proto::client::{
    MessageInfo, MessageListReply, MessageListRequest, MessageType, SessionType, UnreadCountReply,
    UnreadCountRequest,
};
use proto::ids::{ClientMsgId, ConversationId, GroupId, UserId};
use proto::text::TextCipher;
use proto::{StorageCommand, content};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::asking::{CALL_LIMIT, ask, not_sent};
use crate::input::{Allowed, IdempotencyKey, Json, Number, Query};
use crate::paging::{self, Page};
use crate::problem::Problem;
use crate::state::Api;

type Read = Allowed<{ Scope::Read.bit() }>;
type Send = Allowed<{ Scope::Send.bit() }>;

/// The longest text, in bytes of UTF-8: encrypted it fits a message.
const TEXT_LEN_MAX: usize = 32 << 10;

/// Users of one list at most.
const USERS_MAX: usize = 100;

/// Messages of one list that are on their way at once.
const AT_ONCE: usize = 16;

/// Messages on one page of history at most: what storage gives at once.
const PAGE_MAX: u32 = 100;

/// With whom or in which group: one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
enum Place {
    /// With the user of this number.
    User(u32),
    /// In the group of this number.
    Group(u32),
}

impl Place {
    /// The conversation that this is for a user.
    fn of(self, user: UserId) -> Result<ConversationId, Problem> {
        let id = match self {
            Self::User(other) => ConversationId::single(user, UserId(other)),
            Self::Group(group) => ConversationId::group(GroupId(group)),
        };
        id.ok_or_else(|| Problem::invalid("a conversation is with another user, or of a group"))
    }

    fn session(self) -> (SessionType, u32) {
        match self {
            Self::User(user) => (SessionType::Single, user),
            Self::Group(group) => (SessionType::Group, group),
        }
    }

    fn of_session(kind: i32, number: u32) -> Option<Self> {
        Some(match SessionType::try_from(kind).ok()? {
            SessionType::Single => Self::User(number),
            SessionType::Group => Self::Group(number),
        })
    }
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
enum To {
    /// To the user of this number.
    User(u32),
    /// To the group of this number.
    Group(u32),
    /// To each of these users (1 to 100), as a message of its own.
    Users(Vec<u32>),
}

/// A message to be sent.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = NewMessage))]
#[serde(deny_unknown_fields)]
pub(super) struct Outgoing {
    /// The number of the user whose message it is.
    #[cfg_attr(test, schema(example = 1))]
    from: u32,
    /// Where it goes.
    to: To,
    /// 1 to 32,768 bytes of UTF-8.
    #[cfg_attr(test, schema(min_length = 1, max_length = 32768, example = "hello"))]
    text: String,
}

/// A message that is stored.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = StoredMessage))]
pub(super) struct Stored {
    /// Its number in its conversation.
    msg_id: u32,
    /// Unix seconds, where the owner has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<u32>,
}

/// What became of the message to one user of a list.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct ToOne {
    /// The recipient.
    user: u32,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(untagged)]
enum Outcome {
    Stored(Stored),
    Failed {
        /// Why not.
        error: Failed,
    },
}

/// Why a message to one user of a list was not sent.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct Failed {
    /// The code that a message to this user alone would be answered.
    code: &'static str,
    /// A sentence for people.
    detail: String,
}

/// What became of a message.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(untagged)]
pub(super) enum Answered {
    One(Stored),
    Each {
        /// In the order of the list.
        items: Vec<ToOne>,
    },
}

/// `POST /v1/messages`: answered when the message is durable. With an `Idempotency-Key` the same request may
/// be sent again, also to another api_server: the message is stored once, and answered with its number. A list of
/// users is answered for each of them.
pub(super) async fn send(
    State(api): State<Arc<Api>>,
    Allowed(key): Send,
    IdempotencyKey(name): IdempotencyKey,
    Json(message): Json<Outgoing>,
) -> Result<(StatusCode, Answer<Answered>), Problem> {
    let Outgoing { from, to, text } = message;
    if text.is_empty() || text.len() > TEXT_LEN_MAX {
        return Err(Problem::invalid(format!("a text has 1 to {TEXT_LEN_MAX} bytes of UTF-8")));
    }
    let until = Instant::now() + CALL_LIMIT;
    let saying = Saying { api: &api, key: &key.name, sender: UserId(from), text, name, until };
    match to {
        To::User(user) => saying.one(Place::User(user)).await,
        To::Group(group) => saying.one(Place::Group(group)).await,
        To::Users(users) => saying.each(users).await,
    }
}

/// A message that is being sent.
struct Saying<'a> {
    api: &'a Api,
    /// The name of the program's key.
    key: &'a str,
    sender: UserId,
    text: String,
    /// What the program calls it.
    name: Option<String>,
    /// How long all of it may take, however long the list is.
    until: Instant,
}

impl Saying<'_> {
    async fn one(&self, place: Place) -> Result<(StatusCode, Answer<Answered>), Problem> {
        let id = self.name.as_ref().map(|name| named_id(self.key, self.sender, name, None));
        let stored = self.send(place, id).await?;
        Ok((StatusCode::CREATED, Answer(Answered::One(stored))))
    }

    /// Each user's message is one of its own; that one of them is refused stops none of the others.
    async fn each(&self, users: Vec<u32>) -> Result<(StatusCode, Answer<Answered>), Problem> {
        if !(1..=USERS_MAX).contains(&users.len()) {
            return Err(Problem::invalid(format!("a list has 1 to {USERS_MAX} users")));
        }
        let sends = users.into_iter().map(|user| async move {
            let named = |name| named_id(self.key, self.sender, name, Some(UserId(user)));
            let sent = self.send(Place::User(user), self.name.as_deref().map(named)).await;
            let outcome = match sent {
                Ok(stored) => Outcome::Stored(stored),
                Err(problem) => {
                    let (code, detail) = (problem.code(), problem.detail().to_owned());
                    Outcome::Failed { error: Failed { code, detail } }
                }
            };
            ToOne { user, outcome }
        });
        let items = stream::iter(sends).buffered(AT_ONCE).collect().await;
        Ok((StatusCode::OK, Answer(Answered::Each { items })))
    }

    async fn send(&self, place: Place, id: Option<ClientMsgId>) -> Result<Stored, Problem> {
        let kind = match place {
            Place::User(_) => MessageType::SingleText,
            Place::Group(_) => MessageType::GroupText,
        };
        let message = NewMessage {
            sender: self.sender,
            conversation: place.of(self.sender)?,
            client_msg_id: id.unwrap_or_else(|| ClientMsgId(uuid::Uuid::now_v7().into_bytes())),
            kind: kind as u32,
            body: self.api.cipher.encrypt(&self.text),
            // It may have come before, at any time and anywhere.
            resend: id.is_some(),
        };
        let sent = self.api.client.send(message, self.until).await.map_err(not_sent)?;
        Ok(Stored { msg_id: sent.msg_id.0, created: sent.create_time })
    }
}

/// The id of the message that a program has named: the same for the same key, sender and name, for ever.
/// A key that takes the place of another one has its name, and so goes on where that ended.
/// Of a list, each recipient's message has an id of its own.
fn named_id(key: &str, sender: UserId, name: &str, to: Option<UserId>) -> ClientMsgId {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(b"talkhub idempotency 1\0");
    context.update(key.as_bytes());
    context.update(b"\0");
    context.update(&sender.0.to_be_bytes());
    context.update(name.as_bytes());
    if let Some(to) = to {
        // Names are ASCII: none ends like this.
        context.update(&[0xff]);
        context.update(&to.0.to_be_bytes());
    }
    let digest = context.finish();
    let id = digest.as_ref().first_chunk::<16>().copied();
    ClientMsgId(id.unwrap_or_default())
}

/// Which messages are wanted. The conversation is given by one of the first two.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The conversation with this user.
    with_user: Option<u32>,
    /// The conversation of this group.
    in_group: Option<u32>,
    /// Messages older than this one.
    before: Option<u32>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
    /// Messages of the page; 100 if not said. More than 100 are 100.
    #[cfg_attr(test, param(minimum = 1, maximum = 1000))]
    limit: Option<u32>,
}

/// A message of a history.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = Message))]
pub(super) struct Said {
    /// Its number in its conversation.
    msg_id: u32,
    /// Who said it.
    from: u32,
    /// Unix seconds.
    created: u32,
    #[serde(flatten)]
    content: Content,
}

/// What was said.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "lowercase")]
enum Content {
    /// A text.
    Text {
        /// Decrypted.
        text: String,
    },
    /// A voice message.
    Voice {
        /// Four bytes of length in seconds (big-endian) and the sound, in Base64.
        data: String,
    },
    /// Text that no client could read.
    Unreadable {
        /// The bytes as they are, in Base64.
        data: String,
    },
}

impl Said {
    fn of(info: &MessageInfo, cipher: &TextCipher) -> Self {
        let data = || BASE64_STANDARD.encode(&info.msg_data);
        let content = match content::Content::of(info.msg_type() as u32, &info.msg_data, cipher) {
            content::Content::Text(text) => Content::Text { text },
            content::Content::Voice => Content::Voice { data: data() },
            content::Content::Unreadable => Content::Unreadable { data: data() },
        };
        let (msg_id, from, created) = (info.msg_id, info.from_user_id, info.create_time);
        Self { msg_id, from, created, content }
    }
}

/// `GET /v1/users/{user}/messages`: a page of what a user sees of a conversation, the newest first.
pub(super) async fn history(
    State(api): State<Arc<Api>>,
    Allowed(_key): Read,
    Number(user): Number,
    Query(wanted): Query<Wanted>,
) -> Result<Answer<Page<Said>>, Problem> {
    let place = match (wanted.with_user, wanted.in_group) {
        (Some(other), None) => Place::User(other),
        (None, Some(group)) => Place::Group(group),
        _ => return Err(Problem::invalid("give one of with_user and in_group")),
    };
    let user = UserId(user);
    let conversation = place.of(user)?;
    let list = format!("messages {} {}", user.0, conversation.number());
    let newest = match (wanted.before, wanted.cursor) {
        (None, None) => 0,
        (None, Some(cursor)) => paging::number(&list, &cursor)?,
        (Some(before), None) if before > 1 => before - 1,
        (Some(_first), None) => return Ok(Answer(Page { items: Vec::new(), next: None })),
        (Some(_), Some(_)) => return Err(Problem::invalid("give one of before and cursor")),
    };
    let limit = paging::limit(wanted.limit)?.min(PAGE_MAX);
    let (session_type, session_id) = place.session();
    let request = MessageListRequest {
        session_type: session_type.into(),
        session_id,
        msg_id_begin: newest,
        msg_count: limit,
        ..MessageListRequest::default()
    };
    let command = StorageCommand::MessageListRequest;
    let page: MessageListReply = ask(&api.client, user, command, &request).await?;
    let oldest = page.messages.last().map(|message| message.msg_id);
    let next = oldest.filter(|oldest| *oldest > 1);
    let next = next.map(|oldest| paging::cursor(&list, &(oldest - 1).to_string()));
    let items = page.messages.iter().map(|info| Said::of(info, &api.cipher)).collect();
    Ok(Answer(Page { items, next }))
}

/// A conversation with unread messages.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Unread {
    #[serde(flatten)]
    place: Place,
    /// How many of its messages the user has not read.
    #[serde(rename = "unread")]
    count: u32,
    /// The number of its newest message.
    newest_msg_id: u32,
}

/// How many messages a user has not read.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct AllUnread {
    /// Of all conversations.
    total: u32,
    /// By conversation.
    items: Vec<Unread>,
}

/// `GET /v1/users/{user}/unread`.
pub(super) async fn unread(
    State(api): State<Arc<Api>>,
    Allowed(_key): Read,
    Number(user): Number,
) -> Result<Answer<AllUnread>, Problem> {
    let (command, request) = (StorageCommand::UnreadCountRequest, UnreadCountRequest::default());
    let reply: UnreadCountReply = ask(&api.client, UserId(user), command, &request).await?;
    let items = reply.sessions.into_iter().filter_map(|session| {
        Some(Unread {
            place: Place::of_session(session.session_type, session.session_id)?,
            count: session.unread_count,
            newest_msg_id: session.latest_msg_id,
        })
    });
    Ok(Answer(AllUnread { total: reply.total_count, items: items.collect() }))
}

#[cfg(test)]
mod tests;
