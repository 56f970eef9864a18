//! Old clients with the habits that programs in the field have: one number for every frame, numbers
//! from 1 after each start, the same words from two devices of one user, the same words to a user
//! and to a group of the same number, a login for every message; and Windows, which repeats a frame
//! that was not answered, on the same connection or the next one. The owner is killed or stands
//! still meanwhile, or the answers to a client get lost.
//!
//! All of them say the same few words, so that a message is known by nothing but its own act of
//! being said. What is counted: each acknowledgement is for a place of its own, unless a repeat was
//! acknowledged; and in the end each conversation holds as many messages as were said there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use client::{ClientType, Connection, ConnectionError, Conversation, Draft, SendReply};
use prost::Message as _;
use proto::client::{MessageAck, RefuseReason, SendOutcome};
use proto::{Command, Frame};
use rustix::process::Signal;
use tokio::runtime::Runtime;

use super::super::daemons::site_of;
use super::super::old::{Book, Line};
use super::super::talk::nothing_wrong;
use super::super::{Run, Skipped};
use super::logged_in;
use crate::{Ends, PATIENCE, Random, Site, SiteOptions, wait_until};

const USER: u32 = 1;
/// A user and a group of this number get messages.
const PEER: u32 = 1;
const OTHER: u32 = 2;
/// What everybody says.
const WORDS: [&str; 2] = ["ok", "hi"];
/// How long a client waits for an answer before it repeats or gives up. Windows waits for six
/// seconds; what counts is that it is not answered meanwhile.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Habit {
    /// Every frame has the number 1, on one connection and on the next.
    OneNumber,
    /// An Android client that is started again and counts from where it counted before.
    Restart,
    /// A PC and a phone say the same under the same number.
    TwoDevices,
    /// The same to a user and to a group of the same number.
    UserAndGroup,
    /// Windows: the answer does not come, the frame is repeated on the same connection.
    RepeatHere,
    /// Windows: the answer does not come, the frame is repeated on the next connection.
    RepeatElsewhere,
    /// Windows: the answer was lost on its way, the frame is repeated on the next connection.
    AnswerLost,
    /// A new client gives the name of one message to another one.
    NameReused,
}

impl Habit {
    const ALL: [Self; 8] = [
        Self::OneNumber,
        Self::Restart,
        Self::TwoDevices,
        Self::UserAndGroup,
        Self::RepeatHere,
        Self::RepeatElsewhere,
        Self::AnswerLost,
        Self::NameReused,
    ];
}

/// The scenario.
pub(super) fn run(run: &mut Run) -> Result<(), Skipped> {
    let mut site = run.start(&SiteOptions { wires: true, ..site_of(4) });
    let runtime = Runtime::new().expect("start a runtime");
    let mut people =
        People { random: Random::from_seed(run.random.below(u64::MAX)), ..People::new() };
    for round in 0..run.rounds {
        // Each in turn, and then at random.
        let index =
            if round < Habit::ALL.len() { round } else { run.random.index(Habit::ALL.len()) };
        let habit = Habit::ALL.get(index).copied().unwrap_or(Habit::OneNumber);
        runtime.block_on(people.round(&mut site, habit));
        *people.rounds.entry(format!("{habit:?}").to_lowercase()).or_default() += 1;
        run.progress(round, format_args!("{} acknowledged", people.acked.len()));
    }
    let stored = runtime.block_on(people.compare(&site));
    let rounds: Vec<_> =
        people.rounds.iter().map(|(habit, count)| format!("{habit} {count}")).collect();
    run.figure("rounds", rounds.join(", "));
    run.figure(
        "said, acknowledged, stored",
        format_args!("{}, {}, {stored}", people.said, people.acked.len()),
    );
    nothing_wrong(&people.wrong);
    assert_eq!(people.said, people.acked.len(), "everything is acknowledged in the end");
    assert_eq!(people.said, stored, "each message is stored, and once");
    Ok(())
}

struct People {
    random: Random,
    said: usize,
    /// Of each conversation, how many were said there.
    per_conversation: HashMap<Conversation, u32>,
    /// The places that were told.
    acked: HashSet<(Conversation, u32)>,
    rounds: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

impl People {
    fn new() -> Self {
        Self {
            random: Random::from_seed(0),
            said: 0,
            per_conversation: HashMap::new(),
            acked: HashSet::new(),
            rounds: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }

    async fn round(&mut self, site: &mut Site, habit: Habit) {
        let here = self.random.index(2);
        match habit {
            Habit::OneNumber => self.one_number(site, here).await,
            Habit::Restart => self.restart(site, here).await,
            Habit::TwoDevices => self.two_devices(site, here).await,
            Habit::UserAndGroup => self.user_and_group(site, here).await,
            Habit::RepeatHere => self.repeat_here(site, here).await,
            Habit::RepeatElsewhere => self.repeat_elsewhere(site, here).await,
            Habit::AnswerLost => self.answer_lost(site, here).await,
            Habit::NameReused => self.name_reused(site, here).await,
        }
    }

    fn words(&mut self) -> &'static str {
        WORDS[self.random.index(WORDS.len())]
    }

