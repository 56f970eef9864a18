//! Passwords: Argon2id over what clients send, and a memory of pairs that were checked.
//!
//! Old clients send the MD5 of the typed password as 32 hex digits, at every login. A hash costs
//! tens of milliseconds on purpose, so a pair of stored hash and credential that was right once is
//! remembered, as a keyed hash with a key of this process alone: a login storm costs microseconds a
//! login, and what is remembered is worth nothing to a reader. So is one that was wrong, with
//! its name: a forgotten device that repeats an old password costs nothing and guesses nothing.
//!
//! # What bounds it
//!
//! - As many hashes at a time as are allowed, by default half as many as there are cores, so that the
//!   others are left for messages, each on a thread that gives way to all others ([`NICE`]); and as many
//!   waiting as can be checked within [`WAIT_MAX`], at most [`QUEUE_MAX`], in turn by network
//!   ([`turns`]); beyond, "busy" at once.
//! - [`REMEMBERED_MAX`] pairs of 32 bytes of each kind; the least recently used goes first.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use daemon::Secret;
use daemon::metrics::Gauge;
use lru::LruCache;
use parking_lot::Mutex;
use ring::hmac;
use ring::rand::SystemRandom;
use rustix::process::setpriority_process;
use tokio::sync::oneshot;
use tracing::{debug, error, warn};

mod policy;
mod turns;

#[cfg(any(test, feature = "testing"))]
pub use policy::weak_hash;
use policy::{OtherPepper, Policy};
use turns::{Core, Turns};

/// Logins that wait for a core at most.
const QUEUE_MAX: usize = 256;

/// How long a login may have to wait for a core. Gateways give a login up after a few seconds: if the
/// queue were longer than that, every hash would be computed for a client that has gone.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// How much the threads that compute hashes give way to the others of this machine, as in nice(1):
/// with 10, a thread that wants the same core gets nine times as much of it. It may wait for its turn
/// nevertheless, for as long as the kernel lets a thread run on.
const NICE: i32 = 10;

/// How much of what is known of the time of a hash comes from the last one: one of so many.
const SMOOTHING: u64 = 8;

/// Pairs remembered, of each kind.
const REMEMBERED_MAX: usize = 65_536;

/// Whether a credential is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is.
    Right,
    /// It is not.
    Wrong,
    /// It cannot be told now: try again later.
    Busy,
}

/// A name and what it is tried with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair<'a> {
    /// The login name.
    pub(crate) name: &'a str,
    /// The stored hash; `None` for a name that does not exist, which costs as much.
    pub(crate) stored: Option<&'a str>,
    /// What the client sent.
    pub(crate) credential: &'a str,
}

/// Checks and makes password hashes. Clones share memory and limits.
#[derive(Clone)]
pub struct Passwords {
    right: Tags,
    wrong: Tags,
    looked_up: Tags,
    key: Arc<hmac::Key>,
    policy: Policy,
    turns: Turns,
    running_max: usize,
    /// How long a hash takes, in microseconds, smoothed.
    hash_us: Arc<AtomicU64>,
    /// Checked for users that do not exist, so that they cost the same.
    dummy: Arc<str>,
    /// It has been said that a hash was made with another pepper.
    has_complained: Arc<AtomicBool>,
}

/// Pairs, as keyed hashes.
#[derive(Clone)]
struct Tags(Arc<Mutex<LruCache<[u8; 32], ()>>>);

impl Tags {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(cache::bounded(REMEMBERED_MAX))))
    }

    fn has(&self, tag: &[u8; 32]) -> bool {
        self.0.lock().get(tag).is_some()
    }

    /// Whether it is new.
    fn put(&self, tag: [u8; 32]) -> bool {
        self.0.lock().put(tag, ()).is_none()
    }
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

