//! The task behind a [`Client`](crate::Client): one loop that moves everything.
//!
//! What to send next and what to hand out next is decided by [`Outgoing`] and [`Timelines`], which
//! know no socket; the engine moves bytes, watches the time and asks them.
//!
//! # What bounds it
//!
//! - Messages to send: each takes a place in the client until it has its outcome.
//! - Messages that came: when the program does not take its events, they are held up to a bound per
//!   conversation and then only counted; they are fetched from the history later. So a program that
//!   waits for an outcome before it takes the next event does not block itself.
//! - Other events: past [`NOTICES_MAX`] nothing is read, and TCP slows the server down.

mod answers;
mod link;
mod pending;
mod timers;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use proto::client::{
    KickReason, LatestMessageIdRequest, LoginResult, MessageListRequest, ResumeTokenKept, UserInfo,
};
use proto::ids::UserId;
use proto::{Command, Frame, encode_message};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::link::{Link, LinkEvent, Online};
use self::pending::{Pending, Waits};
use self::timers::{Due, Timers};
use crate::client::{CallError, Event, Limits, Status};
use crate::dialer::{DialError, Dialed, Dialer};
use crate::journal::{Journal, Saved};
use crate::message::{NotSent, Outcome, Session};
use crate::outgoing::{Entry, Outgoing, Ticket};
use crate::timeline::{Delivery, Timelines};
use crate::token::Keeper;
use crate::watcher::Watcher;

/// Events other than messages that wait for the program.
const NOTICES_MAX: usize = 1024;
/// Questions about history under way at the same time, so that answers to messages need not queue
/// behind many pages.
const QUESTIONS_MAX: usize = 4;
/// After a first login that succeeded, so many rejections in a row are believed.
const REJECTIONS_MAX: u32 = 5;

/// A request of the program.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) command: Command,
    pub(crate) body: Bytes,
    /// Whether an answer will come. If not, the call is done when it is written.
    pub(crate) is_answered: bool,
    pub(crate) answer: oneshot::Sender<Result<Frame, CallError>>,
}

/// What the program and the engine share.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Messages to send. Never full: each has its place before it is put here.
    pub(crate) entries: mpsc::Receiver<Entry>,
    /// Requests; when full, callers wait.
    pub(crate) calls: mpsc::Receiver<Call>,
    /// Events; when full, see the head of this file.
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) status: watch::Sender<Status>,
}

/// Why a client ended.
#[derive(Debug)]
enum End {
    Closed,
    Kicked(Option<KickReason>),
    Rejected(LoginResult, String),
}

pub(crate) struct Engine {
    dialer: Arc<Dialer>,
    limits: Limits,
    ends: Ends,
    link: Link,
    pending: Pending,
    timers: Timers,
    outgoing: Outgoing,
    timelines: Timelines,
    journal: Journal,
    keeper: Keeper,
    pub(crate) watcher: Option<Arc<dyn Watcher>>,
    /// The user's own record, as an earlier login told it.
    me_known: Option<UserInfo>,
    notices: VecDeque<Event>,
    /// Nobody takes events any more.
    is_unheard: bool,
    me: UserId,
    /// Whether the server has shown that it knows the extension.
    is_extended: bool,
    sync: answers::Sync,
    /// Conversations whose newest message is to be asked for.
    heads: VecDeque<Session>,
    questions: usize,
    attempts: usize,
    failures: u32,
    rejections: u32,
    had_login: bool,
}

enum Happening {
    Entry(Option<Entry>),
    Call(Option<Call>),
    Saved(Saved),
    /// A token is where it outlives the connection.
    Kept(Bytes),
    Link(LinkEvent),
    /// There is room for an event, or nobody takes any.
    Room(bool),
    Due,
}