    /// Takes down that something is said.
    fn says(&mut self, to: Conversation) {
        self.said += 1;
        *self.per_conversation.entry(to).or_default() += 1;
    }

    /// Takes down an answer to a message of its own.
    fn is_told(&mut self, to: Conversation, msg_id: u32, what: &str) {
        if !self.acked.insert((to, msg_id)) {
            self.wrong.push(format!("{what}: {to:?} {msg_id} was another message before"));
        }
    }

    /// Says something and hears that it is stored.
    async fn say(
        &mut self,
        line: &mut Connection,
        to: Conversation,
        (words, seq): (&str, u16),
        what: &str,
    ) {
        self.says(to);
        line.send_frame(&frame(seq, to, words)).await.expect("the gateway lives");
        match answer(line, seq, PATIENCE).await {
            Some(msg_id) => self.is_told(to, msg_id, what),
            None => self.wrong.push(format!("{what}: no answer")),
        }
    }

    async fn one_number(&mut self, site: &Site, here: usize) {
        let words = self.words();
        let to = Conversation::user(OTHER);
        for gateway in [here, 1 - here] {
            let mut line = get_in(site, gateway, ClientType::Windows, false).await;
            for _ in 0..2 {
                self.say(&mut line, to, (words, 1), "one number").await;
            }
        }
    }

    async fn restart(&mut self, site: &Site, here: usize) {
        let (words, to) = (self.words(), Conversation::group(PEER));
        for gateway in [here, here, 1 - here] {
            let mut line = get_in(site, gateway, ClientType::Android, false).await;
            self.say(&mut line, to, (words, 8), "restart").await;
        }
    }

    async fn two_devices(&mut self, site: &Site, here: usize) {
        let (words, to) = (self.words(), Conversation::user(OTHER));
        let mut pc = get_in(site, here, ClientType::Windows, false).await;
        let mut phone = get_in(site, 1 - here, ClientType::Android, false).await;
        for line in [&mut pc, &mut phone] {
            self.say(line, to, (words, 5), "two devices").await;
        }
    }

    async fn user_and_group(&mut self, site: &Site, here: usize) {
        let words = self.words();
        let mut line = get_in_as(site, here, ClientType::Windows, OTHER).await;
        // Seen from the other side, this is the conversation with the first user.
        for to in [Conversation::user(PEER), Conversation::group(PEER)] {
            let place = if to == Conversation::user(PEER) { Conversation::user(OTHER) } else { to };
            self.says(place);
            line.send_frame(&frame(7, to, words)).await.expect("the gateway lives");
            match answer(&mut line, 7, PATIENCE).await {
                Some(msg_id) => self.is_told(place, msg_id, "user and group"),
                None => self.wrong.push("user and group: no answer".to_owned()),
            }
        }
    }

    /// The owner cannot answer: it is dead, or stands still.
    fn silence(&mut self, site: &mut Site) -> bool {
        let is_killed = self.random.below(2) == 0;
        if is_killed {
            site.kill("db_proxy");
        } else {
            site.signal("db_proxy", Signal::STOP);
        }
        is_killed
    }

    async fn repeat_here(&mut self, site: &mut Site, here: usize) {
        let (words, to) = (self.words(), Conversation::user(OTHER));
        let mut line = get_in(site, here, ClientType::Windows, false).await;
        let seq = 100 + u16::try_from(self.random.below(1000)).unwrap_or(0);
        let is_killed = self.silence(site);
        self.says(to);
        for _ in 0..2 {
            line.send_frame(&frame(seq, to, words)).await.expect("the gateway lives");
        }
        let early = answer(&mut line, seq, Duration::from_millis(100)).await;
        end_silence(site, is_killed);
        match early.or(answer(&mut line, seq, PATIENCE).await) {
            Some(msg_id) => self.is_told(to, msg_id, "repeat here"),
            None => self.wrong.push("repeat here: no answer".to_owned()),
        }
    }

    async fn repeat_elsewhere(&mut self, site: &mut Site, here: usize) {
        let (words, to) = (self.words(), Conversation::group(PEER));
        let mut line = get_in(site, here, ClientType::Windows, false).await;
        let seq = 100 + u16::try_from(self.random.below(1000)).unwrap_or(0);
        let is_killed = self.silence(site);
        self.says(to);
        line.send_frame(&frame(seq, to, words)).await.expect("the gateway lives");
        let gateway = format!("msg_server-{}", here + 1);
        let count = |what: &str| site.metric(&gateway, &format!("talkhub_msg_server_{what}"));
        wait_until("the gateway has read it", PATIENCE, || count("unanswered") > 0);
        let closed = count("closed_total");
        drop(line);
        // An answer that finds the client still there counts as read by a client that leaves then.
        wait_until("the client has left", PATIENCE, || count("closed_total") > closed);
        end_silence(site, is_killed);
        let mut line = get_in(site, 1 - here, ClientType::Windows, false).await;
        line.send_frame(&frame(seq, to, words)).await.expect("the gateway lives");
        match answer(&mut line, seq, PATIENCE).await {
            Some(msg_id) => self.is_told(to, msg_id, "repeat elsewhere"),
            None => self.wrong.push("repeat elsewhere: no answer".to_owned()),
        }
    }