impl Passwords {
    /// Prepares the limits, the key, and the hash that no password has. Computes one hash. 0
    /// `hashes_max`: half as many as there are cores.
    pub fn new(hashes_max: usize, pepper: Option<&Secret>) -> Result<Self, daemon::BoxError> {
        let random = SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random).map_err(|_| "no random bytes")?;
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let running_max = if hashes_max == 0 { cores.div_ceil(2) } else { hashes_max };
        let policy = Policy::new(pepper);
        let began = Instant::now();
        let dummy = policy.hash("nobody has this")?.into();
        Ok(Self {
            right: Tags::new(),
            wrong: Tags::new(),
            looked_up: Tags::new(),
            key: Arc::new(key),
            policy,
            turns: Turns::new(running_max),
            running_max,
            hash_us: Arc::new(AtomicU64::new(micros(began.elapsed()))),
            dummy,
            has_complained: Arc::default(),
        })
    }

    /// What is known of a pair without computing anything.
    pub(crate) fn recall(&self, pair: &Pair<'_>) -> Option<Verdict> {
        if pair.stored.is_some() && self.right.has(&self.tag_of_right(pair)) {
            return Some(Verdict::Right);
        }
        self.wrong.has(&self.tag(pair)).then_some(Verdict::Wrong)
    }

    /// Notes that a pair was looked up, and not found. Whether that is new.
    pub(crate) fn is_new(&self, pair: &Pair<'_>) -> bool {
        self.looked_up.put(self.tag(pair))
    }

    /// Waits for a core, in turn by network. `None`: too many logins wait.
    ///
    /// Cancel-safe: a login that no longer waits is passed over.
    pub async fn turn(&self, network: &str, exists: bool) -> Option<Turn> {
        self.turns.wait(network, exists, self.places()).await.map(Turn)
    }

    /// Checks a pair that is not remembered, for a client in `network`.
    pub(crate) async fn check(&self, turn: Turn, pair: &Pair<'_>, network: &str) -> Verdict {
        let stored = pair.stored.unwrap_or(&self.dummy).to_owned();
        let (credential, policy) = (pair.credential.to_owned(), self.policy.clone());
        let took = Arc::clone(&self.hash_us);
        let check = giving_way(turn.0, move || {
            let began = Instant::now();
            let right = policy.is_right(&stored, &credential);
            smooth(&took, micros(began.elapsed()));
            right
        });
        match check.await {
            Ok(Ok(true)) if pair.stored.is_some() => {
                self.right.put(self.tag_of_right(pair));
                Verdict::Right
            }
            Ok(Ok(_wrong)) => {
                self.wrong.put(self.tag(pair));
                self.turns.was_wrong(network, tokio::time::Instant::now());
                Verdict::Wrong
            }
            Ok(Err(OtherPepper)) => {
                if !self.has_complained.swap(true, Ordering::Relaxed) {
                    error!(
                        "stored passwords were hashed with another pepper than that of the settings"
                    );
                }
                Verdict::Busy
            }
            Err(error) => {
                warn!(%error, "a password could not be checked");
                Verdict::Busy
            }
        }
    }

    /// Whether a stored hash should be made anew.
    pub(crate) fn is_below_policy(&self, stored: &str) -> bool {
        self.policy.is_below(stored)
    }

    /// How many logins wait for a core or have one.
    pub fn waiting(&self) -> &Gauge {
        self.turns.shown()
    }

    /// As if every hash had taken so long by now.
    #[cfg(any(test, feature = "testing"))]
    pub fn pretend(&self, hash: Duration) {
        self.hash_us.store(micros(hash), Ordering::Relaxed);
    }

    /// How many may wait so that the last one's turn comes in time.
    fn places(&self) -> usize {
        let in_time = micros(WAIT_MAX) / self.hash_us.load(Ordering::Relaxed).max(1);
        let in_time =
            usize::try_from(in_time).unwrap_or(QUEUE_MAX).saturating_mul(self.running_max);
        // The logins that are being checked do not wait.
        in_time.saturating_sub(self.running_max).min(QUEUE_MAX)
    }

    /// Makes the hash to store for a credential.
    pub async fn hash(&self, credential: String) -> Result<String, daemon::BoxError> {
        let turn = self.turns.wait("", true, QUEUE_MAX).await;
        let core = turn.ok_or("too many passwords are being checked, try again")?;
        let policy = self.policy.clone();
        giving_way(core, move || policy.hash(&credential)).await?
    }

    /// The tag of a right pair. Users with the same hash, as a demonstration has many, share one tag.
    fn tag_of_right(&self, pair: &Pair<'_>) -> [u8; 32] {
        self.tag(&Pair { name: "", ..*pair })
    }

    fn tag(&self, pair: &Pair<'_>) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(pair.stored.unwrap_or(&self.dummy).as_bytes());
        context.update(&[0]); // No hash contains it, so the parts cannot be shifted into each other.
        context.update(&pair.name.len().to_be_bytes());
        context.update(pair.name.as_bytes());
        context.update(pair.credential.as_bytes());
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

/// The right to have a password checked.
#[derive(Debug)]
pub struct Turn(Core);

/// Computes something on a thread of its own that gives way to all others. Not on one of the runtime's,
/// which others use too: a thread may not take its priority back. The thread has `core` for as long as it
/// computes, even if no login waits for it any longer.
async fn giving_way<T: Send + 'static>(
    core: impl Send + 'static,
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

/// If two tasks do this at the same time, one of the two values may be left out.
fn smooth(known: &AtomicU64, last: u64) {
    let before = known.load(Ordering::Relaxed);
    known.store((before * (SMOOTHING - 1) + last) / SMOOTHING, Ordering::Relaxed);
}

/// No longer than an hour, so that sums of it fit.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.min(Duration::from_hours(1)).as_micros()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