impl Engine {
    pub(crate) fn new(
        dialer: Dialer,
        limits: Limits,
        ends: Ends,
        timelines: Timelines,
        (journal, keeper): (Journal, Keeper),
    ) -> Self {
        Self {
            dialer: Arc::new(dialer),
            outgoing: Outgoing::new(limits.window, limits.retry),
            limits,
            ends,
            link: Link::Down(Instant::now()),
            pending: Pending::default(),
            timers: Timers::default(),
            timelines,
            journal,
            keeper,
            watcher: None,
            me_known: None,
            notices: VecDeque::new(),
            is_unheard: false,
            me: UserId(0),
            is_extended: false,
            sync: answers::Sync::default(),
            heads: VecDeque::new(),
            questions: 0,
            attempts: 0,
            failures: 0,
            rejections: 0,
            had_login: false,
        }
    }

    /// Takes in what an earlier run left behind, ahead of everything new.
    pub(crate) fn take_over(&mut self, entry: Entry) {
        self.outgoing.push(entry);
    }

    /// Runs until the program lets go of the client, or the server throws it out.
    pub(crate) async fn run(mut self) {
        let end = loop {
            self.pump();
            let happening = self.next().await;
            if let Some(end) = self.on_happening(happening) {
                break end;
            }
        };
        self.finish(end).await;
    }

    async fn next(&mut self) -> Happening {
        let has_event = !self.notices.is_empty() || self.timelines.has_delivery();
        let takes_calls = self.link.has_room() && !self.pending.is_full();
        let reads = self.notices.len() < NOTICES_MAX;
        // The order does not matter: every arm is served in turn, and each is cancel-safe.
        tokio::select! {
            entry = self.ends.entries.recv() => Happening::Entry(entry),
            call = self.ends.calls.recv(), if takes_calls => Happening::Call(call),
            saved = self.journal.next() => Happening::Saved(saved),
            Some(kept) = self.keeper.next() => Happening::Kept(kept),
            // What it says still goes out, its heartbeats among it, but it does not connect again.
            event = self.link.next(reads), if reads || self.link.is_up() => {
                Happening::Link(event)
            }
            room = self.ends.events.reserve(), if has_event && !self.is_unheard => {
                Happening::Room(room.is_ok())
            }
            () = self.timers.next() => Happening::Due,
        }
    }

    fn on_happening(&mut self, happening: Happening) -> Option<End> {
        match happening {
            Happening::Entry(None) | Happening::Call(None) => return Some(End::Closed),
            Happening::Entry(Some(entry)) => {
                self.on_entry(entry);
                // What has come in with it is saved with one flush.
                while let Ok(entry) = self.ends.entries.try_recv() {
                    self.on_entry(entry);
                }
            }
            Happening::Call(Some(call)) => self.on_call(call),
            Happening::Saved(saved) => self.on_saved(saved),
            Happening::Kept(token) => self.on_kept(token),
            Happening::Link(event) => return self.on_link(event),
            Happening::Room(is_heard) => self.hand_out(is_heard),
            Happening::Due => {
                let now = Instant::now();
                while let Some(due) = self.timers.pop(now) {
                    self.on_due(due, now);
                }
            }
        }
        None
    }

    fn on_entry(&mut self, entry: Entry) {
        if let Some(entry) = self.journal.save(entry) {
            self.outgoing.push(entry);
        }
    }

    fn on_saved(&mut self, saved: Saved) {
        match saved.result {
            Ok(()) => saved.entries.into_iter().for_each(|entry| self.outgoing.push(entry)),
            Err(error) => {
                tracing::warn!(%error, "cannot save messages to the outbox");
                for entry in saved.entries {
                    self.settle(entry, Outcome::NotSent(NotSent::Unsaved));
                }
            }
        }
    }

    /// From here on the token before is over.
    fn on_kept(&mut self, token: Bytes) {
        let seq = self.pending.next_seq();
        if let Link::Up(online) = &mut self.link {
            let kept = ResumeTokenKept { token };
            online.writer.queue(&encode_message(Command::ResumeTokenKept, seq, &kept));
        }
    }

    fn on_call(&mut self, call: Call) {
        if call.answer.is_closed() {
            return; // The caller has given up waiting for the connection.
        }
        let seq = self.pending.next_seq();
        let frame = Frame { command: call.command.number(), seq, body: call.body };
        let Some(writer) = self.link.writer() else { return };
        writer.queue(&frame.encode());
        if call.is_answered {
            self.wait_for(seq, Waits::Call(call.answer));
        } else {
            drop(call.answer.send(Ok(frame)));
        }
    }