    /// The client's connection is frozen: the answer is written and never arrives.
    async fn answer_lost(&mut self, site: &Site, here: usize) {
        let (words, to) = (self.words(), Conversation::user(OTHER));
        let mut line = get_in(site, here, ClientType::Windows, false).await;
        let seq = 100 + u16::try_from(self.random.below(1000)).unwrap_or(0);
        self.says(to);
        let wire = Ends::new("clients", &format!("msg_server-{}", here + 1));
        site.wires().set(&wire, crate::Manner { backward_cut: true, ..crate::Manner::default() });
        line.send_frame(&frame(seq, to, words)).await.expect("it is taken");
        let heard = answer(&mut line, seq, ANSWER_LIMIT).await;
        assert_eq!(heard, None, "answers are lost");
        site.wires().freeze(&wire);
        site.wires().set(&wire, crate::Manner::default());
        let mut line = get_in(site, 1 - here, ClientType::Windows, false).await;
        line.send_frame(&frame(seq, to, words)).await.expect("the gateway lives");
        match answer(&mut line, seq, PATIENCE).await {
            Some(msg_id) => self.is_told(to, msg_id, "answer lost"),
            None => self.wrong.push("answer lost: no answer".to_owned()),
        }
    }

    async fn name_reused(&mut self, site: &Site, here: usize) {
        let words = self.words();
        let mut line = get_in(site, here, ClientType::Mac, true).await;
        let draft = Draft::text(Conversation::user(OTHER), words);
        self.says(Conversation::user(OTHER));
        match line.send_message(&draft).await.expect("the gateway lives") {
            SendReply::Result(result) if result.outcome() == SendOutcome::Ok => {
                self.is_told(Conversation::user(OTHER), result.msg_id(), "name reused");
            }
            other => self.wrong.push(format!("name reused: {other:?}")),
        }
        let mut other_words = Draft::text(Conversation::user(OTHER), "something else");
        other_words.client_msg_id.clone_from(&draft.client_msg_id);
        let mut other_place = Draft::text(Conversation::group(PEER), words);
        other_place.client_msg_id.clone_from(&draft.client_msg_id);
        let mut elsewhere = get_in(site, 1 - here, ClientType::Ios, true).await;
        for other in [other_words, other_place] {
            match elsewhere.send_message(&other).await.expect("the gateway lives") {
                SendReply::Result(result)
                    if result.outcome() == SendOutcome::Refused
                        && result.reason() == RefuseReason::IdReused => {}
                told => self.wrong.push(format!("a name of another message: {told:?}")),
            }
        }
    }

    /// Reads everything back. Returns how much is stored.
    async fn compare(&mut self, site: &Site) -> usize {
        let mut book = Book::new(USER, "reader");
        let gateway = site.gateways.first().expect("there is a gateway");
        let mut line = Line::open_when_back(gateway, ClientType::Android, &mut book).await;
        line.catch_up(&mut book).await.expect("the history is there");
        self.wrong.append(&mut book.wrong);
        let mut stored = 0;
        for (conversation, said) in &self.per_conversation {
            let there: Vec<u32> =
                book.all(*conversation).map(|(msg_id, _content)| msg_id).collect();
            stored += there.len();
            if there.len() != *said as usize {
                self.wrong.push(format!("{conversation:?}: {said} said, {} stored", there.len()));
            }
            let lost = self
                .acked
                .iter()
                .filter(|(of, msg_id)| of == conversation && !there.contains(msg_id));
            self.wrong
                .extend(lost.map(|(_, msg_id)| format!("{conversation:?}: {msg_id} is lost")));
        }
        stored
    }
}

fn end_silence(site: &mut Site, is_killed: bool) {
    if is_killed {
        site.start_daemon("db_proxy");
    } else {
        site.signal("db_proxy", Signal::CONT);
    }
}

fn frame(seq: u16, to: Conversation, words: &str) -> Frame {
    let body = Draft::text(to, words).without_id().to_wire().encode_to_vec().into();
    Frame { command: Command::MessageData.number(), seq, body }
}

/// Waits for the acknowledgement of this number.
async fn answer(line: &mut Connection, seq: u16, limit: Duration) -> Option<u32> {
    let end = Instant::now() + limit;
    loop {
        match line.next_frame(end.saturating_duration_since(Instant::now())).await {
            Ok(frame) if frame.seq == seq && frame.known_command() == Some(Command::MessageAck) => {
                let ack: MessageAck = frame.parse().expect("an ack can be read");
                return Some(ack.msg_id);
            }
            Ok(_push) => {}
            Err(ConnectionError::TimedOut) => return None,
            Err(error) => panic!("the connection ends: {error}"),
        }
    }
}

async fn get_in(site: &Site, gateway: usize, kind: ClientType, extended: bool) -> Connection {
    logged_in(site, gateway, (USER, kind), extended).await
}

async fn get_in_as(site: &Site, gateway: usize, kind: ClientType, user: u32) -> Connection {
    logged_in(site, gateway, (user, kind), false).await
}
