//! Messages as a program sees them, on their way out and on their way in.

use bytes::{BufMut, Bytes, BytesMut};
use proto::client::{MessageData, MessageInfo, MessageType, RefuseReason, SessionType};
use proto::ids::{ClientMsgId, GroupId, MsgId, UserId};
use proto::text::{self, TextCipher, TextError};
use uuid::Uuid;

/// A conversation as this user knows it: by the other user, or by the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Conversation {
    /// The conversation with another user.
    User(UserId),
    /// The conversation in a group.
    Group(GroupId),
}

/// What the data of a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Encrypted text ([`proto::text`]).
    Text,
    /// Four bytes of length in seconds, then compressed audio.
    Voice,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Where it goes.
    pub conversation: Conversation,
    /// What the data is.
    pub kind: Kind,
    /// The content as it goes over the wire.
    pub data: Bytes,
    /// The id that makes a repeat of this message recognisable. Old clients have none.
    pub client_msg_id: Option<ClientMsgId>,
    /// Whether this has been sent before, with unknown result.
    pub resend: bool,
}

/// A message that the server has numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was said.
    pub conversation: Conversation,
    /// Its place there: 1, 2, 3 …
    pub msg_id: MsgId,
    /// Who said it; may be this user.
    pub from: UserId,
    /// When the server took it, in unix seconds; 0 if the server did not say.
    pub create_time: u32,
    /// What the data is.
    pub kind: Kind,
    /// The content as it came over the wire.
    pub data: Bytes,
    /// The sender's id for it, where known. History does not tell.
    pub client_msg_id: Option<ClientMsgId>,
}

/// What became of a message that was to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Stored. It will not be lost, and its place will not change.
    Ok {
        /// Its place in the conversation.
        msg_id: MsgId,
        /// When the server took it, in unix seconds; 0 if the server did not say.
        create_time: u32,
    },
    /// Not stored, and sending it again would not help.
    Refused {
        /// Why; `None` if this build does not know the reason.
        reason: Option<RefuseReason>,
        /// What a program of the site that has refused it says, to be shown: at most 256 bytes. It is not
        /// trusted text.
        text: Option<String>,
    },
    /// Not known. The client ended before an answer came, or the server is one that cannot say.
    /// If there is a persistent outbox, the message is still in it.
    Unknown,
    /// Never sent.
    NotSent(NotSent),
}

/// Why a message was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// Too many messages have no answer yet.
    #[error("too many messages have no answer yet")]
    Full,
    /// The outbox could not save it.
    #[error("the outbox could not save the message")]
    Unsaved,
    /// The client has ended.
    #[error("the client has ended")]
    Ended,
}

impl Conversation {
    /// The conversation with user `number`.
    pub const fn user(number: u32) -> Self {
        Self::User(UserId(number))
    }

    /// The conversation in group `number`.
    pub const fn group(number: u32) -> Self {
        Self::Group(GroupId(number))
    }

    /// The number that stands for it on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::User(user) => user.0,
            Self::Group(group) => group.0,
        }
    }

    /// Which of the two it is, on the wire.
    pub const fn session_type(self) -> SessionType {
        match self {
            Self::User(_) => SessionType::Single,
            Self::Group(_) => SessionType::Group,
        }
    }

    /// Reads the two fields in which messages name a conversation.
    pub fn from_wire(session_type: i32, number: u32) -> Option<Self> {
        match SessionType::try_from(session_type) {
            Ok(SessionType::Single) => Some(Self::user(number)),
            Ok(SessionType::Group) => Some(Self::group(number)),
            Err(_) => None,
        }
    }
}

impl Kind {
    /// The message type of this kind in that sort of conversation.
    pub const fn message_type(self, conversation: Conversation) -> MessageType {
        match (conversation, self) {
            (Conversation::User(_), Self::Text) => MessageType::SingleText,
            (Conversation::User(_), Self::Voice) => MessageType::SingleVoice,
            (Conversation::Group(_), Self::Text) => MessageType::GroupText,
            (Conversation::Group(_), Self::Voice) => MessageType::GroupVoice,
        }
    }
}

/// Makes a new id: a UUID of version 7, so later ones are greater.
pub fn new_client_msg_id() -> ClientMsgId {
    ClientMsgId(Uuid::now_v7().into_bytes())
}

