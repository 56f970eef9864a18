//! What conversations, messages and their content are called in a history.

use std::fmt;

use client::Kind;
use md5::{Digest as _, Md5};
use proto::ids::{ConversationId, GroupId, UserId};
use serde::de::Unexpected;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The number of a conversation; `single:1-2` or `group:1` in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conv(pub ConversationId);

/// What names a message for its sender: its `client_msg_id`, or, for an old client, an id that only
/// the recorder knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mid(pub [u8; 16]);

/// What names content, that is type and body: its MD5, which is in the dependency tree anyway and
/// takes two nanoseconds per byte. Bodies are our own, so no attacker seeks collisions, and by accident
/// two of 2^32 contents collide with a probability of 2^-65; with 64 bits it would be one half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha(pub [u8; 16]);

impl Sha {
    /// Names what was said: what kind of message it is, and its body.
    pub fn of(kind: Kind, body: &[u8]) -> Self {
        let kind = [u8::from(kind == Kind::Voice)];
        Self(Md5::new().chain_update(kind).chain_update(body).finalize().into())
    }
}

impl Conv {
    /// The conversation of two users.
    pub fn single(one: u32, other: u32) -> Self {
        Self(ConversationId::single(UserId(one), UserId(other)).expect("two different users"))
    }

    /// The conversation of a group.
    pub fn group(group: u32) -> Self {
        Self(ConversationId::group(GroupId(group)).expect("groups count from 1"))
    }

    fn parse(text: &str) -> Option<Self> {
        let id = match text.split_once(':')? {
            ("group", number) => ConversationId::group(GroupId(number.parse().ok()?))?,
            ("single", pair) => {
                let (low, high) = pair.split_once('-')?;
                ConversationId::single(UserId(low.parse().ok()?), UserId(high.parse().ok()?))?
            }
            _ => return None,
        };
        Some(Self(id))
    }
}

impl fmt::Display for Conv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Conv {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Conv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text("a conversation", Self::parse))
    }
}

/// Reads something that is a string in JSON.
struct Text<T>(&'static str, fn(&str) -> Option<T>);

impl<T> serde::de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self.0))
    }
}

/// Sixteen bytes that are 32 hex digits in JSON.
macro_rules! hex16 {
    ($name:ident, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes = deserializer.deserialize_str(Text($what, from_hex))?;
                Ok(Self(bytes))
            }
        }
    };
}

hex16!(Mid, "the 32 hex digits of a message's id");
hex16!(Sha, "the 32 hex digits of a message's content");

fn from_hex(text: &str) -> Option<[u8; 16]> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_type_and_body() {
        let text = Sha::of(Kind::Text, b"hello");
        assert_eq!(text, Sha::of(Kind::Text, b"hello"));
        assert_ne!(text, Sha::of(Kind::Text, b"hallo"));
        assert_ne!(text, Sha::of(Kind::Voice, b"hello"));
    }
}
