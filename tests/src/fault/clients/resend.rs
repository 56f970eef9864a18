//! Messages that are sent again because their clients do not know what became of them: by old
//! clients on the same connection, and by clients that name their messages, through the other
//! gateway.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use client::{ClientType, Connection, ConnectionError, Conversation, Draft, SendReply};
use prost::Message as _;
use proto::client::{MessageAck, SendOutcome};
use proto::{Command, Frame};
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tokio::time::sleep;

use super::super::daemons::site_of;
use super::super::old::{Book, Line};
use super::super::talk::{Truth, conversation_id, nothing_wrong};
use super::super::{Run, Skipped};
use super::logged_in;
use crate::{PATIENCE, Random, Site};

const USER: u32 = 1;
/// Messages of one round at most.
const TOGETHER: u64 = 4;
/// One try to get an answer.
const TRY_LIMIT: Duration = Duration::from_secs(2);
/// How long an answer may be on its way that was given before the owner stood still.
const LAST_ANSWERS: Duration = Duration::from_millis(200);
/// Longer than a gateway waits for the owner before it says that it does not know.
const TIMEOUT: Duration = Duration::from_secs(12);
/// How long an answer takes that meets its frame's repeat on the way: Windows repeats after six seconds.
const NEARLY_REPEATED: Duration = Duration::from_millis(5_500);
/// A round of the long form in which time runs out, among so many.
const TIMEOUT_EVERY: usize = 60;

/// What happens to the servers between a message and its repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hurt {
    Nothing,
    Owner,
    Gateway,
    Both,
}

/// The scenario.
pub(super) fn run(run: &mut Run) -> Result<(), Skipped> {
    let mut site = run.start(&site_of(4));
    let runtime = Runtime::new().expect("start a runtime");
    let mut sender = Sender {
        random: Random::from_seed(run.random.below(u64::MAX)),
        truth: Truth::default(),
        said: 0,
        recognised: 0,
        repeats: 0,
        kinds: BTreeMap::new(),
        wrong: Vec::new(),
    };
    for round in 0..run.rounds {
        let is_late = run.is_long && round % TIMEOUT_EVERY == TIMEOUT_EVERY / 2;
        runtime.block_on(sender.round(&mut site, round, is_late));
        run.progress(round, format_args!("{} acknowledged", sender.truth.count()));
    }
    sender.recognised += site.metric("db_proxy", "talkhub_db_proxy_duplicates_total");
    runtime.block_on(sender.crossed(&site, Conversation::user(2)));
    let stored = runtime.block_on(sender.compare(&site));
    let Sender { truth, said, recognised, repeats, kinds, wrong, .. } = sender;
    let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    run.figure("rounds", kinds.join(", "));
    run.figure("said, stored", format_args!("{said}, {stored}"));
    run.figure("repeats, recognised by the owner", format_args!("{repeats}, {recognised}"));
    nothing_wrong(&wrong);
    truth.check();
    assert_eq!((stored, truth.count()), (said, said), "everything is stored and acknowledged");
    assert!(recognised > 0, "some repeats were repeats for the owner");
    Ok(())
}

struct Sender {
    random: Random,
    truth: Truth,
    said: usize,
    /// Repeats that the owner knew, as it counts.
    recognised: u64,
    repeats: usize,
    kinds: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

/// A message and its place in the truth.
struct Mine {
    draft: Draft,
    index: usize,
}

impl Sender {
    async fn round(&mut self, site: &mut Site, round: usize, is_late: bool) {
        let conversation =
            if round.is_multiple_of(2) { Conversation::user(2) } else { Conversation::group(1) };
        let named = round % 4 >= 2;
        let hurt = match self.random.below(5) {
            0 | 1 => Hurt::Owner,
            2 if named => Hurt::Gateway,
            3 if named => Hurt::Both,
            _ => Hurt::Nothing,
        };
        let here = self.random.index(2);
        let kind = if is_late {
            self.too_late(site, conversation).await;
            "timeout".to_owned()
        } else if named {
            self.other_gateway(site, here, conversation, hurt).await;
            format!("other gateway/{hurt:?}").to_lowercase()
        } else {
            self.same_connection(site, here, conversation, hurt).await;
            format!("same connection/{hurt:?}").to_lowercase()
        };
        *self.kinds.entry(kind).or_default() += 1;
    }

