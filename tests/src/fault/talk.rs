//! People who talk at a steady rate, and the truth about what they said: what was asked for when,
//! what was acknowledged when, and under which number.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Client, Conversation, Kind, Options, Outcome, Servers};
use proto::ids::{ConversationId, UserId};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::old::{Book, content};
use crate::PASSWORD;

/// How long everything that was said may take to be acknowledged after the last fault has ended.
const SETTLE_LIMIT: Duration = Duration::from_mins(1);

/// What was said, shared by all talkers. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Truth(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    sayings: Vec<Saying>,
    places: HashMap<(ConversationId, u32), usize>,
    contents: HashSet<u64>,
    heads: HashMap<ConversationId, u32>,
    wrong: Vec<String>,
    acked: usize,
}

/// One message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Saying {
    pub(super) conversation: ConversationId,
    pub(super) content: u64,
    /// When it was asked for.
    pub(super) asked: Instant,
    /// When it was acknowledged, and under which number.
    pub(super) acked: Option<(Instant, u32)>,
}

/// The conversation, by its number, that `user` names so.
pub(super) fn conversation_id(user: u32, conversation: Conversation) -> ConversationId {
    let conversation = match conversation {
        Conversation::User(other) => ConversationId::single(UserId(user), other),
        Conversation::Group(group) => ConversationId::group(group),
    };
    conversation.expect("nobody talks to himself")
}

impl Truth {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().expect("nobody panicked with it")
    }

    /// Notes that a user says something now. No two bodies are equal.
    pub(super) fn says(&self, user: u32, to: Conversation, body: &[u8]) -> usize {
        let (conversation, content) = (conversation_id(user, to), content(user, body));
        let mut said = self.said();
        assert!(said.contents.insert(content), "no two messages are equal");
        said.sayings.push(Saying { conversation, content, asked: Instant::now(), acked: None });
        said.sayings.len() - 1
    }

    /// It is acknowledged.
    pub(super) fn acked(&self, index: usize, msg_id: u32) {
        let mut said = self.said();
        let Some(saying) = said.sayings.get_mut(index) else { return };
        let (conversation, before) = (saying.conversation, saying.acked);
        if let Some((_at, other)) = before {
            if other != msg_id {
                said.wrong.push(format!("one message has the numbers {other} and {msg_id}"));
            }
            return;
        }
        saying.acked = Some((Instant::now(), msg_id));
        said.acked += 1;
        if said.places.insert((conversation, msg_id), index).is_some() {
            said.wrong.push(format!("two messages are {msg_id} of {conversation:?}"));
        }
        let head = said.heads.entry(conversation).or_default();
        *head = msg_id.max(*head);
    }

    /// Something that must not happen.
    pub(super) fn wrong(&self, what: String) {
        self.said().wrong.push(what);
    }

    /// How many are acknowledged.
    pub(super) fn count(&self) -> usize {
        self.said().acked
    }

    /// Everything that was said in a conversation.
    pub(super) fn sayings(&self, conversation: ConversationId) -> Vec<Saying> {
        let said = self.said();
        let here = said.sayings.iter().filter(|saying| saying.conversation == conversation);
        here.copied().collect()
    }

    /// When the first of what was said in a conversation since a moment was acknowledged.
    pub(super) fn first_acked(&self, place: ConversationId, since: Instant) -> Option<Instant> {
        let said = self.said();
        let late = said.sayings.iter().rev().take_while(|saying| saying.asked >= since);
        let acked = late.filter(|saying| saying.conversation == place).filter_map(|one| one.acked);
        acked.map(|(at, _msg_id)| at).min()
    }

    /// The highest number acknowledged until now, in these conversations of `user`.
    pub(super) fn heads(
        &self,
        user: u32,
        conversations: &[Conversation],
    ) -> BTreeMap<Conversation, u32> {
        let said = self.said();
        let head = |conversation: &Conversation| {
            (
                *conversation,
                said.heads.get(&conversation_id(user, *conversation)).copied().unwrap_or(0),
            )
        };
        conversations.iter().map(head).collect()
    }

    /// The same as of an earlier moment.
    pub(super) fn heads_at(
        &self,
        user: u32,
        conversations: &[Conversation],
        at: Instant,
    ) -> BTreeMap<Conversation, u32> {
        let said = self.said();
        let mut heads: BTreeMap<Conversation, u32> =
            conversations.iter().map(|one| (*one, 0)).collect();
        for (conversation, head) in &mut heads {
            let conversation = conversation_id(user, *conversation);
            let earlier = said.sayings.iter().rev().filter(|one| one.conversation == conversation);
            let acked = earlier.filter_map(|one| one.acked).filter(|(then, _id)| *then <= at);
            *head = acked.map(|(_then, msg_id)| msg_id).max().unwrap_or(0);
        }
        heads
    }

    /// Holds what a device has seen against what was said. Returns what does not fit.
    pub(super) fn against(
        &self,
        user: u32,
        book: &Book,
        conversations: &[Conversation],
    ) -> Vec<String> {
        let said = self.said();
        let mut wrong = book.wrong.clone();
        for conversation in conversations {
            let place = conversation_id(user, *conversation);
            for (msg_id, content) in book.all(*conversation) {
                match said.places.get(&(place, msg_id)).and_then(|index| said.sayings.get(*index)) {
                    Some(saying) if saying.content != content => {
                        wrong.push(format!(
                            "{conversation:?}: {msg_id} is not what was acknowledged"
                        ));
                    }
                    None if !said.contents.contains(&content) => {
                        wrong.push(format!("{conversation:?}: nobody said what {msg_id} is"));
                    }
                    _ => {}
                }
            }
        }
        wrong
    }

    /// Fails if anything was wrong.
    pub(super) fn check(&self) {
        let wrong = self.said().wrong.clone();
        nothing_wrong(&wrong);
    }
}

