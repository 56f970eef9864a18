//! The four clients of the original with their habits, and a program that gives every frame the same
//! number, over random disconnects: what was acknowledged is stored as a message of its own, and what
//! Windows repeats is stored once.
//!
//! Owner and fold are the real ones. A gateway is what its modules say of it (`frames.rs` and
//! `unanswered.rs` in `msg_server/src/submission/`, which have tests of their own): a frame that equals
//! an unanswered one of its connection is dropped, the first answer on a connection ends that its frames
//! may be repeats, and how a connection ended is told as it was. Time is the test's.

use std::collections::HashMap;

use bytes::Bytes;
use fold::admission::{Admission, Change, Facts, Message, Need, admit, record};
use fold::conversation::Conversation;
use fold::effects::{Effect, FOLD_VERSION, Fold};
use fold::window::{Connection, Frame, Identity, content_crc};
use proptest::prelude::*;
use proto::ids::{ClientMsgId, ConversationId, MsgId, Offset, UserId};
use proto::log::record;
use record_log::LogRecord;
use store::StoredConversation;

use super::*;

/// Windows waits so long for an answer before it repeats the frame, once.
const WINDOWS_WAITS_MS: u64 = 6_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Rising numbers; what was not answered is repeated once.
    Windows,
    /// Rising numbers, from 1 after each login.
    Android,
    /// Rising numbers, for as long as the program runs.
    Apple,
    /// Says that it is Windows. Every frame has the number 1; closes its connections in good order,
    /// at once after an answer or long after it.
    OneNumber,
}

const HABITS: [Habit; 4] = [Habit::Windows, Habit::Android, Habit::Apple, Habit::OneNumber];

#[derive(Debug, Clone, Copy)]
enum Happens {
    /// The answer comes.
    Answered,
    /// The owner does not answer before the connection ends, though it may have stored the message.
    Unanswered { stored: bool },
    /// The answer is written, and the connection is dead.
    Lost,
    /// The same, and the gateway dies.
    GatewayDies,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    who: usize,
    words: u8,
    happens: Happens,
    /// From the end of the last step.
    pause_ms: u64,
    /// Whether the client closes its connection after an answer, and how long after.
    closes_after_ms: Option<u64>,
    /// From a broken connection to the next login, if nothing forces it.
    away_ms: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let happens = prop_oneof![
        5 => Just(Happens::Answered),
        1 => any::<bool>().prop_map(|stored| Happens::Unanswered { stored }),
        1 => Just(Happens::Lost),
        1 => Just(Happens::GatewayDies),
    ];
    let closes = prop::option::weighted(0.4, prop_oneof![0_u64..400, 8_001_u64..20_000]);
    (0_usize..4, 0_u8..2, happens, 0_u64..4_000, closes, 0_u64..5_500).prop_map(
        |(who, words, happens, pause_ms, closes_after_ms, away_ms)| Step {
            who,
            words,
            happens,
            pause_ms,
            closes_after_ms,
            away_ms,
        },
    )
}

/// One connection, as its gateway sees it.
#[derive(Debug, Clone, Copy)]
struct Line {
    gateway_lives: bool,
    unanswered: Option<ClientMsgId>,
    last: Option<(ClientMsgId, u64)>,
    ended: Option<(End, u64)>,
}

struct World {
    fold: Fold,
    now_ms: u64,
    lines: Vec<Line>,
    /// The connection of each client.
    on: [Option<usize>; 4],
    seqs: [u16; 4],
    minted: u8,
    /// Which act of saying each stored message is.
    rows: HashMap<(usize, MsgId), usize>,
    said: usize,
    repeats: usize,
}

/// A message that a client says.
#[derive(Debug, Clone, Copy)]
struct Saying {
    who: usize,
    number: usize,
    seq: u16,
    words: u8,
}

