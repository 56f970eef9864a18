//! How passwords are hashed, and which hashes are below that.
//!
//! A stored hash is a PHC string of Argon2id. One that was made with a pepper names it by a parameter
//! `keyid`: the credential was first run through HMAC-SHA256 with the pepper, which is not in the store.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use daemon::Secret;
use ring::hmac;
use ring::rand::SystemRandom;

/// OWASP's minimum for Argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What a hash says of its pepper.
const KEY_ID: &str = ",keyid=";

/// How passwords are hashed.
#[derive(Clone, Default)]
pub(super) struct Policy {
    pepper: Option<Pepper>,
}

#[derive(Clone)]
struct Pepper {
    key: hmac::Key,
    /// Eight hex digits.
    id: String,
}

/// A hash was made with another pepper than the one here: whether a credential is right cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OtherPepper;

impl Policy {
    /// With a pepper, if there is one.
    pub(super) fn new(pepper: Option<&Secret>) -> Self {
        Self { pepper: pepper.map(Pepper::new) }
    }

    /// Makes the hash to store for a credential. Takes tens of milliseconds.
    pub(super) fn hash(&self, credential: &str) -> Result<String, daemon::BoxError> {
        let mut salt = [0; 16];
        ring::rand::SecureRandom::fill(&SystemRandom::new(), &mut salt)
            .map_err(|_| "no random bytes")?;
        let hash = argon2()
            .hash_password_with_salt(&peppered(self.pepper.as_ref(), credential), &salt)
            .map_err(|error| format!("hash a password: {error}"))?
            .to_string();
        Ok(match &self.pepper {
            Some(pepper) => with_key_id(&hash, &pepper.id),
            None => hash,
        })
    }

    /// Whether a credential is the one of a stored hash. Takes as long as that hash took.
    pub(super) fn is_right(&self, stored: &str, credential: &str) -> Result<bool, OtherPepper> {
        let (stored, key_id) = without_key_id(stored);
        let pepper = match (key_id, &self.pepper) {
            (None, _) => None,
            (Some(id), Some(pepper)) if pepper.id == id => Some(pepper),
            (Some(_other), _) => return Err(OtherPepper),
        };
        let Ok(stored) = PasswordHash::new(&stored) else { return Ok(false) };
        Ok(argon2().verify_password(&peppered(pepper, credential), &stored).is_ok())
    }

    /// Whether a hash should be made anew once its credential is known: it costs less than is asked for
    /// by now, or has no pepper though there is one.
    pub(super) fn is_below(&self, stored: &str) -> bool {
        let (stored, key_id) = without_key_id(stored);
        let has_pepper = key_id.is_some() || self.pepper.is_none();
        !(has_pepper && costs_enough(&stored))
    }
}

impl Pepper {
    fn new(pepper: &Secret) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, pepper.expose().as_bytes());
        let id = hmac::sign(&key, b"the name of this pepper");
        let id = id.as_ref().first_chunk().map_or(0, |first| u32::from_be_bytes(*first));
        let id = format!("{id:08x}");
        Self { key, id }
    }
}

/// What is hashed in place of a credential.
fn peppered(pepper: Option<&Pepper>, credential: &str) -> Vec<u8> {
    match pepper {
        Some(pepper) => hmac::sign(&pepper.key, credential.as_bytes()).as_ref().to_vec(),
        None => credential.as_bytes().to_vec(),
    }
}

/// Puts the name of a pepper behind the other parameters.
fn with_key_id(hash: &str, id: &str) -> String {
    let mut fields: Vec<String> = hash.split('$').map(ToOwned::to_owned).collect();
    if let Some(parameters) = fields.get_mut(3) {
        parameters.push_str(KEY_ID);
        parameters.push_str(id);
    }
    fields.join("$")
}

/// A hash as it is without the name of its pepper, and that name.
fn without_key_id(stored: &str) -> (String, Option<&str>) {
    let Some((before, rest)) = stored.split_once(KEY_ID) else { return (stored.to_owned(), None) };
    let end = rest.find(['$', ',']).unwrap_or(rest.len());
    let (id, after) = rest.split_at(end);
    (format!("{before}{after}"), Some(id))
}

fn costs_enough(stored: &str) -> bool {
    let mut fields = stored.split('$').skip(1);
    let is_argon2id = fields.next() == Some("argon2id") && fields.next() == Some("v=19");
    let parameters = fields.next().unwrap_or_default();
    let is = |name: &str, least: u32| {
        let mut values = parameters.split(',').filter_map(|one| one.strip_prefix(name));
        values.next().and_then(|value| value.parse().ok()).is_some_and(|value: u32| value >= least)
    };
    is_argon2id && is("m=", MEMORY_KIB) && is("t=", PASSES) && is("p=", LANES)
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the parameters are in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// A hash as one below the policy would make it.
#[cfg(any(test, feature = "testing"))]
pub fn weak_hash(credential: &str) -> String {
    let params = Params::new(64, 1, 1, None).expect("in range");
    let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    weak.hash_password_with_salt(credential.as_bytes(), &[7; 16]).expect("hash").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_of_today_is_not_below_and_a_cheaper_one_is() {
        let policy = Policy::default();
        let hash = policy.hash("secret").unwrap();
        assert!(!policy.is_below(&hash), "{hash}");
        let weak = weak_hash("secret");
        assert!(policy.is_below(&weak) && policy.is_right(&weak, "secret") == Ok(true));
        for other in ["", "nonsense", "$argon2i$v=19$m=19456,t=2,p=1$a$b", "$2b$12$abc"] {
            assert!(policy.is_below(other), "{other}");
            assert_eq!(policy.is_right(other, "secret"), Ok(false), "{other}");
        }
    }

    #[test]
    fn a_pepper_is_needed_for_the_hashes_made_with_it_and_for_no_others() {
        let peppered = Policy::new(Some(&Secret::new("a pepper of these tests, long enough")));
        let other = Policy::new(Some(&Secret::new("another pepper of these tests")));
        let plain = Policy::default();
        let hash = peppered.hash("secret").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1,keyid="), "{hash}");
        assert_eq!(peppered.is_right(&hash, "secret"), Ok(true));
        assert_eq!(peppered.is_right(&hash, "Secret"), Ok(false));
        assert_eq!(other.is_right(&hash, "secret"), Err(OtherPepper));
        assert_eq!(plain.is_right(&hash, "secret"), Err(OtherPepper));
        assert!(!peppered.is_below(&hash));

        let old = plain.hash("secret").unwrap();
        assert_eq!(peppered.is_right(&old, "secret"), Ok(true), "it goes on working");
        assert!(peppered.is_below(&old) && !plain.is_below(&old));
        // The pepper is in what is hashed, not only beside it.
        let (without, _id) = without_key_id(&hash);
        assert_eq!(plain.is_right(&without, "secret"), Ok(false));
    }

    #[test]
    fn a_hash_is_below_if_any_part_of_its_cost_is() {
        let policy = Policy::default();
        for (parameters, is_below) in [
            ("v=19$m=19456,t=2,p=1", false),
            ("v=19$m=65536,t=3,p=4", false),
            ("v=19$m=19455,t=2,p=1", true),
            ("v=19$m=19456,t=1,p=1", true),
            ("v=19$m=19456,t=2,p=0", true),
            ("v=16$m=19456,t=2,p=1", true),
            ("v=19$m=19456,t=2", true),
        ] {
            let stored = format!("$argon2id${parameters}$c2FsdHNhbHQ$aGFzaA");
            assert_eq!(policy.is_below(&stored), is_below, "{parameters}");
        }
    }
}
