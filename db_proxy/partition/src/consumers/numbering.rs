//! Which records of a log count, and which number each message has.
//!
//! The fold has decided both. What it remembers is asked first; the store knows the rest.

use std::collections::HashMap;

use bytes::Bytes;
use fold::effects::Fold;
use fold::publications::MemberChange;
use prost::Message as _;
use proto::cluster::wire::NumberedRecord;
use proto::ids::{ClientMsgId, ConversationId, MsgId, Offset, UserId};
use proto::log::record::Change;
use proto::log::{Message, Record};
use record_log::LogRecord;
use store::{MessageRecord, StoreError};

use crate::state::State;

/// Why records cannot be numbered now.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotNow {
    /// What is not remembered any longer is not stored yet.
    #[error("the store is too far behind")]
    Unstored,
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A record that counts, or may.
struct Candidate {
    offset: Offset,
    timestamp_ms: u64,
    payload: Bytes,
    is: Is,
}

/// What is known of it.
enum Is {
    /// No message.
    Change,
    /// A message with this number.
    Numbered(MsgId),
    /// One if the store has it.
    Perhaps(MessageRecord),
}

/// The records that count, in order. `epoch` is the one in force before the first of them, and then that
/// behind the last; 0 = not known.
pub(super) async fn number(
    state: &State,
    epoch: &mut u64,
    records: &[LogRecord],
) -> Result<Vec<NumberedRecord>, NotNow> {
    let mut now = *epoch;
    let candidates = candidates(state, &mut now, records)?;
    let perhaps = candidates.iter().filter_map(|candidate| match candidate.is {
        Is::Perhaps(record) => Some(record),
        Is::Change | Is::Numbered(_) => None,
    });
    let asked: Vec<_> = perhaps.collect();
    let stored: HashMap<Offset, MsgId> = if asked.is_empty() {
        HashMap::new()
    } else {
        state.store().numbers(asked).await?.into_iter().collect()
    };
    *epoch = now;
    let numbered = candidates.into_iter().filter_map(|candidate| {
        let Candidate { offset, timestamp_ms, payload, is } = candidate;
        let msg_id = match is {
            Is::Change => None,
            Is::Numbered(msg_id) => Some(msg_id.0),
            // Another record was that message, or nothing came of it.
            Is::Perhaps(_) => Some(stored.get(&offset)?.0),
        };
        Some(NumberedRecord { offset: offset.0, timestamp_ms, msg_id, record: payload })
    });
    Ok(numbered.collect())
}

/// The epoch in force behind the records, if `epoch` is in force before them.
pub(super) fn epoch_after(mut epoch: u64, records: &[LogRecord]) -> u64 {
    for record in records {
        in_force(&mut epoch, record);
    }
    epoch
}

/// What a record says, if it is of the epoch in force, as the fold takes it.
fn in_force(epoch: &mut u64, record: &LogRecord) -> Option<Change> {
    let Record { change, written_in_epoch } = Record::decode(record.payload.clone()).ok()?;
    let change = change?;
    let written_in_epoch = written_in_epoch.unwrap_or(*epoch);
    if written_in_epoch < *epoch {
        return None;
    }
    *epoch = written_in_epoch;
    if let Change::Epoch(begun) = &change {
        *epoch = begun.epoch.max(*epoch);
    }
    Some(change)
}

fn candidates(
    state: &State,
    epoch: &mut u64,
    records: &[LogRecord],
) -> Result<Vec<Candidate>, NotNow> {
    let changes: Vec<_> =
        records.iter().filter_map(|record| Some((record, in_force(epoch, record)?))).collect();
    let Some(((first, _), (last, _))) = changes.first().zip(changes.last()) else {
        return Ok(Vec::new());
    };
    let inner = state.lock();
    let within = inner.fold.window.new_messages(first.offset);
    let within = within.take_while(|message| message.offset <= last.offset);
    let remembered: HashMap<Offset, Option<MsgId>> =
        within.map(|message| (message.offset, message.msg_id)).collect();
    let mut candidates = Vec::with_capacity(changes.len());
    for (record, change) in changes {
        let LogRecord { offset, timestamp_ms, ref payload, .. } = *record;
        let candidate = |is| Some(Candidate { offset, timestamp_ms, payload: payload.clone(), is });
        candidates.extend(match change {
            Change::Message(message) => match remembered.get(&offset) {
                Some(Some(msg_id)) => candidate(Is::Numbered(*msg_id)),
                _ if offset <= inner.stored => {
                    record_of(offset, &message).and_then(|record| candidate(Is::Perhaps(record)))
                }
                // Everything since the last stored record was folded here.
                _ if offset >= inner.fold.window.reaches_back_to(inner.fold.last) => None,
                _ => return Err(NotNow::Unstored),
            },
            Change::GroupCreated(_) | Change::MembersChanged(_) => {
                members(&inner.fold, record, change)
            }
            Change::Read(_) | Change::SessionRemoved(_) | Change::Shield(_) => {
                candidate(Is::Change)
            }
            Change::Epoch(_) | Change::FoldVersion(_) => None,
        });
    }
    Ok(candidates)
}

fn record_of(offset: Offset, message: &Message) -> Option<MessageRecord> {
    Some(MessageRecord {
        offset,
        conversation: ConversationId::from_number(message.conversation)?,
        sender: UserId(message.sender),
        client_msg_id: ClientMsgId::from_slice(&message.client_msg_id)?,
    })
}

/// A change of members. Where it is remembered what it came to, that is told; otherwise, what was asked
/// for.
fn members(fold: &Fold, record: &LogRecord, change: Change) -> Option<Candidate> {
    let LogRecord { offset, timestamp_ms, .. } = *record;
    let candidate = |payload| Some(Candidate { offset, timestamp_ms, payload, is: Is::Change });
    if offset <= fold.published.covers_from() {
        return candidate(record.payload.clone());
    }
    if !fold.published.contains(offset) {
        return None; // It changed nothing.
    }
    let Some(change) = came_to(change, fold.published.members_at(offset)) else {
        return candidate(record.payload.clone());
    };
    let record = Record { change: Some(change), written_in_epoch: None };
    candidate(record.encode_to_vec().into())
}

/// The same change, with only the users who really joined or left.
fn came_to(change: Change, members: Option<&MemberChange>) -> Option<Change> {
    let members = members?;
    let users = |users: &[UserId]| users.iter().map(|user| user.0).collect();
    match change {
        Change::GroupCreated(mut created) => {
            created.members = users(&members.added);
            Some(Change::GroupCreated(created))
        }
        Change::MembersChanged(mut changed) => {
            changed.added = users(&members.added);
            changed.removed = users(&members.removed);
            Some(Change::MembersChanged(changed))
        }
        _ => None,
    }
}
