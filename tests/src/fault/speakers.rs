//! Old clients that talk while something is hurt, with the habits of the four clients: none of them
//! names its messages, all say the same few words, phones count their frames from 1 after each start
//! or give all of them one number, a PC and a phone of one user say the same under the same number,
//! and Windows repeats what was not answered.
//!
//! What they say is known by nothing but its place. So it is counted: every acknowledgement is for a
//! place of its own, every place that was acknowledged is in the history, and the history has at
//! most as many messages as were said. What was never answered may be there or not.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use client::{ClientType, Connection, ConnectionError, Conversation, Draft};
use prost::Message as _;
use proto::client::MessageAck;
use proto::{Command, Frame};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::old::{Book, Line};
use crate::{PASSWORD, Random, Site};

/// A user for each habit, and a user who only listens.
pub(super) const SPEAKERS: u32 = 5;

/// How long a client waits for an answer: Windows repeats then, others give up.
const ANSWER_LIMIT: Duration = Duration::from_secs(6);
/// Between two messages of one device.
const PAUSE_MS: u64 = 200;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const WORDS: [&str; 2] = ["ok", "hi"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Rising numbers; a frame that is not answered is repeated, here or on the next connection.
    Windows,
    /// A phone that counts from 1 after each login, and logs in for every few messages.
    Restart,
    /// A phone whose frames all have the number 1.
    OneNumber,
    /// A PC and a phone with the same numbers.
    TwoDevices,
}

const HABITS: [Habit; SPEAKERS as usize - 1] =
    [Habit::Windows, Habit::Restart, Habit::OneNumber, Habit::TwoDevices];

/// People who talk with old clients until they are stopped.
#[derive(Debug)]
pub(super) struct Speakers {
    runtime: Runtime,
    first: u32,
    stop: watch::Sender<bool>,
    tasks: JoinSet<(u32, Tally)>,
}

/// What one device has said and heard.
#[derive(Debug, Default)]
struct Tally {
    said: usize,
    acked: Vec<u32>,
    repeats: usize,
}

/// What all of them have said.
#[derive(Debug, Default)]
pub(super) struct Spoken {
    /// Said, acknowledged, stored.
    pub(super) counts: (usize, usize, usize),
    /// Frames that Windows repeated.
    pub(super) repeats: usize,
    /// What contradicts the promises.
    pub(super) wrong: Vec<String>,
}

impl Speakers {
    /// Starts talking as the users from `first` on, of whom there are [`SPEAKERS`].
    pub(super) fn start(site: &Site, first: u32, random: &mut Random) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("start a runtime");
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (user, habit) in (first..).zip(HABITS) {
            let kinds: &[ClientType] = match habit {
                Habit::Windows => &[ClientType::Windows],
                Habit::Restart | Habit::OneNumber => &[ClientType::Android],
                Habit::TwoDevices => &[ClientType::Mac, ClientType::Ios],
            };
            for kind in kinds {
                let device = Device {
                    habit,
                    kind: *kind,
                    user,
                    to: Conversation::user(first + SPEAKERS - 1),
                    gateways: site.gateways.clone(),
                    random: Random::from_seed(random.below(u64::MAX)),
                    line: None,
                    seq: 0,
                    tally: Tally::default(),
                };
                tasks.spawn_on(device.talk(stopped.clone()), runtime.handle());
            }
        }
        Self { runtime, first, stop, tasks }
    }

    /// Ends the talking, after the last fault has ended, and checks the history against what was said.
    pub(super) fn finish(self, site: &Site) -> Spoken {
        let Self { runtime, first, stop, mut tasks } = self;
        stop.send_replace(true);
        let mut spoken = Spoken::default();
        let mut tallies: Vec<(u32, Tally)> = Vec::new();
        runtime.block_on(async {
            while let Some(ended) = tasks.join_next().await {
                tallies.push(ended.expect("a speaker does not panic"));
            }
            for user in first..first + SPEAKERS - 1 {
                let of_user = tallies.iter().filter(|(of, _tally)| *of == user);
                let of_user: Vec<&Tally> = of_user.map(|(_of, tally)| tally).collect();
                spoken.check(site, user, Conversation::user(first + SPEAKERS - 1), &of_user).await;
            }
        });
        spoken
    }
}

