//! The cache of one process.
//!
//! # What bounds it
//!
//! - [`FAILURES_MAX`] names and addresses, [`PROFILES_MAX`] profiles, [`MESSAGES_MAX`] messages of at
//!   most [`BODY_LEN_MAX`] bytes: the least recently used goes first.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, ready};
use lru::LruCache;
use parking_lot::Mutex;
use proto::ids::{ConversationId, MsgId, UserId};
use tokio::time::Instant;

use super::{BODY_LEN_MAX, Cache, PROFILES_KEPT, Profile, Throttle};
use crate::log::LogId;
use crate::store::MessageRow;

/// Names and addresses whose failures are remembered.
const FAILURES_MAX: usize = 65_536;

/// Profiles kept.
const PROFILES_MAX: usize = 16_384;

/// Messages kept.
const MESSAGES_MAX: usize = 8_192;

/// A place in a log's conversation.
type Place = ([u8; 16], ConversationId, MsgId);

/// The cache of one process.
pub struct MemoryCache {
    failures: Failures,
    profiles: Mutex<LruCache<UserId, (Profile, Instant)>>,
    profiles_kept: Duration,
    messages: Mutex<LruCache<Place, MessageRow>>,
}

impl Default for MemoryCache {
    fn default() -> Self {
        Self {
            failures: Failures::default(),
            profiles: Mutex::new(bounded(PROFILES_MAX)),
            profiles_kept: PROFILES_KEPT,
            messages: Mutex::new(bounded(MESSAGES_MAX)),
        }
    }
}

impl fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCache")
            .field("failures", &self.failures)
            .field("profiles", &self.profiles.lock().len())
            .field("messages", &self.messages.lock().len())
            .finish_non_exhaustive()
    }
}

impl Cache for MemoryCache {
    fn is_throttled<'a>(&'a self, throttles: &'a [Throttle]) -> BoxFuture<'a, bool> {
        ready(self.failures.exceed(throttles)).boxed()
    }

    fn count_failure(&self, throttles: &[Throttle]) {
        self.failures.count(throttles);
    }

    fn profiles<'a>(&'a self, users: &'a [UserId]) -> BoxFuture<'a, Vec<Profile>> {
        let mut profiles = self.profiles.lock();
        let kept = users.iter().filter_map(|user| {
            let (profile, since) = profiles.get(user)?;
            (since.elapsed() < self.profiles_kept).then(|| profile.clone())
        });
        ready(kept.collect()).boxed()
    }

    fn keep_profiles(&self, profiles: &[Profile]) {
        let mut kept = self.profiles.lock();
        for profile in profiles {
            let user = UserId(profile.info.user_id);
            let newer = kept.peek(&user).is_some_and(|(known, since)| {
                known.stamp > profile.stamp && since.elapsed() < self.profiles_kept
            });
            if !newer {
                kept.put(user, (profile.clone(), Instant::now()));
            }
        }
    }

    fn messages<'a>(
        &'a self,
        log: LogId,
        places: &'a [(ConversationId, MsgId)],
    ) -> BoxFuture<'a, Vec<MessageRow>> {
        let mut messages = self.messages.lock();
        let mut find = |(id, msg_id): &_| messages.get(&(log.0, *id, *msg_id)).cloned();
        ready(places.iter().filter_map(&mut find).collect()).boxed()
    }

    fn keep_messages(&self, log: LogId, messages: &[MessageRow]) {
        let mut kept = self.messages.lock();
        for message in messages.iter().filter(|message| message.body.len() <= BODY_LEN_MAX) {
            let place = (log.0, message.conversation, message.msg_id);
            // A copy: the body may be a part of something larger, which would be kept too.
            let body = Bytes::copy_from_slice(&message.body);
            kept.put(place, MessageRow { body, ..message.clone() });
        }
    }
}

/// Counts failures of names and addresses in memory. Bounded: the least recently failed is
/// forgotten first.
pub(super) struct Failures {
    counts: Mutex<LruCache<String, (u32, Instant)>>,
}

impl Default for Failures {
    fn default() -> Self {
        Self { counts: Mutex::new(bounded(FAILURES_MAX)) }
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").field("counts", &self.counts.lock().len()).finish()
    }
}

impl Failures {
    /// Whether one of these has more failures than it may have.
    pub(super) fn exceed(&self, throttles: &[Throttle]) -> bool {
        let mut counts = self.counts.lock();
        throttles.iter().any(|throttle| {
            counts.get(&throttle.key).is_some_and(|(failures, since)| {
                *failures > throttle.failures_max && since.elapsed() < throttle.within
            })
        })
    }

    /// Counts one failure of each.
    pub(super) fn count(&self, throttles: &[Throttle]) {
        let mut counts = self.counts.lock();
        for throttle in throttles {
            let entry = counts.get_or_insert_mut(throttle.key.clone(), || (0, Instant::now()));
            if entry.1.elapsed() >= throttle.within {
                *entry = (0, Instant::now());
            }
            entry.0 = entry.0.saturating_add(1);
        }
    }
}

pub(super) fn bounded<K: Hash + Eq, V>(max: usize) -> LruCache<K, V> {
    LruCache::new(NonZeroUsize::new(max).expect("a constant above zero"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::conformance;

    struct Fresh(MemoryCache);

    impl conformance::Fresh for Fresh {
        fn cache(&self) -> &dyn Cache {
            &self.0
        }

        async fn settled(&self) {}
    }

    async fn fresh() -> Fresh {
        Fresh(MemoryCache::default())
    }

    conformance::suite! { fresh }

    #[tokio::test]
    async fn a_profile_is_forgotten_after_its_time() {
        let mut cache = MemoryCache { profiles_kept: Duration::ZERO, ..MemoryCache::default() };
        let mut profile = conformance::profile(1, 5, "new");
        cache.keep_profiles(std::slice::from_ref(&profile));
        assert!(cache.profiles(&[UserId(1)]).await.is_empty());
        profile.stamp = 4;
        cache.keep_profiles(std::slice::from_ref(&profile));
        cache.profiles_kept = PROFILES_KEPT;
        assert_eq!(cache.profiles(&[UserId(1)]).await, [profile], "it does not keep others out");
    }
}
