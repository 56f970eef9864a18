//! One of the people, with a client that keeps its contract: says things, and takes down what it
//! hears.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Event, Events, Kind, Outcome, Sending, Session, new_client_msg_id};
use tokio::sync::watch;
use tokio::time::sleep;

use super::shared::{LIBRARY, Shared, conv, delivery};
use crate::history::{Class, Conv, Mid, Sha, What};

/// Messages that one of them is ahead of the acknowledgements.
const AHEAD: usize = 4;

/// Says things.
pub(super) struct Talker {
    user: u32,
    client: Client,
    shared: Arc<Shared>,
    ahead: VecDeque<Sending>,
    /// How much was said where, and the last of it.
    said: HashMap<Conv, (u32, Mid)>,
    number: u32,
}

impl Talker {
    pub(super) fn new(user: u32, client: Client, shared: Arc<Shared>) -> Self {
        Self { user, client, shared, ahead: VecDeque::new(), said: HashMap::new(), number: 0 }
    }

    pub(super) async fn talk(mut self, pause: Duration, talk: watch::Receiver<bool>) {
        let places = self.shared.places(self.user);
        while *talk.borrow() {
            for place in &places {
                self.say(*place);
                while self.ahead.len() > AHEAD {
                    self.next_outcome().await;
                }
                sleep(pause).await;
            }
        }
        while !self.ahead.is_empty() {
            self.next_outcome().await;
        }
    }

    fn say(&mut self, place: Session) {
        self.number += 1;
        // No two messages are equal.
        let body = proto::text::encrypt(&format!("{} from u{}", self.number, self.user));
        let conv = conv(self.user, place);
        let id = new_client_msg_id();
        let mid = Mid(id.0);
        let before = self.said.get(&conv).copied();
        let (idx, prev) = before.map_or((1, None), |(idx, prev)| (idx + 1, Some(prev)));
        self.said.insert(conv, (idx, mid));
        let (user, device, sha) = (self.user, LIBRARY, Sha::of(Kind::Text, &body));
        self.shared.invoke(user, What::Invoke { user, device, conv, mid, idx, prev, sha });
        self.ahead.push_back(self.client.send_as(id, place, Kind::Text, body));
    }

    async fn next_outcome(&mut self) {
        let Some(sending) = self.ahead.pop_front() else { return };
        let (user, mid) = (self.user, Mid(sending.client_msg_id().0));
        match sending.await {
            Outcome::Ok { msg_id, create_time } => {
                self.shared.acknowledged(user, mid, (msg_id.0, Some(create_time)));
            }
            Outcome::Refused(reason) => {
                let what = What::Fail { mid, code: reason.map_or(0, |it| it as u32) };
                let why = format!("a message of u{user} was refused: {reason:?}");
                self.shared.not_acknowledged(user, what, why);
            }
            outcome @ Outcome::NotSent(_) => {
                let why = format!("a message of u{user} ended with {outcome:?}");
                self.shared.not_acknowledged(user, What::Fail { mid, code: 0 }, why);
            }
            outcome @ Outcome::Unknown => {
                let why = format!("a message of u{user} ended with {outcome:?}");
                self.shared.not_acknowledged(user, What::Info { mid }, why);
            }
        }
    }
}

/// Takes down what a user is shown.
pub(super) async fn listen(user: u32, mut events: Events, shared: Arc<Shared>) {
    let device = (user, LIBRARY);
    while let Some(event) = events.next().await {
        match event {
            Event::Message(message) => shared.shown(delivery(device, &message)),
            Event::Skipped { session, first, last } => {
                shared.skipped(device, conv(user, session), (first.0, last.0));
            }
            Event::Connected { .. } => shared.connected(device, Class::Pc),
            Event::Disconnected { .. } => shared.disconnected(device),
            Event::Kicked(reason) => {
                shared.complain(format!("u{user} was thrown out: {reason:?}"));
            }
            Event::Rejected { result, text } => {
                shared.complain(format!("u{user} was rejected: {result:?} {text}"));
            }
            Event::Sent { .. } | Event::Push(_) => {}
        }
    }
}
