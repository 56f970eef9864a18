//! People who talk without a pause, with a client that keeps its side of the promise, and take down
//! everything that they say and hear.
//!
//! Each of them says something to his neighbours and to group 1 in turn, a few messages ahead of
//! what has been acknowledged, whatever happens to the cluster meanwhile.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use client::{
    Client, Event, Events, FileOutbox, Kind, Options, Outcome, Sending, Servers, Session,
    StartFrom, TlsConfig,
};
use proto::ids::{ConversationId, GroupId, UserId};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::programs::scratch;
use crate::{Device, History, PASSWORD, PATIENCE, Said};

/// Messages that one of them is ahead of the acknowledgements.
const AHEAD: usize = 4;
/// Between two messages of one of them. Slower than a gateway's limit.
const PAUSE: Duration = Duration::from_millis(30);
/// How long everything that was said may take to be acknowledged and to reach everybody, once
/// nothing is killed any more.
const SETTLE_LIMIT: Duration = Duration::from_mins(1);

/// The people.
#[derive(Debug)]
pub struct Crowd {
    runtime: Runtime,
    talking: watch::Sender<bool>,
    acked: watch::Receiver<usize>,
    shared: Arc<Shared>,
    talkers: JoinSet<()>,
    listeners: JoinSet<()>,
    /// A client goes offline with the last of its handles.
    clients: Vec<Client>,
    _outboxes: TempDir,
}

/// What became of it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Messages acknowledged.
    pub acked: usize,
    /// Connections that were lost and made again.
    pub reconnects: usize,
    /// Messages that somebody was shown, live or by repair.
    pub heard: usize,
}

#[derive(Debug)]
struct Shared {
    records: Mutex<Records>,
    acked: watch::Sender<usize>,
    heard: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Records {
    history: History,
    /// Up to where each has heard each conversation.
    heard_upto: BTreeMap<(u32, Session), u32>,
    heard: usize,
    reconnects: usize,
    wrong: Vec<String>,
}

impl Shared {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().expect("nobody panicked with it")
    }
}

impl Crowd {
    /// Lets the first `people` demo users talk. They must all be in group 1.
    pub fn start(login: &str, tls: Option<&TlsConfig>, people: u32) -> Self {
        let runtime = Runtime::new().expect("start a runtime");
        let outboxes = TempDir::new_in(scratch()).expect("make a folder for the outboxes");
        let (talking, talk) = watch::channel(true);
        let (acked_end, acked) = watch::channel(0);
        let shared = Arc::new(Shared {
            records: Mutex::default(),
            acked: acked_end,
            heard: watch::Sender::new(0),
        });
        let (mut talkers, mut listeners) = (JoinSet::new(), JoinSet::new());
        let mut clients = Vec::new();
        for user in 1..=people {
            let servers = Servers::Login(vec![login.to_owned()]);
            let mut options = Options::new(servers, format!("u{user}"), PASSWORD);
            options.tls = tls.cloned();
            options.start_from = StartFrom::Beginning;
            options.limits.events_max = 4096;
            // Some keep what they say on disk, as a real program would.
            if user % 4 == 0 {
                let file = outboxes.path().join(format!("u{user}"));
                options.outbox = Some(Box::new(FileOutbox::open(file).expect("open an outbox")));
            }
            let started = runtime.block_on(Client::start(options));
            let (client, events) = started.expect("a client starts");
            clients.push(client.clone());
            let places = places(user, people);
            let talk = talk.clone();
            let talker =
                Talker { user, client, shared: Arc::clone(&shared), ahead: VecDeque::new() };
            talkers.spawn_on(talker.talk(places, talk), runtime.handle());
            listeners.spawn_on(listen(user, events, Arc::clone(&shared)), runtime.handle());
        }
        Self { runtime, talking, acked, shared, talkers, listeners, clients, _outboxes: outboxes }
    }

    /// How many messages have been acknowledged.
    pub fn acked(&self) -> usize {
        *self.acked.borrow()
    }

    /// Waits until that many more messages have been acknowledged. Blocks.
    pub fn wait_for_acks(&mut self, more: usize) {
        let wanted = self.acked() + more;
        let reached = self.acked.wait_for(|acked| *acked >= wanted);
        let limit = async { timeout(PATIENCE, reached).await.is_ok() };
        assert!(self.runtime.block_on(limit), "{more} more messages are acknowledged in time");
    }

    /// Lets them finish, waits until everybody has heard everything, reads all histories through
    /// `gateway`, and checks that all of it fits together. Blocks.
    pub fn finish(mut self, gateway: &str, tls: Option<&TlsConfig>) -> Summary {
        self.talking.send_replace(false);
        let Self { runtime, shared, talkers, listeners, clients, .. } = &mut self;
        runtime.block_on(async {
            let settled = timeout(SETTLE_LIMIT, async {
                while let Some(ended) = talkers.join_next().await {
                    ended.expect("a talker does not panic");
                }
            });
            settled.await.expect("everything that was said is acknowledged in time");
            let heads = read_histories(gateway, tls, shared).await;
            everybody_heard(shared, &heads).await;
            clients.clear();
            listeners.abort_all();
        });
        let records = shared.records();
        let mut wrong = records.history.check();
        wrong.extend(records.wrong.iter().cloned());
        assert!(wrong.is_empty(), "{} faults, such as:\n{}", wrong.len(), first(&wrong));
        Summary {
            acked: records.history.acked_count(),
            reconnects: records.reconnects,
            heard: records.heard,
        }
    }
}

