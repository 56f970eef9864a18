//! A published record on its way to the sessions here.

use db_client::sends::Told;
use prost::Message;
use proto::client;
use proto::cluster::wire::Publish;
use proto::ids::{ClientMsgId, ConversationId, UserId};

use super::seen::{Placed, Position};
use crate::parts::Parts;
use crate::sessions::session::Session;

/// A published record, and which session must not get it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) conversation: ConversationId,
    pub(super) publish: Publish,
    /// The session here that was told "stored".
    pub(super) answered: Option<u64>,
    /// It did not come by itself.
    pub(super) repaired: bool,
    /// It says what changes of members came to: most of it may have been carried out before.
    pub(super) sums_up: bool,
}

impl Record {
    /// Reads a record of a conversation. Its sender is answered, if this comes before storage's own
    /// answer.
    pub(super) fn read(
        parts: &Parts,
        conversation: ConversationId,
        mut publish: Publish,
        repaired: bool,
    ) -> Self {
        // What is fetched has no origin: its sender may be anywhere.
        let elsewhere = publish.origin.is_some_and(|origin| origin.gateway_boot != parts.boot);
        let id = publish.client_msg_id.as_deref().and_then(ClientMsgId::from_slice);
        let told = match id {
            Some(id) if !elsewhere && !changes_members(&publish) => {
                let Publish { sender, msg_id, .. } = publish;
                parts.unanswered.published(UserId(sender), id, msg_id, || create_time(&publish))
            }
            _ => Told::Unknown,
        };
        if told == Told::Nobody {
            // The session that it came from will get no answer: it gets the message, as any other does.
            publish.origin = None;
        }
        let answered = match told {
            Told::Session(session) => Some(session),
            Told::Nobody | Told::Unknown => None,
        };
        Self { conversation, publish, answered, repaired, sums_up: false }
    }

    /// Whether the message came from this session, which gets the answer instead.
    pub(super) fn is_from(&self, session: &Session, gateway_boot: u64) -> bool {
        self.answered == Some(session.id())
            || self.publish.origin == Some(session.origin(gateway_boot))
    }
}

/// A record with its place in its conversation and in the log.
pub(super) fn placed(record: Record) -> Placed<Record> {
    let Publish { msg_id, offset, prev_offset, .. } = record.publish;
    Placed { position: Position { msg_id, offset, prev_offset }, record }
}

/// When a published message was taken. Read from its frame, which only the few clients need that
/// hear of it this way.
fn create_time(publish: &Publish) -> Option<u32> {
    let body = publish.frame.get(proto::limits::HEADER_LEN..)?;
    client::MessageData::decode(body).ok().map(|message| message.create_time)
}

/// The fields that clients with the extension get beyond what all clients get.
pub(super) fn extension(publish: &Publish) -> Vec<u8> {
    let client_msg_id = publish.client_msg_id.clone();
    client::MessageExtension { client_msg_id, resend: None }.encode_to_vec()
}

/// Whether a record changes who is in a group.
pub(super) fn changes_members(publish: &Publish) -> bool {
    publish.msg_id == 0
}
