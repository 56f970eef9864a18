//! Partitions that move between db_proxies: each takes those that the consumer group gives it.
//!
//! The group only says which db_proxy may try. The owner of a partition is the one whose epoch is in the
//! store and in the log: the db_proxy that is given a partition raises the epoch and folds on from what
//! is stored. The one that had it before finds that out from either, at the latest when it appends or
//! stores.
//!
//! # Invariants
//!
//! - One task for each partition that the group has given us takes it, serves it, and takes it again.
//!   The next one of the same partition begins when that has ended.
//! - A partition that is revoked has stopped before the group hears so, unless that takes too long.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use daemon::metrics::Gauge;
use partition::Ended;
use partition::open::{self, OpenError, OpenPartition};
use proto::cluster::wire::Owned;
use record_log::kafka::{self, ConnectError, Event, KafkaTopic};
use tokio::sync::oneshot;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, info_span, warn};

use crate::metrics::GroupMetrics;
use crate::ownership::{Ownership, Shared};

/// How long a partition may take to stop: less than the group waits.
const STOP_LIMIT: Duration = Duration::from_millis(2_500);

/// As that, when the daemon stops: then the group does not wait for it.
const LAST_STOP_LIMIT: Duration = Duration::from_secs(4);

/// Before a partition is taken again that another owner had begun: by then the group has told us if
/// it gave the partition away.
const AFTER_FENCED: Duration = Duration::from_secs(6);

/// Before one is taken again of which an append is unknown, and between tries to take one.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Between two tries to take one that cannot be taken before an operator has looked at it.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How often the numbers of the log are shown.
const SHOW_EVERY: Duration = Duration::from_secs(2);

/// Leaves the group. Dropping it does the same, without waiting.
#[derive(Debug)]
pub(crate) struct LeaveGroup {
    stop: oneshot::Sender<()>,
    done: CancellationToken,
}

impl LeaveGroup {
    /// Waits until every partition has stopped and the group was left.
    pub(crate) async fn finish(self) {
        drop(self.stop);
        self.done.cancelled().await;
    }
}

/// Joins the group as `owner`, and serves what it gives us.
pub(crate) fn start(
    shared: Shared,
    topic: KafkaTopic,
    owner: String,
) -> Result<LeaveGroup, ConnectError> {
    let group = kafka::Ownership::join(topic.options(), &owner)?;
    let (stop, stopping) = oneshot::channel();
    let done = CancellationToken::new();
    let shutdown = shared.shutdown.clone();
    shared.stalls.start(&shutdown);
    let metrics = shared.metrics.group().clone();
    let claimant = Arc::new(Claimant { shared, topic, owner, metrics });
    let show = Arc::clone(&claimant);
    let (stop_showing, showing) = (shutdown.clone(), show);
    shutdown.spawn_link(info_span!("sharing"), async move {
        tokio::select! {
            () = showing.show() => {}
            () = stop_showing.closing_links() => {}
        }
    });
    let mut member = Member { claimant, group, assignments: HashMap::new(), stopping };
    let ended = done.clone().drop_guard();
    // Ends during the drain: it is waited for there.
    shutdown.spawn_link(info_span!("sharing"), async move {
        member.run().await;
        drop(ended);
    });
    Ok(LeaveGroup { stop, done })
}

/// This db_proxy's place in the consumer group: follows what the group assigns to it.
struct Member {
    claimant: Arc<Claimant>,
    group: kafka::Ownership,
    assignments: HashMap<u32, Assignment>,
    stopping: oneshot::Receiver<()>,
}

/// A partition that the group has given us.
struct Assignment {
    stop: CancellationToken,
    stopped: CancellationToken,
}

impl Member {
    async fn run(&mut self) {
        let shutdown = self.claimant.shared.shutdown.clone();
        let mut is_stopping = false;
        loop {
            let event = tokio::select! {
                event = self.group.next() => event,
                _dropped = &mut self.stopping, if !is_stopping => {
                    is_stopping = true;
                    self.group.leave();
                    continue;
                }
            };
            self.claimant
                .metrics
                .rebalances
                .set(i64::try_from(self.group.rebalances()).unwrap_or(0));
            match event {
                Some(Event::Assigned(partitions)) => {
                    info!(?partitions, "the group gives us");
                    for partition in partitions {
                        self.assign(partition, &shutdown);
                    }
                }
                Some(Event::Revoked(partitions, ack)) => {
                    info!(?partitions, "the group takes from us");
                    self.stop(partitions).await;
                    drop(ack);
                }
                Some(Event::Lost(partitions)) => {
                    warn!(?partitions, "the group has not heard of us, and gives to others");
                    self.stop(partitions).await;
                }
                None => break,
            }
        }
        let held = self.assignments.keys().copied().collect();
        self.stop(held).await;
        if !is_stopping {
            error!("this db_proxy cannot take part in the group any more");
            shutdown.fail();
        }
    }

