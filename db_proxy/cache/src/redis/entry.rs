//! What stands in Redis: keys, and values that are recognised or not there at all.
//!
//! ```text
//! PREFIX:v1:failures:HASH              "failures=N"
//! PREFIX:v1:wait:HASH                  "wait", there for as long as a delay lasts
//! PREFIX:v1:failures-of:HASH           the set of those keys that are of a name
//! PREFIX:v1:lifted:HASH                a token, another one for each lift of a name
//! PREFIX:v1:profile:USER               value, stamp = that of the row
//! PREFIX:v1:message:LOG:CONVERSATION:N value, stamp = 0
//!
//! value = format (1) · crc32 of key, stamp and payload (4) · stamp (4) · payload
//! ```
//!
//! # Invariants
//!
//! - Whatever bytes stand under a key, reading them gives what was kept under this key, or nothing.
//! - Numbers are big-endian. The scripts that run inside Redis know the place of the stamp.

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use fold::rows::MessageRow;
use prost::Message as _;
use proto::client::UserInfo;
use proto::ids::{ClientMsgId, ConversationId, MsgId, Offset, UserId};
use proto::record::LogId;
use ring::digest;

use crate::Profile;

/// The format of keys, and of what stands under them.
const FORMAT: u8 = 1;

/// Format, checksum and stamp.
const HEADER_LEN: usize = 9;

/// What a message has besides its body.
const MESSAGE_HEADER_LEN: usize = 4 + 16 + 8 + 8 + 4;

/// What a counter begins with.
pub(super) const COUNTER: &str = "failures=";

/// What stands for a delay that is not over.
pub(super) const WAIT: &[u8] = b"wait";

/// Makes the keys of one cluster.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}:v{FORMAT}") }
    }

    /// The key of a counter of failures. It is hashed, so that what it counts for, often a login
    /// name of any length, cannot be read in Redis.
    pub(super) fn failures(&self, throttle: &str) -> Vec<u8> {
        self.hashed("failures", throttle)
    }

    fn hashed(&self, kind: &str, what: &str) -> Vec<u8> {
        let hash = digest::digest(&digest::SHA256, what.as_bytes());
        let hash = hash.as_ref().first_chunk::<16>().expect("SHA-256 is longer");
        let digits = u128::from_be_bytes(*hash);
        format!("{}:{kind}:{digits:032x}", self.prefix).into_bytes()
    }

    /// There for as long as a delay lasts.
    pub(super) fn wait(&self, throttle: &str) -> Vec<u8> {
        self.hashed("wait", throttle)
    }

    /// Which of those keys are of a name.
    pub(super) fn failures_of(&self, name: &str) -> Vec<u8> {
        self.hashed("failures-of", name)
    }

    /// The last lift of a name.
    pub(super) fn lifted(&self, name: &str) -> Vec<u8> {
        self.hashed("lifted", name)
    }

    pub(super) fn profile(&self, user: UserId) -> Vec<u8> {
        format!("{}:profile:{}", self.prefix, user.0).into_bytes()
    }

    pub(super) fn message(&self, log: LogId, id: ConversationId, msg_id: MsgId) -> Vec<u8> {
        let number = id.number();
        format!("{}:message:{log}:{number}:{}", self.prefix, msg_id.0).into_bytes()
    }

    /// Where a try is made to write.
    pub(super) fn probe(&self) -> Vec<u8> {
        format!("{}:probe", self.prefix).into_bytes()
    }
}

