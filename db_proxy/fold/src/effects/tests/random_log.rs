//! Random logs, and how often they are made.
//!
//! ```text
//! TALKHUB_CASES=250000 cargo test --release -p fold effects -- --nocapture
//! ```
//!
//! `TALKHUB_CASES` is how many cases each property is tried on (there are five, so that this is more
//! than a million), `TALKHUB_SEED` makes other ones. What came up is printed, and a run in which
//! something hardly ever came up fails.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use super::*;

/// Small enough for ids to leave it all the time.
pub(super) const WINDOW: u64 = 12;

/// Long enough for everything to happen, short enough for a million of them.
pub(super) const LEN_MAX: usize = 40;

/// A record of a random log.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Message {
        conversation: usize,
        sender: u32,
        id: u64,
        frame: RandomFrame,
    },
    Created(Vec<u32>),
    Changed(Vec<u32>, Vec<u32>),
    /// The group is deleted by a record that names these.
    Deleted(Vec<u32>),
    Read {
        conversation: usize,
        user: u32,
        msg_id: u32,
        own_up_to: u32,
    },
    Removed {
        conversation: usize,
        user: u32,
    },
    Shield {
        conversation: usize,
        user: u32,
        on: bool,
    },
    NewOwner,
    Version(u32),
    /// A message with an id that is too short, or for a conversation that cannot be.
    BadMessage {
        short: bool,
    },
    /// A record that does not say in which epoch it was written.
    WithoutEpoch {
        sender: u32,
        id: u64,
    },
    /// Bytes that are no record.
    Garbage(Vec<u8>),
}

/// The frame of a message: its fingerprint, its connection, and which records it may repeat.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RandomFrame {
    pub(super) fingerprint: u64,
    pub(super) session: Option<u64>,
    pub(super) repeats_after: Option<u64>,
}

fn frame() -> impl Strategy<Value = RandomFrame> {
    let fingerprint = prop_oneof![3 => Just(0), 2 => 1_u64..4];
    let session = prop::option::weighted(0.7, 1_u64..4);
    let repeats_after =
        prop::option::weighted(0.7, prop_oneof![2 => Just(0), 1 => 0..LEN_MAX as u64]);
    (fingerprint, session, repeats_after).prop_map(|(fingerprint, session, repeats_after)| {
        RandomFrame { fingerprint, session, repeats_after }
    })
}

/// No field of any message begins with this.
const NO_RECORD: u8 = 7;

pub(super) fn entry() -> impl Strategy<Value = Entry> {
    let conversation = || 0_usize..3;
    let user = || 1_u32..5;
    let users = || prop::collection::vec(1_u32..5, 0..3);
    prop_oneof![
        // Most ids are repeated where they were used first.
        20 => (prop::option::weighted(0.25, conversation()), user(), 0_u64..20, frame())
            .prop_map(|(conversation, sender, id, frame)| {
                let of_id = usize::try_from(id % 3).unwrap_or(0);
                let conversation = conversation.unwrap_or(of_id);
                Entry::Message { conversation, sender, id, frame }
            }),
        2 => users().prop_map(Entry::Created),
        6 => (users(), users()).prop_map(|(added, removed)| Entry::Changed(added, removed)),
        1 => users().prop_map(Entry::Deleted),
        6 => (conversation(), user(), 0_u32..30, 0_u32..5).prop_map(
            |(conversation, user, msg_id, own_up_to)| Entry::Read {
                conversation, user, msg_id, own_up_to
            }
        ),
        2 => (conversation(), user())
            .prop_map(|(conversation, user)| Entry::Removed { conversation, user }),
        2 => (conversation(), user(), any::<bool>())
            .prop_map(|(conversation, user, on)| Entry::Shield { conversation, user, on }),
        2 => Just(Entry::NewOwner),
        1 => (0..=FOLD_VERSION).prop_map(Entry::Version),
        1 => any::<bool>().prop_map(|short| Entry::BadMessage { short }),
        1 => (user(), 0_u64..20).prop_map(|(sender, id)| Entry::WithoutEpoch { sender, id }),
        1 => prop::collection::vec(any::<u8>(), 0..12)
            .prop_map(|bytes| Entry::Garbage([vec![NO_RECORD], bytes].concat())),
    ]
}

/// Entries, and how many milliseconds of log time are before each.
pub(super) fn entries() -> impl Strategy<Value = Vec<(Entry, u64)>> {
    prop::collection::vec((entry(), 0_u64..9_000), 1..=LEN_MAX)
}

/// A log in the making.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) log: Vec<LogRecord>,
    pub(super) epoch: u64,
    pub(super) now_ms: u64,
}

impl Writing {
    pub(super) fn begin() -> Self {
        Self { log: Vec::new(), epoch: 1, now_ms: 1_800_000_000_000 }
    }

    /// The owner writes a record. A new owner begins with its epoch.
    pub(super) fn by_owner(&mut self, entry: Entry) {
        if let Entry::NewOwner = entry {
            self.epoch += 1;
        }
        self.write(entry, self.epoch);
    }

    /// An owner of another epoch writes a record.
    pub(super) fn write(&mut self, entry: Entry, written_in: u64) {
        let payload = match entry {
            Entry::Garbage(bytes) => Bytes::from(bytes),
            Entry::WithoutEpoch { sender, id } => {
                let change = Some(message(two(), sender, numbered_id(id), 0));
                Record { change, written_in_epoch: None }.encode_to_vec().into()
            }
            entry => encode(change(entry, written_in), written_in),
        };
        let offset = Offset(self.log.len() as u64 + 1);
        self.log.push(log_record(offset, self.now_ms, payload));
    }
}

