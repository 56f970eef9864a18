//! Random logs, cut by restarts and zombies at random places: every replay must come to the same.
//!
//! # What is covered, and what is not
//!
//! A start remembers exactly as many records as the window has, as `partition/open.rs` does.
//!
//! With a log that others may still write to, a zombie's records may lie behind its successor's. In
//! the middle of a log the fold ignores them, wherever they are. A start that remembers from a place
//! where several of them stand in a row could not tell that their epoch is over, and would know ids
//! that no message has. So owners repeat their epoch, and a start hears so many records before as have
//! one of these among them. Embedded, where one process at a time has the log, nothing has to be heard.
//!
//! A record that repeats a message under another id, recognised by its fingerprint, is known as that
//! message. When what is remembered begins between the two, it is known under its own id, which the
//! store does not have: such a repetition is still none the less recognised, but its number cannot be
//! told. That takes a client's second resend within 30 s, and a whole window, or all of the log that
//! is kept, between the first two.

use proptest::prelude::*;

use super::random_log::{
    Counts, Entry, LEN_MAX, Writing, conversations, entries, entry, for_all, start, start_hearing,
    write,
};
use super::*;
use crate::window::Frame;

/// How often owners repeat their epoch here.
const EPOCH_EVERY: u64 = 6;

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

fn befores() -> impl Strategy<Value = Vec<Before>> {
    let before = prop_oneof![
        8 => Just(Before::Nothing),
        2 => Just(Before::Store),
        1 => Just(Before::Evict),
        1 => Just(Before::Restart),
    ];
    prop::collection::vec(before, 2 * LEN_MAX)
}

#[test]
fn every_replay_comes_to_the_same() {
    let expected = ["restarts", "messages", "repetitions", "known to the store only"];
    let strategy = (entries(), befores());
    for_all("restarts", (300, &expected), strategy, |(entries, befores), counts| {
        check_restarts(&write(entries), &befores, 0, counts)
    });
}

#[test]
fn every_replay_comes_to_the_same_with_zombies_about() {
    let expected = ["restarts", "zombies", "messages", "repetitions"];
    let by_a_zombie = prop::collection::vec(prop::bool::weighted(0.15), LEN_MAX);
    let strategy = (entries(), by_a_zombie, befores());
    for_all("takeovers", (300, &expected), strategy, |(entries, zombies, befores), counts| {
        let mut writing = Writing::begin();
        let (mut in_a_row, mut since_epoch) = (0, 0);
        for ((entry, pause_ms), by_a_zombie) in entries.into_iter().zip(zombies) {
            writing.now_ms += pause_ms;
            since_epoch += 1;
            if by_a_zombie && in_a_row < EPOCH_EVERY && writing.epoch > 1 {
                writing.write(entry, writing.epoch - 1);
                counts.add("zombies", 1);
                in_a_row += 1;
                continue;
            }
            in_a_row = 0;
            if matches!(entry, Entry::NewOwner) {
                since_epoch = 0;
            } else if since_epoch >= EPOCH_EVERY {
                // As a new owner would, but in the same epoch.
                writing.write(Entry::NewOwner, writing.epoch);
                since_epoch = 0;
            }
            writing.by_owner(entry);
        }
        check_restarts(&writing.log, &befores, 2 * EPOCH_EVERY, counts)
    });
}

#[test]
fn a_checkpoint_anywhere_and_the_rest_make_the_whole() {
    let place = any::<prop::sample::Index>;
    let expected = ["checkpoints inside", "messages", "repetitions"];
    let strategy = (entries(), place(), place());
    for_all("checkpoints", (300, &expected), strategy, |(entries, stored_at, ended_at), counts| {
        let log = write(entries);
        let ended_at = ended_at.index(log.len() + 1);
        let stored_at = stored_at.index(ended_at + 1);
        counts.add("checkpoints inside", usize::from(0 < stored_at && stored_at < log.len()));
        let (mut whole, expected) = fold_all(&log, counts);

        let mut first = start(&Stored::default(), &[]);
        log[..stored_at].iter().for_each(|record| drop(first.fold_record(record)));
        first.store();
        let checkpoint = first.stored.clone();
        log[stored_at..ended_at].iter().for_each(|record| drop(first.fold_record(record)));

        let mut second = start(&checkpoint, &log);
        prop_assert_eq!(second.fold.last, Offset(stored_at as u64));
        for (record, expected) in log[stored_at..].iter().zip(&expected[stored_at..]) {
            let effect = second.fold_record(record);
            check_same(&effect, expected, &second.stored, counts)?;
        }
        check_end(&mut whole, &mut second, &log)
    });
}