/// Fails with the first of what is wrong.
pub(super) fn nothing_wrong(wrong: &[String]) {
    let first: Vec<&str> = wrong.iter().take(20).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} faults, such as:\n{}", wrong.len(), first.join("\n"));
}

/// A user who talks, where to, and how often.
#[derive(Debug, Clone)]
pub(super) struct Talker {
    pub(super) user: u32,
    /// In turn.
    pub(super) to: Vec<Conversation>,
    pub(super) every: Duration,
}

/// People who talk until they are told to stop.
#[derive(Debug)]
pub(super) struct Talkers {
    talking: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Talkers {
    /// Lets them begin.
    pub(super) fn start(handle: &Handle, login: &str, talkers: Vec<Talker>, truth: &Truth) -> Self {
        let (talking, talk) = watch::channel(true);
        let mut tasks = JoinSet::new();
        for talker in talkers {
            let servers = Servers::Login(vec![login.to_owned()]);
            let options = Options::new(servers, format!("u{}", talker.user), PASSWORD);
            tasks.spawn_on(talker.talk(options, truth.clone(), talk.clone()), handle);
        }
        Self { talking, tasks }
    }

    /// Lets them stop, and waits until everything that they said is acknowledged.
    pub(super) async fn stop(mut self) {
        self.talking.send_replace(false);
        let ended = timeout(SETTLE_LIMIT, async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.expect("a talker does not panic");
            }
        });
        ended.await.expect("everything that was said is acknowledged in time");
    }
}

impl Talker {
    async fn talk(self, options: Options, truth: Truth, talk: watch::Receiver<bool>) {
        let (client, events) = Client::start(options).await.expect("a client without an outbox");
        // This talker does not need what others say.
        drop(events);
        client.online().await.expect("he is let in");
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answers = JoinSet::new();
        for number in 0_u32.. {
            ticks.tick().await;
            if !*talk.borrow() {
                break;
            }
            let Some(to) = self.to.get(number as usize % self.to.len().max(1)) else { break };
            let body: Bytes = proto::text::encrypt(&format!("{number} from u{}", self.user));
            let index = truth.says(self.user, *to, &body);
            let sending = client.send(*to, Kind::Text, body);
            let (truth, user) = (truth.clone(), self.user);
            answers.spawn(async move {
                match sending.await {
                    Outcome::Ok { msg_id, .. } => truth.acked(index, msg_id.0),
                    other => truth.wrong(format!("a message of u{user} ended with {other:?}")),
                }
            });
            while answers.try_join_next().is_some() {}
        }
        while answers.join_next().await.is_some() {}
    }
}