    /// Sends a request of the engine's own.
    fn ask(&mut self, command: Command, message: &impl prost::Message, waits: Waits) {
        let seq = self.pending.next_seq();
        if let Link::Up(online) = &mut self.link {
            online.writer.queue(&encode_message(command, seq, message));
            self.wait_for(seq, waits);
        }
    }

    fn wait_for(&mut self, seq: u16, waits: Waits) {
        let timer = self.timers.set(Instant::now() + self.limits.answer, Due::Answer(seq));
        self.pending.insert(seq, waits, timer);
    }

    fn on_link(&mut self, event: LinkEvent) -> Option<End> {
        match event {
            LinkEvent::Due => {
                self.attempts = self.attempts.wrapping_add(1);
                let dialing = Arc::clone(&self.dialer).dial(self.attempts - 1);
                self.link = Link::Dialing(Box::pin(dialing));
            }
            LinkEvent::Dialed(Ok(dialed)) => return self.on_login(dialed),
            LinkEvent::Dialed(Err(error)) => return self.on_no_login(&error),
            LinkEvent::Frame(frame) => return self.on_frame(frame),
            LinkEvent::Wrote => {}
            LinkEvent::Lost(reason) => self.lose(reason),
        }
        None
    }

    fn on_login(&mut self, dialed: Box<Dialed>) -> Option<End> {
        let Dialed { connection, mut login } = *dialed;
        tracing::debug!(user = login.user.user_id, "logged in");
        let is_record = !login.user.nick_name.is_empty();
        match &self.me_known {
            // While the store is away a token logs in without it.
            Some(known) if !is_record && known.user_id == login.user.user_id => {
                login.user = known.clone();
            }
            _ => self.me_known = Some(login.user.clone()),
        }
        self.me = UserId(login.user.user_id);
        self.is_extended = login.hello.is_some();
        self.had_login = true;
        self.rejections = 0;
        let (reader, writer, early) = connection.split();
        self.link = Link::Up(Online { reader, writer });
        self.ends.status.send_replace(Status::Online(Box::new(login.user.clone())));
        self.notices.push_back(Event::Connected {
            user: Box::new(login.user),
            server_time: login.server_time,
        });
        self.timers.set(Instant::now() + self.limits.heartbeat, Due::Heartbeat);
        if let Some(watcher) = &self.watcher {
            watcher.logged_in();
        }
        self.start_sync();
        early.into_iter().find_map(|frame| self.on_frame(frame))
    }

    fn on_no_login(&mut self, error: &DialError) -> Option<End> {
        if let Some((result, text)) = error.rejection() {
            // The password was right before; a server that is short of something may say "wrong"
            // for a while.
            self.rejections += 1;
            if !self.had_login || self.rejections >= REJECTIONS_MAX {
                return Some(End::Rejected(result, text.to_owned()));
            }
        }
        self.lose(error.to_string());
        None
    }

    /// There is no connection. Everything that waited for it waits for the next one.
    fn lose(&mut self, reason: String) {
        tracing::debug!(%reason, "no connection");
        if let Some(watcher) = &self.watcher {
            watcher.lost();
        }
        for waits in self.pending.drain() {
            if let Waits::Call(answer) = waits {
                drop(answer.send(Err(CallError::Lost)));
            }
        }
        self.timers.clear();
        self.outgoing.on_lost();
        self.timelines.on_lost();
        self.heads.clear();
        self.questions = 0;
        self.failures = self.failures.saturating_add(1);
        let retry_in = self.limits.reconnect.wait(self.failures);
        self.link = Link::Down(Instant::now() + retry_in);
        self.ends.status.send_replace(Status::Offline);
        self.notices.push_back(Event::Disconnected { reason, retry_in });
    }

