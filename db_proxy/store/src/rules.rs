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

/// Why a consumer's place is not taken.
pub(super) fn fenced_consumer(epoch: u64) -> StoreError {
    StoreError::Fenced(format!(
        "the place of a consumer, of epoch {epoch}: another owner has begun"
    ))
}

/// Why a log is not taken.
pub(super) fn other_log(known: LogId, offered: LogId) -> StoreError {
    StoreError::Refused(format!(
        "the store belongs to log {known}, but the log given is {offered}: start with the log folder that \
         was used with this store, or with an empty store"
    ))
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

#[cfg(test)]
mod tests {
    use proto::ids::{ClientMsgId, GroupId, MsgId, UserId};

    use super::*;

    #[test]
    fn a_stamp_is_for_256_users_and_no_more() {
        let stamps = [0, 1, 255, 256, 511, 512, 4_999].map(stamps_for);
        assert_eq!(stamps, [0, 0, 0, 1, 1, 2, 19]);
        assert_eq!(stamps_for(usize::MAX), u32::MAX);
    }

    #[test]
    fn a_stamp_is_the_time_unless_that_would_not_raise_it() {
        let before = unix_s();
        let stamp = stamp_after(5);
        assert!((before..=unix_s()).contains(&stamp), "{stamp}");
        let ahead = u32::MAX - 1;
        assert_eq!(stamp_after(ahead), u32::MAX);
        assert_eq!(stamp_after(u32::MAX), u32::MAX, "it does not begin again");
    }

    #[test]
    fn numbers_end() {
        assert_eq!(number_after(0, "user").unwrap(), 1);
        assert_eq!(number_after(u32::MAX - 1, "user").unwrap(), u32::MAX);
        let error = number_after(u32::MAX, "group").unwrap_err();
        assert!(matches!(&error, StoreError::Refused(text) if text.contains("no group number")));
    }

    #[test]
    fn the_higher_user_is_that_of_two_users_only() {
        let two = ConversationId::single(UserId(9), UserId(4)).unwrap();
        assert_eq!(higher_user(two), Some(9));
        assert_eq!(higher_user(ConversationId::group(GroupId(9)).unwrap()), None);
    }

    #[test]
    fn what_is_refused_is_named_with_what_was_found() {
        let found = Progress { epoch: 7, applied: Offset(40), applied_crc: 0, fold_version: 1 };
        let text = fenced(5, Offset(30), Some(found)).to_string();
        assert!(text.contains("epoch 5 after 30") && text.contains("epoch 7 at 40"), "{text}");
        assert!(fenced(5, Offset(30), None).to_string().contains("no owner"));
        let text = fenced_consumer(5).to_string();
        assert!(text.starts_with("fenced") && text.contains("epoch 5"), "{text}");
        let text = other_log(LogId([1; 16]), LogId([2; 16])).to_string();
        let (known, offered) = ("01".repeat(16), "02".repeat(16));
        assert!(text.contains(&format!("belongs to log {known}")), "{text}");
        assert!(text.contains(&format!("the log given is {offered}")), "{text}");
    }

    #[test]
    fn a_number_given_twice_is_told_without_what_was_said() {
        let message = MessageRow {
            conversation: ConversationId::single(UserId(1), UserId(2)).unwrap(),
            msg_id: MsgId(3),
            sender: UserId(1),
            client_msg_id: ClientMsgId([4; 16]),
            offset: Offset(5),
            timestamp_ms: 6,
            kind: 1,
            body: "secret".into(),
        };
        let text = number_given_twice(&message);
        assert!(text.contains("message 3 of single:1-2; record 5"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
