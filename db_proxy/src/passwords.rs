//! Passwords: Argon2id over what clients send, and a memory of pairs that were verified.
//!
//! Old clients send the MD5 of the typed password as 32 hex digits, at every login. A hash costs
//! tens of milliseconds on purpose, so a pair of stored hash and credential that was right once is
//! remembered, as a keyed hash with a key of this process alone: a login storm costs microseconds a
//! login, and what is remembered is worth nothing to whoever reads it.
//!
//! # What bounds it
//!
//! - As many hashes at a time as are allowed, by default half as many as there are cores, so that the
//!   others are left for messages; and [`QUEUE_MAX`] waiting; beyond, "busy".
//! - [`REMEMBERED_MAX`] pairs of 32 bytes; the least recently used goes first.

use std::num::NonZeroUsize;
use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use lru::LruCache;
use parking_lot::Mutex;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

/// Logins that wait for a core at most.
const QUEUE_MAX: usize = 256;

/// Pairs remembered.
const REMEMBERED_MAX: usize = 65_536;

/// OWASP's minimum for Argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Whether a credential is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Right,
    /// It is not.
    Wrong,
    /// Too many are being checked: try again later.
    Busy,
}

/// Checks and makes password hashes. Clones share memory and limits.
#[derive(Clone)]
pub struct Passwords {
    remembered: Arc<Mutex<LruCache<[u8; 32], ()>>>,
    key: Arc<hmac::Key>,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Checked for users that do not exist, so that they cost the same.
    dummy: Arc<str>,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

impl Passwords {
    /// Prepares the limits, the key, and the hash that nobody's password has. Computes one hash. 0
    /// `hashes_max`: half as many as there are cores.
    pub fn new(hashes_max: usize) -> Result<Self, daemon::BoxError> {
        let random = SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random).map_err(|_| "no random bytes")?;
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let running = if hashes_max == 0 { cores.div_ceil(2) } else { hashes_max };
        let remembered = NonZeroUsize::new(REMEMBERED_MAX).expect("not zero");
        Ok(Self {
            remembered: Arc::new(Mutex::new(LruCache::new(remembered))),
            key: Arc::new(key),
            running: Arc::new(Semaphore::new(running)),
            waiting: Arc::new(Semaphore::new(QUEUE_MAX)),
            dummy: hash_now("nobody has this")?.into(),
        })
    }

    /// Checks a credential against a stored hash; `None` stands for a user that does not exist and
    /// costs as much. Says also whether a hash had to be computed.
    pub async fn verify(&self, stored: Option<&str>, credential: &str) -> (Verdict, bool) {
        let tag = self.tag(stored.unwrap_or(&self.dummy), credential);
        if stored.is_some() && self.remembered.lock().get(&tag).is_some() {
            return (Verdict::Right, false);
        }
        let Ok(_place) = self.waiting.try_acquire() else { return (Verdict::Busy, false) };
        let Ok(_core) = self.running.acquire().await else { return (Verdict::Busy, false) };
        let (hash, tried) = (stored.unwrap_or(&self.dummy).to_owned(), credential.to_owned());
        let check = tokio::task::spawn_blocking(move || is_right(&hash, &tried));
        let right = check.await.unwrap_or(false) && stored.is_some();
        if right {
            self.remembered.lock().put(tag, ());
        }
        (if right { Verdict::Right } else { Verdict::Wrong }, true)
    }

    /// Makes the hash to store for a credential.
    pub async fn hash(&self, credential: String) -> Result<String, daemon::BoxError> {
        let _core = self.running.acquire().await?;
        tokio::task::spawn_blocking(move || hash_now(&credential)).await?
    }

    fn tag(&self, stored: &str, credential: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(stored.as_bytes());
        context.update(&[0]); // No hash contains it, so the two cannot be shifted into each other.
        context.update(credential.as_bytes());
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the parameters are in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn is_right(stored: &str, credential: &str) -> bool {
    let Ok(stored) = PasswordHash::new(stored) else { return false };
    argon2().verify_password(credential.as_bytes(), &stored).is_ok()
}

fn hash_now(credential: &str) -> Result<String, daemon::BoxError> {
    let mut salt = [0; 16];
    ring::rand::SecureRandom::fill(&SystemRandom::new(), &mut salt)
        .map_err(|_| "no random bytes")?;
    let hash = argon2()
        .hash_password_with_salt(credential.as_bytes(), &salt)
        .map_err(|error| format!("hash a password: {error}"))?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_right_credential_costs_one_hash_and_then_none() {
        let passwords = Passwords::new(0).unwrap();
        let stored = passwords.hash("secret".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$"), "{stored}");
        assert_eq!(passwords.verify(Some(&stored), "secret").await, (Verdict::Right, true));
        assert_eq!(passwords.verify(Some(&stored), "secret").await, (Verdict::Right, false));
        assert_eq!(passwords.verify(Some(&stored), "Secret").await, (Verdict::Wrong, true));
        assert_eq!(passwords.verify(None, "nobody has this").await, (Verdict::Wrong, true));
    }

    #[tokio::test]
    async fn a_changed_hash_is_not_remembered() {
        let passwords = Passwords::new(0).unwrap();
        let old = passwords.hash("secret".to_owned()).await.unwrap();
        assert_eq!(passwords.verify(Some(&old), "secret").await.0, Verdict::Right);
        let new = passwords.hash("other".to_owned()).await.unwrap();
        assert_eq!(passwords.verify(Some(&new), "secret").await, (Verdict::Wrong, true));
    }
}
