//! The partitions that are owned here, and the way to each.
//!
//! # Invariants
//!
//! - Gateways are told of every change, in order: what a gateway was told last is how it is.
//! - Nothing is answered of a partition that is not owned here, as far as can be known
//!   ([`partition::stall`]).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use daemon::{Link, LinkError, LinkTable};
use parking_lot::RwLock;
use partition::Partition;
use partition::consumers::Consumers;
use partition::followers::Followers;
use partition::stall::{Confirmed, StallDetector};
use proto::cluster::wire::{Consume, Follow, Handled, Owned, Ownership};
use proto::cluster::{Kind, partition_of};
use proto::ids::ConversationId;
use store::Store;

/// A partition that is owned here.
#[derive(Debug)]
pub(crate) struct Served {
    /// Which, and in which epoch.
    pub(crate) owned: Owned,
    /// The way to its thread and its state.
    pub(crate) partition: Partition,
    /// The gateways that follow it.
    pub(crate) followers: Arc<Followers>,
    /// The consumers that read its log.
    pub(crate) consumers: Arc<Consumers>,
    /// When its log was last read.
    pub(crate) confirmed: Confirmed,
}

/// All partitions of the cluster: those that are owned here, and where all are stored.
pub(crate) struct Partitions {
    served: RwLock<BTreeMap<u32, Arc<Served>>>,
    /// By partition.
    stores: Vec<Arc<dyn Store>>,
    gateways: Arc<LinkTable>,
    /// The daemons that ask questions and are told nothing but which db_proxy owns what.
    askers: LinkTable,
    /// Whether logins are served here.
    logins: bool,
    /// Where others may take what is owned here.
    stalls: Option<StallDetector>,
}

impl fmt::Debug for Partitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owned: Vec<_> = self.served.read().keys().copied().collect();
        f.debug_struct("Partitions")
            .field("owned", &owned)
            .field("partitions", &self.stores.len())
            .finish_non_exhaustive()
    }
}

impl Partitions {
    /// As many partitions as there are `stores`, one for each, none of them owned yet. `stalls` is
    /// given where others may take what is owned here.
    pub(crate) fn new(
        stores: Vec<Arc<dyn Store>>,
        gateways: Arc<LinkTable>,
        logins: bool,
        stalls: Option<StallDetector>,
    ) -> Self {
        Self {
            served: RwLock::default(),
            stores,
            gateways,
            askers: LinkTable::default(),
            logins,
            stalls,
        }
    }

    /// How many partitions there are in the cluster.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.stores.len()).unwrap_or(u32::MAX)
    }

    /// Where each partition is stored.
    pub(crate) fn stores(&self) -> &[Arc<dyn Store>] {
        &self.stores
    }

    /// Which partition a conversation belongs to.
    pub(crate) fn number_of(&self, id: ConversationId) -> u32 {
        partition_of(id.number(), self.count())
    }

    /// The partition of a conversation, if it is owned here, to answer from.
    pub(crate) fn of(&self, id: ConversationId) -> Option<Arc<Served>> {
        self.get(self.number_of(id))
    }

    /// A partition, if it was owned here at last, to append to or to follow.
    pub(crate) fn owned(&self, partition: u32) -> Option<Arc<Served>> {
        self.served.read().get(&partition).cloned()
    }

    /// A partition, if it is owned here, to answer from.
    pub(crate) fn get(&self, partition: u32) -> Option<Arc<Served>> {
        let served = self.owned(partition);
        let may_answer = |served: &Arc<Served>| {
            self.stalls.as_ref().is_none_or(|stalls| stalls.may_answer(&served.confirmed))
        };
        served.filter(may_answer)
    }

    /// Whether any partition is owned here.
    pub(crate) fn owns_some(&self) -> bool {
        !self.served.read().is_empty()
    }

    /// A partition is owned here from now on.
    pub(crate) fn add(&self, served: Served) -> Arc<Served> {
        let served = Arc::new(served);
        let mut table = self.served.write();
        table.insert(served.owned.partition, Arc::clone(&served));
        self.announce(&table);
        served
    }

    /// A partition is no longer owned here, unless that was in an older epoch.
    #[cfg_attr(
        not(feature = "kafka"),
        expect(dead_code, reason = "partitions move on Kafka alone")
    )]
    pub(crate) fn remove(&self, owned: Owned) {
        let mut table = self.served.write();
        if table.get(&owned.partition).is_some_and(|served| served.owned == owned) {
            table.remove(&owned.partition);
            self.announce(&table);
        }
    }

    /// A gateway follows a partition. If the partition is not owned here, nothing is done: the
    /// gateway is told which db_proxy owns what, and asks the owner.
    pub(crate) fn follow(&self, link: &Link, follow: &Follow) {
        if let Some(served) = self.owned(follow.partition) {
            served.followers.follow(link, follow);
        }
    }

    /// A consumer asks for a partition's records. If that is not owned here, nothing is done, as in
    /// [`Self::follow`].
    pub(crate) fn consume(&self, link: &Link, consume: Consume) {
        if let Some(served) = self.owned(consume.partition) {
            served.consumers.consume(link, consume);
        }
    }

    /// A consumer has handled records of a partition. The next owner is told by the consumer itself.
    pub(crate) fn handled(&self, link: &Link, handled: &Handled) {
        if let Some(served) = self.owned(handled.partition) {
            served.consumers.handled(link, handled);
        }
    }

    /// A gateway is linked: first of all it is told what is here.
    pub(crate) fn gateway_up(&self, link: &Link) {
        let table = self.served.read();
        tell(link, &self.ownership(&table));
        self.gateways.add(link);
    }

    /// A daemon is linked that is told nothing but which db_proxy owns what.
    pub(crate) fn asker_up(&self, link: &Link) {
        let table = self.served.read();
        tell(link, &self.ownership(&table));
        self.askers.add(link);
    }

    /// A link is gone.
    pub(crate) fn gateway_down(&self, link: &Link) {
        self.gateways.remove(link);
        self.askers.remove(link);
        for served in self.served.read().values() {
            served.followers.down(link);
            served.consumers.down(link);
        }
    }

    /// Under the lock, so that changes are told in their order.
    fn announce(&self, table: &BTreeMap<u32, Arc<Served>>) {
        let ownership = self.ownership(table);
        for link in self.gateways.all().iter().chain(self.askers.all().iter()) {
            tell(link, &ownership);
        }
    }

    fn ownership(&self, table: &BTreeMap<u32, Arc<Served>>) -> Ownership {
        Ownership {
            partitions: self.count(),
            owned: table.values().map(|served| served.owned).collect(),
            logins: self.logins,
        }
    }
}

fn tell(gateway: &Link, ownership: &Ownership) {
    match gateway.send(Kind::Ownership.number(), 0, ownership) {
        Ok(()) | Err(LinkError::Closed) => {}
        // It is told when it is linked again.
        Err(LinkError::Full | LinkError::TooLong) => {
            gateway.reset("it does not take who owns what");
        }
    }
}
