//! A logged-in user as a library: stays connected, sends until answered, hands out in order.
//!
//! # Invariants
//!
//! - A message has one id for ever. It is saved in the outbox, if there is one, before it is sent
//!   for the first time, and sent until the server has said *ok* or *refused*.
//! - The messages of a conversation reach the server in the order of the calls to
//!   [`Client::send`], on every connection anew.
//! - [`Event::Message`](crate::Event::Message) hands out the messages of a conversation once each, by rising number,
//!   this user's own included. What was missed is fetched from the history.
//! - A kick, or a login that is rejected, is the end: nothing reconnects.

use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use proto::client::{LoginRequest, RefuseReason, UserInfo, UserStatus};
use proto::ids::ClientMsgId;
use proto::limits::{HEADER_LEN, LIMIT_TO_CLIENT};
use proto::text::TextCipher;
use proto::{Command, Frame};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::call::{Call, CallError};
use crate::connection::{ConnectionError, password_field, read_reply};
use crate::dialer::Dialer;
use crate::engine::{Ends, Engine};
use crate::event::{Events, Status};
use crate::journal::Journal;
use crate::message::{Conversation, Kind, NotSent, Outcome, new_client_msg_id};
use crate::options::Options;
use crate::outbox::{Outbox, Unsent};
use crate::outgoing::{Entry, Ticket};
use crate::timeline::Timelines;
use crate::token::{Keeper, Shelf};

/// Requests that wait for the engine. When it is full, callers wait.
const CALLS_MAX: usize = 64;
/// Room that a server needs around the data of a message.
const AROUND_DATA: usize = 1024;

/// A user's device. Clones are the same device; when the last one is dropped, it goes offline, and
/// messages without an outcome stay in the outbox.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    entries: mpsc::Sender<Entry>,
    calls: mpsc::Sender<Call>,
    room: Arc<Semaphore>,
    status: watch::Receiver<Status>,
    call_limit: Duration,
    shelf: Shelf,
    cipher: TextCipher,
}

/// The outcome of a message, to be awaited. Dropping it changes nothing for the message.
#[derive(Debug)]
#[must_use = "a message is sent in any case, but only this tells what became of it"]
pub struct Sending {
    id: ClientMsgId,
    outcome: Waiting,
}

#[derive(Debug)]
enum Waiting {
    Known(Outcome),
    Unknown(oneshot::Receiver<Outcome>),
}

impl Client {
    /// Starts a client, which connects by itself. Fails only if the outbox or the file of the token cannot
    /// be read.
    ///
    /// Events must be taken or dropped: see [`Limits::events_max`](crate::Limits::events_max).
    pub async fn start(options: Options) -> io::Result<(Self, Events)> {
        let Options { servers, name, password, client_type, tls, outbox, .. } = options;
        let (outbox, left_behind) = load(outbox).await?;
        let shelf = Shelf::open(options.token_file).await?;

        let limits = options.limits;
        let (entries, entries_end) = mpsc::channel(limits.unanswered_max.max(1));
        let (calls, calls_end) = mpsc::channel(CALLS_MAX);
        let (events_end, events) = mpsc::channel(limits.events_max.max(1));
        let (status_end, status) = watch::channel(Status::Offline);
        let call_limit = limits.connect + limits.answer;
        let room = Arc::new(Semaphore::new(limits.unanswered_max));

        let request = LoginRequest {
            user_name: name,
            password: password_field(&password),
            online_status: UserStatus::Online.into(),
            client_type: client_type.into(),
            client_version: Some(concat!("talkhub/", env!("CARGO_PKG_VERSION")).to_owned()),
        };
        let dialer = Dialer {
            servers,
            tls,
            request,
            has_password: !password.is_empty(),
            shelf: shelf.clone(),
            ticket: Mutex::new(options.ticket),
            had_no_answer: AtomicBool::new(false),
            limit: limits.connect,
        };
        let ends =
            Ends { entries: entries_end, calls: calls_end, events: events_end, status: status_end };
        let timelines = Timelines::new(options.start_from, &options.marks);
        let keeping = (Journal::new(outbox), Keeper::new(shelf.clone()));
        let mut engine = Engine::new(dialer, limits, ends, timelines, keeping);
        engine.watcher = options.watcher;
        for unsent in left_behind {
            engine.take_over(Entry::left_behind(unsent));
        }
        spawn(engine);

        let cipher = options.cipher;
        let shared = Shared { entries, calls, room, status, call_limit, shelf, cipher };
        Ok((Self { shared: Arc::new(shared) }, Events { events }))
    }

    /// The token that the next login would be with.
    pub(crate) fn token(&self) -> Option<Bytes> {
        self.shared.shelf.token()
    }

    pub(crate) async fn forget_token(&self, token: &Bytes) {
        self.shared.shelf.forget(token).await;
    }

    /// How texts are encrypted at this site.
    pub fn cipher(&self) -> &TextCipher {
        &self.shared.cipher
    }

    /// Sends a text. The order of calls is the order of sending; awaiting the result is optional.
    pub fn send_text(&self, conversation: Conversation, text: &str) -> Sending {
        self.send(conversation, Kind::Text, self.shared.cipher.encrypt(text))
    }

