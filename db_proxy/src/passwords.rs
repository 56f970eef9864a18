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
//!   others are left for messages, each on a thread that gives way to all others ([`NICE`]); and as many
//!   waiting as can be checked within [`WAIT_MAX`], at most [`QUEUE_MAX`]; beyond, "busy" at once.
//! - [`REMEMBERED_MAX`] pairs of 32 bytes; the least recently used goes first.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use daemon::metrics::Gauge;
use lru::LruCache;
use parking_lot::Mutex;
use ring::hmac;
use ring::rand::SystemRandom;
use rustix::process::setpriority_process;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};
use tracing::{debug, warn};

/// Logins that wait for a core at most, and those that have one.
const QUEUE_MAX: usize = 256;

/// How long a login may have to wait for a core. Gateways give a login up after a few seconds: if the
/// queue were longer than that, every hash would be computed for somebody who has gone.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// How much the threads that compute hashes give way to the others of this machine, as in nice(1):
/// with 10, a thread that wants the same core gets nine times as much of it. It may wait for its turn
/// nevertheless, for as long as the kernel lets a thread run on.
const NICE: i32 = 10;

/// How much of what is known of the time of a hash comes from the last one: one of so many.
const SMOOTHING: u64 = 8;

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
    running_max: usize,
    waiting: Arc<Semaphore>,
    /// How many have one of the places of `waiting`.
    shown_waiting: Gauge,
    /// How long a hash takes, in microseconds, smoothed.
    hash_us: Arc<AtomicU64>,
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
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let running = if hashes_max == 0 { cores.div_ceil(2) } else { hashes_max };
        let remembered = NonZeroUsize::new(REMEMBERED_MAX).expect("not zero");
        let began = Instant::now();
        let dummy = hash_now("nobody has this")?.into();
        Ok(Self {
            remembered: Arc::new(Mutex::new(LruCache::new(remembered))),
            key: Arc::new(key),
            running: Arc::new(Semaphore::new(running)),
            running_max: running,
            waiting: Arc::new(Semaphore::new(QUEUE_MAX)),
            shown_waiting: Gauge::default(),
            hash_us: Arc::new(AtomicU64::new(micros(began.elapsed()))),
            dummy,
        })
    }

    /// Checks a credential against a stored hash; `None` stands for a user that does not exist and
    /// costs as much. Says also whether a hash had to be computed.
    pub async fn verify(&self, stored: Option<&str>, credential: &str) -> (Verdict, bool) {
        let tag = self.tag(stored.unwrap_or(&self.dummy), credential);
        if stored.is_some() && self.remembered.lock().get(&tag).is_some() {
            return (Verdict::Right, false);
        }
        let Some(_place) = self.place() else { return (Verdict::Busy, false) };
        let running = Arc::clone(&self.running).acquire_owned();
        let Ok(core) = running.await else { return (Verdict::Busy, false) };
        let (hash, tried) = (stored.unwrap_or(&self.dummy).to_owned(), credential.to_owned());
        let took = Arc::clone(&self.hash_us);
        let check = giving_way(core, move || {
            let began = Instant::now();
            let right = is_right(&hash, &tried);
            smooth(&took, micros(began.elapsed()));
            right
        });
        let right = match check.await {
            Ok(right) => right && stored.is_some(),
            Err(error) => {
                warn!(%error, "a password could not be checked");
                return (Verdict::Busy, true);
            }
        };
        if right {
            self.remembered.lock().put(tag, ());
        }
        (if right { Verdict::Right } else { Verdict::Wrong }, true)
    }

    /// How many logins wait for a core or have one.
    pub fn waiting(&self) -> &Gauge {
        &self.shown_waiting
    }

    /// As if every hash had taken so long by now.
    #[cfg(test)]
    pub(crate) fn pretend(&self, hash: Duration) {
        self.hash_us.store(micros(hash), Ordering::Relaxed);
    }

    /// A place among those who wait, if its turn comes in time.
    fn place(&self) -> Option<Place<'_>> {
        let permit = self.waiting.try_acquire().ok()?;
        // With this one; of two that come at the same time, both may count both.
        let taken = QUEUE_MAX.saturating_sub(self.waiting.available_permits());
        let in_time = micros(WAIT_MAX) / self.hash_us.load(Ordering::Relaxed).max(1);
        let in_time =
            usize::try_from(in_time).unwrap_or(QUEUE_MAX).saturating_mul(self.running_max);
        // Those who are being checked do not wait.
        if taken > in_time.max(self.running_max) {
            return None;
        }
        self.shown_waiting.inc();
        Some(Place { _permit: permit, shown: &self.shown_waiting })
    }

    /// Makes the hash to store for a credential.
    pub async fn hash(&self, credential: String) -> Result<String, daemon::BoxError> {
        let core = Arc::clone(&self.running).acquire_owned().await?;
        giving_way(core, move || hash_now(&credential)).await?
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

/// A place among those who wait, given back when dropped.
struct Place<'a> {
    _permit: SemaphorePermit<'a>,
    shown: &'a Gauge,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shown.dec();
    }
}