    fn mine(&mut self, conversation: Conversation, named: bool) -> Mine {
        self.said += 1;
        let draft = Draft::text(conversation, &format!("message {}", self.said));
        let index = self.truth.says(USER, conversation, &draft.data);
        Mine { draft: if named { draft } else { draft.without_id() }, index }
    }

    fn several(&mut self, conversation: Conversation, named: bool) -> Vec<Mine> {
        let count = 1 + self.random.below(TOGETHER);
        (0..count).map(|_| self.mine(conversation, named)).collect()
    }

    async fn a_moment(&mut self) {
        sleep(Duration::from_micros(self.random.below(20_000))).await;
    }

    fn kill(&mut self, site: &mut Site, name: &str) {
        if name == "db_proxy" {
            self.recognised += site.metric(name, "talkhub_db_proxy_duplicates_total");
        }
        site.kill(name);
    }

    /// As the Windows client does it: the same frame again on the same connection, if it was not
    /// answered. What was answered would be a message of its own.
    async fn same_connection(
        &mut self,
        site: &mut Site,
        here: usize,
        to: Conversation,
        hurt: Hurt,
    ) {
        let mut connection = get_in(site, here, ClientType::Windows, false).await;
        let mut frames = HashMap::new();
        for mine in self.several(to, false) {
            let seq = connection.next_seq();
            let frame = frame(seq, &mine.draft);
            connection.send_frame(&frame).await.expect("the gateway lives");
            frames.insert(seq, (frame, mine.index));
        }
        self.a_moment().await;
        let is_hurt = hurt == Hurt::Owner;
        if is_hurt {
            self.kill(site, "db_proxy");
        } else {
            site.signal("db_proxy", Signal::STOP);
            crate::wait_until("the owner stands still", PATIENCE, || stands_still(site));
        }
        // What it has answered before is on its way for a moment.
        self.acks(&mut connection, &mut frames, LAST_ANSWERS).await;
        for (frame, _index) in frames.values() {
            self.repeats += 1;
            connection.send_frame(frame).await.expect("the gateway lives");
        }
        self.a_moment().await;
        if is_hurt {
            site.start_daemon("db_proxy");
        } else {
            site.signal("db_proxy", Signal::CONT);
        }
        let began = Instant::now();
        while !frames.is_empty() {
            assert!(began.elapsed() < PATIENCE, "everything is answered: {frames:?}");
            self.acks(&mut connection, &mut frames, TRY_LIMIT).await;
        }
        if let Some(more) = no_answer(&mut connection, LAST_ANSWERS).await {
            self.wrong.push(format!("one answer for a frame and its repeat, not {more}"));
        }
    }

    /// The answer comes so late that the client has repeated the frame before it arrives.
    async fn crossed(&mut self, site: &Site, to: Conversation) {
        let mut connection = get_in(site, 0, ClientType::Windows, false).await;
        let mine = self.mine(to, false);
        site.signal("db_proxy", Signal::STOP);
        crate::wait_until("the owner stands still", PATIENCE, || stands_still(site));
        let seq = connection.next_seq();
        let frame = frame(seq, &mine.draft);
        connection.send_frame(&frame).await.expect("the gateway lives");
        if let Some(answer) = no_answer(&mut connection, NEARLY_REPEATED).await {
            self.wrong.push(format!("an old client whose owner stands still: {answer}"));
        }
        site.signal("db_proxy", Signal::CONT);
        let mut frames = HashMap::from([(seq, (frame.clone(), mine.index))]);
        let began = Instant::now();
        while !frames.is_empty() {
            assert!(began.elapsed() < PATIENCE, "the owner is back");
            self.acks(&mut connection, &mut frames, TRY_LIMIT).await;
        }
        connection.send_frame(&frame).await.expect("the gateway lives");
        *self.kinds.entry("same connection/crossed".to_owned()).or_default() += 1;
        if let Some(more) = no_answer(&mut connection, LAST_ANSWERS).await {
            self.wrong.push(format!("one answer for a frame and its crossing repeat, not {more}"));
        }
    }

