//! Tells each gateway which conversations changed, about a second behind the log.
//!
//! A gateway follows from its cursor: what it serves is complete up to there. Publications are fast
//! and may get lost; this is slow and complete, and it goes on where the gateway was, through lost
//! links and restarts of either side, as far back as [`fold::publications`] reaches.
//!
//! # Invariants
//!
//! - What a follower is told continues where the last [`Changes`] to it ended, without a hole.
//! - It is told up to the end of the log as it was at the tick before: what is younger may still be
//!   on its way as a publication.
//! - The lock on the state is not held while something is loaded.
//!
//! # When it is full
//!
//! There are as many followers as links. A link that takes no more is reset: its gateway follows
//! again from its cursor.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::{Link, LinkError, Shutdown};
use fold::publications;
use parking_lot::Mutex;
use prost::Message as _;
use proto::cluster::Kind;
use proto::cluster::wire::{Changed, Changes, Follow, Owned};
use proto::ids::Offset;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, info_span, warn};

use crate::member_changes::{Later, net_change};
use crate::metrics::FollowersMetrics;
use crate::state::State;

/// How often followers are told.
pub const TELL_EVERY: Duration = Duration::from_secs(1);

/// Messages to one follower at a tick. The rest comes at the next ones, so that a gateway far behind
/// does not keep the others waiting.
const MESSAGES_MAX: usize = 32;

/// How long the store may take to tell a group's members.
const LOAD_LIMIT: Duration = Duration::from_secs(3);

/// The gateways that follow.
#[derive(Debug)]
pub struct Followers {
    state: State,
    owned: Owned,
    ends: Mutex<Ends>,
    /// By the number of their link.
    by_link: Mutex<HashMap<u64, Follower>>,
    /// Wakes the task for a new follower.
    followed: Notify,
    metrics: FollowersMetrics,
}

/// Where the log ended.
#[derive(Debug)]
struct Ends {
    /// At the last tick.
    last: Offset,
    /// At the tick before: so far followers are told.
    settled: Offset,
}

#[derive(Debug)]
struct Follower {
    link: Link,
    /// It was told of everything up to here.
    told: Offset,
    /// Nothing was sent to it since it asked.
    is_new: bool,
}

impl Followers {
    /// For gateways that follow the partition of this state, in this epoch.
    pub fn new(state: State, owned: Owned, metrics: FollowersMetrics) -> Arc<Self> {
        let last = state.last();
        Arc::new(Self {
            state,
            owned,
            ends: Mutex::new(Ends { last, settled: last }),
            by_link: Mutex::default(),
            followed: Notify::new(),
            metrics,
        })
    }

    /// Starts telling, `every` so often.
    pub fn watch(self: &Arc<Self>, every: Duration, shutdown: &Shutdown) {
        let (followers, stop) = (Arc::clone(self), shutdown.clone());
        // Ends with the links, not before: what is folded during the drain is told too.
        shutdown.spawn_link(info_span!("following"), async move {
            tokio::select! {
                () = followers.run(every) => {}
                () = stop.closing_links() => {}
            }
        });
    }