impl Draft {
    /// A text, encrypted here, with a new id.
    pub fn text(conversation: Conversation, text: &str) -> Self {
        Self::new(conversation, Kind::Text, text::encrypt(text))
    }

    /// A voice message, with a new id.
    pub fn voice(conversation: Conversation, seconds: u32, audio: &[u8]) -> Self {
        let mut data = BytesMut::with_capacity(size_of::<u32>() + audio.len());
        data.put_u32(seconds);
        data.put_slice(audio);
        Self::new(conversation, Kind::Voice, data.freeze())
    }

    /// Data as it goes over the wire, with a new id.
    pub fn new(conversation: Conversation, kind: Kind, data: Bytes) -> Self {
        let client_msg_id = Some(new_client_msg_id());
        Self { conversation, kind, data, client_msg_id, resend: false }
    }

    /// The same without an id, as old clients send it.
    pub fn without_id(self) -> Self {
        Self { client_msg_id: None, ..self }
    }

    /// The same with this id.
    pub fn with_id(self, id: ClientMsgId) -> Self {
        Self { client_msg_id: Some(id), ..self }
    }

    /// The same, marked as sent before.
    pub fn again(self) -> Self {
        Self { resend: true, ..self }
    }

    /// The message of the protocol.
    pub fn to_wire(&self) -> MessageData {
        MessageData {
            from_user_id: 0, // The server takes it from the login.
            to_session_id: self.conversation.number(),
            msg_id: 0,
            create_time: 0,
            msg_type: self.kind.message_type(self.conversation).into(),
            msg_data: self.data.clone(),
            attach_data: None,
            client_msg_id: self.client_msg_id.map(|id| Bytes::copy_from_slice(&id.0)),
            resend: self.resend.then_some(true),
        }
    }
}

impl Message {
    /// Reads a pushed message; `me` decides which side of a pair is the other user. `None` if its
    /// type is unknown or it has no number.
    pub fn from_push(data: &MessageData, me: UserId) -> Option<Self> {
        let (is_group, kind) = sort(data.msg_type)?;
        let from = UserId(data.from_user_id);
        let conversation = match (is_group, from == me) {
            (true, _) => Conversation::group(data.to_session_id),
            (false, true) => Conversation::user(data.to_session_id),
            (false, false) => Conversation::User(from),
        };
        (data.msg_id != 0).then(|| Self {
            conversation,
            msg_id: MsgId(data.msg_id),
            from,
            create_time: data.create_time,
            kind,
            data: data.msg_data.clone(),
            client_msg_id: data.client_msg_id.as_deref().and_then(ClientMsgId::from_slice),
        })
    }

    /// Reads a message of the history of `conversation`.
    pub fn from_history(info: &MessageInfo, conversation: Conversation) -> Option<Self> {
        let (_is_group, kind) = sort(info.msg_type)?;
        (info.msg_id != 0).then(|| Self {
            conversation,
            msg_id: MsgId(info.msg_id),
            from: UserId(info.from_user_id),
            create_time: info.create_time,
            kind,
            data: info.msg_data.clone(),
            client_msg_id: None,
        })
    }

    /// The text, decrypted with the key of the original clients. A voice message has none.
    pub fn text(&self) -> Result<String, TextError> {
        text::decrypt(&self.data)
    }

    /// The text, decrypted with the key of a site ([`Options::cipher`](crate::Options::cipher)).
    pub fn text_with(&self, cipher: &TextCipher) -> Result<String, TextError> {
        cipher.decrypt(&self.data)
    }
}