/// The log of owners none of which wrote after its successor, as the embedded log sees to.
pub(super) fn write(entries: Vec<(Entry, u64)>) -> Vec<LogRecord> {
    let mut writing = Writing::begin();
    for (entry, pause_ms) in entries {
        writing.now_ms += pause_ms;
        writing.by_owner(entry);
    }
    writing.log
}

fn change(entry: Entry, epoch_now: u64) -> Change {
    let conversation = |at: usize| conversations()[at];
    match entry {
        Entry::Message { conversation: at, sender, id, frame } => {
            let RandomFrame { fingerprint, session, repeats_after } = frame;
            let mut change = message(conversation(at), sender, numbered_id(id), fingerprint);
            if let Change::Message(message) = &mut change {
                message.session = session;
                message.gateway_boot = session.map(|session| session % 2);
                message.repeats_after = repeats_after;
            }
            change
        }
        Entry::Created(members) => created(&members),
        Entry::Changed(added, removed) => changed(&added, &removed),
        Entry::Deleted(named) => deleted(&named),
        Entry::Read { conversation: at, user, msg_id, own_up_to } => {
            read(conversation(at), user, msg_id, own_up_to)
        }
        Entry::Removed { conversation: at, user } => {
            let conversation = conversation(at).number();
            Change::SessionRemoved(log::SessionRemoved { conversation, user })
        }
        Entry::Shield { conversation: at, user, on } => {
            let conversation = conversation(at).number();
            Change::Shield(log::Shield { conversation, user, on })
        }
        Entry::Version(version) => Change::FoldVersion(log::FoldVersion { version }),
        Entry::BadMessage { short } => {
            let mut bad = message(two(), ALICE, numbered_id(1), 0);
            if let Change::Message(message) = &mut bad {
                if short {
                    message.client_msg_id = Bytes::from_static(b"short");
                } else {
                    message.conversation = 5 << 32 | 4;
                }
            }
            bad
        }
        Entry::NewOwner | Entry::WithoutEpoch { .. } | Entry::Garbage(_) => epoch(epoch_now),
    }
}

/// Every conversation that a random log may speak of.
pub(super) fn conversations() -> [ConversationId; 3] {
    [two(), group(), ConversationId::single(UserId(BOB), UserId(CAROL)).unwrap()]
}

/// A process that starts on what the store has, and remembers as many records as its window has.
pub(super) fn start(stored: &Stored, log: &[LogRecord]) -> Partition {
    start_hearing(stored, log, 0)
}

/// The same, having heard whose time it is from `lead` records before.
pub(super) fn start_hearing(stored: &Stored, log: &[LogRecord], lead: u64) -> Partition {
    let (applied, crc, version) = stored.applied;
    let mut fold = Fold::new(version, applied, crc);
    fold.window = Window::of(WINDOW);
    let until = usize::try_from(applied.0).unwrap();
    let from = until.saturating_sub(usize::try_from(WINDOW).unwrap());
    let lead = from.saturating_sub(usize::try_from(lead).unwrap());
    log.get(lead..from).unwrap_or_default().iter().for_each(|record| fold.hear(record));
    log.get(from..until).unwrap_or_default().iter().for_each(|record| fold.remember(record));
    Partition { fold, stored: stored.clone(), epoch: 0, now_ms: 0 }
}

/// What came up in the cases of a property.
#[derive(Debug, Default)]
pub(super) struct Counts(RefCell<BTreeMap<&'static str, u64>>);

impl Counts {
    pub(super) fn add(&self, what: &'static str, more: usize) {
        *self.0.borrow_mut().entry(what).or_default() += more as u64;
    }

    pub(super) fn add_effect(&self, effect: &Effect) {
        let what = match effect {
            Effect::Message { .. } => "messages",
            Effect::Duplicate(_) => "repetitions",
            Effect::IdReused => "ids of other messages",
            Effect::Members { .. } => "changes of members",
            Effect::Marked { .. } => "marks",
            Effect::Nothing => "records without effect",
        };
        self.add(what, 1);
    }
}

/// Tries a property on as many cases as are wanted; `default` if the environment does not say.
/// Each of `expected` must have come up in one case of ten on average.
pub(super) fn for_all<S: Strategy>(
    title: &str,
    (default, expected): (u32, &[&str]),
    strategy: S,
    check: impl Fn(S::Value, &Counts) -> Result<(), TestCaseError>,
) {
    let cases = u32::try_from(number_from_env("TALKHUB_CASES", default.into())).unwrap();
    let seed = number_from_env("TALKHUB_SEED", 1);
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..Default::default()
    };
    let counts = Counts::default();
    if let Err(error) = TestRunner::new(config).run(&strategy, |case| check(case, &counts)) {
        panic!("{title}, TALKHUB_SEED={seed}: {error}");
    }
    let counts = counts.0.borrow();
    println!("{title}: {cases} cases, TALKHUB_SEED={seed}, {counts:?}");
    for what in expected {
        let count = counts.get(what).copied().unwrap_or(0);
        assert!(count >= u64::from(cases) / 10, "{title}: only {count} {what}");
    }
}

/// A number from the environment, or what it is if there is none.
fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text}")),
        Err(_) => default,
    }
}