    fn assign(&mut self, partition: u32, shutdown: &Shutdown) {
        let held = Assignment { stop: CancellationToken::new(), stopped: CancellationToken::new() };
        let (stop, stopped) = (held.stop.clone(), held.stopped.clone().drop_guard());
        let before = self.assignments.insert(partition, held);
        let claimant = Arc::clone(&self.claimant);
        shutdown.spawn_link(info_span!("sharing", partition), async move {
            if let Some(before) = before {
                before.stop.cancel();
                before.stopped.cancelled().await;
            }
            claimant.serve(partition, &stop).await;
            drop(stopped);
        });
    }

    /// Stops partitions, and waits until they have stopped or it takes too long.
    async fn stop(&mut self, partitions: Vec<u32>) {
        let held: Vec<_> =
            partitions.iter().filter_map(|partition| self.assignments.get(partition)).collect();
        for held in &held {
            held.stop.cancel();
        }
        let limit =
            if self.claimant.shared.shutdown.is_begun() { LAST_STOP_LIMIT } else { STOP_LIMIT };
        let all = async {
            for held in held {
                held.stopped.cancelled().await;
            }
        };
        if timeout(limit, all).await.is_err() {
            warn!(?partitions, "some have not stopped in time: whoever is next fences them");
        }
    }
}

/// Claims partitions that were assigned, and serves them.
struct Claimant {
    shared: Shared,
    topic: KafkaTopic,
    owner: String,
    metrics: GroupMetrics,
}

impl fmt::Debug for Claimant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimant").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Claimant {
    /// Claims a partition and serves it, again and again, until `stop`.
    async fn serve(&self, partition: u32, stop: &CancellationToken) {
        loop {
            let opened = tokio::select! {
                opened = self.claim(partition) => opened,
                () = stop.cancelled() => return,
            };
            let ownership = self.shared.begin(partition, opened);
            let why = tokio::select! {
                why = ownership.ended() => Some(why),
                () = stop.cancelled() => None,
            };
            let Some(why) = why else {
                self.hand_over(ownership).await;
                return;
            };
            self.metrics.lost(why).inc();
            self.abandon(ownership);
            let pause = if why == Ended::Fenced { AFTER_FENCED } else { AGAIN_AFTER };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Tries until the partition is ours. One line for each thing that keeps us from it.
    async fn claim(&self, partition: u32) -> OpenPartition {
        let mut told = String::new();
        let mut refused = None;
        loop {
            let error = match self.try_to_claim(partition).await {
                Ok(opened) => return opened,
                Err(error) => error,
            };
            let is_final = matches!(error, OpenError::Refused(_));
            let why = error.to_string();
            if why != told {
                if is_final {
                    error!(why, "the partition cannot be taken: its conversations are not served");
                } else {
                    warn!(why, "the partition cannot be taken now");
                }
                told = why;
            }
            refused = is_final.then(|| refused.take().unwrap_or_else(|| self.refusing()));
            sleep(if is_final { REFUSED_AGAIN_AFTER } else { AGAIN_AFTER }).await;
        }
    }

    fn refusing(&self) -> Refusing {
        self.metrics.refused.inc();
        Refusing(self.metrics.refused.clone())
    }

    async fn try_to_claim(&self, partition: u32) -> Result<OpenPartition, OpenError> {
        let log = self.topic.partition(partition);
        let stores = self.shared.partitions.stores();
        let store = stores.get(partition as usize).map(Arc::clone);
        let store = store.ok_or_else(|| OpenError::Refused("there is no such partition".into()))?;
        open::take(Box::new(log), store, &self.owner).await
    }

    /// Shows how far the logs are.
    async fn show(&self) {
        let mut ticks = interval(SHOW_EVERY);
        loop {
            ticks.tick().await;
            for (partition, numbers) in (0..).zip(self.topic.numbers()) {
                if self.shared.partitions.owned(partition).is_some() {
                    self.metrics.show_log(partition, numbers.lag(), numbers.margin());
                }
            }
        }
    }

    /// Stops a partition in good order: it may go to another db_proxy, which finds in the log what could
    /// not be stored in time.
    async fn hand_over(&self, ownership: Ownership) {
        let Owned { partition, epoch } = ownership.served.owned;
        self.shared.partitions.remove(ownership.served.owned);
        if timeout(STOP_LIMIT, ownership.finish()).await.is_err() {
            warn!(partition, epoch, "not everything was stored: the log has it");
        }
        // Another owner had begun before we were told to stop: this process had stalled.
        if let Some(why) = ownership.served.partition.ending().why() {
            self.metrics.lost(why).inc();
        }
        self.abandon(ownership);
    }

    /// Lets go of a partition that another db_proxy has, or will have.
    fn abandon(&self, ownership: Ownership) {
        self.shared.partitions.remove(ownership.served.owned);
        self.shared.metrics.forget(ownership.served.owned.partition);
        drop(ownership);
    }
}

/// Counts a partition that cannot be taken, until it can or is not ours to take.
struct Refusing(Gauge);

impl Drop for Refusing {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
