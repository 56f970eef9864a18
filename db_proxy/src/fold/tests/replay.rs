//! Random logs, cut by restarts at random places: every replay must come to the same.

use proptest::prelude::*;

use super::*;

/// Small enough for ids to leave it all the time.
const WINDOW: u64 = 12;

/// A record of a random log.
#[derive(Debug, Clone)]
enum Entry {
    Message { conversation: usize, sender: u32, id: u64, fingerprint: u64 },
    Created(Vec<u32>),
    Changed(Vec<u32>, Vec<u32>),
    Read { conversation: usize, user: u32, msg_id: u32, own_up_to: u32 },
    Removed { conversation: usize, user: u32 },
    Shield { conversation: usize, user: u32, on: bool },
    NewOwner,
    Garbage(Vec<u8>),
}

/// What happens before a record is folded.
#[derive(Debug, Clone, Copy)]
enum Before {
    Nothing,
    /// The store takes everything.
    Store,
    /// Everything that may leave memory does.
    Evict,
    /// The process is killed and started again.
    Restart,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_replay_comes_to_the_same(
        entries in prop::collection::vec((entry(), 0_u64..9_000, prop::bool::weighted(0.1)), 1..90),
        interruptions in prop::collection::vec(before(), 90),
    ) {
        let log = write(entries);
        let mut whole = start(&Stored::default(), &[]);
        let expected: Vec<Effect> = log.iter().map(|record| whole.fold_record(record)).collect();

        let mut cut = start(&Stored::default(), &[]);
        for ((at, record), before) in log.iter().enumerate().zip(interruptions) {
            match before {
                Before::Nothing => {}
                Before::Store => cut.store(),
                Before::Evict => {
                    cut.store();
                    cut.fold.conversations.clear();
                }
                Before::Restart => {
                    cut = start(&cut.stored, &log);
                    let from = usize::try_from(cut.fold.last.0).unwrap();
                    for (record, expected) in log[from..at].iter().zip(&expected[from..at]) {
                        prop_assert!(same(&cut.fold_record(record), expected));
                    }
                }
            }
            let effect = cut.fold_record(record);
            prop_assert!(same(&effect, &expected[at]), "{effect:?} at {at}, not {:?}", expected[at]);
        }

        whole.store();
        cut.store();
        prop_assert_eq!(whole.stored, cut.stored);
        prop_assert_eq!(whole.fold.epoch, cut.fold.epoch);
    }
}

/// Equal, but for the number of a known message that only the store knows after a restart.
fn same(one: &Effect, other: &Effect) -> bool {
    match (one, other) {
        (Effect::Duplicate(one), Effect::Duplicate(other)) => {
            one.msg_id.is_none() || one.msg_id == other.msg_id
        }
        (one, other) => one == other,
    }
}

/// A process that starts on what the store has.
fn start(stored: &Stored, log: &[LogRecord]) -> Partition {
    let (applied, crc, version) = stored.applied;
    let mut fold = Fold::new(version, applied, crc);
    fold.window = Window::of(WINDOW);
    let until = usize::try_from(applied.0).unwrap();
    // The window, and before it enough to know the epoch in which it begins.
    let from = until.saturating_sub(usize::try_from(2 * WINDOW).unwrap());
    log.get(from..until).unwrap_or_default().iter().for_each(|record| fold.remember(record));
    Partition { fold, stored: stored.clone(), epoch: 0, now_ms: 0 }
}

/// The log that owners and, now and then, their predecessors write.
fn write(entries: Vec<(Entry, u64, bool)>) -> Vec<LogRecord> {
    let (mut epoch_now, mut now_ms) = (1, 1_800_000_000_000);
    let mut since_genuine = 0;
    let mut log = Vec::with_capacity(entries.len());
    for (entry, pause_ms, by_a_zombie) in entries {
        now_ms += pause_ms;
        let by_a_zombie = by_a_zombie && since_genuine < WINDOW / 2;
        since_genuine = if by_a_zombie { since_genuine + 1 } else { 0 };
        if let Entry::NewOwner = entry
            && !by_a_zombie
        {
            epoch_now += 1;
        }
        let payload = match entry {
            Entry::Garbage(bytes) => Bytes::from(bytes),
            entry => encode(change(entry, epoch_now), epoch_now - u64::from(by_a_zombie)),
        };
        let offset = Offset(log.len() as u64 + 1);
        log.push(log_record(offset, now_ms, payload));
    }
    log
}

fn change(entry: Entry, epoch_now: u64) -> Change {
    let conversation = |at: usize| [two(), group(), other_two()][at];
    match entry {
        Entry::Message { conversation: at, sender, id, fingerprint } => {
            message(conversation(at), sender, numbered_id(id), fingerprint)
        }
        Entry::Created(members) => created(&members),
        Entry::Changed(added, removed) => changed(&added, &removed),
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
        Entry::NewOwner | Entry::Garbage(_) => epoch(epoch_now),
    }
}

fn other_two() -> ConversationId {
    ConversationId::single(UserId(BOB), UserId(CAROL)).unwrap()
}

fn entry() -> impl Strategy<Value = Entry> {
    let conversation = || 0_usize..3;
    let user = || 1_u32..5;
    let users = || prop::collection::vec(1_u32..5, 0..3);
    prop_oneof![
        10 => (conversation(), user(), 0_u64..20, prop_oneof![3 => Just(0), 1 => 1_u64..4])
            .prop_map(|(conversation, sender, id, fingerprint)| {
                Entry::Message { conversation, sender, id, fingerprint }
            }),
        1 => users().prop_map(Entry::Created),
        3 => (users(), users()).prop_map(|(added, removed)| Entry::Changed(added, removed)),
        3 => (conversation(), user(), 0_u32..30, 0_u32..5).prop_map(
            |(conversation, user, msg_id, own_up_to)| Entry::Read {
                conversation, user, msg_id, own_up_to
            }
        ),
        1 => (conversation(), user())
            .prop_map(|(conversation, user)| Entry::Removed { conversation, user }),
        1 => (conversation(), user(), any::<bool>())
            .prop_map(|(conversation, user, on)| Entry::Shield { conversation, user, on }),
        1 => Just(Entry::NewOwner),
        1 => prop::collection::vec(any::<u8>(), 0..12).prop_map(Entry::Garbage),
    ]
}

fn before() -> impl Strategy<Value = Before> {
    prop_oneof![
        8 => Just(Before::Nothing),
        2 => Just(Before::Store),
        1 => Just(Before::Evict),
        1 => Just(Before::Restart),
    ]
}
