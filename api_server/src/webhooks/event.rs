//! Events: what other systems are told of a record of the log.
//!
//! # What bounds it
//!
//! A body has at most [`BODY_LEN_MAX`] bytes. A message that is longer comes without what was said, and a list of
//! members ends after [`MEMBERS_MAX`]; both say so, and where the rest is to be had.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use db_client::Record;
use jiff::Timestamp;
use proto::content::Content;
use proto::ids::{ConversationId, GroupId, MsgId, Offset, Parties, UserId};
use proto::log::record::Change;
use proto::log::{GroupCreated, MembersChanged, Message};
use proto::text::TextCipher;
use proto::webhook::EventType;
use serde::Serialize;

/// The longest body, in bytes.
pub(super) const BODY_LEN_MAX: usize = 20_000;

/// Users in one list of an event at most: two such lists fit a body.
pub(super) const MEMBERS_MAX: usize = 800;

/// What is sent when records of the log were lost to the webhook. Every webhook gets it.
pub(super) const GAP: &str = "gap";

/// What is sent.
#[derive(Debug)]
pub(super) struct Event {
    /// The same on every try, in every process.
    pub(super) id: String,
    /// The type, as it is called in the body.
    pub(super) kind: &'static str,
    pub(super) lane: Lane,
    /// Unix milliseconds.
    pub(super) happened_ms: u64,
    pub(super) body: Bytes,
}

/// Events of one lane are sent one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Lane {
    /// The number of a conversation.
    Conversation(u64),
    /// What concerns a partition as a whole.
    Partition(u32),
}

/// The body of an event.
#[derive(Debug, Serialize)]
struct Body<'a, D> {
    r#type: &'a str,
    /// When it happened, in UTC (RFC 3339).
    timestamp: String,
    data: &'a D,
}

/// `message.created`: somebody said something.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct MessageData {
    /// The number of the user whose message it is.
    from: u32,
    /// To whom: one of the two.
    to: Recipient,
    /// Its number in its conversation.
    msg_id: u32,
    /// When it was stored, in Unix seconds.
    created: u32,
    /// `text`, `voice`, or `unreadable` where no client could read the text.
    r#type: MessageKind,
    /// What was said, of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// In Base64. Of a voice message: four bytes of length in seconds (big-endian) and the sound. Of a text that no
    /// client could read: the bytes as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    /// True if something is left out, because it is too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
    /// The call of the API that answers what is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetch: Option<String>,
}

/// To whom.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
enum Recipient {
    /// The number of a user.
    User(u32),
    /// The number of a group.
    Group(u32),
}

/// What kind of message it is.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
enum MessageKind {
    Text,
    Voice,
    Unreadable,
}

/// `group.created`: a group was made.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct GroupData {
    /// The number of the group.
    group: u32,
    /// Its name.
    name: String,
    /// The number of the user who made it.
    creator: u32,
    /// Numbers of users, the first 800 of them.
    members: Vec<u32>,
    /// How many there are.
    member_count: u32,
    /// True if something is left out, because it is too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
    /// The call of the API that answers what is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetch: Option<String>,
}

/// `members.changed`: users joined or left a group.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct MembersData {
    /// The number of the group.
    group: u32,
    /// Whose change it is; absent if it is no user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<u32>,
    /// Numbers of users, the first 800 of them.
    joined: Vec<u32>,
    /// Numbers of users, the first 800 of them.
    left: Vec<u32>,
    /// How many joined.
    joined_count: u32,
    /// How many left.
    left_count: u32,
    /// The group is deleted: everybody has left, named here or not.
    deleted: bool,
    /// True if something is left out, because it is too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
    /// The call of the API that answers what is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetch: Option<String>,
}

/// `gap`: records of the log were lost to the webhook, because it was behind for too long.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct GapData {
    /// Of which part of all conversations.
    partition: u32,
    /// The records up to this one were lost, as far as they were not sent. A text, since JavaScript cannot hold the
    /// number.
    upto: String,
}

