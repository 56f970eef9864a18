//! Keys that programs show to the HTTP API.
//!
//! A key is written `thk_`, 16 hex digits, `_`, and 43 digits of Base64 (URL alphabet, no padding): the prefix
//! lets scanners of source code recognise it, the first part says which key it is, the second one is
//! secret. Servers keep a hash of the secret.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// What a key begins with.
pub const PREFIX: &str = "thk_";

/// The length of every key, in bytes.
pub const LEN: usize = PREFIX.len() + 16 + 1 + 43;

/// A key as a program shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Says which key it is, and is no secret.
    pub id: [u8; 8],
    /// 256 random bits.
    pub secret: [u8; 32],
}

impl ApiKey {
    /// Reads a key; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if id.len() != 16 || !id.bytes().all(is_hex) {
            return None;
        }
        let id = u64::from_str_radix(id, 16).ok()?.to_be_bytes();
        let secret = BASE64_URL_SAFE_NO_PAD.decode(secret).ok()?.try_into().ok()?;
        Some(Self { id, secret })
    }

    /// The key in writing.
    pub fn to_text(&self) -> String {
        let (id, secret) = (u64::from_be_bytes(self.id), self.secret);
        format!("{PREFIX}{id:016x}_{}", BASE64_URL_SAFE_NO_PAD.encode(secret))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({:016x})", u64::from_be_bytes(self.id))
    }
}

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Reads users, groups, histories and unread counts.
    Read,
    /// Sends messages as any user.
    Send,
    /// Makes and changes users, ends their sessions, and gives tickets to log in as them.
    Users,
    /// Makes, changes and deletes groups.
    Groups,
    /// Sets up what other systems are told: webhooks.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::Send, Self::Users, Self::Groups, Self::Admin];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Send => "send",
            Self::Users => "users",
            Self::Groups => "groups",
            Self::Admin => "admin",
        }
    }

    /// Its bit among the scopes of a key. Stored, and so never given to another one.
    pub const fn bit(self) -> u32 {
        match self {
            Self::Read => 1,
            Self::Send => 1 << 1,
            Self::Users => 1 << 2,
            Self::Groups => 1 << 3,
            Self::Admin => 1 << 4,
        }
    }

    /// The scope that people call so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    /// The scopes whose bits are set. Bits of a newer release are left out.
    pub fn of_bits(bits: u32) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |scope| bits & scope.bit() != 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_written_with_a_prefix_an_id_and_a_secret() {
        let key = ApiKey { id: [0, 0, 0, 0, 0, 0, 1, 0xab], secret: [0xff; 32] };
        let text = key.to_text();
        assert_eq!(text, format!("thk_00000000000001ab_{}8", "_".repeat(42)));
        assert_eq!(text.len(), LEN);
        assert_eq!(format!("{key:?}"), "ApiKey(00000000000001ab)", "its secret is not shown");
    }

    #[test]
    fn what_is_no_key_is_not_read_as_one() {
        let good = ApiKey { id: [7; 8], secret: [9; 32] }.to_text();
        assert!(ApiKey::parse(&good).is_some());
        let long = format!("{good}A");
        let (short, cut) = (good.replacen("thk", "th", 1), good.replace("CQk", "CQ"));
        for bad in ["", "thk_", &short, &cut, &long, "thk_+000000000000001_A"] {
            assert_eq!(ApiKey::parse(bad), None, "{bad}");
        }
        assert_eq!(ApiKey::parse(&good.replace("07", "0A")), None, "another way to write it");
        assert_eq!(ApiKey::parse(&good.replace('_', "-")), None);
    }

    #[test]
    fn each_scope_has_a_name_and_a_bit_of_its_own() {
        let bits = Scope::ALL.iter().fold(0, |bits, scope| bits | scope.bit());
        assert_eq!(bits.count_ones() as usize, Scope::ALL.len());
        assert_eq!(Scope::of_bits(u32::MAX).collect::<Vec<_>>(), Scope::ALL);
        assert_eq!(Scope::of_bits(0b101).collect::<Vec<_>>(), [Scope::Read, Scope::Users]);
        for scope in Scope::ALL {
            assert_eq!(Scope::named(scope.name()), Some(scope));
        }
        assert_eq!(Scope::named("Read"), None);
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_written(id: [u8; 8], secret: [u8; 32]) {
            let key = ApiKey { id, secret };
            prop_assert_eq!(ApiKey::parse(&key.to_text()), Some(key));
        }

        #[test]
        fn whatever_is_read_as_a_key_is_written_in_that_way(text in "thk_[0-9a-f]{16}_[A-Za-z0-9_-]{43}") {
            if let Some(key) = ApiKey::parse(&text) {
                prop_assert_eq!(key.to_text(), text);
            }
        }
    }
}