    /// Queues what can be sent, and asks what is to be asked.
    fn pump(&mut self) {
        if self.is_unheard {
            self.notices.clear();
            while self.timelines.next_delivery().is_some() {}
        }
        for session in self.timelines.take_gaps() {
            self.timers.set(Instant::now() + self.limits.gap_wait, Due::Gap(session));
        }
        while self.outgoing.may_send() && self.link.has_room() {
            let seq = self.pending.next_seq();
            let Some(draft) = self.outgoing.next(Instant::now(), seq) else { break };
            if let (Link::Up(online), Some(id)) = (&mut self.link, draft.client_msg_id) {
                online.writer.queue(&encode_message(Command::MessageData, seq, &draft.to_wire()));
                self.wait_for(seq, Waits::Message(id));
            }
        }
        while self.link.is_up() && self.questions < QUESTIONS_MAX && self.ask_about_history() {}
    }

    fn ask_about_history(&mut self) -> bool {
        if let Some(ask) = self.timelines.next_ask() {
            let request = MessageListRequest {
                user_id: self.me.0,
                session_type: ask.session.session_type().into(),
                session_id: ask.session.number(),
                msg_id_begin: ask.begin,
                msg_count: ask.count,
                attach_data: None,
            };
            self.ask(Command::MessageListRequest, &request, Waits::Page(ask));
        } else if let Some(session) = self.heads.pop_front() {
            let request = LatestMessageIdRequest {
                user_id: self.me.0,
                session_type: session.session_type().into(),
                session_id: session.number(),
                attach_data: None,
            };
            self.ask(Command::LatestMessageIdRequest, &request, Waits::Latest(session));
        } else {
            return false;
        }
        self.questions += 1;
        true
    }

    /// Hands out events as long as there is room for them.
    fn hand_out(&mut self, is_heard: bool) {
        if !is_heard {
            self.is_unheard = true; // `pump` throws events away from here on.
            return;
        }
        while let Ok(room) = self.ends.events.try_reserve() {
            let event = self.notices.pop_front();
            match event.or_else(|| self.timelines.next_delivery().map(event_of)) {
                Some(event) => room.send(event),
                None => break,
            }
        }
    }

    /// Gives a message its outcome.
    fn settle(&mut self, entry: Entry, outcome: Outcome) {
        let Entry { unsent, ticket, .. } = entry;
        drop(ticket.room); // Its place is free for the next one.
        if matches!(outcome, Outcome::Ok { .. } | Outcome::Refused(_)) {
            self.journal.remove(unsent.id);
        }
        match ticket.answer {
            // Whoever asked may have lost interest.
            Some(answer) => drop(answer.send(outcome)),
            None => self.notices.push_back(Event::Sent {
                client_msg_id: unsent.id,
                session: unsent.session,
                outcome,
            }),
        }
    }

    /// Tells the program how it ended, once it has taken what came before.
    async fn finish(mut self, end: End) {
        tracing::debug!(?end, "the client ends");
        self.ends.status.send_replace(Status::Ended);
        drop(self.link);
        drop(self.outgoing); // Whoever waits hears that the outcome is not known.
        self.ends.entries.close();
        while let Ok(entry) = self.ends.entries.try_recv() {
            if let Some(Entry { ticket: Ticket { answer: Some(answer), .. }, .. }) =
                self.journal.save(entry)
            {
                drop(answer.send(Outcome::NotSent(NotSent::Ended)));
            }
        }
        self.journal.finish().await;
        let last = match end {
            End::Closed => return,
            End::Kicked(reason) => Event::Kicked(reason),
            End::Rejected(result, text) => Event::Rejected { result, text },
        };
        let rest = std::iter::from_fn(|| self.timelines.next_delivery().map(event_of));
        for event in self.notices.into_iter().chain(rest).chain([last]) {
            if self.ends.events.send(event).await.is_err() {
                return; // Nobody listens.
            }
        }
    }
}

fn event_of(delivery: Delivery) -> Event {
    match delivery {
        Delivery::Message(message) => Event::Message(message),
        Delivery::Skipped { session, first, last } => Event::Skipped { session, first, last },
    }
}