/// How many failures a counter stands for; 0 for what is no counter.
pub(super) fn read_failures(value: &[u8]) -> u32 {
    let digits = value.strip_prefix(COUNTER.as_bytes());
    let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

pub(super) fn write_profile(key: &[u8], profile: &Profile) -> Bytes {
    seal(key, profile.stamp, &profile.info.encode_to_vec())
}

pub(super) fn read_profile(key: &[u8], user: UserId, value: &[u8]) -> Option<Profile> {
    let (stamp, payload) = open(key, value)?;
    let info = UserInfo::decode(payload).ok()?;
    (info.user_id == user.0).then_some(Profile { stamp, info })
}

pub(super) fn write_message(key: &[u8], message: &MessageRow) -> Bytes {
    let mut payload = Vec::with_capacity(MESSAGE_HEADER_LEN + message.body.len());
    payload.put_u32(message.sender.0);
    payload.put_slice(&message.client_msg_id.0);
    payload.put_u64(message.offset.0);
    payload.put_u64(message.timestamp_ms);
    payload.put_u32(message.kind);
    payload.put_slice(&message.body);
    seal(key, 0, &payload)
}

pub(super) fn read_message(
    key: &[u8],
    (conversation, msg_id): (ConversationId, MsgId),
    value: &[u8],
) -> Option<MessageRow> {
    let (_stamp, mut payload) = open(key, value)?;
    if payload.len() < MESSAGE_HEADER_LEN {
        return None;
    }
    let sender = UserId(payload.get_u32());
    let client_msg_id = ClientMsgId(payload.get_u128().to_be_bytes());
    Some(MessageRow {
        conversation,
        msg_id,
        sender,
        client_msg_id,
        offset: Offset(payload.get_u64()),
        timestamp_ms: payload.get_u64(),
        kind: payload.get_u32(),
        body: Bytes::copy_from_slice(payload),
    })
}

fn seal(key: &[u8], stamp: u32, payload: &[u8]) -> Bytes {
    let mut value = BytesMut::with_capacity(HEADER_LEN + payload.len());
    value.put_u8(FORMAT);
    value.put_u32(checksum(key, stamp, payload));
    value.put_u32(stamp);
    value.put_slice(payload);
    value.freeze()
}

fn open<'a>(key: &[u8], mut value: &'a [u8]) -> Option<(u32, &'a [u8])> {
    if value.len() < HEADER_LEN || value.get_u8() != FORMAT {
        return None;
    }
    let (expected, stamp) = (value.get_u32(), value.get_u32());
    (checksum(key, stamp, value) == expected).then_some((stamp, value))
}

fn checksum(key: &[u8], stamp: u32, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    // Its length first, so that key and payload cannot be shifted into each other.
    crc.update(&(key.len() as u64).to_be_bytes());
    crc.update(key);
    crc.update(&stamp.to_be_bytes());
    crc.update(payload);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conformance::{message, profile};

    fn place() -> (ConversationId, MsgId) {
        let message = message(1, 2, 7, b"");
        (message.conversation, message.msg_id)
    }

    proptest! {
        #[test]
        fn any_bytes_under_a_key_are_nothing(
            value in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert_eq!(read_profile(b"key", UserId(1), &value), None);
            prop_assert_eq!(read_message(b"key", place(), &value), None);
            prop_assert_eq!(read_failures(&value), 0);
        }

        #[test]
        fn any_bytes_behind_a_right_checksum_do_no_harm(
            stamp in any::<u32>(),
            payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let value = seal(b"key", stamp, &payload);
            if let Some(profile) = read_profile(b"key", UserId(1), &value) {
                prop_assert_eq!(profile.info.user_id, 1);
            }
            let message = read_message(b"key", place(), &value);
            prop_assert_eq!(message.is_some(), payload.len() >= MESSAGE_HEADER_LEN);
        }

        #[test]
        fn a_changed_or_shortened_value_is_nothing(
            at in any::<proptest::sample::Index>(),
            bit in 0..8_u32,
            body in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let whole = write_message(b"key", &message(1, 2, 7, &body));
            prop_assert_eq!(read_message(b"key", place(), &whole), Some(message(1, 2, 7, &body)));
            let mut changed = whole.to_vec();
            let at = at.index(changed.len());
            changed[at] ^= 1 << bit;
            prop_assert_eq!(read_message(b"key", place(), &changed), None);
            prop_assert_eq!(read_message(b"key", place(), &whole[..at]), None);
        }

        #[test]
        fn a_value_under_another_key_is_nothing(key in "[a-z:0-9]{1,40}") {
            prop_assume!(key != "right");
            let value = write_profile(b"right", &profile(1, 5, "nick"));
            prop_assert_eq!(read_profile(key.as_bytes(), UserId(1), &value), None);
            prop_assert_eq!(read_profile(b"right", UserId(2), &value), None);
            prop_assert_eq!(read_profile(b"right", UserId(1), &value), Some(profile(1, 5, "nick")));
        }
    }

    #[test]
    fn a_counter_is_digits_behind_its_name() {
        assert_eq!(read_failures(b"failures=12"), 12);
        for no_counter in [&b"12"[..], b"failures=", b"failures=-1", b"failures=99999999999", b""] {
            assert_eq!(read_failures(no_counter), 0);
        }
    }

    #[test]
    fn no_two_things_have_one_key() {
        let keys = Keys::new("talkhub");
        let (one, other) = (LogId([1; 16]), LogId([2; 16]));
        let (id, msg_id) = place();
        let all = [
            keys.failures("name:u1"),
            keys.failures("address:u1"),
            keys.profile(UserId(1)),
            keys.message(one, id, msg_id),
            keys.message(other, id, msg_id),
            keys.message(one, id, msg_id.next()),
            Keys::new("other").profile(UserId(1)),
            keys.probe(),
        ];
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }
}
