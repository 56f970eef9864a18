//! One conversation in each partition in which something is said all the time: how long a partition
//! has been without an owner is how long nothing that was said there since is acknowledged.

use std::time::{Duration, Instant};

use client::Conversation;
use proto::cluster::partition_of;
use proto::ids::ConversationId;
use tokio::runtime::Runtime;

use super::PARTITIONS;
use crate::fault::talk::{Talker, Talkers, Truth, conversation_id};
use crate::{Site, wait_until};

/// How many users talk and hear: enough to find a conversation for each partition.
pub(super) const USERS: u32 = 96;
/// Between two messages of a conversation.
const EVERY: Duration = Duration::from_millis(100);

/// The conversations.
pub(super) struct Pulse {
    /// Dropped last: the talkers are tasks of it.
    runtime: Runtime,
    talkers: Talkers,
    truth: Truth,
    /// By partition.
    conversations: Vec<ConversationId>,
}

impl Pulse {
    /// Lets the last [`USERS`] demo users of `users` begin. Returns when every partition has
    /// acknowledged something.
    pub(super) fn start(site: &Site, users: u32) -> Self {
        let runtime = Runtime::new().expect("start a runtime");
        let truth = Truth::default();
        let pairs = pairs(users - USERS + 1);
        let conversations = pairs
            .iter()
            .map(|(user, other)| conversation_id(*user, Conversation::user(*other)))
            .collect();
        let talker = |(user, other): &(u32, u32)| Talker {
            user: *user,
            to: vec![Conversation::user(*other)],
            every: EVERY,
        };
        let talkers = pairs.iter().map(talker).collect();
        let talkers = Talkers::start(runtime.handle(), &site.login, talkers, &truth);
        let pulse = Self { runtime, talkers, truth, conversations };
        pulse.back_after(Instant::now(), crate::PATIENCE * 2);
        pulse
    }

    /// Waits until every partition has acknowledged something that was said after `hurt`. Returns
    /// how long after it the last of them did.
    pub(super) fn back_after(&self, hurt: Instant, limit: Duration) -> Duration {
        let mut back = Vec::new();
        wait_until("every partition acknowledges again", limit, || {
            let first = |place: &ConversationId| self.truth.first_acked(*place, hurt);
            back = self.conversations.iter().map(first).collect();
            back.iter().all(Option::is_some)
        });
        let last = back.into_iter().flatten().max();
        last.map_or(Duration::ZERO, |at| at.saturating_duration_since(hurt))
    }

    /// How many messages are acknowledged.
    pub(super) fn acked(&self) -> usize {
        self.truth.count()
    }

    /// Ends it. Everything must have been acknowledged, each under a number of its own.
    pub(super) fn finish(self) {
        self.runtime.block_on(self.talkers.stop());
        self.truth.check();
    }
}

/// For each partition a user who talks and the user who is talked to. No two partitions have the same
/// talker. All of them have numbers from `first` on.
fn pairs(first: u32) -> Vec<(u32, u32)> {
    let users = first..first + USERS;
    let of = |(user, other): (u32, u32)| {
        partition_of(conversation_id(user, Conversation::user(other)).number(), PARTITIONS)
    };
    let pair = |(partition, user): (u32, u32)| {
        let hears = users.clone().find(|other| *other != user && of((user, *other)) == partition);
        (user, hears.expect("so many users have a conversation in every partition"))
    };
    (0..PARTITIONS).zip(users.clone()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_a_conversation_of_its_own() {
        for first in 1..200 {
            let pairs = pairs(first);
            assert_eq!(pairs.len(), PARTITIONS as usize);
            for (partition, (user, other)) in (0..).zip(pairs) {
                let number = conversation_id(user, Conversation::user(other)).number();
                assert_eq!(partition_of(number, PARTITIONS), partition);
            }
        }
    }
}
