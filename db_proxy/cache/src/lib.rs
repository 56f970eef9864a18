//! The cache: what makes things faster or is shared between db_proxies, and is never the truth.
//!
//! One trait, so that the memory of one process and a Redis that several share can take each
//! other's place. Emptied, filled with an older copy, slow or gone: every answer stays right, and
//! only takes longer.
//!
//! # What is kept, and why it may be believed
//!
//! | Kept | Why an old copy does no harm |
//! |---|---|
//! | failed logins | they only add to what each process counts itself, and end with their time |
//! | profiles | a lower stamp never replaces a higher one; no user is told less than before; they end after [`PROFILES_KEPT`] |
//! | stored messages: the heads of conversations as they are stored, and what was read of their newest [`WINDOW`] messages | what stands at a place of a log's conversation never changes, and the log is part of the key |
//!
//! # What is not
//!
//! - Password hashes, device tokens, anything secret.
//! - Whatever is only true at a moment: heads as numbers, unread counts, marks, who is a member. Their
//!   owner knows them, and loads them together with the conversation, in one snapshot, because the
//!   fold goes on from there; a copy would have to be compared with that snapshot at each use, and so
//!   would save nothing. For the same reason there are no pages of members: every list of members is
//!   answered from the owner's memory.
//!
//! # Invariants
//!
//! - Neither the fold nor an admission reads from it, and no head, list or unread count comes from it.
//! - Nothing is put into it that is not in the store.
//! - No request waits for a write. A read waits for a bounded time, and what it does not give in that
//!   time counts as not kept.

use std::fmt;
use std::time::Duration;

use fold::rows::MessageRow;
use futures_util::future::BoxFuture;
use proto::client::UserInfo;
use proto::ids::{ConversationId, MsgId, UserId};
use proto::record::LogId;

mod bounded;
#[cfg(test)]
mod conformance;
#[cfg_attr(
    not(any(test, feature = "testing")),
    expect(unreachable_pub, reason = "only tests of other crates name it")
)]
mod failures;
pub mod memory;
mod metrics;
#[cfg(feature = "redis")]
pub mod redis;

pub use bounded::bounded;
#[cfg(any(test, feature = "testing"))]
pub use failures::Failures;
pub use memory::MemoryCache;
pub use metrics::CacheMetrics;

/// How long a profile is kept. After that no user sees an old one, whatever happened.
pub const PROFILES_KEPT: Duration = Duration::from_mins(1);

/// How many of the newest messages of a conversation are looked for here. Older ones come from the
/// store: few read them, and each would push out one that many read.
pub const WINDOW: u32 = 256;

/// Longer messages are not kept: one of them would take the room of many.
pub(crate) const BODY_LEN_MAX: usize = 4 << 10;

/// What is counted, and what follows from it.
#[derive(Debug, Clone)]
pub struct Throttle {
    /// What it counts for.
    pub key: String,
    /// Failures that have no consequence.
    pub free: u32,
    /// The time, from the first failure, in which they count.
    pub within: Duration,
    /// How long the first failure beyond the free ones makes wait; zero for not at all. Each further one
    /// makes wait twice as long as the one before it.
    pub delay_first: Duration,
    /// The longest such time.
    pub delay_max: Duration,
    /// The name that it is forgotten with, by [`Cache::lift`].
    pub of: Option<String>,
    /// It does not count what went wrong but what went well: nothing that goes wrong pushes it out.
    pub is_good: bool,
}

impl Throttle {
    /// Counts for `key`, without delays.
    pub fn new(key: String, free: u32, within: Duration) -> Self {
        let (delay_first, delay_max) = (Duration::ZERO, Duration::ZERO);
        Self { key, free, within, delay_first, delay_max, of: None, is_good: false }
    }

    /// With delays that grow from `first` to `max`.
    pub fn delaying(self, first: Duration, max: Duration) -> Self {
        Self { delay_first: first, delay_max: max, ..self }
    }

    /// Forgotten with all others of a name.
    pub fn of(self, name: &str) -> Self {
        Self { of: Some(name.to_owned()), ..self }
    }

    /// How long so many failures make wait, counted from the last of them.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let Some(beyond) = failures.checked_sub(self.free).filter(|beyond| *beyond > 0) else {
            return Duration::ZERO;
        };
        self.delay_first.saturating_mul(1 << (beyond - 1).min(30)).min(self.delay_max)
    }
}

/// What is known of a [`Throttle`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Failures within its time.
    pub failures: u32,
    /// The delay after the last one is not over.
    pub waits: bool,
}

/// What is known of several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// In the order in which they were asked for; all of them.
    pub of: Vec<Count>,
    /// The name's were lifted in the last [`LIFTED_KEPT`].
    pub lifted: bool,
}

/// How long it is remembered that the delays of a name were lifted.
pub(crate) const LIFTED_KEPT: Duration = Duration::from_hours(1);

/// What every user may know of a user, as of a stamp.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// The stamp of the user's row.
    pub stamp: u32,
    /// The row as clients get it.
    pub info: UserInfo,
}

/// A cache, in this process or shared.
pub trait Cache: fmt::Debug + Send + Sync {
    /// What is known of these, and whether those of `name` were lifted. What is not known did not fail.
    fn failures<'a>(&'a self, name: &'a str, throttles: &'a [Throttle]) -> BoxFuture<'a, Counts>;

    /// Counts one failure of each.
    fn count_failure(&self, throttles: &[Throttle]);

    /// Forgets the failures of one, and its delay.
    fn forget_failures(&self, throttle: &Throttle);

    /// Forgets the failures and delays of everything that is [of](Throttle::of) a name.
    fn lift(&self, name: &str);

    /// Whether one of these has failed more often than is free.
    #[cfg(test)]
    fn is_throttled<'a>(&'a self, throttles: &'a [Throttle]) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let counts = self.failures("", throttles).await.of;
            counts.iter().zip(throttles).any(|(count, throttle)| count.failures > throttle.free)
        })
    }

    /// The profiles of these users, those that are kept, in no order.
    fn profiles<'a>(&'a self, users: &'a [UserId]) -> BoxFuture<'a, Vec<Profile>>;

    /// Keeps profiles, each unless a newer one of that user is kept.
    fn keep_profiles(&self, profiles: &[Profile]);

    /// The messages at these places of conversations of `log`, those that are kept, in no order.
    fn messages<'a>(
        &'a self,
        log: LogId,
        places: &'a [(ConversationId, MsgId)],
    ) -> BoxFuture<'a, Vec<MessageRow>>;

    /// Keeps messages of `log` that are in the store, but for those that are too long.
    fn keep_messages(&self, log: LogId, messages: &[MessageRow]);
}
