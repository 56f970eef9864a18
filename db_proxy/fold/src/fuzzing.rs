//! What must hold for the records of a log, whatever is in them, as a function that panics when it does
//! not.
//!
//! The fuzz target calls it with inputs that it makes up; the tests call it with the corpus and with
//! random bytes.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{ConversationId, MsgId, Offset};
use proto::log::Record;
use proto::record::{LogRecord, fingerprint};

use crate::conversation::Conversation;
use crate::effects::{Effect, FOLD_VERSION, Fold};
use crate::rows::{Batch, StoredConversation};

/// `data` are records of a partition's log, each behind one byte that is its length. Whatever they
/// are, the fold takes them, comes to the same whenever it does, and keeps what it promises.
pub fn log_record(data: &[u8]) {
    let log = records_of(data);
    let (effects, batch) = fold(&log);
    let (again, batch_again) = fold(&log);
    assert_eq!(effects, again, "the fold depends on something else than the log");
    assert_eq!(format!("{batch:?}"), format!("{batch_again:?}"), "the batch does too");

    let mut heads: HashMap<ConversationId, MsgId> = HashMap::new();
    for message in &batch.messages {
        let head = heads.entry(message.conversation).or_insert(MsgId(0));
        assert_eq!(message.msg_id, head.next(), "numbers have no hole");
        *head = message.msg_id;
    }
    let mut stored = Fold::new(FOLD_VERSION, Offset(0), 0);
    for record in &log {
        stored.remember(record);
    }
}

/// Folds a log up to the first record that this build must not fold.
fn fold(log: &[LogRecord]) -> (Vec<Effect>, Batch) {
    let mut fold = Fold::new(FOLD_VERSION, Offset(0), 0);
    let mut effects = Vec::new();
    for record in log {
        if let Ok(decoded) = Record::decode(record.payload.clone())
            && let Some(id) = Fold::needs(&decoded)
        {
            let load = || Conversation::from_stored(id, StoredConversation::default());
            fold.conversations.entry(id).or_insert_with(load);
        }
        match fold.fold(record) {
            Ok(effect) => effects.push(effect),
            Err(_unknown_version) => break,
        }
    }
    for conversation in fold.conversations.values() {
        check_conversation(conversation);
    }
    (effects, fold.take_batch())
}

fn check_conversation(conversation: &Conversation) {
    let head = conversation.head;
    assert_eq!(conversation.recent.len(), head.0 as usize, "nothing was stored, so all is recent");
    let numbers = conversation.recent.iter().map(|message| message.msg_id.0);
    assert!(numbers.eq(1..=head.0), "recent messages have no hole");
    for &user in conversation.marks.keys().chain(conversation.members.keys()) {
        assert!(conversation.unread(user) <= head.0, "nobody has more unread than there is");
        let seen = conversation.seen_by(user);
        if conversation.has_member(user) {
            assert_eq!(seen.unread(), conversation.unread(user));
        }
    }
}

fn records_of(mut data: &[u8]) -> Vec<LogRecord> {
    let mut log = Vec::new();
    let mut timestamp_ms = 1_800_000_000_000;
    while let Some((&len, rest)) = data.split_first() {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(len)));
        data = rest;
        // Long enough for some fingerprints to be too old.
        timestamp_ms += u64::from(len) * 100;
        let offset = Offset(log.len() as u64 + 1);
        let payload = Bytes::copy_from_slice(payload);
        let crc = fingerprint(offset, timestamp_ms, &payload);
        log.push(LogRecord { offset, timestamp_ms, crc, payload });
    }
    log
}

#[cfg(test)]
mod tests;
