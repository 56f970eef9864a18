//! The gateway: its [`Parts`], and what is done with them for clients and for other daemons.
//!
//! Connections, the handlers of links and the timers know the gateway; delivery and presence know the
//! parts alone.

use std::sync::Arc;
use std::time::Duration;

use db_client::owners::{ASK_LIMIT, Asked, Asker};
use parking_lot::Mutex;
use prost::Message;
use proto::cluster::wire::{AskStatus, Forward, InterestChange, Kick};
use proto::ids::UserId;
use proto::seat::Judgement;
use proto::{Command, StorageCommand, client, encode_message};
use tokio::time::{Instant, sleep};
use tracing::Span;

use crate::delivery::Delivery;
use crate::parts::Parts;
use crate::sessions::session::Session;
use crate::updates::marks::{Mark, Marks};
use crate::updates::news::News;
use crate::updates::presence::Presence;

/// How soon a gateway that stops tries the read marks again that storage has not taken.
const MARKS_PAUSE: Duration = Duration::from_millis(50);

/// Everything a connection or a link needs.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) parts: Arc<Parts>,
    pub(crate) delivery: Delivery,
    pub(crate) presence: Arc<Presence>,
    pub(crate) news: Mutex<News>,
    marks: Mutex<Marks>,
}

impl Gateway {
    pub(crate) fn new(parts: Parts) -> Self {
        let parts = Arc::new(parts);
        Self {
            delivery: Delivery::new(Arc::clone(&parts)),
            presence: Arc::default(),
            news: Mutex::new(News::new(parts.limits.told_every_s)),
            marks: Mutex::default(),
            parts,
        }
    }

    /// Takes a session out, and tells the hub. Its read marks go to storage.
    pub(crate) fn leave(self: &Arc<Self>, session: &Session) {
        self.parts.logbook.leave(session);
        let order = self.parts.hub.in_order();
        if self.parts.registry.leave(session) {
            let remove_users = vec![session.interest()];
            order.tell(&InterestChange { remove_users, ..InterestChange::default() });
        }
        drop(order);
        let marks = self.marks.lock().flush(session.user(), Instant::now());
        if !marks.is_empty() {
            let gateway = Arc::clone(self);
            self.parts
                .shutdown
                .spawn(Span::current(), async move { gateway.store_marks(marks).await });
        }
    }

    /// Passes a frame on to users' sessions, here and everywhere.
    pub(crate) fn forward(&self, forward: &Forward, key: u64) {
        self.deliver_forward(forward);
        if !self.parts.hub.forward(forward, key) {
            self.parts.metrics.forwards_lost.inc();
        }
    }

    /// Delivers to the sessions that are here what another gateway has forwarded.
    pub(crate) fn forwarded(&self, forward: &Forward) {
        // Our own comes back to us as well.
        let is_own = forward.except.is_some_and(|origin| origin.gateway_boot == self.parts.boot);
        if !is_own {
            self.deliver_forward(forward);
        }
    }

    fn deliver_forward(&self, forward: &Forward) {
        let excepted = |session: &Session| {
            forward.except == Some(session.origin(self.parts.boot))
                || forward.device_class.is_some_and(|class| class != session.class())
        };
        let push = |sessions: Vec<Arc<Session>>| {
            for session in sessions.iter().filter(|session| !excepted(session)) {
                session.push(&forward.frame);
            }
        };
        if forward.everybody() {
            push(self.parts.registry.all());
        } else {
            for &user in &forward.users {
                push(self.parts.registry.sessions_of(UserId(user)));
            }
        }
    }

    /// Pushes a message to a user's other sessions, here and everywhere.
    pub(crate) fn tell_others(&self, by: Asker, command: Command, message: &impl Message) {
        let forward = Forward {
            users: vec![by.user.0],
            everybody: None,
            except: Some(by.origin),
            device_class: None,
            frame: encode_message(command, 0, message),
        };
        self.forward(&forward, u64::from(by.user.0));
    }

    /// Pushes a message to every session there is.
    pub(crate) fn tell_everybody(&self, command: Command, message: &impl Message) {
        let forward = Forward {
            users: Vec::new(),
            everybody: Some(true),
            except: Some(self.parts.own_origin()),
            device_class: None,
            frame: encode_message(command, 0, message),
        };
        self.forward(&forward, 0);
    }