    /// Sends data as it goes over the wire, under a new id.
    pub fn send(&self, conversation: Conversation, kind: Kind, data: Bytes) -> Sending {
        self.send_as(new_client_msg_id(), conversation, kind, data)
    }

    /// Sends data under an id of the caller's, which must not be in use by another message.
    pub fn send_as(
        &self,
        id: ClientMsgId,
        conversation: Conversation,
        kind: Kind,
        data: Bytes,
    ) -> Sending {
        let known = |outcome| Sending { id, outcome: Waiting::Known(outcome) };
        if data.len() > LIMIT_TO_CLIENT - AROUND_DATA {
            return known(Outcome::Refused { reason: Some(RefuseReason::TooLarge), text: None });
        }
        let Ok(room) = Arc::clone(&self.shared.room).try_acquire_owned() else {
            return known(Outcome::NotSent(NotSent::Full));
        };
        let (answer, outcome) = oneshot::channel();
        let unsent = Unsent { id, conversation, kind, data };
        let entry = Entry::new(unsent, Ticket { answer: Some(answer), room: Some(room) });
        match self.shared.entries.try_send(entry) {
            Ok(()) => Sending { id, outcome: Waiting::Unknown(outcome) },
            Err(mpsc::error::TrySendError::Full(_)) => known(Outcome::NotSent(NotSent::Full)),
            Err(mpsc::error::TrySendError::Closed(_)) => known(Outcome::NotSent(NotSent::Ended)),
        }
    }

    /// Waits until another message can be sent without being [`NotSent::Full`].
    pub async fn room(&self) {
        // The semaphore is never closed, and the permit only shows that there is one.
        drop(self.shared.room.acquire().await);
    }

    /// Waits until the user is logged in; `None` if the client has ended instead.
    pub async fn online(&self) -> Option<UserInfo> {
        let mut status = self.shared.status.clone();
        let settled = status.wait_for(|status| *status != Status::Offline).await.ok()?;
        match &*settled {
            Status::Online(user) => Some((**user).clone()),
            Status::Offline | Status::Ended => None,
        }
    }

    /// The user's own record, if logged in at present.
    pub fn user(&self) -> Option<UserInfo> {
        match &*self.shared.status.borrow() {
            Status::Online(user) => Some((**user).clone()),
            Status::Offline | Status::Ended => None,
        }
    }

    /// Sends any request and waits for its answer, and for a connection before that.
    pub async fn call<R: prost::Message + Default>(
        &self,
        command: Command,
        message: &impl prost::Message,
    ) -> Result<R, CallError> {
        let frame = self.exchange(command, message, true).await?;
        read_reply(command, frame).map_err(|error| match error {
            ConnectionError::Refused(reason) => CallError::Refused(reason),
            error => CallError::Answer(error),
        })
    }

    /// Sends something that has no answer. Returns when it is on its way; it may still be lost.
    pub async fn tell(
        &self,
        command: Command,
        message: &impl prost::Message,
    ) -> Result<(), CallError> {
        self.exchange(command, message, false).await.map(drop)
    }

    async fn exchange(
        &self,
        command: Command,
        message: &impl prost::Message,
        is_answered: bool,
    ) -> Result<Frame, CallError> {
        let body: Bytes = message.encode_to_vec().into();
        if HEADER_LEN + body.len() > command.size_limit() {
            return Err(CallError::TooLarge); // The server would close the connection.
        }
        let (answer, answered) = oneshot::channel();
        let call = Call { command, body, is_answered, answer };
        let exchange = async {
            self.shared.calls.send(call).await.map_err(|_| CallError::Ended)?;
            answered.await.map_err(|_| CallError::Ended)?
        };
        timeout(self.shared.call_limit, exchange).await.unwrap_or(Err(CallError::TimedOut))
    }
}

impl Sending {
    /// The id of the message.
    pub const fn client_msg_id(&self) -> ClientMsgId {
        self.id
    }
}

impl Future for Sending {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        match &mut self.outcome {
            Waiting::Known(outcome) => Poll::Ready(outcome.clone()),
            // The engine is gone: it has ended without an answer.
            Waiting::Unknown(answer) => {
                Pin::new(answer).poll(context).map(|answer| answer.unwrap_or(Outcome::Unknown))
            }
        }
    }
}

/// Reads what an earlier run left behind.
async fn load(
    outbox: Option<Box<dyn Outbox>>,
) -> io::Result<(Option<Box<dyn Outbox>>, Vec<Unsent>)> {
    let Some(mut outbox) = outbox else { return Ok((None, Vec::new())) };
    let work = tokio::task::spawn_blocking(move || {
        let found = outbox.load()?;
        Ok((Some(outbox), found))
    });
    work.await.map_err(io::Error::other)?
}

#[expect(clippy::disallowed_methods, reason = "a library has no `Shutdown`; dropping ends it")]
fn spawn(engine: Engine) {
    // Ends with the last `Client`, so its handle need not be kept.
    drop(tokio::spawn(engine.run()));
}