#[test]
fn what_zombies_write_changes_nothing_wherever_they_write_it() {
    let zombies = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec((entry(), 1_u64..5), 1..4),
    ];
    let entries = prop::collection::vec((entry(), 0_u64..9_000, zombies), 1..=LEN_MAX / 2);
    let expected = ["zombies", "messages", "repetitions", "restarts"];
    let strategy = (entries, befores());
    for_all("zombies", (300, &expected), strategy, |(entries, befores), counts| {
        let (mut clean, mut dirty) = (Writing::begin(), Writing::begin());
        // Of each record of the dirty log, its place in the clean one.
        let mut places: Vec<Option<Offset>> = Vec::new();
        for (entry, pause_ms, zombies) in entries {
            for writing in [&mut clean, &mut dirty] {
                writing.now_ms += pause_ms;
                writing.by_owner(entry.clone());
            }
            places.push(Some(Offset(clean.log.len() as u64)));
            for (entry, epochs_ago) in zombies {
                // A record without an epoch does not show which owner wrote it.
                let has_epoch = !matches!(entry, Entry::Garbage(_) | Entry::WithoutEpoch { .. });
                if has_epoch && epochs_ago < dirty.epoch {
                    dirty.write(entry, dirty.epoch - epochs_ago);
                    places.push(None);
                    counts.add("zombies", 1);
                }
            }
        }
        check_zombies(&clean.log, &dirty.log, (&places, &befores), counts)
    });
}

fn fold_all(log: &[LogRecord], counts: &Counts) -> (Partition, Vec<Effect>) {
    let mut whole = start(&Stored::default(), &[]);
    let effects: Vec<Effect> = log.iter().map(|record| whole.fold_record(record)).collect();
    for effect in &effects {
        counts.add_effect(effect);
    }
    (whole, effects)
}

/// Folds a log at one go, and with interruptions.
fn check_restarts(
    log: &[LogRecord],
    befores: &[Before],
    heard: u64,
    counts: &Counts,
) -> Result<(), TestCaseError> {
    let (mut whole, expected) = fold_all(log, counts);
    let mut cut = start(&Stored::default(), &[]);
    for (at, record) in log.iter().enumerate() {
        match befores[at] {
            Before::Nothing => {}
            Before::Store => cut.store(),
            Before::Evict => {
                cut.store();
                cut.fold.conversations.clear();
            }
            Before::Restart => {
                counts.add("restarts", 1);
                cut = start_hearing(&cut.stored, log, heard);
                let from = usize::try_from(cut.fold.last.0).unwrap();
                for (record, expected) in log[from..at].iter().zip(&expected[from..at]) {
                    let effect = cut.fold_record(record);
                    check_same(&effect, expected, &cut.stored, counts)?;
                }
            }
        }
        let effect = cut.fold_record(record);
        check_same(&effect, &expected[at], &cut.stored, counts)?;
    }
    check_end(&mut whole, &mut cut, log)
}

/// Folds a log without zombies, and one that is the same but for them. The clean one has a window
/// without end, since distances differ.
fn check_zombies(
    clean_log: &[LogRecord],
    dirty_log: &[LogRecord],
    (places, befores): (&[Option<Offset>], &[Before]),
    counts: &Counts,
) -> Result<(), TestCaseError> {
    let place = |dirty: Offset| match dirty.0.checked_sub(1) {
        Some(at) => places[usize::try_from(at).unwrap()].expect("what a zombie wrote is nowhere"),
        None => dirty,
    };
    let endless = |partition: &mut Partition| partition.fold.window = Window::default();
    let (mut clean, mut dirty) = (start(&Stored::default(), &[]), start(&Stored::default(), &[]));
    endless(&mut clean);
    endless(&mut dirty);
    for (at, record) in dirty_log.iter().enumerate() {
        if let Before::Restart = befores[at] {
            counts.add("restarts", 1);
            // From the beginning: what a start must know of zombies is said above.
            let stored = dirty.stored.clone();
            dirty = start(&Stored::default(), &[]);
            endless(&mut dirty);
            let until = usize::try_from(stored.applied.0.0).unwrap();
            let (version, crc) = (stored.applied.2, stored.applied.1);
            if until > 0 {
                dirty.fold = Fold::new(version, Offset(until as u64), crc);
            }
            dirty_log[..until].iter().for_each(|record| dirty.fold.remember(record));
            dirty.stored = stored;
            dirty_log[until..at].iter().for_each(|record| drop(dirty.fold_record(record)));
        }
        let effect = dirty.fold_record(record);
        match places[at] {
            None => prop_assert_eq!(effect, Effect::Nothing, "a zombie's record {}", at + 1),
            Some(clean_offset) => {
                let at = usize::try_from(clean_offset.0 - 1).unwrap();
                let expected = clean.fold_record(&clean_log[at]);
                counts.add_effect(&expected);
                let effect = moved(effect, place);
                check_same(&effect, &expected, &dirty.stored, counts)?;
            }
        }
        if let Before::Store = befores[at] {
            dirty.store();
        }
    }
    clean.store();
    dirty.store();
    prop_assert_eq!(stored_at(&clean.stored, |offset| offset), stored_at(&dirty.stored, place));
    prop_assert_eq!(clean.fold.epoch, dirty.fold.epoch);
    prop_assert_eq!(clean.fold.version, dirty.fold.version);
    Ok(())
}

