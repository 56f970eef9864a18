//! What a gateway does for one client: each frame leads to an answer, to work, or to nothing.
//!
//! Nothing here waits: what takes time is handed back as [`Served::Work`].

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::clock::unix_s;
use parking_lot::Mutex;
use prost::Message;
use proto::client::{self, TransferMode};
use proto::features::KEEPS_TOKENS;
use proto::ids::ClientMsgId;
use proto::{
    Command, EarlyCommand, Frame, GatewayCommand, ServedBy, State, StorageCommand, encode_message,
};
use tokio::time::Instant;

use crate::client::closing::CloseReason;
use crate::client::outbox::Outbox;
use crate::commands::allowances::{Allowance, Price};
use crate::commands::answer_parts::{self, Begun};
use crate::commands::answers::Request;
use crate::commands::costs::price;
use crate::commands::login::{self, Attempt, Entered, Proof};
use crate::commands::routing::{Route, route};
use crate::commands::terms::{Course, course};
use crate::commands::{answers, refusals, tokens};
use crate::gateway::Gateway;
use crate::metrics::{SendEnd, Slowed};
use crate::sessions::session::{Login, Session};
use crate::submission::message_rules;
use crate::submission::unanswered::ClientMessage;
use crate::updates::marks::Mark;
use daemon::rates::{Bucket, Rate};

/// What we call ourselves when a client says hello.
const SERVER: &str = concat!("talkhub/", env!("CARGO_PKG_VERSION"));

/// How soon a client is looked at again that waits for room which others hold.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(20);

/// A client that waits for its own answers is woken by the next one; this is only a safeguard.
const OWN_ANSWERS_PAUSE: Duration = Duration::from_secs(1);

/// What is being worked on for a client. Ends with its session if it was a login that succeeded.
pub(crate) type Work = Pin<Box<dyn Future<Output = Option<Entered>> + Send>>;

/// What became of a frame.
pub(crate) enum Served {
    /// It is done with.
    Done,
    /// It takes time.
    Work(Work),
    /// It cannot be served yet, but perhaps after this time.
    Later(Frame, Duration),
    /// It ends the connection.
    Close(CloseReason),
}

/// Why a request is not carried out at once.
enum NotNow {
    /// It may be after this time.
    Wait(Duration),
    /// It was refused, and the client told.
    Refused,
}

impl NotNow {
    fn served(self, request: Frame) -> Served {
        match self {
            Self::Wait(wait) => Served::Later(request, wait),
            Self::Refused => Served::Done,
        }
    }
}

/// One client, as seen by the commands it sends.
pub(crate) struct ClientCommands {
    gateway: Arc<Gateway>,
    outbox: Arc<Outbox>,
    address: IpAddr,
    entered: Option<Entered>,
    /// The user's, shared with the user's other sessions here.
    allowance: Option<Arc<Mutex<Allowance>>>,
    signals: Bucket,
    unknown: Bucket,
    begun: Option<Arc<Begun>>,
}

impl ClientCommands {
    pub(crate) fn new(gateway: Arc<Gateway>, outbox: Arc<Outbox>, address: IpAddr) -> Self {
        Self {
            gateway,
            outbox,
            address,
            entered: None,
            allowance: None,
            signals: Bucket::default(),
            unknown: Bucket::default(),
            begun: None,
        }
    }

    /// How far the client has come.
    pub(crate) fn state(&self) -> State {
        if self.entered.is_some() { State::LoggedIn } else { State::Any }
    }

    /// The device class, once somebody is logged in.
    pub(crate) fn class(&self) -> Option<u32> {
        self.entered.as_ref().map(|entered| entered.session.class())
    }

    /// Who is logged in.
    pub(crate) fn login(&self) -> Option<Login> {
        self.entered.as_ref().map(|entered| entered.session.login)
    }

    /// The login has succeeded.
    pub(crate) fn entered(&mut self, entered: Entered) {
        self.allowance = Some(self.gateway.parts.allowances.of(entered.session.user()));
        self.entered = Some(entered);
    }

