//! What stands in a resume token, and how it is signed.
//!
//! | Bytes | |
//! |---|---|
//! | 1 | version: 1 |
//! | 16 | the family |
//! | 4 | the user |
//! | 4 | the client kind |
//! | 4 | the number of the newest revocation when the family began |
//! | 8 | when it ends, Unix seconds |
//! | 32 | random |
//! | 4 | the number of the key; 0: not signed |
//! | 32 | HMAC-SHA-256 of all that, zeros if it is not signed |
//!
//! Numbers are big-endian. The store has a hash of all these bytes. Where it can be asked, that alone
//! decides, and the signature is not looked at, which is for the time when it cannot.
//!
//! There is one algorithm, which the token does not name.

use data_encoding::HEXLOWER_PERMISSIVE;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use store::tokens::{FamilyId, SecretHash};

/// The length of a token in bytes.
pub(super) const TOKEN_LEN: usize = SIGNED_LEN + MAC_LEN;

/// The length of what is random in a token, and of a ticket, in bytes.
pub const SECRET_LEN: usize = 32;

const VERSION: u8 = 1;
const SIGNED_LEN: usize = 1 + 16 + 4 + 4 + 4 + 8 + SECRET_LEN + 4;
const MAC_LEN: usize = 32;

/// A token that is not signed has this key number.
const UNSIGNED: u32 = 0;

/// What a client shows, or is given.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// The family.
    pub(super) family: FamilyId,
    /// Whose it is.
    pub(super) user: u32,
    /// The client kind of the login.
    pub(super) client_type: u32,
    /// Revocations up to this number do not concern it.
    pub(super) revoked: u32,
    /// When it ends, Unix seconds.
    pub(super) expires_s: u64,
    /// Random bytes, so that a token cannot be guessed.
    pub(super) secret: [u8; SECRET_LEN],
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("family", &self.family).finish_non_exhaustive()
    }
}

/// The keys that tokens are signed with; the first signs.
#[derive(Debug, Default)]
pub struct Keys(Vec<(u32, hmac::Key)>);

impl Keys {
    /// Reads a file of keys: in each line a number from 1 to 4,294,967,295, white space, and 64 hex
    /// digits. Empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    ///
    /// What is wrong, and in which line; never what stands there.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut keys: Vec<(u32, hmac::Key)> = Vec::new();
        for (at, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let read = line.split_once(char::is_whitespace).and_then(|(number, digits)| {
                let number = number.parse().ok().filter(|number| *number != UNSIGNED)?;
                Some((number, from_hex(digits.trim())?))
            });
            let (number, bytes) =
                read.ok_or(format!("line {at} is not a number from 1 on and 64 hex digits"))?;
            if keys.iter().any(|(known, _key)| *known == number) {
                return Err(format!("line {at} has the number of another key"));
            }
            keys.push((number, hmac::Key::new(hmac::HMAC_SHA256, &bytes)));
        }
        if keys.is_empty() { Err("there is no key in it".to_owned()) } else { Ok(Self(keys)) }
    }

    /// Whether there is none: nothing is signed, and no signature holds.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of a token.
    pub(super) fn write(&self, token: &Token) -> Vec<u8> {
        let Token { family, user, client_type, revoked, expires_s, secret } = token;
        let mut bytes = Vec::with_capacity(TOKEN_LEN);
        bytes.push(VERSION);
        bytes.extend(family.0);
        for number in [user, client_type, revoked] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(expires_s.to_be_bytes());
        bytes.extend(secret);
        if let Some((number, key)) = self.0.first() {
            bytes.extend(number.to_be_bytes());
            let tag = hmac::sign(key, &bytes);
            bytes.extend(tag.as_ref());
        } else {
            bytes.extend(UNSIGNED.to_be_bytes());
            bytes.extend([0; MAC_LEN]);
        }
        bytes
    }

    /// Whether one of the keys signed these bytes. Takes the same time wherever they differ.
    pub(super) fn signed(&self, bytes: &[u8]) -> bool {
        let Some((signed, tag)) = bytes.split_at_checked(SIGNED_LEN) else { return false };
        let Some(number) = signed.last_chunk().map(|number| u32::from_be_bytes(*number)) else {
            return false;
        };
        let key = self.0.iter().find(|(known, _key)| *known == number);
        key.is_some_and(|(_number, key)| hmac::verify(key, signed, tag).is_ok())
    }
}