impl World {
    fn new() -> Self {
        let mut fold = Fold::new(FOLD_VERSION, Offset(0), 0);
        for who in 0..HABITS.len() {
            let stored = StoredConversation { peers_exist: true, ..StoredConversation::default() };
            let id = conversation(who);
            fold.conversations.insert(id, Conversation::from_stored(id, stored));
        }
        Self {
            fold,
            now_ms: 1_800_000_000_000,
            lines: Vec::new(),
            on: [None; 4],
            seqs: [0; 4],
            minted: 0,
            rows: HashMap::new(),
            said: 0,
            repeats: 0,
        }
    }

    /// The connection of a client, made if there is none.
    fn line(&mut self, who: usize) -> usize {
        if let Some(line) = self.on[who] {
            return line;
        }
        // The newer login throws the older one out, wherever that is.
        if HABITS[who] == Habit::Android {
            self.seqs[who] = 0;
        }
        self.lines.push(Line { gateway_lives: true, unanswered: None, last: None, ended: None });
        self.on[who] = Some(self.lines.len() - 1);
        self.lines.len() - 1
    }

    fn leave(&mut self, who: usize, end: End) {
        if let Some(line) = self.on[who].take() {
            self.lines[line].ended = Some((end, self.now_ms));
        }
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        self.now_ms += step.pause_ms;
        let who = step.who;
        self.line(who);
        self.seqs[who] = if HABITS[who] == Habit::OneNumber { 1 } else { self.seqs[who] + 1 };
        self.said += 1;
        let saying = Saying { who, number: self.said, seq: self.seqs[who], words: step.words };
        // A program of one number that is cut off in the middle cannot be told from Windows.
        let happens = match (HABITS[who], step.happens) {
            (Habit::OneNumber, _) => Happens::Answered,
            (_, happens) => happens,
        };
        let sent_at = self.now_ms;
        self.hand_in(saying, happens)?;
        if matches!(happens, Happens::Answered) {
            if let Some(after_ms) = step.closes_after_ms {
                self.now_ms += after_ms;
                self.leave(who, End::Closed);
            }
            return Ok(());
        }
        if HABITS[who] == Habit::Windows {
            return self.repeat(saying, sent_at, step.away_ms);
        }
        // The person sees that it failed, and may say it again: as a new message.
        self.now_ms += step.away_ms;
        self.leave(who, End::Other);
        Ok(())
    }

    /// Windows comes back, and repeats when its time has come.
    fn repeat(&mut self, saying: Saying, sent_at: u64, away_ms: u64) -> Result<(), TestCaseError> {
        self.now_ms += away_ms;
        self.leave(saying.who, End::Other);
        self.line(saying.who);
        self.now_ms = self.now_ms.max(sent_at + WINDOWS_WAITS_MS);
        self.repeats += 1;
        self.hand_in(saying, Happens::Answered)
    }

    fn hand_in(&mut self, saying: Saying, happens: Happens) -> Result<(), TestCaseError> {
        let line = self.line(saying.who);
        self.minted += 1;
        let id = ClientMsgId([self.minted; 16]);
        let msg_id = match happens {
            Happens::Unanswered { stored: false } => None,
            _ => Some(self.stored(saying, line, id)),
        };
        match happens {
            Happens::Unanswered { .. } => self.lines[line].unanswered = Some(id),
            Happens::Lost => self.lines[line].last = Some((id, self.now_ms)),
            Happens::GatewayDies => self.lines[line].gateway_lives = false,
            Happens::Answered => {
                self.lines[line].last = Some((id, self.now_ms));
                let msg_id = msg_id.expect("an answer has a number");
                let of = self.rows.get(&(saying.who, msg_id));
                prop_assert_eq!(of, Some(&saying.number), "what was acknowledged is missing");
            }
        }
        Ok(())
    }

