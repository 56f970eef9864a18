//! The cache of one process.
//!
//! # What bounds it
//!
//! - [`PROFILES_MAX`] profiles, [`MESSAGES_MAX`] messages of at most [`BODY_LEN_MAX`] bytes: the least
//!   recently used goes first. Failed logins have a bound of their own ([`super::failures`]).

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use fold::rows::MessageRow;
use futures_util::future::{BoxFuture, FutureExt as _, ready};
use lru::LruCache;
use parking_lot::Mutex;
use proto::ids::{ConversationId, MsgId, UserId};
use proto::record::LogId;
use tokio::time::Instant;

use super::failures::Failures;
use super::{BODY_LEN_MAX, Cache, Counts, PROFILES_KEPT, Profile, Throttle};
use crate::bounded;

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
    fn failures<'a>(&'a self, name: &'a str, throttles: &'a [Throttle]) -> BoxFuture<'a, Counts> {
        let now = Instant::now();
        let lifted = self.failures.is_lifted(name, now);
        ready(Counts { of: self.failures.of(throttles, now), lifted }).boxed()
    }

    fn count_failure(&self, throttles: &[Throttle]) {
        self.failures.count(throttles, Instant::now());
    }

    fn forget_failures(&self, throttle: &Throttle) {
        self.failures.forget(throttle);
    }

    fn lift(&self, name: &str) {
        self.failures.lift(name, Instant::now());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

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

    #[tokio::test]
    async fn of_too_many_those_used_longest_ago_are_forgotten() {
        let cache = MemoryCache::default();
        let many = u32::try_from(PROFILES_MAX).unwrap() + 1;
        for user in 1..=many {
            cache.keep_profiles(&[conformance::profile(user, 5, "nick")]);
        }
        let kept = cache.profiles(&[1, 2, many].map(UserId)).await;
        let kept: Vec<u32> = kept.iter().map(|profile| profile.info.user_id).collect();
        assert_eq!(kept, [2, many]);

        let message = |msg_id| conformance::message(1, 2, msg_id, b"text");
        let many = u32::try_from(MESSAGES_MAX).unwrap() + 1;
        for msg_id in 1..=many {
            cache.keep_messages(conformance::LOG, &[message(msg_id)]);
        }
        let places = [1, 2, many].map(|msg_id| conformance::place(&message(msg_id)));
        let kept = cache.messages(conformance::LOG, &places).await;
        assert_eq!(kept, [message(2), message(many)]);
    }
}