/// Whether a message type belongs to a group, and what its data is.
fn sort(msg_type: i32) -> Option<(bool, Kind)> {
    match MessageType::try_from(msg_type).ok()? {
        MessageType::SingleText => Some((false, Kind::Text)),
        MessageType::SingleVoice => Some((false, Kind::Voice)),
        MessageType::GroupText => Some((true, Kind::Text)),
        MessageType::GroupVoice => Some((true, Kind::Voice)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pushed_message_belongs_to_the_other_user_or_to_the_group() {
        let push = |from, to, msg_type: MessageType| MessageData {
            from_user_id: from,
            to_session_id: to,
            msg_id: 5,
            msg_type: msg_type.into(),
            ..Default::default()
        };
        let conversation =
            |data: MessageData| Message::from_push(&data, UserId(1)).unwrap().conversation;
        assert_eq!(conversation(push(2, 1, MessageType::SingleText)), Conversation::user(2));
        assert_eq!(conversation(push(1, 2, MessageType::SingleVoice)), Conversation::user(2));
        assert_eq!(conversation(push(2, 9, MessageType::GroupText)), Conversation::group(9));
        assert_eq!(conversation(push(1, 9, MessageType::GroupText)), Conversation::group(9));
    }

    #[test]
    fn a_message_of_unknown_type_or_without_a_number_is_none() {
        let mut data = Draft::text(Conversation::user(2), "hi").to_wire();
        assert_eq!(Message::from_push(&data, UserId(1)), None);
        data.msg_id = 1;
        assert!(Message::from_push(&data, UserId(1)).is_some());
        data.msg_type = 99;
        assert_eq!(Message::from_push(&data, UserId(1)), None);
    }

    #[test]
    fn a_draft_says_what_the_wire_says() {
        let draft =
            Draft::text(Conversation::group(9), "hello").with_id(ClientMsgId([7; 16])).again();
        let wire = draft.to_wire();
        assert_eq!(wire.msg_type, 0x11);
        assert_eq!(wire.to_session_id, 9);
        assert_eq!(wire.msg_data, "nnZSBwfPCz60q69ddmfIJA==");
        assert_eq!(wire.client_msg_id.as_deref(), Some(&[7; 16][..]));
        assert_eq!(wire.resend, Some(true));
        assert_eq!(Draft::voice(Conversation::user(1), 3, b"abc").data[..], *b"\0\0\0\x03abc");
    }

    #[test]
    fn each_kind_has_a_type_for_each_sort_of_conversation() {
        let (peer, group) = (Conversation::user(2), Conversation::group(9));
        let sorts = [(Kind::Text, peer, 0x01), (Kind::Voice, peer, 0x02)];
        let sorts =
            sorts.into_iter().chain([(Kind::Text, group, 0x11), (Kind::Voice, group, 0x12)]);
        for (kind, conversation, msg_type) in sorts {
            assert_eq!(i32::from(kind.message_type(conversation)), msg_type);
            let from_wire =
                Conversation::from_wire(conversation.session_type().into(), conversation.number());
            assert_eq!(from_wire, Some(conversation));
            let info = MessageInfo { msg_id: 3, msg_type, ..MessageInfo::default() };
            let message = Message::from_history(&info, conversation).unwrap();
            assert_eq!(
                (message.kind, message.conversation, message.msg_id.0),
                (kind, conversation, 3)
            );
            assert_eq!(
                Message::from_history(&MessageInfo { msg_id: 0, ..info }, conversation),
                None
            );
        }
        assert_eq!(Conversation::from_wire(3, 2), None);
        let unknown = MessageInfo { msg_id: 3, msg_type: 99, ..MessageInfo::default() };
        assert_eq!(Message::from_history(&unknown, peer), None);
    }

    #[test]
    fn a_pushed_message_keeps_all_that_the_wire_says() {
        let draft = Draft::voice(Conversation::group(9), 3, b"abc").with_id(ClientMsgId([7; 16]));
        let (from_user_id, msg_id, create_time) = (2, 5, 1_700_000_000);
        let wire = MessageData { from_user_id, msg_id, create_time, ..draft.to_wire() };
        let expected = Message {
            conversation: Conversation::group(9),
            msg_id: MsgId(5),
            from: UserId(2),
            create_time,
            kind: Kind::Voice,
            data: Bytes::from_static(b"\0\0\0\x03abc"),
            client_msg_id: Some(ClientMsgId([7; 16])),
        };
        assert_eq!(Message::from_push(&wire, UserId(1)), Some(expected));
        // An id of another length is none.
        let short = Bytes::from_static(&[7; 15]);
        let odd = MessageData { client_msg_id: Some(short), ..wire };
        assert_eq!(Message::from_push(&odd, UserId(1)).unwrap().client_msg_id, None);
        assert_eq!(
            (draft.to_wire().resend, draft.without_id().to_wire().client_msg_id),
            (None, None)
        );
    }

    #[test]
    fn later_ids_are_greater() {
        let ids: Vec<_> = (0..100).map(|_| new_client_msg_id()).collect();
        assert!(ids.is_sorted());
    }
}
