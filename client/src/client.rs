//! A logged-in user as a library: stays connected, sends until answered, hands out in order.
//!
//! # Invariants
//!
//! - A message has one id for ever. It is saved in the outbox, if there is one, before it is sent
//!   for the first time, and sent until the server has said *ok* or *refused*.
//! - The messages of a conversation reach the server in the order of the calls to
//!   [`Client::send`], on every connection anew.
//! - [`Event::Message`] hands out the messages of a conversation once each, by rising number,
//!   this user's own included. What was missed is fetched from the history.
//! - A kick, or a login that is rejected, is the end: nothing reconnects.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use proto::client::{
    ClientType, KickReason, LoginRequest, LoginResult, RefuseReason, UserInfo, UserStatus,
};
use proto::ids::{ClientMsgId, MsgId};
use proto::limits::{HEADER_LEN, LIMIT_TO_CLIENT};
use proto::{Command, Frame};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::backoff::Backoff;
use crate::connection::{ConnectionError, password_field, read_reply};
use crate::dialer::{Dialer, Servers};
use crate::engine::{Call, Ends, Engine};
use crate::journal::Journal;
use crate::message::{Kind, Message, NotSent, Outcome, Session, new_client_msg_id};
use crate::outbox::{Outbox, Unsent};
use crate::outgoing::{Entry, Ticket};
use crate::push::Push;
use crate::timeline::{StartFrom, Timelines};
use crate::tls::TlsConfig;
use crate::token::{Keeper, Shelf};
use crate::watcher::Watcher;

/// Requests that wait for the engine. When it is full, callers wait.
const CALLS_MAX: usize = 64;
/// Room that a server needs around the data of a message.
const AROUND_DATA: usize = 1024;

/// Who logs in, where and how.
pub struct Options {
    /// Where the servers are.
    pub servers: Servers,
    /// Login name.
    pub name: String,
    /// Password as typed.
    pub password: String,
    /// Kind of client; decides the device class.
    pub client_type: ClientType,
    /// Whom to believe. With this, gateways and https login servers are spoken to with TLS, and a
    /// gateway without TLS is not spoken to.
    pub tls: Option<TlsConfig>,
    /// Where the token survives the program that it logs in with instead of the password: a file that
    /// only its owner may read. None: it is kept in memory, for the next connections of this program.
    pub token_file: Option<PathBuf>,
    /// What another client of the user has got for this one ([`Client::ticket`]), to log in without a
    /// password. The password may be empty then.
    pub ticket: Option<Bytes>,
    /// Where messages without an answer survive the program. None: they do not.
    pub outbox: Option<Box<dyn Outbox>>,
    /// Where conversations begin that have no mark.
    pub start_from: StartFrom,
    /// The newest message of each conversation that the program has dealt with.
    pub marks: HashMap<Session, MsgId>,
    /// Who sees what comes, if anybody does.
    pub watcher: Option<Arc<dyn Watcher>>,
    /// Times and bounds.
    pub limits: Limits,
}

/// Times and bounds of a client.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long connecting may take, and logging in.
    pub connect: Duration,
    /// How long an answer may take. After that a message is sent again.
    pub answer: Duration,
    /// How often the server hears from us.
    pub heartbeat: Duration,
    /// How long a gap may close by itself before the history is asked.
    pub gap_wait: Duration,
    /// Waits before a message is sent again.
    pub retry: Backoff,
    /// Waits before the next attempt to connect.
    pub reconnect: Backoff,
    /// Messages sent and unanswered at the same time. Gateways stop reading at more than 32.
    pub window: usize,
    /// Messages without an outcome at the same time. Past it, sending answers
    /// [`NotSent::Full`] at once.
    pub unanswered_max: usize,
    /// Events that wait for the program. Past it, messages are held and then only counted, to be
    /// fetched later, and other events make the client stop reading.
    pub events_max: usize,
}

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
    /// The history does not have these numbers for this user: he was no member, or they are lost.
    Skipped {
        /// The conversation.
        session: Session,
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
        session: Session,
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
    events: mpsc::Receiver<Event>,
}

/// Whether a client is logged in at present.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Status {
    Offline,
    Online(Box<UserInfo>),
    Ended,
}

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
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server will not do it: a `RefuseReason`.
    #[error("refused with reason {0}")]
    Refused(u32),
    /// The server could not do it: a result code.
    #[error("failed with result {0}")]
    Failed(u32),
    /// There was no connection, or no answer, in time.
    #[error("no answer in time")]
    TimedOut,
    /// The connection was lost before the answer came.
    #[error("the connection was lost")]
    Lost,
    /// The client has ended.
    #[error("the client has ended")]
    Ended,
    /// The request is larger than a server takes.
    #[error("the request is too large")]
    TooLarge,
    /// Something else came, or something that cannot be read.
    #[error("the answer cannot be read")]
    Answer(#[source] ConnectionError),
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

impl Options {
    /// The usual options: a PC client without TLS and without an outbox, from the newest on.
    pub fn new(servers: Servers, name: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            servers,
            name: name.into(),
            password: password.into(),
            client_type: ClientType::Mac,
            tls: None,
            token_file: None,
            ticket: None,
            outbox: None,
            start_from: StartFrom::default(),
            marks: HashMap::new(),
            watcher: None,
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("servers", &self.servers)
            .field("name", &self.name)
            .finish_non_exhaustive() // The password is nobody's business.
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            heartbeat: Duration::from_secs(30),
            gap_wait: Duration::from_millis(200),
            retry: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            reconnect: Backoff::new(Duration::from_millis(200), Duration::from_secs(5)),
            window: 32,
            unanswered_max: 1024,
            events_max: 1024,
        }
    }
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

impl Client {
    /// Starts a client, which connects by itself. Fails only if the outbox or the file of the token cannot
    /// be read.
    ///
    /// Events must be taken or dropped: see [`Limits::events_max`].
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

        let shared = Shared { entries, calls, room, status, call_limit, shelf };
        Ok((Self { shared: Arc::new(shared) }, Events { events }))
    }

    /// The token that the next login would be with.
    pub(crate) fn token(&self) -> Option<Bytes> {
        self.shared.shelf.token()
    }

    pub(crate) async fn forget_token(&self, token: &Bytes) {
        self.shared.shelf.forget(token).await;
    }

    /// Sends a text. The order of calls is the order of sending; awaiting the result is optional.
    pub fn send_text(&self, session: Session, text: &str) -> Sending {
        self.send(session, Kind::Text, proto::text::encrypt(text))
    }

    /// Sends data as it goes over the wire, under a new id.
    pub fn send(&self, session: Session, kind: Kind, data: Bytes) -> Sending {
        self.send_as(new_client_msg_id(), session, kind, data)
    }

    /// Sends data under an id of the caller's, which must not be in use by another message.
    pub fn send_as(&self, id: ClientMsgId, session: Session, kind: Kind, data: Bytes) -> Sending {
        let known = |outcome| Sending { id, outcome: Waiting::Known(outcome) };
        if data.len() > LIMIT_TO_CLIENT - AROUND_DATA {
            return known(Outcome::Refused(Some(RefuseReason::TooLarge)));
        }
        let Ok(room) = Arc::clone(&self.shared.room).try_acquire_owned() else {
            return known(Outcome::NotSent(NotSent::Full));
        };
        let (answer, outcome) = oneshot::channel();
        let unsent = Unsent { id, session, kind, data };
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
    // Ends with the last `Client`, so nobody needs to hold its handle.
    drop(tokio::spawn(engine.run()));
}
