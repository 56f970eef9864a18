//! What one user tells everybody, and how often: signatures and pictures.
//!
//! The first change is told at once. What follows within the interval waits, and the last one wins:
//! when the interval is over, storage is asked what is in force then, and that is told. So whatever
//! other gateways have told of the same user meanwhile, the newest comes last.
//!
//! Pure: time is an argument, in microseconds from any fixed moment.
//!
//! # What bounds it
//!
//! Users who have changed something within the last interval, some 100 bytes each, and those whose
//! last change could not be told yet since storage does not answer. What waits when the process dies
//! is not lost: it is stored, and clients hear of it when they next ask for users.

use std::collections::HashMap;

use db_client::owners::Asker;
use proto::ids::UserId;

/// How soon something is tried again that could not be told.
const TRY_AGAIN_US: u64 = 1_000_000;

/// What a user may change for everybody to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    Signature,
    Avatar,
}

/// What users tell everybody.
#[derive(Debug)]
pub(crate) struct News {
    interval_us: u64,
    of_users: HashMap<UserId, Quiet>,
}

/// A user who has told something a short while ago.
#[derive(Debug)]
struct Quiet {
    until_us: u64,
    /// In the order in which they were first changed.
    waiting: Vec<ProfileChange>,
}

/// Something that has changed and was not told yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProfileChange {
    pub(crate) topic: Topic,
    /// On whose behalf storage is asked for it.
    pub(crate) by: Asker,
}

impl News {
    /// One piece of news of each user in `interval_s` seconds.
    pub(crate) fn new(interval_s: u64) -> Self {
        Self { interval_us: interval_s.saturating_mul(1_000_000), of_users: HashMap::new() }
    }

    /// A user has changed something. Whether it is told at once; otherwise it waits.
    pub(crate) fn changed(&mut self, news: ProfileChange, now_us: u64) -> bool {
        let until_us = now_us.saturating_add(self.interval_us);
        let quiet = self
            .of_users
            .entry(news.by.user)
            .or_insert(Quiet { until_us: now_us, waiting: Vec::new() });
        if quiet.until_us <= now_us && quiet.waiting.is_empty() {
            quiet.until_us = until_us;
            return true;
        }
        match quiet.waiting.iter_mut().find(|waiting| waiting.topic == news.topic) {
            Some(waiting) => *waiting = news,
            None => quiet.waiting.push(news),
        }
        false
    }

    /// Takes what is to be told now, one piece of each user.
    pub(crate) fn due(&mut self, now_us: u64) -> Vec<ProfileChange> {
        let interval_us = self.interval_us;
        let mut due = Vec::new();
        self.of_users.retain(|_user, quiet| {
            if quiet.until_us > now_us {
                return true;
            }
            if quiet.waiting.is_empty() {
                return false;
            }
            due.push(quiet.waiting.remove(0));
            quiet.until_us = now_us.saturating_add(interval_us);
            true
        });
        due
    }

    /// Something that was taken by [`Self::due`] could not be told: it is tried again.
    pub(crate) fn put_back(&mut self, news: ProfileChange, now_us: u64) {
        let until_us = now_us.saturating_add(TRY_AGAIN_US);
        let quiet =
            self.of_users.entry(news.by.user).or_insert(Quiet { until_us, waiting: Vec::new() });
        if quiet.waiting.iter().all(|waiting| waiting.topic != news.topic) {
            quiet.waiting.insert(0, news);
        }
        quiet.until_us = quiet.until_us.min(until_us);
    }