    /// Ends the sessions that are meant. One that came later than the login for which it should end
    /// stays, and everybody is told its new epoch.
    pub(crate) fn kicked(&self, kick: &Kick) {
        if let Some(before) = kick.verified_before {
            self.parts.kicks.note(UserId(kick.user), before, Instant::now());
        }
        let order = self.parts.hub.in_order();
        let now_us = self.parts.now_us();
        let mut ended = Vec::new();
        let mut add_users = Vec::new();
        for session in self.parts.registry.sessions_of(UserId(kick.user)) {
            match session.judge(kick, now_us) {
                Judgement::Stays => {}
                Judgement::Rises => add_users.push(session.claim(now_us)),
                Judgement::Goes => ended.push(session),
            }
        }
        if !add_users.is_empty() {
            order.tell(&InterestChange { add_users, ..InterestChange::default() });
        }
        drop(order);
        for session in ended {
            session.kick(kick.reason);
        }
    }

    /// Takes a read mark; returns it if it is to be stored at once.
    pub(crate) fn take_mark(&self, mark: Mark) -> Option<Mark> {
        self.marks.lock().put(mark, Instant::now())
    }

    /// Stores what a user has read and is not stored yet.
    pub(crate) async fn flush_marks(&self, user: UserId, until: Instant) {
        let marks = self.marks.lock().flush(user, Instant::now());
        for mark in marks {
            self.store_mark(mark, until).await;
        }
    }

    /// What is done every 100 ms.
    pub(crate) fn tick(self: &Arc<Self>) {
        let now = Instant::now();
        self.parts.unanswered.tick(now);
        self.tell_due_news();
        let marks = self.marks.lock().due(now);
        if !marks.is_empty() {
            let gateway = Arc::clone(self);
            self.parts
                .shutdown
                .spawn(Span::current(), async move { gateway.store_marks(marks).await });
        }
    }

    /// Gives up our interest in groups that nobody here is in, and lets the hub check the rest.
    pub(crate) fn tidy_interest(&self) {
        let order = self.parts.hub.in_order();
        let empty = self.parts.registry.take_empty_groups();
        if !empty.is_empty() {
            let remove_groups = empty.into_iter().map(|group| group.0).collect();
            order.tell(&InterestChange { remove_groups, ..InterestChange::default() });
        }
        drop(order);
        self.parts.hub.send_checksums(&self.parts.registry);
    }

    /// Hands read marks to storage. Those that no owner can take now are tried again later, and keep
    /// no others waiting.
    pub(crate) async fn store_marks(&self, marks: Vec<Mark>) {
        for mark in marks {
            if self.parts.storage.is_served(mark.by, StorageCommand::ReadAck, &mark.ack()) {
                self.store_mark(mark, Instant::now() + ASK_LIMIT).await;
            } else {
                self.put_back(mark);
            }
        }
    }

    /// Hands a read mark to storage, and tells the user's other sessions what has changed: not before
    /// storage has it for good, so that nobody is told what may still get lost. If it is not stored,
    /// or this future is dropped before, it is tried again later.
    async fn store_mark(&self, mark: Mark, until: Instant) {
        let mut unstored = Unstored::new(self, mark);
        let Mark { by, session_type, session_id, msg_id, .. } = mark;
        let asked = Asked::of(StorageCommand::ReadAck, mark.ack());
        let Ok(answer) = self.parts.storage.ask(by, asked, until).await else {
            return;
        };
        if matches!(answer.status(), AskStatus::Unavailable | AskStatus::NotOwner) {
            return;
        }
        unstored.mark = None;
        if answer.changed() {
            let user_id = by.user.0;
            let notify = client::ReadNotify { user_id, session_id, msg_id, session_type };
            self.tell_others(by, Command::ReadNotify, &notify);
        }
    }

    fn put_back(&self, mark: Mark) {
        if !self.marks.lock().put_back(mark, Instant::now()) {
            self.parts.metrics.marks_lost.inc();
        }
    }

    /// Stores all read marks that wait, because the gateway stops. What is not stored by then is lost.
    pub(crate) async fn flush_all_marks(&self, until: Instant) {
        while Instant::now() < until {
            let marks = self.marks.lock().flush_all(Instant::now());
            if marks.is_empty() && self.marks.lock().is_empty() {
                return;
            }
            for mark in marks {
                self.store_mark(mark, until).await;
            }
            sleep(MARKS_PAUSE).await;
        }
    }
}

/// A read mark on its way to storage.
struct Unstored<'a> {
    gateway: &'a Gateway,
    mark: Option<Mark>,
}

impl<'a> Unstored<'a> {
    fn new(gateway: &'a Gateway, mark: Mark) -> Self {
        gateway.marks.lock().under_way += 1;
        Self { gateway, mark: Some(mark) }
    }
}

impl Drop for Unstored<'_> {
    fn drop(&mut self) {
        if let Some(mark) = self.mark {
            self.gateway.put_back(mark);
        }
        self.gateway.marks.lock().under_way -= 1;
    }
}
