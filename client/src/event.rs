//! What a client tells its program: what happened, in order, and whether it is logged in.

use std::time::Duration;

use proto::client::{KickReason, LoginResult, UserInfo};
use proto::ids::{ClientMsgId, MsgId};
use tokio::sync::mpsc;

use crate::message::{Conversation, Message, Outcome};
use crate::push::Push;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Logged in.
    Connected {
        /// The user's own record.
        user: Box<UserInfo>,
        /// Unix seconds.
        server_time: u32,
    },
    /// The connection is lost, or an attempt failed. The client goes on by itself.
    Disconnected {
        /// Why, for people.
        reason: String,
        /// When the next attempt is made.
        retry_in: Duration,
    },
    /// The next message of a conversation.
    Message(Message),
    /// The history does not have these numbers for this user, who was no member then, or they are lost.
    Skipped {
        /// The conversation.
        conversation: Conversation,
        /// The first number that is skipped.
        first: MsgId,
        /// The last one.
        last: MsgId,
    },
    /// A message that an earlier run left in the outbox has its outcome.
    Sent {
        /// Its id.
        client_msg_id: ClientMsgId,
        /// Where it went.
        conversation: Conversation,
        /// What became of it.
        outcome: Outcome,
    },
    /// Anything else that the server pushed.
    Push(Push),
    /// The last event: the server has thrown this device out.
    Kicked(Option<KickReason>),
    /// The last event: the server does not let this user in.
    Rejected {
        /// Why.
        result: LoginResult,
        /// The server's text for the user.
        text: String,
    },
}

/// The events of a client, in order.
#[derive(Debug)]
pub struct Events {
    pub(crate) events: mpsc::Receiver<Event>,
}

/// Whether a client is logged in at present.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Status {
    Offline,
    Online(Box<UserInfo>),
    Ended,
}

impl Events {
    /// Waits for the next event; `None` after the last one. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Takes an event that is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}