    /// The session is over.
    pub(crate) fn leave(&mut self, reason: CloseReason) {
        if let Some(entered) = self.entered.take() {
            self.gateway.parts.frames.ended(&entered.session, reason, Instant::now());
        }
        self.allowance = None;
    }

    /// A frame is longer than its command may be, so that only its header is known. Whether its client
    /// was told so: an old one has an answer for some commands.
    pub(crate) fn too_long(&self, command: u16, seq: u16) -> bool {
        let Some(entered) = &self.entered else { return false };
        self.gateway.parts.metrics.too_long.inc();
        let request = Frame { command, seq, body: Bytes::new() };
        let reason = client::RefuseReason::TooLarge;
        refusals::refuse(&self.outbox, entered.session.user(), &request, reason)
    }

    /// Serves one frame.
    pub(crate) fn serve(&mut self, frame: Frame) -> Served {
        match route(frame.command, self.state(), self.outbox.is_extended()) {
            Route::Serve(ServedBy::Early(command)) => self.serve_early(command, &frame),
            Route::Serve(ServedBy::Gateway(command)) => self.serve_here(command, frame),
            Route::Serve(ServedBy::Storage(command)) => self.serve_by_storage(command, frame),
            Route::Close(reason) => {
                self.gateway.parts.metrics.refused_commands.inc();
                Served::Close(reason)
            }
            Route::Unknown => self.unknown(),
        }
    }

    fn unknown(&mut self) -> Served {
        self.gateway.parts.metrics.refused_commands.inc();
        let rate = Rate::per_minute(self.gateway.parts.limits.junk_per_minute_max);
        match self.unknown.take(rate, self.gateway.parts.now_us()) {
            Ok(()) => Served::Done,
            Err(_too_much) => Served::Close(CloseReason::TooMuchJunk),
        }
    }

    /// What is served before the login too. It costs nothing: there is no user yet who could pay.
    fn serve_early(&self, command: EarlyCommand, frame: &Frame) -> Served {
        match command {
            EarlyCommand::Heartbeat => self.outbox.answer(frame.encode()),
            EarlyCommand::Hello => self.hello(frame),
            // A second login on one connection is ignored, as the original does.
            EarlyCommand::LoginRequest | EarlyCommand::ResumeRequest if self.entered.is_some() => {}
            EarlyCommand::LoginRequest => {
                if let Some(request) = self.read(frame) {
                    return self.log_in(Proof::Password(request), frame.seq);
                }
            }
            EarlyCommand::ResumeRequest => {
                if let Some(request) = self.read(frame) {
                    return self.log_in(Proof::Shown(request), frame.seq);
                }
            }
        }
        Served::Done
    }

    /// What is served here.
    fn serve_here(&mut self, command: GatewayCommand, frame: Frame) -> Served {
        let Some(session) = self.session() else { return Served::Done };
        if let Some(not_now) = self.not_now(&session, price(command, &frame), &frame) {
            return not_now.served(frame);
        }
        match command {
            GatewayCommand::MessageData => return self.send(&session, frame),
            GatewayCommand::PeerSignal => return self.pass_on(&session, &frame),
            GatewayCommand::UsersStatusRequest => return self.ask_status(session, frame),
            GatewayCommand::KickPcRequest => {
                answers::kick_pc(&self.gateway, &session, frame.seq);
            }
            GatewayCommand::TimeRequest => {
                let reply = client::TimeReply { server_time: unix_s() };
                self.outbox.answer(encode_message(Command::TimeReply, frame.seq, &reply));
            }
            GatewayCommand::FileSendRequest => self.refuse_file(&session, &frame),
            GatewayCommand::OfflineFilesRequest => {
                let user_id = session.user().0;
                let reply = client::OfflineFilesReply { user_id, ..Default::default() };
                self.outbox.answer(encode_message(Command::OfflineFilesReply, frame.seq, &reply));
            }
            // No file ever waits, and nothing is to be done about that.
            GatewayCommand::OfflineFileAdd | GatewayCommand::OfflineFileRemove => {}
            // A receipt carries no weight.
            GatewayCommand::MessageAck => {
                self.gateway.parts.metrics.receipts.inc();
            }
            GatewayCommand::ResumeTokenKept => {
                if let Some(kept) = self.read::<client::ResumeTokenKept>(&frame) {
                    tokens::kept(&self.gateway.parts, &session, kept.token);
                }
            }
            GatewayCommand::TicketRequest => {
                let Some(request) = self.read(&frame) else { return Served::Done };
                let parts = Arc::clone(&self.gateway.parts);
                return work(tokens::ticket(parts, session, request, frame.seq));
            }
        }
        Served::Done
    }