impl Event {
    /// The event that a record is, if it is one that is wanted: `events` has a bit for each type.
    pub(super) fn of(record: &Record, events: u32, cipher: &TextCipher) -> Option<Self> {
        let wants = |event: EventType| events & event.bit() != 0;
        match &record.change {
            Change::Message(_) if wants(EventType::MessageCreated) => {
                let (conversation, msg_id, message) = record.message()?;
                let said = content(message, cipher);
                Self::message((conversation, msg_id), (message.sender, said), record.timestamp_ms)
            }
            Change::GroupCreated(group) if wants(EventType::GroupCreated) => {
                Self::group(group, record.timestamp_ms)
            }
            Change::MembersChanged(change) if wants(EventType::MembersChanged) => {
                Self::members(change, record)
            }
            _ => None,
        }
    }

    fn message(
        (conversation, msg_id): (ConversationId, MsgId),
        (from, (kind, text, data)): (u32, Said),
        happened_ms: u64,
    ) -> Option<Self> {
        let (to, name) = match conversation.parties() {
            Parties::Group(GroupId(group)) => (Recipient::Group(group), format!("g{group}")),
            Parties::Single(low, high) => {
                let other = conversation.peer_of(UserId(from))?;
                (Recipient::User(other.0), format!("{}-{}", low.0, high.0))
            }
        };
        let mut said = MessageData {
            from,
            to,
            msg_id: msg_id.0,
            created: u32::try_from(happened_ms / 1_000).unwrap_or(u32::MAX),
            r#type: kind,
            text,
            data,
            truncated: None,
            fetch: None,
        };
        let event_type = EventType::MessageCreated.name();
        let mut body = body(event_type, happened_ms, &said);
        if body.len() > BODY_LEN_MAX {
            (said.text, said.data) = (None, None);
            let place = match to {
                Recipient::User(user) => format!("with_user={user}"),
                Recipient::Group(group) => format!("in_group={group}"),
            };
            let before = msg_id.next().0;
            said.truncated = Some(true);
            said.fetch = Some(format!("/v1/users/{from}/messages?{place}&before={before}&limit=1"));
            body = self::body(event_type, happened_ms, &said);
        }
        Some(Self {
            id: format!("msg_{name}_{}", msg_id.0),
            kind: event_type,
            lane: Lane::Conversation(conversation.number()),
            happened_ms,
            body,
        })
    }

    fn group(created: &GroupCreated, happened_ms: u64) -> Option<Self> {
        let conversation = ConversationId::group(GroupId(created.group))?;
        let GroupCreated { group, creator, name, members, .. } = created;
        let fetch = rest_of(*group, &[members]);
        let data = GroupData {
            group: *group,
            name: name.clone(),
            creator: *creator,
            members: first(members),
            member_count: count(members),
            truncated: fetch.is_some().then_some(true),
            fetch,
        };
        let kind = EventType::GroupCreated.name();
        Some(Self {
            id: format!("grp_g{group}"),
            kind,
            lane: Lane::Conversation(conversation.number()),
            happened_ms,
            body: body(kind, happened_ms, &data),
        })
    }

    fn members(changed: &MembersChanged, record: &Record) -> Option<Self> {
        let MembersChanged { group, actor, added, removed, deleted } = changed;
        let conversation = ConversationId::group(GroupId(*group))?;
        let (deleted, happened_ms) = (deleted.unwrap_or(false), record.timestamp_ms);
        if added.is_empty() && removed.is_empty() && !deleted {
            return None;
        }
        let fetch = rest_of(*group, &[added, removed]);
        let data = MembersData {
            group: *group,
            by: Some(*actor).filter(|actor| *actor != 0),
            joined: first(added),
            left: first(removed),
            joined_count: count(added),
            left_count: count(removed),
            deleted,
            truncated: fetch.is_some().then_some(true),
            fetch,
        };
        let kind = EventType::MembersChanged.name();
        Some(Self {
            // The time tells it from a record at the same place of another log.
            id: format!("mem_g{group}_{}_{happened_ms}", record.offset.0),
            kind,
            lane: Lane::Conversation(conversation.number()),
            happened_ms,
            body: body(kind, happened_ms, &data),
        })
    }

    /// Records of a partition are lost, up to this one.
    pub(super) fn gap(partition: u32, upto: Offset, noticed_ms: u64) -> Self {
        Self {
            id: format!("gap_p{partition}_{}", upto.0),
            kind: GAP,
            lane: Lane::Partition(partition),
            happened_ms: noticed_ms,
            body: body(GAP, noticed_ms, &GapData { partition, upto: upto.0.to_string() }),
        }
    }
}