/// Reads what a client shows; `None` if it is no token.
pub(super) fn read(bytes: &[u8]) -> Option<Token> {
    let bytes: &[u8; TOKEN_LEN] = bytes.try_into().ok()?;
    let (&[version], rest) = bytes.split_first_chunk()?;
    let (family, rest) = rest.split_first_chunk()?;
    let (user, rest) = rest.split_first_chunk()?;
    let (client_type, rest) = rest.split_first_chunk()?;
    let (revoked, rest) = rest.split_first_chunk()?;
    let (expires_s, rest) = rest.split_first_chunk()?;
    let (secret, _signature) = rest.split_first_chunk()?;
    (version == VERSION).then_some(Token {
        family: FamilyId(*family),
        user: u32::from_be_bytes(*user),
        client_type: u32::from_be_bytes(*client_type),
        revoked: u32::from_be_bytes(*revoked),
        expires_s: u64::from_be_bytes(*expires_s),
        secret: *secret,
    })
}

/// What the store keeps of a token, a ticket, or the secret of an API key.
pub fn hash(shown: &[u8]) -> SecretHash {
    let digest = ring::digest::digest(&ring::digest::SHA256, shown);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    SecretHash(hash)
}

/// Bytes that cannot be guessed; `None` if the system gives none.
pub fn random<const LEN: usize>() -> Option<[u8; LEN]> {
    let mut bytes = [0; LEN];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

fn from_hex(digits: &str) -> Option<[u8; 32]> {
    HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Keys {
        Keys::read(text).unwrap()
    }

    fn line(number: u32, digit: char) -> String {
        format!("{number} {}\n", digit.to_string().repeat(64))
    }

    fn token() -> Token {
        Token {
            family: FamilyId([0xf1; 16]),
            user: u32::MAX,
            client_type: 0x12,
            revoked: 7,
            expires_s: 5_000_000_000,
            secret: [0x5e; 32],
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_written_signed_or_not() {
        for keys in [Keys::default(), keys(&line(1, 'a'))] {
            let bytes = keys.write(&token());
            assert_eq!(bytes.len(), TOKEN_LEN);
            assert_eq!(read(&bytes), Some(token()));
            assert_eq!(keys.signed(&bytes), !keys.is_empty());
        }
        assert!(!format!("{:?}", token()).contains("94"), "the secret is not shown");
    }

    #[test]
    fn whatever_bit_is_another_and_wherever_it_is_cut_the_signature_does_not_hold() {
        let keys = keys(&line(1, 'a'));
        let bytes = keys.write(&token());
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!keys.signed(&other), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(!keys.signed(&bytes[..len]), "{len}");
            assert_eq!(read(&bytes[..len]), None, "{len}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(!keys.signed(&longer) && read(&longer).is_none());
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(100_000))]
        #[test]
        fn no_signature_is_guessed(tag in proptest::prelude::any::<[u8; MAC_LEN]>()) {
            let keys = keys(&line(1, 'a'));
            let mut bytes = keys.write(&token());
            bytes[SIGNED_LEN..].copy_from_slice(&tag);
            proptest::prop_assert!(!keys.signed(&bytes));
        }
    }

    #[test]
    fn the_first_key_signs_and_all_are_believed_by_their_numbers() {
        let (old, new) = (line(1, 'a'), line(2, 'b'));
        let signed = keys(&old).write(&token());
        assert!(keys(&(new.clone() + &old)).signed(&signed));
        assert!(!keys(&new).signed(&signed), "the key is gone");
        assert!(!keys(&line(1, 'b')).signed(&signed), "another key of that number");
        assert!(!keys(&line(2, 'a')).signed(&signed), "the same key under another number");
        assert!(keys(&new).signed(&keys(&(new.clone() + &old)).write(&token())));
        let unsigned = Keys::default().write(&token());
        assert!(!keys(&old).signed(&unsigned) && !Keys::default().signed(&unsigned));
    }

    #[test]
    fn keys_that_cannot_be_read_are_refused_by_their_line_and_not_shown() {
        for (text, problem) in [
            (String::new(), "no key"),
            ("# none\n\n".to_owned(), "no key"),
            (line(1, 'a') + &line(1, 'b'), "line 2"),
            (line(0, 'a'), "line 1"),
            ("1 abc".to_owned(), "line 1"),
            (format!("# k\n1 {}", "g".repeat(64)), "line 2"),
            (format!("1 {}", "a".repeat(66)), "line 1"),
            ("a".repeat(64), "line 1"),
        ] {
            let error = Keys::read(&text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
            assert!(!error.contains("aaa"), "{error}");
        }
    }
}