    /// What storage serves.
    fn serve_by_storage(&mut self, command: StorageCommand, frame: Frame) -> Served {
        let Some(session) = self.session() else { return Served::Done };
        let gateway = Arc::clone(&self.gateway);
        match course(command, &frame) {
            Course::MarkRead => self.mark_read(&session, &frame),
            Course::LogOut => work(answers::log_out(gateway, session, frame)),
            Course::Ask(terms) => {
                if let Some(not_now) = self.not_now(&session, terms.price, &frame) {
                    return not_now.served(frame);
                }
                let begun = answer_parts::begun(&mut self.begun, &self.outbox, terms.continuation);
                work(answers::ask(gateway, session, Request { command, terms, frame, begun }))
            }
        }
    }

    /// The client's session. The table of commands lets nothing through without one that needs it.
    fn session(&self) -> Option<Arc<Session>> {
        self.entered.as_ref().map(|entered| Arc::clone(&entered.session))
    }

    fn log_in(&self, proof: Proof, seq: u16) -> Served {
        let (outbox, address) = (Arc::clone(&self.outbox), self.address);
        let attempt = Attempt { outbox, address, seq, proof };
        Served::Work(Box::pin(login::log_in(Arc::clone(&self.gateway), attempt)))
    }

    /// Takes what a request costs from what its user may spend. Clients that said hello are told that
    /// a change is one too many, and old clients that a change of groups has failed; everybody else
    /// is read more slowly.
    fn not_now(&self, session: &Session, price: Price, frame: &Frame) -> Option<NotNow> {
        let gateway = &self.gateway;
        let allowance = self.allowance.as_ref()?;
        let wait =
            allowance.lock().pay(&gateway.parts.rates, price, gateway.parts.now_us()).err()?;
        let (what, refused) = match price {
            Price::GroupChange => (Slowed::GroupChange, true),
            Price::ProfileChange => (Slowed::ProfileChange, self.outbox.is_extended()),
            Price::Question(_) | Price::Free => (Slowed::Question, false),
        };
        gateway.parts.metrics.slowed(what);
        if !refused {
            return Some(NotNow::Wait(wait));
        }
        // Both kinds of clients have an answer for these.
        refusals::refuse(&self.outbox, session.user(), frame, client::RefuseReason::SlowDown);
        Some(NotNow::Refused)
    }

    /// A body that cannot be read is ignored, as the original does, and counted.
    fn read<M: Message + Default>(&self, frame: &Frame) -> Option<M> {
        let read = frame.parse().ok();
        if read.is_none() {
            self.gateway.parts.metrics.malformed.inc();
        }
        read
    }

    fn hello(&self, frame: &Frame) {
        if let Some(hello) = self.read::<client::Hello>(frame) {
            let features = hello.features() & KEEPS_TOKENS;
            self.outbox.set_extended(features == KEEPS_TOKENS);
            let reply = client::HelloReply { server: SERVER.to_owned(), features };
            self.outbox.answer(encode_message(Command::HelloReply, frame.seq, &reply));
        }
    }