/// Of which kind a message is, its text, and its data.
type Said = (MessageKind, Option<String>, Option<String>);

fn content(message: &Message, cipher: &TextCipher) -> Said {
    let data = || Some(BASE64_STANDARD.encode(&message.body));
    match Content::of(message.r#type, &message.body, cipher) {
        Content::Text(text) => (MessageKind::Text, Some(text), None),
        Content::Voice => (MessageKind::Voice, None, data()),
        Content::Unreadable => (MessageKind::Unreadable, None, data()),
    }
}

fn first(users: &[u32]) -> Vec<u32> {
    users.get(..MEMBERS_MAX).unwrap_or(users).to_vec()
}

fn count(users: &[u32]) -> u32 {
    u32::try_from(users.len()).unwrap_or(u32::MAX)
}

/// Which call answers what is left out of these lists, if anything is.
fn rest_of(group: u32, lists: &[&Vec<u32>]) -> Option<String> {
    let is_cut = lists.iter().any(|list| list.len() > MEMBERS_MAX);
    is_cut.then(|| format!("/v1/groups/{group}/members"))
}

fn body(r#type: &str, happened_ms: u64, data: &impl Serialize) -> Bytes {
    let happened =
        i64::try_from(happened_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let timestamp = format!("{:.3}", happened.unwrap_or(Timestamp::MAX));
    let body = Body { r#type, timestamp, data };
    // Names, numbers and lists: JSON can say all of it.
    serde_json::to_vec(&body).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ALL: u32 = u32::MAX;
    const AT_MS: u64 = 1_796_088_571_045;

    fn record(change: Change) -> Record {
        let msg_id = matches!(change, Change::Message(_)).then_some(MsgId(17));
        Record { offset: Offset(99), timestamp_ms: AT_MS, msg_id, change }
    }

    fn message(conversation: Option<ConversationId>, kind: u32, body: &[u8]) -> Record {
        record(Change::Message(Message {
            conversation: conversation.unwrap().number(),
            sender: 2,
            r#type: kind,
            body: Bytes::copy_from_slice(body),
            ..Message::default()
        }))
    }

    fn said(text: &str) -> Record {
        let conversation = ConversationId::single(UserId(2), UserId(1));
        message(conversation, 1, &TextCipher::default().encrypt(text))
    }

    fn of(record: &Record, events: u32) -> Option<Event> {
        Event::of(record, events, &TextCipher::default())
    }

    fn told(record: &Record) -> (String, Value) {
        let event = of(record, ALL).unwrap();
        assert!(event.body.len() <= BODY_LEN_MAX, "{}", event.body.len());
        let body: Value = serde_json::from_slice(&event.body).unwrap();
        assert_eq!(body["type"], event.kind);
        assert_eq!(body["timestamp"], "2026-12-01T01:29:31.045Z");
        (event.id, body["data"].clone())
    }

    #[test]
    fn a_message_says_who_to_whom_and_what() {
        let expected = json!({ "from": 2, "to": { "user": 1 }, "msg_id": 17,
            "created": AT_MS / 1_000, "type": "text", "text": "héllo" });
        assert_eq!(told(&said("héllo")), ("msg_1-2_17".to_owned(), expected));
        let group = ConversationId::group(GroupId(7));
        let (id, voice) = told(&message(group, 0x12, b"\0\0\0\x01sound"));
        assert_eq!(id, "msg_g7_17");
        assert_eq!((&voice["to"], &voice["type"]), (&json!({ "group": 7 }), &json!("voice")));
        assert_eq!(voice["data"], BASE64_STANDARD.encode(b"\0\0\0\x01sound"));
        for (kind, body) in [(0x11, &b"not encrypted"[..]), (77, b"of another release")] {
            let (_id, data) = told(&message(group, kind, body));
            assert_eq!(data["type"], "unreadable");
            assert_eq!(data["data"], BASE64_STANDARD.encode(body));
        }
    }

    #[test]
    fn a_message_that_is_too_long_comes_without_its_text_and_says_where_it_is() {
        let (_id, data) = told(&said(&"x".repeat(BODY_LEN_MAX - 300)));
        assert!(data["text"].is_string() && data["truncated"].is_null());
        let (id, data) = told(&said(&"x".repeat(BODY_LEN_MAX)));
        assert_eq!(id, "msg_1-2_17");
        assert_eq!((&data["truncated"], &data["text"]), (&json!(true), &Value::Null));
        assert_eq!(data["fetch"], "/v1/users/2/messages?with_user=1&before=18&limit=1");
        let group = ConversationId::group(GroupId(7));
        let (_id, data) = told(&message(group, 0x12, &vec![7; BODY_LEN_MAX]));
        assert_eq!(data["fetch"], "/v1/users/2/messages?in_group=7&before=18&limit=1");
        assert_eq!((&data["type"], &data["data"]), (&json!("voice"), &Value::Null));
        // What JSON writes with more bytes than it has.
        let (_id, data) = told(&said(&"\u{1}".repeat(BODY_LEN_MAX / 4)));
        assert_eq!(data["truncated"], true);
    }

    #[test]
    fn a_new_group_says_who_is_in_it() {
        let group = |members: Vec<u32>| {
            let name = "\u{1}".repeat(256);
            let group = GroupCreated { group: 7, creator: 2, name, members, ..Default::default() };
            record(Change::GroupCreated(group))
        };
        let (id, data) = told(&group(vec![2, 3]));
        assert_eq!(id, "grp_g7");
        assert_eq!((&data["creator"], &data["members"]), (&json!(2), &json!([2, 3])));
        assert_eq!((&data["member_count"], &data["truncated"]), (&json!(2), &Value::Null));
        let (_id, data) = told(&group((u32::MAX - 2_000..u32::MAX).collect()));
        assert_eq!(data["members"].as_array().unwrap().len(), MEMBERS_MAX);
        assert_eq!((&data["member_count"], &data["truncated"]), (&json!(2_000), &json!(true)));
        assert_eq!(data["fetch"], "/v1/groups/7/members");
    }

    #[test]
    fn a_change_of_members_says_who_joined_and_who_left() {
        let change = |added: &[u32], removed: &[u32], deleted| {
            let (added, removed) = (added.to_vec(), removed.to_vec());
            let change = MembersChanged { group: 7, actor: 0, added, removed, deleted };
            record(Change::MembersChanged(change))
        };
        let (id, data) = told(&change(&[4], &[5, 6], None));
        assert_eq!(id, format!("mem_g7_99_{AT_MS}"));
        let expected = json!({ "group": 7, "joined": [4], "left": [5, 6], "joined_count": 1,
            "left_count": 2, "deleted": false });
        assert_eq!(data, expected);
        assert_eq!(told(&change(&[], &[], Some(true))).1["deleted"], true);
        assert!(of(&change(&[], &[], None), ALL).is_none(), "nobody joined or left");
        let many: Vec<u32> = (u32::MAX - 2_000..u32::MAX).collect();
        let (_id, data) = told(&change(&many, &many, None));
        assert_eq!(data["left"].as_array().unwrap().len(), MEMBERS_MAX);
        assert_eq!((&data["left_count"], &data["truncated"]), (&json!(2_000), &json!(true)));
    }

    #[test]
    fn what_is_not_wanted_or_nobodys_business_is_no_event() {
        let message = said("héllo");
        assert!(of(&message, EventType::MessageCreated.bit()).is_some());
        assert!(of(&message, ALL ^ EventType::MessageCreated.bit()).is_none());
        for change in [
            Change::Read(proto::log::Read::default()),
            Change::Shield(proto::log::Shield::default()),
            Change::Epoch(proto::log::Epoch::default()),
        ] {
            assert!(of(&record(change), ALL).is_none());
        }
    }

    #[test]
    fn a_gap_says_up_to_where_records_were_lost() {
        let event = Event::gap(3, Offset(u64::MAX), AT_MS);
        assert_eq!((event.id, event.lane), (format!("gap_p3_{}", u64::MAX), Lane::Partition(3)));
        let body: Value = serde_json::from_slice(&event.body).unwrap();
        let data = json!({ "partition": 3, "upto": u64::MAX.to_string() });
        assert_eq!((&body["type"], &body["data"]), (&json!(GAP), &data));
    }
}