/// Computes something on a thread of its own that gives way to all others. Not on one of the runtime's,
/// which others use too: a thread may not take its priority back. The thread has `core` for as long as it
/// computes, even if nobody waits for it any more.
async fn giving_way<T: Send + 'static>(
    core: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, daemon::BoxError> {
    let (done, result) = oneshot::channel();
    thread::Builder::new().name("password".to_owned()).spawn(move || {
        // On Linux that is this thread, not the process.
        if let Err(error) = setpriority_process(None, NICE) {
            debug!(%error, "hashes are computed at the priority of everything else");
        }
        let computed = work();
        drop(core);
        if done.send(computed).is_err() {
            debug!("nobody waits for the hash any more");
        }
    })?;
    Ok(result.await?)
}

/// Of two that do this at the same time, one may be left out.
fn smooth(known: &AtomicU64, last: u64) {
    let before = known.load(Ordering::Relaxed);
    known.store((before * (SMOOTHING - 1) + last) / SMOOTHING, Ordering::Relaxed);
}

/// No longer than an hour, so that sums of it fit.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.min(Duration::from_hours(1)).as_micros()).unwrap_or(0)
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
    async fn hashes_give_way_and_nothing_else_does() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let core = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        assert_eq!(giving_way(core, nice).await.unwrap(), NICE.max(before));
        assert_eq!(nice(), before);
        assert_eq!(tokio::task::spawn_blocking(nice).await.unwrap(), before);
    }

    #[tokio::test]
    async fn a_core_is_taken_until_the_hash_is_computed_though_nobody_waits_for_it() {
        let cores = Arc::new(Semaphore::new(1));
        let core = Arc::clone(&cores).try_acquire_owned().unwrap();
        let (go_on, waits) = std::sync::mpsc::channel::<()>();
        let mut given_up = Box::pin(giving_way(core, move || waits.recv()));
        assert!(futures_util::poll!(&mut given_up).is_pending());
        drop(given_up);
        assert_eq!(cores.available_permits(), 0);
        drop(go_on);
        drop(cores.acquire().await.unwrap());
    }

    #[tokio::test]
    async fn who_would_wait_too_long_is_turned_away_at_once_and_later_there_is_room_again() {
        let passwords = Passwords::new(1).unwrap();
        let stored = passwords.hash("secret".to_owned()).await.unwrap();
        passwords.pretend(WAIT_MAX / 2);
        let check = || passwords.verify(Some(&stored), "guess");
        let (first, second, third) = tokio::join!(check(), check(), check());
        assert_eq!([first.0, second.0, third.0], [Verdict::Wrong, Verdict::Wrong, Verdict::Busy]);
        assert!(!third.1, "it cost no hash");
        assert_eq!(passwords.waiting().get(), 0);
        assert_eq!(check().await.0, Verdict::Wrong);
    }

    #[tokio::test]
    async fn somebody_is_checked_however_long_that_takes() {
        let passwords = Passwords::new(1).unwrap();
        passwords.pretend(WAIT_MAX * 9);
        let before = passwords.hash_us.load(Ordering::Relaxed);
        assert_eq!(passwords.verify(None, "guess").await, (Verdict::Wrong, true));
        assert!(passwords.hash_us.load(Ordering::Relaxed) < before, "it is known to be faster");
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
