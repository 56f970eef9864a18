//! What follows when partitions go from one db_proxy to another.
//!
//! # Invariants
//!
//! - A partition's stream of changes is asked for at its owner before anything else is.
//! - Changes of ownership are carried out one after the other, each as a whole, everywhere.

use daemon::Link;
use db_client::claims::Move;
use proto::cluster::wire::Ownership;
use tracing::debug;

use crate::gateway::Gateway;

impl Gateway {
    /// A db_proxy says what it owns.
    pub(crate) fn ownership_came(&self, link: &Link, ownership: Ownership) {
        let (begin, moved) =
            (|partitions| self.begin(partitions), |moves: &[Move<Link>]| self.moved(moves));
        if let Err(why) = self.parts.storage.claimed(link, ownership, begin, moved) {
            link.reset(why);
        }
    }

    /// The link to a db_proxy has ended.
    pub(crate) fn ownership_lost(&self, link: &Link) {
        self.parts.storage.down(link, |moves| self.moved(moves));
    }

    /// It is known how many partitions there are. Everybody else learns it last of all, when every part
    /// has a place for each.
    fn begin(&self, partitions: u32) {
        self.delivery.set_partitions(partitions);
        self.parts.unanswered.set_partitions(partitions);
        self.parts.partitions.set(partitions);
        self.delivery.spawn(partitions);
    }

    fn moved(&self, moves: &[Move<Link>]) {
        for Move { partition, owner, is_takeover } in moves {
            debug!(partition, ?owner, "owned elsewhere");
            self.parts.metrics.ownership_moves.inc_by(u64::from(*is_takeover));
            match owner {
                // First of all: what is published on this link comes after it.
                Some(owner) => self.delivery.follow(*partition, &owner.link),
                None => self.delivery.unfollow(*partition),
            }
        }
        self.parts.unanswered.moved(moves);
    }
}