    /// Takes everything that waits, since there will be no later.
    pub(crate) fn take_all(&mut self) -> Vec<ProfileChange> {
        self.of_users.drain().flat_map(|(_user, quiet)| quiet.waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::cluster::wire::Origin;

    use super::*;

    const S: u64 = 1_000_000;

    fn news(user: u32, topic: Topic) -> ProfileChange {
        let origin = Origin { gateway_boot: 1, session: 1 };
        ProfileChange { topic, by: Asker { user: UserId(user), client_type: 1, origin } }
    }

    #[test]
    fn the_first_change_is_told_at_once_and_of_the_next_hundred_only_the_last() {
        let mut all = News::new(10);
        assert!(all.changed(news(5, Topic::Signature), 0));
        for step in 1..=100 {
            assert!(!all.changed(news(5, Topic::Signature), step * S / 20));
        }
        assert!(all.due(9 * S).is_empty());
        assert_eq!(all.due(10 * S), [news(5, Topic::Signature)]);
        assert!(all.due(20 * S).is_empty(), "nothing waits, and the user is forgotten");
        assert!(all.of_users.is_empty());
        assert!(all.changed(news(5, Topic::Signature), 20 * S));
    }

    #[test]
    fn a_users_picture_waits_for_the_signature_and_other_users_for_nobody() {
        let mut all = News::new(10);
        assert!(all.changed(news(5, Topic::Signature), 0));
        assert!(all.changed(news(6, Topic::Signature), 0));
        assert!(!all.changed(news(5, Topic::Avatar), 0));
        assert!(!all.changed(news(5, Topic::Signature), 0));
        assert_eq!(all.due(10 * S), [news(5, Topic::Avatar)]);
        assert_eq!(all.due(20 * S), [news(5, Topic::Signature)]);
    }

    #[test]
    fn what_could_not_be_told_is_tried_again_soon_and_not_twice() {
        let mut all = News::new(10);
        all.changed(news(5, Topic::Signature), 0);
        all.changed(news(5, Topic::Signature), S);
        let due = all.due(10 * S);
        all.changed(news(5, Topic::Signature), 10 * S);
        all.put_back(due[0], 10 * S);
        assert_eq!(all.due(11 * S), [news(5, Topic::Signature)]);
        assert!(all.due(100 * S).is_empty());
    }

    #[test]
    fn at_the_end_everything_that_waits_is_given_out() {
        let mut all = News::new(10);
        all.changed(news(5, Topic::Signature), 0);
        all.changed(news(5, Topic::Avatar), 0);
        all.changed(news(6, Topic::Avatar), 0);
        all.changed(news(6, Topic::Avatar), 0);
        let mut taken = all.take_all();
        taken.sort_by_key(|news| news.by.user);
        assert_eq!(taken, [news(5, Topic::Avatar), news(6, Topic::Avatar)]);
    }

    proptest! {
        /// Whatever is changed when: one in ten seconds is told, and after the last change that topic
        /// is told once more, or was told by that change.
        #[test]
        fn one_in_an_interval_is_told_and_the_last_change_always_is(
            changes in prop::collection::vec((0_u64..4 * S, any::<bool>()), 1..60),
        ) {
            let (mut all, mut now) = (News::new(10), 0);
            let mut told: Vec<(u64, Topic)> = Vec::new();
            let mut last = HashMap::new();
            for (step, signature) in changes {
                let topic = if signature { Topic::Signature } else { Topic::Avatar };
                // The clock ticks ten times a second.
                for _tick in 0..step / (S / 10) {
                    now += S / 10;
                    told.extend(all.due(now).iter().map(|news| (now, news.topic)));
                }
                if all.changed(news(5, topic), now) {
                    told.push((now, topic));
                }
                last.insert(topic as u8, now);
            }
            for _tick in 0..300 {
                now += S / 10;
                told.extend(all.due(now).iter().map(|news| (now, news.topic)));
            }
            for pair in told.windows(2) {
                prop_assert!(pair[1].0 - pair[0].0 >= 10 * S, "{told:?}");
            }
            for (topic, at) in last {
                prop_assert!(told.iter().any(|told| told.1 as u8 == topic && told.0 >= at));
            }
            prop_assert!(all.of_users.is_empty());
        }
    }
}