    /// Reads acknowledgements, and takes out what they are for, until all is answered or none comes
    /// for a while.
    async fn acks(
        &mut self,
        connection: &mut Connection,
        frames: &mut HashMap<u16, (Frame, usize)>,
        limit: Duration,
    ) {
        while !frames.is_empty() {
            match connection.next_frame(limit).await {
                Ok(frame) if frame.seq == 0 => {}
                Ok(frame) => match (frame.known_command(), frames.remove(&frame.seq)) {
                    (Some(Command::MessageAck), Some((_frame, index))) => {
                        let ack: MessageAck = frame.parse().expect("an ack can be read");
                        self.truth.acked(index, ack.msg_id);
                    }
                    _ => self.wrong.push(format!("an old client is told {frame:?}")),
                },
                Err(ConnectionError::TimedOut) => return,
                Err(error) => {
                    self.wrong.push(format!("the connection ends: {error}"));
                    return;
                }
            }
        }
    }

    /// As a client with names for its messages does it: through any gateway.
    async fn other_gateway(&mut self, site: &mut Site, here: usize, to: Conversation, hurt: Hurt) {
        let mut connection = get_in(site, here, ClientType::Mac, true).await;
        let mine = self.several(to, true);
        let mut seqs = Vec::new();
        for mine in &mine {
            seqs.push(connection.post_message(&mine.draft).await.expect("the gateway lives"));
        }
        if self.random.below(2) == 0 {
            for (seq, mine) in seqs.iter().zip(&mine) {
                let reply = connection.send_reply(*seq).await;
                self.told(mine, reply.expect("the gateway lives"));
            }
        }
        self.a_moment().await;
        let gateway = format!("msg_server-{}", here + 1);
        let mut dead = Vec::new();
        if matches!(hurt, Hurt::Gateway | Hurt::Both) {
            dead.push(gateway.as_str());
        }
        if matches!(hurt, Hurt::Owner | Hurt::Both) {
            dead.push("db_proxy");
        }
        for name in &dead {
            self.kill(site, name);
        }
        for name in dead.iter().rev() {
            site.start_daemon(name);
        }
        let kind = if self.random.below(2) == 0 { ClientType::Mac } else { ClientType::Ios };
        let mut other = get_in(site, 1 - here, kind, true).await;
        let began = Instant::now();
        for mine in &mine {
            loop {
                assert!(began.elapsed() < PATIENCE, "everything is answered");
                self.repeats += 1;
                let again = mine.draft.clone().again();
                match other.send_message(&again).await {
                    Ok(reply) => {
                        if self.told(mine, reply) {
                            break;
                        }
                        sleep(Duration::from_millis(100)).await;
                    }
                    Err(error) => {
                        self.wrong.push(format!("the connection ends: {error}"));
                        other = get_in(site, 1 - here, kind, true).await;
                    }
                }
            }
        }
    }

    /// Takes an answer. Returns whether it is final.
    fn told(&mut self, mine: &Mine, reply: SendReply) -> bool {
        match reply {
            SendReply::Result(result) => match (result.outcome(), result.msg_id) {
                (SendOutcome::Ok, Some(msg_id)) => {
                    self.truth.acked(mine.index, msg_id);
                    return true;
                }
                (SendOutcome::Retry, None) => return false,
                _ => self.wrong.push(format!("message {} is told {result:?}", mine.index)),
            },
            SendReply::Ack(ack) => self.wrong.push(format!("a named message is told {ack:?}")),
        }
        true
    }

