//! The loop of the engine: it waits for whatever happens next, and ends when the client does.

use std::sync::Arc;

use bytes::Bytes;
use proto::ids::UserId;
use tokio::time::Instant;

use super::link::{Link, LinkEvent, Online};
use super::timers::Due;
use super::{End, Engine, NOTICES_MAX};
use crate::call::Call;
use crate::dialer::{DialError, Dialed};
use crate::event::{Event, Status};
use crate::journal::Saved;
use crate::message::{NotSent, Outcome};
use crate::outgoing::{Entry, Ticket};
use crate::timeline::Delivery;

/// After a first login that succeeded, so many rejections in a row are believed.
const REJECTIONS_MAX: u32 = 5;

/// What the loop waits for.
enum Happening {
    Entry(Option<Entry>),
    Call(Option<Call>),
    Saved(Saved),
    /// A token is where it outlives the connection.
    Kept(Bytes),
    Link(LinkEvent),
    /// There is room for an event, or the program takes no more events.
    Room(bool),
    Due,
}

impl Engine {
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

    /// Tells the program how it ended, once it has taken what came before.
    async fn finish(mut self, end: End) {
        tracing::debug!(?end, "the client ends");
        self.ends.status.send_replace(Status::Ended);
        drop(self.link);
        // Calls that wait for an answer are told that the outcome is not known.
        drop(self.outgoing);
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
                return; // The program takes no more events.
            }
        }
    }
}

fn event_of(delivery: Delivery) -> Event {
    match delivery {
        Delivery::Message(message) => Event::Message(message),
        Delivery::Skipped { conversation, first, last } => {
            Event::Skipped { conversation, first, last }
        }
    }
}
