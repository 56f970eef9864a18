//! The cache: what makes things faster or is shared between db_proxies, and is never the truth.
//!
//! Emptying it changes nothing but speed. The recent messages of a conversation are kept with its
//! state ([`crate::conversation`]); what is here must be shared by several db_proxies.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Names and addresses whose failures are remembered.
const FAILURES_MAX: usize = 65_536;

/// What is limited, and how much.
#[derive(Debug, Clone)]
pub struct Throttle {
    /// What it counts for.
    pub key: String,
    /// More failures than these, and it is throttled.
    pub failures_max: u32,
    /// The time, from the first failure, in which they count.
    pub within: Duration,
}

impl Throttle {
    /// Of a login name.
    pub fn name(name: &str, failures_max: u32, within: Duration) -> Self {
        Self { key: format!("name:{name}"), failures_max, within }
    }

    /// Of a client's address.
    pub fn address(address: &str, failures_max: u32, within: Duration) -> Self {
        Self { key: format!("address:{address}"), failures_max, within }
    }
}

/// A cache, in this process or shared.
pub trait Cache: fmt::Debug + Send + Sync {
    /// Whether failures have exceeded the limit. An unreachable cache throttles nobody.
    fn is_throttled<'a>(&'a self, throttle: &'a Throttle) -> BoxFuture<'a, bool>;

    /// Counts one failure.
    fn count_failure<'a>(&'a self, throttle: &'a Throttle) -> BoxFuture<'a, ()>;
}

/// The cache of one process.
#[derive(Debug)]
pub struct MemoryCache {
    failures: Failures,
}

impl Default for MemoryCache {
    fn default() -> Self {
        let max = NonZeroUsize::new(FAILURES_MAX).expect("not zero");
        Self { failures: Failures::new(max) }
    }
}

impl Cache for MemoryCache {
    fn is_throttled<'a>(&'a self, throttle: &'a Throttle) -> BoxFuture<'a, bool> {
        ready(self.failures.exceeds(throttle)).boxed()
    }

    fn count_failure<'a>(&'a self, throttle: &'a Throttle) -> BoxFuture<'a, ()> {
        self.failures.count(throttle);
        ready(()).boxed()
    }
}

/// Counts failures of names and addresses in memory. Bounded: the least recently failed is
/// forgotten first.
struct Failures {
    counts: Mutex<LruCache<String, (u32, Instant)>>,
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").field("counts", &self.counts.lock().len()).finish()
    }
}

impl Failures {
    fn new(max: NonZeroUsize) -> Self {
        Self { counts: Mutex::new(LruCache::new(max)) }
    }

    fn exceeds(&self, throttle: &Throttle) -> bool {
        let mut counts = self.counts.lock();
        counts.get(&throttle.key).is_some_and(|(failures, since)| {
            *failures > throttle.failures_max && since.elapsed() < throttle.within
        })
    }

    fn count(&self, throttle: &Throttle) {
        let mut counts = self.counts.lock();
        let entry = counts.get_or_insert_mut(throttle.key.clone(), || (0, Instant::now()));
        if entry.1.elapsed() >= throttle.within {
            *entry = (0, Instant::now());
        }
        entry.0 += 1;
    }
}
