//! One of the people, with a client that keeps its contract: says things, and takes down what it
//! hears.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Conversation, Event, Events, Outcome, Sending, new_client_msg_id};
use proto::client::RefuseReason;
use proto::ids::{MsgId, UserId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::shared::{LIBRARY, Shared, Stage, conv, delivery};
use super::words::Words;
use crate::Random;
use crate::history::{Conv, Mid, Progress, Sha, What};

/// Messages that one of them is ahead of the acknowledgements.
const AHEAD: usize = 4;
/// Messages that are said at once, now and then: more than a gateway takes unanswered.
const BURST: usize = 48;
/// One of so many messages begins a burst.
const BURST_EVERY: u64 = 150;
/// One of so many messages that are shown is marked as read.
const MARK_EVERY: u64 = 12;

/// Says things.
pub(super) struct Talker {
    user: u32,
    client: Client,
    shared: Arc<Shared>,
    /// Whether the user may be no member where this is said.
    is_outsider: bool,
    ahead: VecDeque<(Conv, Sending)>,
    /// How much was said where, and the last of it.
    said: HashMap<Conv, (u32, Mid)>,
    words: Words,
    random: Random,
}

impl Talker {
    pub(super) fn new(user: u32, client: Client, shared: Arc<Shared>) -> Self {
        Self {
            user,
            client,
            is_outsider: user > shared.people(),
            shared,
            ahead: VecDeque::new(),
            said: HashMap::new(),
            words: Words::new(user, LIBRARY),
            random: Random::from_seed(user.into()),
        }
    }

    pub(super) async fn talk(mut self, pause: Duration, stage: watch::Receiver<Stage>) {
        let places = self.shared.places(self.user);
        while *stage.borrow() == Stage::Talking {
            for place in &places {
                let is_burst = !self.is_outsider && self.random.below(BURST_EVERY) == 0;
                for _ in 0..if is_burst { BURST } else { 1 } {
                    self.say(*place);
                }
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

    fn say(&mut self, place: Conversation) {
        let (kind, body) = self.words.next(place);
        let conv = conv(self.user, place);
        let id = new_client_msg_id();
        let mid = Mid(id.0);
        let before = self.said.get(&conv).copied();
        let (idx, prev) = before.map_or((1, None), |(idx, prev)| (idx + 1, Some(prev)));
        self.said.insert(conv, (idx, mid));
        let (user, device, sha) = (self.user, LIBRARY, Sha::of(kind, &body));
        self.shared.invoke(What::Invoke {
            user,
            device,
            conv,
            mid,
            idx,
            prev,
            sha,
            unnamed: false,
        });
        self.ahead.push_back((conv, self.client.send_as(id, place, kind, body)));
    }

    async fn next_outcome(&mut self) {
        let Some((conv, sending)) = self.ahead.pop_front() else { return };
        let (user, mid) = (self.user, Mid(sending.client_msg_id().0));
        let device = (user, LIBRARY);
        let outcome = sending.await;
        let what = match outcome {
            Outcome::Ok { msg_id, create_time } => {
                let place = (msg_id.0, Some(create_time));
                self.shared.acknowledged(device, (mid, conv), place);
                return;
            }
            Outcome::Refused { reason, .. } => {
                What::Fail { mid, code: reason.map_or(0, |it| it as u32) }
            }
            Outcome::NotSent(_) => What::Fail { mid, code: 0 },
            Outcome::Unknown => What::Info { mid },
        };
        let is_expected = self.is_outsider
            && matches!(outcome, Outcome::Refused { reason: Some(RefuseReason::NotMember), .. });
        if !is_expected {
            self.shared.complain(format!("a message of u{user} ended with {outcome:?}"));
        }
        self.shared.not_acknowledged(device, what);
    }
}

/// Takes down what a user is shown, and reads some of it. A user who watches others asks about them
/// after each login.
pub(super) async fn listen(
    user: u32,
    client: Client,
    mut events: Events,
    watched: Vec<UserId>,
    shared: Arc<Shared>,
) {
    let device = (user, LIBRARY);
    let mut random = Random::from_seed(u64::from(user) << 16);
    // What is answered, the watcher of the connection sees.
    let mut questions = JoinSet::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Message(message) => {
                shared.shown(delivery(device, &message));
                if random.below(MARK_EVERY) == 0 {
                    mark(user, &client, &shared, message.conversation, message.msg_id).await;
                }
            }
            Event::Skipped { conversation, first, last } => {
                shared.skipped(device, conv(user, conversation), (first.0, last.0));
            }
            Event::Connected { .. } if !watched.is_empty() => {
                let (client, watched) = (client.clone(), watched.clone());
                questions.spawn(async move { client.statuses(&watched).await.ok() });
            }
            Event::Kicked(reason) => {
                shared.complain(format!("u{user} was thrown out: {reason:?}"));
            }
            Event::Rejected { result, text } => {
                shared.complain(format!("u{user} was rejected: {result:?} {text}"));
            }
            // The watcher of the connection has seen the rest.
            Event::Connected { .. }
            | Event::Disconnected { .. }
            | Event::Sent { .. }
            | Event::Push(_) => {}
        }
    }
}

/// Says that everything up to a message is read. It has no answer.
async fn mark(
    user: u32,
    client: &Client,
    shared: &Shared,
    conversation: Conversation,
    msg_id: MsgId,
) {
    let (conv, upto) = (conv(user, conversation), msg_id.0);
    let phase = Progress::Invoke;
    shared.recorder.record(What::Mark { user, conv, upto, phase });
    client.mark_read(conversation, msg_id).await.ok();
}