/// Whom a user talks to, in turn: neighbours and the group.
fn places(user: u32, people: u32) -> [Session; 3] {
    let next = user % people + 1;
    let before = (user + people - 2) % people + 1;
    [Session::user(next), Session::group(1), Session::user(before)]
}

/// One of the people.
struct Talker {
    user: u32,
    client: Client,
    shared: Arc<Shared>,
    ahead: VecDeque<(Said, Sending)>,
}

impl Talker {
    async fn talk(mut self, places: [Session; 3], talk: watch::Receiver<bool>) {
        let mut number = 0_u32;
        while *talk.borrow() {
            for place in places {
                number += 1;
                self.say(place, number);
                while self.ahead.len() > AHEAD {
                    self.next_outcome().await;
                }
                sleep(PAUSE).await;
            }
        }
        while !self.ahead.is_empty() {
            self.next_outcome().await;
        }
    }

    fn say(&mut self, place: Session, number: u32) {
        // No two messages are equal.
        let body = proto::text::encrypt(&format!("{number} from u{}", self.user));
        let mut records = self.shared.records();
        let conversation = conversation(self.user, place);
        let said = records.history.says(self.user, conversation, body.clone());
        let sending = self.client.send(place, Kind::Text, body);
        self.ahead.push_back((said, sending));
    }

    async fn next_outcome(&mut self) {
        let Some((said, sending)) = self.ahead.pop_front() else { return };
        let outcome = sending.await;
        let mut records = self.shared.records();
        match outcome {
            Outcome::Ok { msg_id, .. } => {
                records.history.acked(said, msg_id.0);
                drop(records);
                self.shared.acked.send_modify(|acked| *acked += 1);
            }
            Outcome::Refused(reason) => {
                records.history.refused(said);
                let user = self.user;
                records.wrong.push(format!("a message of u{user} was refused: {reason:?}"));
            }
            Outcome::Unknown | Outcome::NotSent(_) => {
                let user = self.user;
                records.wrong.push(format!("a message of u{user} ended with {outcome:?}"));
            }
        }
    }
}

/// Takes down what a user is shown.
async fn listen(user: u32, mut events: Events, shared: Arc<Shared>) {
    while let Some(event) = events.next().await {
        let mut records = shared.records();
        match event {
            Event::Message(message) => {
                let upto = records.heard_upto.entry((user, message.session)).or_default();
                let expected = *upto + 1;
                *upto = message.msg_id.0;
                if message.msg_id.0 != expected {
                    let (session, id) = (message.session, message.msg_id.0);
                    records.wrong.push(format!(
                        "u{user} heard {id} of {session:?} when {expected} was next"
                    ));
                }
                let conversation = conversation(user, message.session);
                records.history.saw(conversation, message.msg_id.0, message.from.0, message.data);
                records.heard += 1;
                shared.heard.send_replace(records.heard);
            }
            Event::Skipped { session, first, last } => {
                records.wrong.push(format!("u{user} skipped {first:?} to {last:?} of {session:?}"));
            }
            Event::Disconnected { .. } => records.reconnects += 1,
            Event::Kicked(reason) => {
                records.wrong.push(format!("u{user} was thrown out: {reason:?}"));
            }
            Event::Rejected { result, text } => {
                records.wrong.push(format!("u{user} was rejected: {result:?} {text}"));
            }
            Event::Connected { .. } | Event::Sent { .. } | Event::Push(_) => {}
        }
    }
}

/// Reads the history of every conversation, as an old client does. Returns their heads.
async fn read_histories(
    gateway: &str,
    tls: Option<&TlsConfig>,
    shared: &Shared,
) -> HashMap<(u32, Session), u32> {
    let heard: Vec<(u32, Session)> = {
        let records = shared.records();
        records.heard_upto.keys().copied().collect()
    };
    let mut heads = HashMap::new();
    let mut users: Vec<u32> = heard.iter().map(|(user, _session)| *user).collect();
    users.dedup();
    for user in users {
        // A phone, which displaces nobody.
        let mut device = Device::log_in_over(gateway, tls, user, client::ClientType::Android).await;
        for (_, session) in heard.iter().filter(|(heard_by, _)| *heard_by == user) {
            let history = device.history(*session).await;
            heads.insert((user, *session), history.first().map_or(0, |newest| newest.msg_id));
            let mut records = shared.records();
            records.history.stored(conversation(user, *session), &history);
        }
    }
    heads
}

/// Waits until everybody has heard everything that is in the histories.
async fn everybody_heard(shared: &Shared, heads: &HashMap<(u32, Session), u32>) {
    let mut heard = shared.heard.subscribe();
    let complete = timeout(SETTLE_LIMIT, async {
        loop {
            if missing(shared, heads).is_empty() {
                return;
            }
            heard.changed().await.expect("the listeners live");
        }
    });
    let in_time = complete.await.is_ok();
    assert!(in_time, "everybody hears everything, not:\n{}", first(&missing(shared, heads)));
}

fn missing(shared: &Shared, heads: &HashMap<(u32, Session), u32>) -> Vec<String> {
    let records = shared.records();
    let behind = heads.iter().filter_map(|(place, head)| {
        let upto = records.heard_upto.get(place).copied().unwrap_or_default();
        (upto < *head).then(|| format!("u{} has {upto} of {head} of {:?}", place.0, place.1))
    });
    behind.collect()
}

fn conversation(user: u32, session: Session) -> ConversationId {
    let conversation = match session {
        Session::User(other) => ConversationId::single(UserId(user), other),
        Session::Group(GroupId(group)) => ConversationId::group(GroupId(group)),
    };
    conversation.expect("nobody talks to himself")
}

fn first(lines: &[String]) -> String {
    lines.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n")
}