    async fn run(&self, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _now = ticks.tick() => {
                    let last = self.state.last();
                    let mut ends = self.ends.lock();
                    ends.settled = std::mem::replace(&mut ends.last, last);
                }
                () = self.followed.notified() => {}
            }
            self.tell_all().await;
        }
    }

    /// A gateway follows from its cursor, in place of what it asked before on this link.
    pub fn follow(&self, link: &Link, follow: &Follow) {
        let (last, covers_from) = {
            let inner = self.state.lock();
            (inner.fold.last, inner.fold.published.covers_from())
        };
        let after = follow.after_offset.map(Offset);
        debug!(gateway = %link.peer().name, ?after, ?last, ?covers_from, "it follows");
        let mut followers = self.by_link.lock();
        let known = |after: &Offset| (covers_from..=last).contains(after);
        if let Some(told) = after.filter(known) {
            let follower = Follower { link: link.clone(), told, is_new: true };
            followers.insert(link.id(), follower);
            self.followed.notify_one();
        } else {
            let changes = self.begin_at(last, after.is_some());
            let follower = Follower { link: link.clone(), told: last, is_new: false };
            followers.insert(link.id(), follower);
            self.tell_one(&mut followers, link, &changes.encode_to_vec());
        }
        self.metrics.show_followers(followers.len());
    }

    /// The link is down.
    pub fn down(&self, link: &Link) {
        let mut followers = self.by_link.lock();
        followers.remove(&link.id());
        self.metrics.show_followers(followers.len());
    }

    /// What a follower is told that goes on from `last`, whatever it had before.
    fn begin_at(&self, last: Offset, forgotten: bool) -> Changes {
        if forgotten {
            self.metrics.forgotten.inc();
        }
        Changes { forgotten: forgotten.then_some(true), ..self.nothing(last) }
    }

    fn nothing(&self, at: Offset) -> Changes {
        Changes {
            partition: self.owned.partition,
            epoch: self.owned.epoch,
            after_offset: at.0,
            upto_offset: at.0,
            conversations: Vec::new(),
            forgotten: None,
        }
    }

    /// Brings all followers up to where the log was at the tick before.
    async fn tell_all(&self) {
        let upto = self.ends.lock().settled;
        let behind: BTreeSet<Offset> = {
            let followers = self.by_link.lock();
            let behind = followers.values().filter(|one| one.is_new || one.told < upto);
            behind.map(|one| one.told).collect()
        };
        // Usually all of them are at the same place.
        for after in behind {
            self.tell(after, upto).await;
        }
    }

    /// Tells the followers that are at `after`.
    async fn tell(&self, mut after: Offset, upto: Offset) {
        for _ in 0..MESSAGES_MAX {
            let Some(changes) = self.changes(after, upto).await else {
                return; // Again at the next tick, from the same place.
            };
            let body = Bytes::from(changes.encode_to_vec());
            let reached = Offset(changes.upto_offset);
            if !self.tell_those_at(after, reached, &body) || reached >= upto {
                return;
            }
            after = reached;
        }
    }

    /// What changed after `after`, or in a first part of that. `None` if that cannot be told now.
    async fn changes(&self, after: Offset, upto: Offset) -> Option<Changes> {
        let (delta, last) = {
            let inner = self.state.lock();
            (inner.fold.published.delta(after, upto), inner.fold.last)
        };
        let Some(delta) = delta else { return Some(self.begin_at(last, true)) };
        if let Some(changes) = self.describe(after, delta).await {
            return Some(changes);
        }
        // Some group cannot be loaded: tell of what comes before the first change of its members.
        let delta = self.state.lock().fold.published.delta(after, upto)?;
        let members = delta.changed.iter().flat_map(|changed| &changed.members);
        let first = members.map(|(offset, _touched)| *offset).min()?;
        let before = Offset(first.0 - 1);
        let delta = self.state.lock().fold.published.delta(after, before)?;
        if before == after { None } else { self.describe(after, delta).await }
    }

    async fn describe(&self, after: Offset, delta: publications::Delta) -> Option<Changes> {
        let mut changes = Changes { upto_offset: delta.upto.0, ..self.nothing(after) };
        changes.conversations.reserve(delta.changed.len());
        for publications::Changed { conversation, offset, members } in delta.changed {
            let members = if members.is_empty() {
                None
            } else {
                let look = self.state.with_fold(conversation, |conversation, fold| {
                    let changes: Vec<_> =
                        members.iter().map(|(offset, touched)| (*offset, touched)).collect();
                    let later = Later::after(fold, conversation.id, delta.upto);
                    net_change(conversation, &changes, after, &later, self.owned)
                });
                match timeout(LOAD_LIMIT, look).await {
                    Ok(Ok(members)) => members,
                    Ok(Err(error)) => {
                        debug!(%error, %conversation, "its members cannot be told now");
                        return None;
                    }
                    Err(_elapsed) => return None,
                }
            };
            let (conversation, offset) = (conversation.number(), offset.0);
            changes.conversations.push(Changed { conversation, offset, members });
        }
        Some(changes)
    }

    /// Sends to the followers that are at `after`, and moves them on. False if there are none.
    fn tell_those_at(&self, after: Offset, reached: Offset, body: &[u8]) -> bool {
        let mut followers = self.by_link.lock();
        let mut there = Vec::new();
        for follower in followers.values_mut().filter(|follower| follower.told == after) {
            follower.told = reached;
            follower.is_new = false;
            there.push(follower.link.clone());
        }
        for link in &there {
            self.tell_one(&mut followers, link, body);
        }
        !there.is_empty()
    }

    fn tell_one(&self, followers: &mut HashMap<u64, Follower>, link: &Link, body: &[u8]) {
        self.metrics.changes.inc();
        match link.send_raw(Kind::Changes.number(), 0, body) {
            Ok(()) => return,
            Err(LinkError::Full) => link.reset("it does not take what changed"),
            Err(LinkError::TooLong) => {
                warn!("what changed does not fit a frame");
                link.reset("what changed does not fit a frame");
            }
            Err(LinkError::Closed) => {}
        }
        followers.remove(&link.id());
        self.metrics.show_followers(followers.len());
    }
}

#[cfg(test)]
mod tests {
    use daemon::{Metrics, Role};

    use super::*;
    use crate::metrics::OneMetrics;
    use crate::test::Setup;
    use crate::test::far::{self, Far};

    #[tokio::test]
    async fn a_gateway_that_is_far_behind_is_told_so_much_at_a_tick_and_the_rest_at_the_next() {
        let proxy = Setup { segment_bytes: 32 << 20, ..Setup::new() }.start().await;
        let cursor = proxy.state().last();
        // A message tells of 16 groups at most: these take one message more than a tick has.
        for number in 1..=16 * 32 + 1 {
            proxy.make_group(number, &[1]).await;
        }
        let last = proxy.state().last();
        let metrics = OneMetrics::new(&Metrics::new("db_proxy")).followers;
        let followers = Followers::new(proxy.state().clone(), proxy.owned(), metrics);
        let (mut near, addr) = Far::listen(Role::DbProxy, "db", &proxy.shutdown).await;
        let who = far::identity(Role::DbProxy, "gateway", 7);
        let (_far, _its_link) = Far::dial(addr, who, &proxy.shutdown).await;
        let link = near.link().await;
        followers.follow(&link, &Follow { partition: 0, after_offset: Some(cursor.0) });
        for (messages, is_all) in [(32, false), (33, true)] {
            followers.tell_all().await;
            assert_eq!(followers.metrics.changes.get(), messages);
            let told = followers.by_link.lock()[&link.id()].told;
            assert_eq!(told == last, is_all, "{told:?} of {last:?}");
        }
        // It holds the store.
        drop(followers);
        proxy.stop().await;
    }
}