    /// Where the owner says that a message is.
    fn stored(&mut self, saying: Saying, line: usize, id: ClientMsgId) -> MsgId {
        let send = self.send(saying, line, id);
        let mut facts = Facts::default();
        loop {
            match admit(&self.fold, &Change::Send(send.clone()), &facts, self.now_ms) {
                Admission::Known(known) => return known.msg_id.expect("it was folded here"),
                Admission::Needs(Need::Repeats {
                    connection,
                    client_msg_id,
                    offset,
                    age_ms,
                    ..
                }) => {
                    let repeats = match self.fate(connection, client_msg_id) {
                        Some(fate) => judge(&fate, age_ms),
                        None => true,
                    };
                    facts.repeats = Some((offset, repeats));
                }
                Admission::Append(change) => return self.append(change, saying),
                other => unreachable!("{other:?}"),
            }
        }
    }

    fn append(&mut self, change: record::Change, saying: Saying) -> MsgId {
        let payload = prost::Message::encode_to_vec(&record(change, 1)).into();
        let offset = self.fold.last.next();
        let record = LogRecord { offset, timestamp_ms: self.now_ms, crc: 0, payload };
        match self.fold.fold(&record).expect("a version that is known") {
            Effect::Message { row, .. } => {
                self.rows.insert((saying.who, row.msg_id), saying.number);
                row.msg_id
            }
            Effect::Duplicate(known) => known.msg_id.expect("it was folded here"),
            other => unreachable!("{other:?}"),
        }
    }

    fn send(&self, saying: Saying, line: usize, id: ClientMsgId) -> Message {
        let body = Bytes::from(vec![saying.words]);
        let names_itself_windows = [Habit::Windows, Habit::OneNumber].contains(&HABITS[saying.who]);
        // It need not name the conversation: in this test only one sender writes to each.
        let fingerprint = 1 + u64::from(saying.seq) * 2 + u64::from(saying.words);
        let frame = Frame {
            fingerprint: if names_itself_windows { fingerprint } else { 0 },
            connection: Some(Connection { gateway_boot: 1, session: line as u64 }),
            repeats_after: self.lines[line].last.is_none().then_some(Offset(0)),
        };
        let identity = Identity {
            sender: user(saying.who),
            client_msg_id: id,
            content_crc: content_crc(1, &body),
            frame,
        };
        Message {
            conversation: conversation(saying.who),
            identity,
            resend: false,
            first: true,
            waited_ms: None,
            kind: 1,
            body,
            origin: None,
            known_only: false,
            hooks: Vec::new(),
        }
    }

    /// What the gateway of a connection says; `None` if it has died.
    fn fate(&self, connection: Connection, id: ClientMsgId) -> Option<FrameFate> {
        let line = self.lines[usize::try_from(connection.session).unwrap()];
        if !line.gateway_lives {
            return None;
        }
        let (end, at) = line.ended.unwrap_or((End::Open, self.now_ms));
        let (answered, kept_ms) = match (line.unanswered, line.last) {
            (Some(unanswered), _) if unanswered == id => (Answered::No, None),
            (_, Some((last, answered_at))) if last == id => {
                (Answered::Last, Some(at - answered_at))
            }
            (_, Some(_)) => (Answered::Earlier, None),
            (_, None) => (Answered::No, None),
        };
        Some(FrameFate { answered: answered.into(), end: end.into(), kept_ms })
    }
}

fn user(who: usize) -> UserId {
    UserId(u32::try_from(who).unwrap() + 1)
}

fn conversation(who: usize) -> ConversationId {
    ConversationId::single(user(who), UserId(99)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn nothing_acknowledged_is_missing_and_no_repeat_is_stored_twice(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step)?;
        }
        let windows = HABITS.iter().position(|habit| *habit == Habit::Windows).unwrap();
        let mut sayings: Vec<usize> = world
            .rows
            .iter()
            .filter(|((who, _), _)| *who == windows)
            .map(|(_, number)| *number)
            .collect();
        let rows = sayings.len();
        sayings.sort_unstable();
        sayings.dedup();
        prop_assert_eq!(sayings.len(), rows, "a repeat is stored a second time");
    }
}
