//! The task behind a [`Client`](crate::Client): one loop that moves everything.
//!
//! What to send next and what to hand out next is decided by [`Outgoing`] and [`Timelines`], which
//! know no socket; the engine moves bytes, watches the time and asks them.
//!
//! Here is what it is made of and what it can do. `answers` makes something of frames and of answers
//! that did not come, and `run` is the loop around both.
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
mod run;
mod sync;
mod timers;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use proto::client::{
    KickReason, LatestMessageIdRequest, LoginResult, MessageListRequest, ResumeTokenKept, UserInfo,
};
use proto::ids::UserId;
use proto::{Command, Frame, encode_message};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::link::Link;
use self::pending::{Pending, Waits};
use self::sync::Sync;
use self::timers::{Due, Timers};
use crate::call::{Call, CallError};
use crate::dialer::Dialer;
use crate::event::{Event, Status};
use crate::journal::{Journal, Saved};
use crate::message::{Conversation, NotSent, Outcome};
use crate::options::Limits;
use crate::outgoing::{Entry, Outgoing};
use crate::timeline::Timelines;
use crate::token::Keeper;
use crate::watcher::Watcher;

/// Events other than messages that wait for the program.
const NOTICES_MAX: usize = 1024;
/// Questions about history under way at the same time, so that answers to messages need not queue
/// behind many pages.
const QUESTIONS_MAX: usize = 4;

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
    /// The program no longer takes events.
    is_unheard: bool,
    me: UserId,
    /// Whether the server has shown that it knows the extension.
    is_extended: bool,
    sync: Sync,
    /// Conversations whose newest message is to be asked for.
    heads: VecDeque<Conversation>,
    questions: usize,
    attempts: usize,
    failures: u32,
    rejections: u32,
    had_login: bool,
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
            sync: Sync::default(),
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
        for conversation in self.timelines.take_gaps() {
            self.timers.set(Instant::now() + self.limits.gap_wait, Due::Gap(conversation));
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
                session_type: ask.conversation.session_type().into(),
                session_id: ask.conversation.number(),
                msg_id_begin: ask.begin,
                msg_count: ask.count,
                attach_data: None,
            };
            self.ask(Command::MessageListRequest, &request, Waits::Page(ask));
        } else if let Some(conversation) = self.heads.pop_front() {
            let request = LatestMessageIdRequest {
                user_id: self.me.0,
                session_type: conversation.session_type().into(),
                session_id: conversation.number(),
                attach_data: None,
            };
            self.ask(Command::LatestMessageIdRequest, &request, Waits::Latest(conversation));
        } else {
            return false;
        }
        self.questions += 1;
        true
    }

    /// Gives a message its outcome.
    fn settle(&mut self, entry: Entry, outcome: Outcome) {
        let Entry { unsent, ticket, .. } = entry;
        drop(ticket.room); // Its place is free for the next one.
        if matches!(outcome, Outcome::Ok { .. } | Outcome::Refused { .. }) {
            self.journal.remove(unsent.id);
        }
        match ticket.answer {
            // The caller may have stopped waiting.
            Some(answer) => drop(answer.send(outcome)),
            None => self.notices.push_back(Event::Sent {
                client_msg_id: unsent.id,
                conversation: unsent.conversation,
                outcome,
            }),
        }
    }
}
