//! More messages than can be stored: clients that send at a fixed rate, whatever they are answered.
//!
//! Each client has many conversations, and in each of them one message under way at most: what it is
//! told to try again it sends again, under the same name and before anything newer there, when that
//! conversation's turn comes. So it keeps the contract, and the rate does not depend on the answers.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{ClientType, Connection, Conversation, Draft, FrameReader, FrameWriter, hello};
use proto::client::{SendOutcome, SendResult};
use proto::frame::encode_message;
use proto::ids::ClientMsgId;
use proto::{Command, Frame};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::{Device, PASSWORD, PATIENCE};

/// Between two looks at what is to be sent.
const TICK: Duration = Duration::from_millis(10);
/// What was not sent for want of a core is made up for, but for no more than this time.
const CATCH_UP: f64 = 0.1;
/// How long answers are waited for after the last message. No gateway keeps anybody waiting for longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Bytes of a message, apart from those that tell it from others.
const PADDING: [u8; 240] = [b'x'; 240];

/// When a client sends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// So many are under way, always.
    Window(usize),
    /// So many a second, whatever happens to them.
    PerSecond(f64),
}

/// What became of what was sent.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How long the answers took: stored.
    pub(super) acked: Vec<Duration>,
    /// To be tried again.
    pub(super) retried: Vec<Duration>,
    /// Never to be stored, which nothing of this is.
    pub(super) refused: usize,
    /// Not answered at all.
    pub(super) unanswered: usize,
    /// Turns in which every conversation had a message under way.
    pub(super) without_turn: usize,
}

/// The clients. One thread serves them all.
pub(super) struct Senders {
    runtime: Runtime,
    all: Vec<Sender>,
    sending: JoinSet<Sender>,
}

struct Sender {
    user: u32,
    gateway: String,
    reader: FrameReader,
    writer: FrameWriter,
    lines: Vec<Line>,
    /// Those without a message under way, the longest unused first.
    free: VecDeque<usize>,
    under_way: HashMap<ClientMsgId, (usize, Draft, Instant)>,
    next_seq: u16,
    next_number: u64,
    tally: Tally,
}

/// One conversation.
struct Line {
    peer: u32,
    /// What is to be sent again before anything else.
    again: Option<Draft>,
    /// What was said, by number.
    acked: BTreeMap<u32, Bytes>,
}

impl Tally {
    /// How many were sent.
    pub(super) fn sent(&self) -> usize {
        self.acked.len() + self.retried.len() + self.refused + self.unanswered
    }

    fn add(&mut self, other: Self) {
        self.acked.extend(other.acked);
        self.retried.extend(other.retried);
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.without_turn += other.without_turn;
    }
}

impl Senders {
    /// Logs these users in, each with a conversation with each of `peers`.
    pub(super) fn log_in(gateways: &[String], users: Range<u32>, peers: &Range<u32>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("start a runtime");
        let mut all = Vec::new();
        for (user, gateway) in users.zip(gateways.iter().cycle()) {
            all.push(runtime.block_on(Sender::log_in(gateway, user, peers.clone())));
        }
        Self { runtime, all, sending: JoinSet::new() }
    }

    /// Lets all of them send for a while, at this pace all together. Returns at once.
    pub(super) fn start(&mut self, pace: Pace, lasts: Duration) {
        let count = self.all.len();
        let pace = match pace {
            Pace::Window(window) => Pace::Window(window.div_ceil(count)),
            #[expect(clippy::cast_precision_loss, reason = "a few clients")]
            Pace::PerSecond(rate) => Pace::PerSecond(rate / count as f64),
        };
        let until = Instant::now() + lasts;
        for sender in self.all.drain(..) {
            self.sending.spawn_on(sender.send(pace, until), self.runtime.handle());
        }
    }

    /// Waits until they have sent and have all answers. Returns what these were.
    pub(super) fn finish(&mut self) -> Tally {
        let mut tally = Tally::default();
        let Self { runtime, all, sending } = self;
        runtime.block_on(async {
            while let Some(sender) = sending.join_next().await {
                let mut sender = sender.expect("nobody panics");
                tally.add(std::mem::take(&mut sender.tally));
                all.push(sender);
            }
        });
        tally
    }

    /// Reads all histories: everything that was acknowledged is there under its number, and nothing is
    /// there twice. Returns how many messages there are.
    pub(super) fn check(self) -> usize {
        let Self { runtime, all, .. } = self;
        runtime.block_on(async {
            let mut read = 0;
            for sender in all {
                read += sender.check().await;
            }
            read
        })
    }
}

impl Sender {
    async fn log_in(gateway: &str, user: u32, peers: Range<u32>) -> Self {
        let mut connection = Connection::connect(gateway, None).await.expect("a gateway listens");
        connection.set_limit(PATIENCE);
        let name = format!("u{user}");
        let login = connection.login(&name, PASSWORD, ClientType::Windows, Some(hello())).await;
        login.expect("everybody is let in");
        let (reader, writer, _early) = connection.split();
        let lines: Vec<Line> = peers.map(Line::new).collect();
        Self {
            user,
            gateway: gateway.to_owned(),
            reader,
            writer,
            free: (0..lines.len()).collect(),
            lines,
            under_way: HashMap::new(),
            next_seq: 1_000,
            next_number: 0,
            tally: Tally::default(),
        }
    }

