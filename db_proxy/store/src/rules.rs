//! What is the same in every store: rules that belong to the data, not to a database.

use daemon::clock::unix_s;
use proto::ids::{ConversationId, Offset, Parties};
use proto::record::LogId;

use super::{MessageRow, Progress, StoreError};

/// How many users may share a stamp. A client's page must hold more than this, else it could never
/// get past a stamp.
const USERS_PER_STAMP: usize = 256;

/// Two contents under one number mean that the fold is not the pure function it must be; every
/// further answer could be wrong.
pub(super) fn abort(text: &str) {
    tracing::error!("{text}");
    std::process::abort();
}

/// What to say of a message whose number is taken.
pub(super) fn number_given_twice(message: &MessageRow) -> String {
    format!(
        "the store already has message {} of {}; record {} gives its number again",
        message.msg_id.0, message.conversation, message.offset.0,
    )
}

/// Why a batch is not taken.
pub(super) fn fenced(epoch: u64, after: Offset, found: Option<Progress>) -> StoreError {
    let found = match found {
        Some(found) => format!("epoch {} at {}", found.epoch, found.applied.0),
        None => "no owner".to_owned(),
    };
    let after = after.0;
    StoreError::Fenced(format!("a batch of epoch {epoch} after {after}, but the store has {found}"))
}

/// Why a log is not taken.
pub(super) fn other_log(known: LogId, offered: LogId) -> StoreError {
    StoreError::Refused(format!(
        "the store belongs to log {}, but the log given is {}: start with the log folder that was \
         used with this store, or with an empty store",
        hex(known),
        hex(offered),
    ))
}

fn hex(log: LogId) -> String {
    format!("{:032x}", u128::from_be_bytes(log.0))
}

/// How far the stamp has risen once `made` users have got theirs.
pub(super) fn stamps_for(made: usize) -> u32 {
    u32::try_from(made / USERS_PER_STAMP).unwrap_or(u32::MAX)
}

/// The clock, or one more than the newest stamp, so that every change raises it.
pub(super) fn stamp_after(newest: u32) -> u32 {
    unix_s().max(newest.saturating_add(1))
}

/// The alias that clients sort and search a user by.
pub(super) fn domain(name: &str) -> String {
    name.to_lowercase()
}

/// The number after `last`, of users or groups.
pub(super) fn number_after(last: u32, what: &str) -> Result<u32, StoreError> {
    last.checked_add(1)
        .ok_or_else(|| StoreError::Refused(format!("there is no {what} number left")))
}

/// The user with the higher number, if two users talk here.
pub(super) fn higher_user(id: ConversationId) -> Option<u32> {
    match id.parties() {
        Parties::Single(_, higher) => Some(higher.0),
        Parties::Group(_) => None,
    }
}