    /// The owner stands still for longer than a gateway waits: old clients hear nothing, others hear
    /// that the outcome is unknown, and later all of it is there once.
    async fn too_late(&mut self, site: &mut Site, to: Conversation) {
        let mut old = get_in(site, 0, ClientType::Windows, false).await;
        let mut new = get_in(site, 1, ClientType::Mac, true).await;
        new.set_limit(TIMEOUT);
        site.signal("db_proxy", Signal::STOP);
        crate::wait_until("the owner stands still", PATIENCE, || stands_still(site));
        let (unnamed, named) = (self.mine(to, false), self.mine(to, true));
        let seq = old.next_seq();
        let frame = frame(seq, &unnamed.draft);
        old.send_frame(&frame).await.expect("the gateway lives");
        let (told, heard) =
            tokio::join!(new.send_message(&named.draft), no_answer(&mut old, TIMEOUT));
        assert!(stands_still(site), "nobody else has woken the owner");
        self.repeats += 1;
        old.send_frame(&frame).await.expect("the gateway lives");
        site.signal("db_proxy", Signal::CONT);
        match told {
            Ok(SendReply::Result(result)) if result.outcome() == SendOutcome::Retry => {}
            other => self.wrong.push(format!("when time runs out: {other:?}")),
        }
        if let Some(answer) = heard {
            self.wrong.push(format!("an old client, when time runs out: {answer}"));
        }
        let mut frames = HashMap::from([(seq, (frame, unnamed.index))]);
        let began = Instant::now();
        while !frames.is_empty() {
            assert!(began.elapsed() < PATIENCE, "the owner is back");
            self.acks(&mut old, &mut frames, TRY_LIMIT).await;
        }
        loop {
            assert!(began.elapsed() < PATIENCE, "the owner is back");
            self.repeats += 1;
            let again = named.draft.clone().again();
            if let Ok(reply) = new.send_message(&again).await
                && self.told(&named, reply)
            {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reads everything back: each message is there once, under the number that was told. Returns
    /// how many messages are stored.
    async fn compare(&mut self, site: &Site) -> usize {
        let mut book = Book::new(USER, "reader");
        let gateway = site.gateways.first().expect("there is a gateway");
        let mut line = Line::open_when_back(gateway, ClientType::Android, &mut book).await;
        line.catch_up(&mut book).await.expect("the history is there");
        let conversations = [Conversation::user(2), Conversation::group(1)];
        self.wrong.extend(self.truth.against(USER, &book, &conversations));
        let mut stored = 0;
        for conversation in conversations {
            let mut places: HashMap<u64, Vec<u32>> = HashMap::new();
            for (msg_id, content) in book.all(conversation) {
                stored += 1;
                places.entry(content).or_default().push(msg_id);
            }
            for saying in self.truth.sayings(conversation_id(USER, conversation)) {
                let told: Vec<u32> = saying.acked.iter().map(|(_at, msg_id)| *msg_id).collect();
                let there = places.remove(&saying.content).unwrap_or_default();
                if there != told {
                    self.wrong
                        .push(format!("{conversation:?}: told {told:?}, stored at {there:?}"));
                }
            }
        }
        stored
    }
}

fn frame(seq: u16, draft: &Draft) -> Frame {
    let body = draft.to_wire().encode_to_vec().into();
    Frame { command: Command::MessageData.number(), seq, body }
}

/// Waits out `limit`, in which only pushes may come. Returns what else came.
async fn no_answer(connection: &mut Connection, limit: Duration) -> Option<String> {
    let end = Instant::now() + limit;
    loop {
        match connection.next_frame(end.saturating_duration_since(Instant::now())).await {
            Ok(frame) if frame.seq == 0 => {}
            Ok(answer) => return Some(format!("{answer:?}")),
            Err(ConnectionError::TimedOut) => return None,
            Err(error) => return Some(error.to_string()),
        }
    }
}

/// Whether the kernel says that no thread of the owner goes on.
fn stands_still(site: &Site) -> bool {
    let pid = site.pid("db_proxy").as_raw_nonzero();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut states = threads.map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name stands in brackets and may hold anything.
        stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('T')
    });
    states.all(|stands| stands)
}

async fn get_in(site: &Site, gateway: usize, kind: ClientType, extended: bool) -> Connection {
    logged_in(site, gateway, (USER, kind), extended).await
}