    fn send(&mut self, session: &Arc<Session>, frame: Frame) -> Served {
        let Some(message) = self.read::<client::MessageData>(&frame) else { return Served::Done };
        let gateway = &self.gateway;
        // Only a client that said hello can know the field; from others it is noise.
        let named = message.client_msg_id.as_deref().filter(|_id| self.outbox.is_extended());
        let client_msg_id = named.and_then(ClientMsgId::from_slice);
        let conversation =
            match message_rules::check(&message, session.user(), &gateway.parts.limits) {
                Ok(conversation) => conversation,
                Err(reason) => {
                    gateway.parts.metrics.send_ended(SendEnd::Invalid);
                    if let Some(id) = client_msg_id {
                        self.refuse(&frame, &message, id, reason);
                    }
                    return Served::Done;
                }
            };
        if gateway.parts.unanswered.is_full() {
            return Served::Later(frame, NO_ROOM_PAUSE);
        }
        if !self.outbox.begin_send() {
            return Served::Later(frame, OWN_ANSWERS_PAUSE);
        }
        if let Err(wait) = self.pay_for_send(&frame) {
            gateway.parts.metrics.slowed(Slowed::Send);
            self.outbox.end_send(None);
            return Served::Later(frame, wait);
        }
        let message = ClientMessage { conversation, message, seq: frame.seq, client_msg_id };
        gateway.parts.unanswered.submit(session, gateway.parts.boot, message);
        Served::Done
    }

    fn pay_for_send(&self, frame: &Frame) -> Result<(), Duration> {
        let Some(allowance) = &self.allowance else { return Ok(()) };
        let bytes = u32::try_from(frame.body.len()).unwrap_or(u32::MAX);
        allowance.lock().send(&self.gateway.parts.rates, bytes, self.gateway.parts.now_us())
    }

    fn refuse(
        &self,
        frame: &Frame,
        message: &client::MessageData,
        id: ClientMsgId,
        reason: client::RefuseReason,
    ) {
        let result = client::SendResult {
            client_msg_id: Bytes::copy_from_slice(&id.0),
            outcome: client::SendOutcome::Refused.into(),
            msg_id: None,
            session_id: Some(message.to_session_id),
            session_type: None,
            reason: Some(reason.into()),
            create_time: None,
            reason_text: None,
        };
        self.outbox.answer(encode_message(Command::SendResult, frame.seq, &result));
    }

    fn pass_on(&mut self, session: &Session, frame: &Frame) -> Served {
        let gateway = &self.gateway;
        if self.signals.take(gateway.parts.signal_rate, gateway.parts.now_us()).is_err() {
            // Nobody was promised a signal, and messages stand behind it: it is dropped, not waited for.
            gateway.parts.metrics.signals_dropped.inc();
            return Served::Done;
        }
        if let Some(signal) = self.read(frame) {
            answers::pass_on(gateway, session, signal);
        }
        Served::Done
    }

    fn mark_read(&self, session: &Session, frame: &Frame) -> Served {
        let Some(ack) = self.read::<client::ReadAck>(frame) else { return Served::Done };
        let gateway = Arc::clone(&self.gateway);
        // One third-party client says 0 where it means a single session.
        let is_group = ack.session_type == i32::from(client::SessionType::Group);
        let session_type =
            if is_group { client::SessionType::Group } else { client::SessionType::Single };
        let mark = gateway.take_mark(Mark {
            by: gateway.parts.asker(session),
            session_type: session_type.into(),
            session_id: ack.session_id,
            msg_id: ack.msg_id,
            tries: 0,
        });
        match mark {
            Some(mark) => work(answers::mark_read(gateway, mark)),
            None => Served::Done,
        }
    }

    fn ask_status(&self, session: Arc<Session>, frame: Frame) -> Served {
        let Some(request) = self.read::<client::UsersStatusRequest>(&frame) else {
            return Served::Done;
        };
        let gateway = Arc::clone(&self.gateway);
        work(answers::users_status(gateway, session, frame, request.user_ids))
    }

    fn refuse_file(&self, session: &Session, frame: &Frame) {
        let Some(request) = self.read::<client::FileSendRequest>(frame) else { return };
        let mode = TransferMode::try_from(request.mode).unwrap_or(TransferMode::Offline);
        let reply = client::FileSendReply {
            result_code: 1,
            from_user_id: session.user().0,
            to_user_id: request.to_user_id,
            file_name: request.file_name,
            task_id: String::new(),
            endpoints: Vec::new(),
            mode: mode.into(),
        };
        self.outbox.answer(encode_message(Command::FileSendReply, frame.seq, &reply));
    }
}

fn work(work: impl Future<Output = ()> + Send + 'static) -> Served {
    Served::Work(Box::pin(async move {
        work.await;
        None
    }))
}
