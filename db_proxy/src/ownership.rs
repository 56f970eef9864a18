//! An ownership of a partition, from its beginning to its end: its thread, its store worker, what
//! gateways follow, and what consumers read.

use std::future::pending;
use std::sync::Arc;

use cache::Cache;
use daemon::{Readiness, Shutdown};
use fold::effects::EPOCH_EVERY;
use parking_lot::Mutex;
use partition::consumers::{self, Consumers, Source};
use partition::followers::{self, Followers};
use partition::last_clock::LastClock;
use partition::open::OpenPartition;
use partition::publisher::Publisher;
use partition::stall::StallDetector;
use partition::store_writer::{self, StopStoreWriter};
use partition::{Ended, HOLD, Limits, Owner, STALLED_AFTER};
use proto::cluster::wire::Owned;

use crate::metrics::OwnedMetrics;
use crate::partitions::{Partitions, Served};

/// What all ownerships of a daemon have in common.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) cache: Arc<dyn Cache>,
    pub(crate) limits: Limits,
    pub(crate) metrics: OwnedMetrics,
    pub(crate) stalls: StallDetector,
    pub(crate) last_clock: LastClock,
    /// It may be away while this daemon serves.
    pub(crate) store_is_remote: bool,
    /// Where the threads of partitions show that they move.
    pub(crate) readiness: Readiness,
    /// The daemon's.
    pub(crate) shutdown: Shutdown,
}

/// A partition that is served.
pub(crate) struct Ownership {
    pub(crate) served: Arc<Served>,
    /// Until it is stopped.
    store_writer: Mutex<Option<StopStoreWriter>>,
    /// The tasks of this ownership.
    shutdown: Shutdown,
}

impl Shared {
    /// Starts to serve a partition, and tells the gateways.
    pub(crate) fn begin(&self, partition: u32, opened: OpenPartition) -> Ownership {
        let OpenPartition { log, state, epoch, owner: name } = opened;
        let shutdown = self.shutdown.child();
        let metrics = self.metrics.of(partition);
        let (log_id, tails) = (log.id(), log.tails());
        let state = state.with_cache(Arc::clone(&self.cache), log_id);
        let state = if self.store_is_remote { state.remembering_groups() } else { state };
        let owned = Owned { partition, epoch };
        let confirmed = self.stalls.confirmed();
        let owner = Owner {
            log,
            state,
            owned,
            name,
            epoch_every: EPOCH_EVERY,
            limits: self.limits,
            hold: HOLD,
            publisher: Arc::clone(&self.publisher),
            metrics: metrics.partition,
            confirmed: confirmed.clone(),
            last_clock: self.last_clock,
            pulse: self.readiness.pulse("a partition's thread", STALLED_AFTER),
        };
        let partition = owner.start(&shutdown);
        let store_writer = store_writer::start(
            partition.clone(),
            metrics.store_writer,
            store_writer::TRIM_EVERY,
            &shutdown,
        );
        let followers = Followers::new(partition.state().clone(), owned, metrics.followers);
        followers.watch(followers::TELL_EVERY, &shutdown);
        let source = Source { state: partition.state().clone(), owned, log: log_id, tails };
        let consumers = Consumers::new(source, metrics.consumers, &shutdown);
        consumers.watch(consumers::WATCH_EVERY);
        let served = Served { owned, partition, followers, consumers, confirmed };
        let served = self.partitions.add(served);
        Ownership { served, store_writer: Mutex::new(Some(store_writer)), shutdown }
    }
}

impl Ownership {
    /// Waits until the ownership ends, other than by being stopped.
    pub(crate) async fn ended(&self) -> Ended {
        self.shutdown.begun().await;
        match self.served.partition.ending().why() {
            Some(why) => why,
            // The daemon stops, and this with it.
            None => pending().await,
        }
    }

    /// Finishes what was admitted, and waits until everything that is folded is stored. What comes
    /// later is answered "moved". The caller bounds the wait.
    pub(crate) async fn finish(&self) {
        // Before its thread ends, which else would be a failure of the daemon.
        self.shutdown.begin();
        self.served.partition.stop().await;
        let store_writer = self.store_writer.lock().take();
        if let Some(store_writer) = store_writer {
            store_writer.finish().await;
        }
    }
}

/// Ends what is left of it.
impl Drop for Ownership {
    fn drop(&mut self) {
        self.shutdown.begin();
        self.shutdown.close_links();
    }
}