impl Spoken {
    async fn check(&mut self, site: &Site, user: u32, to: Conversation, tallies: &[&Tally]) {
        let stored = history(site, user, to).await;
        let said: usize = tallies.iter().map(|tally| tally.said).sum();
        let acked: Vec<u32> =
            tallies.iter().flat_map(|tally| tally.acked.iter().copied()).collect();
        let places: BTreeSet<u32> = acked.iter().copied().collect();
        self.counts.0 += said;
        self.counts.1 += acked.len();
        self.counts.2 += stored.len();
        self.repeats += tallies.iter().map(|tally| tally.repeats).sum::<usize>();
        if places.len() < acked.len() {
            let what = format!("u{user}: {} answers for {} places", acked.len(), places.len());
            self.wrong.push(what);
        }
        let lost: Vec<_> = places.difference(&stored).collect();
        if !lost.is_empty() {
            self.wrong.push(format!("u{user}: acknowledged and not there: {lost:?}"));
        }
        if stored.len() > said {
            self.wrong.push(format!("u{user}: said {said}, stored {}", stored.len()));
        }
    }
}

/// The numbers of a conversation.
async fn history(site: &Site, user: u32, conversation: Conversation) -> BTreeSet<u32> {
    let mut book = Book::new(user, "speaker");
    let gateway = site.gateways.first().expect("there is a gateway");
    let mut line = Line::open_when_back(gateway, ClientType::Android, &mut book).await;
    line.catch_up(&mut book).await.expect("the history is there");
    book.all(conversation).map(|(msg_id, _content)| msg_id).collect()
}

struct Device {
    habit: Habit,
    kind: ClientType,
    user: u32,
    to: Conversation,
    gateways: Vec<String>,
    random: Random,
    line: Option<Connection>,
    seq: u16,
    tally: Tally,
}

impl Device {
    async fn talk(mut self, mut stop: watch::Receiver<bool>) -> (u32, Tally) {
        while !*stop.borrow_and_update() {
            self.say().await;
            let leaves = self.habit == Habit::Restart && self.random.below(3) == 0;
            if leaves {
                self.line = None;
            }
            sleep(Duration::from_millis(self.random.below(PAUSE_MS))).await;
        }
        (self.user, self.tally)
    }

    async fn say(&mut self) {
        if self.line.is_none() {
            self.log_in().await;
        }
        self.seq = match self.habit {
            Habit::OneNumber => 1,
            // Windows begins again below the numbers that mean something else.
            _ => self.seq % 10_000 + 1,
        };
        let words = WORDS[self.random.index(WORDS.len())];
        let frame = frame(self.seq, self.to, words);
        self.tally.said += 1;
        let repeats_at = Instant::now() + ANSWER_LIMIT;
        let mut answer = self.send(&frame).await;
        if answer.is_none() && self.habit == Habit::Windows {
            if self.line.is_none() {
                self.log_in().await;
            }
            sleep_until(repeats_at.into()).await;
            self.tally.repeats += 1;
            answer = self.send(&frame).await;
        }
        self.tally.acked.extend(answer);
    }

    /// Sends a frame and waits for its acknowledgement.
    async fn send(&mut self, frame: &Frame) -> Option<u32> {
        let line = self.line.as_mut()?;
        let answer = match line.send_frame(frame).await {
            Ok(()) => answer(line, frame.seq).await,
            Err(_broken) => Err(()),
        };
        answer.unwrap_or_else(|()| {
            self.line = None;
            None
        })
    }

    /// Logs in through any gateway, however often that takes.
    async fn log_in(&mut self) {
        loop {
            let index = self.random.index(self.gateways.len());
            let gateway = self.gateways.get(index).expect("there is a gateway");
            let name = format!("u{}", self.user);
            let login = async {
                let mut line = Connection::connect(gateway, None).await.ok()?;
                line.login(&name, PASSWORD, self.kind, None).await.ok()?;
                Some(line)
            };
            if let Ok(Some(line)) = timeout(CONNECT_LIMIT, login).await {
                self.line = Some(line);
                if self.habit != Habit::Windows {
                    self.seq = 0;
                }
                return;
            }
            sleep(Duration::from_millis(50 + self.random.below(100))).await;
        }
    }
}

/// The number that was acknowledged; `None` if no answer comes in time, an error if the connection
/// ends.
async fn answer(line: &mut Connection, seq: u16) -> Result<Option<u32>, ()> {
    let end = Instant::now() + ANSWER_LIMIT;
    loop {
        match line.next_frame(end.saturating_duration_since(Instant::now())).await {
            Ok(frame) if frame.seq == seq && frame.known_command() == Some(Command::MessageAck) => {
                return Ok(frame.parse::<MessageAck>().ok().map(|ack| ack.msg_id));
            }
            Ok(_push) => {}
            Err(ConnectionError::TimedOut) => return Ok(None),
            Err(_ended) => return Err(()),
        }
    }
}

fn frame(seq: u16, to: Conversation, words: &str) -> Frame {
    let body = Draft::text(to, words).without_id().to_wire().encode_to_vec().into();
    Frame { command: Command::MessageData.number(), seq, body }
}