/// The same effect with other offsets.
fn moved(effect: Effect, place: impl Fn(Offset) -> Offset) -> Effect {
    match effect {
        Effect::Message { row, previous, member_version } => {
            let row = MessageRow { offset: place(row.offset), ..row };
            Effect::Message { row, previous: place(previous), member_version }
        }
        Effect::Members { group, actor, added, removed, previous, created } => {
            Effect::Members { group, actor, added, removed, previous: place(previous), created }
        }
        other => other,
    }
}

/// What a store has, with other offsets, without how far it is, in order.
fn stored_at(stored: &Stored, place: impl Fn(Offset) -> Offset) -> Vec<String> {
    let mut all = Vec::new();
    for row in stored.rows.values() {
        all.push(format!(
            "{:?}",
            ConversationRow { last_offset: place(row.last_offset), ..row.clone() }
        ));
    }
    for row in stored.messages.values() {
        all.push(format!("{:?}", MessageRow { offset: place(row.offset), ..row.clone() }));
    }
    all.extend(stored.members.values().map(|row| format!("{row:?}")));
    all.extend(stored.marks.values().map(|row| format!("{row:?}")));
    all.extend(stored.unreadable.iter().map(|(at, bytes)| format!("{:?} {bytes:?}", place(*at))));
    all.sort();
    all
}

/// Equal, but for the number of a known message that only the store knows after a restart.
fn check_same(
    effect: &Effect,
    expected: &Effect,
    stored: &Stored,
    counts: &Counts,
) -> Result<(), TestCaseError> {
    if let (Effect::Duplicate(found), Effect::Duplicate(expected)) = (effect, expected)
        && found.msg_id.is_none()
    {
        counts.add("known to the store only", 1);
        return check_in_store(found, expected, (stored, counts));
    }
    // Neither stores anything. Which of the messages under one id was the first cannot be told if
    // what is remembered begins behind it.
    let is_known = |effect: &Effect| matches!(effect, Effect::Duplicate(_) | Effect::IdReused);
    if is_known(effect) && is_known(expected) && effect != expected {
        counts.add("ids whose first message was not remembered", 1);
        return Ok(());
    }
    prop_assert_eq!(effect, expected);
    Ok(())
}

/// The store must say of a known message without a number what the whole log says. But see above of
/// what is known by a fingerprint.
fn check_in_store(
    found: &Known,
    expected: &Known,
    (stored, counts): (&Stored, &Counts),
) -> Result<(), TestCaseError> {
    if found.client_msg_id != expected.client_msg_id {
        counts.add("known by a fingerprint whose message was not remembered", 1);
        return Ok(());
    }
    let by_id = stored.messages.values().find(|row| {
        row.client_msg_id == found.client_msg_id
            && row.conversation == expected.conversation
            && Some(row.msg_id) == expected.msg_id
    });
    prop_assert!(by_id.is_some(), "{found:?}, but {expected:?}");
    Ok(())
}

/// What two folds of one log have come to, and what they know.
fn check_end(
    whole: &mut Partition,
    cut: &mut Partition,
    log: &[LogRecord],
) -> Result<(), TestCaseError> {
    for id in conversations() {
        for user in (1..5).map(UserId) {
            let unread = |partition: &Partition| {
                partition.fold.conversations.get(&id).map(|conversation| conversation.unread(user))
            };
            let (expected, found) = (unread(whole), unread(cut));
            prop_assert!(found.is_none() || found == expected, "{id:?} {user:?}");
        }
    }
    whole.store();
    cut.store();
    prop_assert_eq!(&whole.stored, &cut.stored);
    prop_assert_eq!(whole.fold.epoch, cut.fold.epoch);
    prop_assert_eq!(whole.fold.version, cut.fold.version);
    prop_assert_eq!(whole.fold.last_crc, cut.fold.last_crc);
    let now_ms = log.last().map_or(0, |record| record.timestamp_ms);
    for sender in (1..5).map(UserId) {
        for (id, fingerprint) in (0..20).map(|id| (id, 0)).chain((1..4).map(|print| (99, print))) {
            let client_msg_id = numbered_id(id);
            let frame = Frame { fingerprint, connection: None, repeats_after: Some(Offset(0)) };
            let identity = Identity { sender, client_msg_id, content_crc: 0, frame };
            let find = |of: &Partition| of.fold.window.find(identity, of.fold.last.next(), now_ms);
            let (expected, found) = (find(whole), find(cut));
            prop_assert_eq!(expected.is_some(), found.is_some(), "{:?}", identity);
        }
    }
    Ok(())
}