    async fn send(mut self, pace: Pace, until: Instant) -> Self {
        let began = Instant::now();
        let mut offered = 0;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = Instant::now();
            if now >= until && self.under_way.is_empty() {
                break;
            }
            if now >= until + ANSWER_LIMIT {
                self.tally.unanswered += self.under_way.len();
                self.under_way.clear();
                break;
            }
            tokio::select! {
                biased;
                frame = self.reader.next() => {
                    let frame = frame.expect("the gateway speaks the protocol");
                    self.answered(&frame.expect("the gateway lets nobody go"));
                }
                written = self.writer.write_some(), if !self.writer.is_idle() => {
                    written.expect("the gateway lets nobody go");
                }
                _tick = ticks.tick() => {
                    if now < until {
                        self.offer(pace, began.elapsed(), &mut offered);
                    }
                }
            }
        }
        self
    }

    /// Sends what is due.
    fn offer(&mut self, pace: Pace, elapsed: Duration, offered: &mut u64) {
        let due = match pace {
            Pace::Window(window) => window.saturating_sub(self.under_way.len()) as u64,
            Pace::PerSecond(rate) => {
                let by_now = whole(rate * elapsed.as_secs_f64());
                *offered = (*offered).max(by_now.saturating_sub(whole(rate * CATCH_UP)));
                by_now.saturating_sub(*offered)
            }
        };
        for _message in 0..due {
            *offered += 1;
            let Some(line) = self.free.pop_front() else {
                self.tally.without_turn += 1;
                continue;
            };
            self.say(line);
        }
    }

    fn say(&mut self, place: usize) {
        let Some(line) = self.lines.get_mut(place) else { return };
        let draft = line.again.take().unwrap_or_else(|| {
            self.next_number += 1;
            let mut body = format!("{} from u{} ", self.next_number, self.user).into_bytes();
            body.extend_from_slice(&PADDING);
            Draft::voice(Conversation::user(line.peer), 1, &body)
        });
        let id = draft.client_msg_id.expect("a draft has a name unless it is taken away");
        let frame = encode_message(Command::MessageData, self.next_seq, &draft.to_wire());
        self.next_seq = if self.next_seq == u16::MAX { 1_000 } else { self.next_seq + 1 };
        self.writer.queue(&frame);
        self.under_way.insert(id, (place, draft, Instant::now()));
    }

    fn answered(&mut self, frame: &Frame) {
        if frame.known_command() != Some(Command::SendResult) {
            return;
        }
        let result: SendResult = frame.parse().expect("an answer can be read");
        let id = ClientMsgId::from_slice(&result.client_msg_id).expect("it has a name");
        let Some((place, draft, sent)) = self.under_way.remove(&id) else {
            // Of an earlier try, which was given up.
            return;
        };
        let took = sent.elapsed();
        let line = self.lines.get_mut(place).expect("it was sent there");
        match result.outcome() {
            SendOutcome::Ok => {
                let msg_id = result.msg_id.expect("what is stored has a number");
                let before = line.acked.insert(msg_id, draft.data);
                assert_eq!(before, None, "two messages have the number {msg_id}");
                self.tally.acked.push(took);
            }
            SendOutcome::Retry => {
                line.again = Some(draft.again());
                self.tally.retried.push(took);
            }
            SendOutcome::Refused => self.tally.refused += 1,
        }
        self.free.push_back(place);
    }

    async fn check(self) -> usize {
        let Self { user, gateway, lines, .. } = self;
        // The one that sent is thrown out by this login, if it is still there.
        let mut device = Device::pc(&gateway, user).await;
        let mut read = 0;
        for Line { peer, acked, .. } in lines {
            let history = device.history(Conversation::user(peer)).await;
            let count = u32::try_from(history.len()).expect("it is in memory");
            assert!(
                history.iter().rev().map(|info| info.msg_id).eq(1..=count),
                "no number is left out"
            );
            let mut bodies = HashSet::new();
            for info in &history {
                assert!(bodies.insert(info.msg_data.clone()), "stored twice: {info:?}");
                let acked = acked.get(&info.msg_id);
                assert!(acked.is_none_or(|data| *data == info.msg_data), "another one: {info:?}");
            }
            let last = acked.keys().next_back().copied().unwrap_or(0);
            assert!(
                last <= count,
                "of u{user} to u{peer}, {last} was acknowledged, {count} are there"
            );
            read += history.len();
        }
        read
    }
}

impl Line {
    fn new(peer: u32) -> Self {
        Self { peer, again: None, acked: BTreeMap::new() }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of messages, never negative"
)]
fn whole(count: f64) -> u64 {
    count as u64
}
