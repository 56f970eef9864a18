//! Partitions that move between db_proxies: each takes those that the consumer group gives it.
//!
//! The group only says who may try. Who owns a partition is said by the epoch in the store and in the
//! log: whoever is given one raises it and folds on from what is stored; whoever had it finds that
//! out from either, at the latest when it appends or stores.
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
use record_log::kafka::{ConnectError, Event, KafkaTopic, Ownership};
use tokio::sync::oneshot;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, info_span, warn};

use crate::metrics::SharingMetrics;
use crate::owning::{Ground, Running};

/// How long a partition may take to stop: less than the group waits.
const STOP_LIMIT: Duration = Duration::from_millis(2_500);

/// As that, when the daemon stops and nobody waits for the partition in vain.
const LAST_STOP_LIMIT: Duration = Duration::from_secs(4);

/// Before a partition is taken again that another owner had begun: by then the group has told us if
/// it gave the partition away.
const AFTER_FENCED: Duration = Duration::from_secs(6);

/// Before one is taken again of which an append is unknown, and between tries to take one.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Between two tries to take one that cannot be taken before somebody has looked at it.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How often the numbers of the log are shown.
const SHOW_EVERY: Duration = Duration::from_secs(2);

/// Stops the sharing. Dropping it does the same.
#[derive(Debug)]
pub(crate) struct StopSharing {
    stop: oneshot::Sender<()>,
    done: CancellationToken,
}

impl StopSharing {
    /// Waits until every partition has stopped and the group was left.
    pub(crate) async fn finish(self) {
        drop(self.stop);
        self.done.cancelled().await;
    }
}

/// Joins the group as `owner`, and serves what it gives us.
pub(crate) fn start(
    ground: Ground,
    topic: KafkaTopic,
    owner: String,
) -> Result<StopSharing, ConnectError> {
    let group = Ownership::join(topic.options(), &owner)?;
    let (stop, stopping) = oneshot::channel();
    let done = CancellationToken::new();
    let shutdown = ground.shutdown.clone();
    ground.pulse.start(&shutdown);
    let metrics = ground.metrics.sharing().clone();
    let taker = Arc::new(Taker { ground, topic, owner, metrics });
    let show = Arc::clone(&taker);
    let (stop_showing, showing) = (shutdown.clone(), show);
    shutdown.spawn_link(info_span!("sharing"), async move {
        tokio::select! {
            () = showing.show() => {}
            () = stop_showing.closing_links() => {}
        }
    });
    let mut sharer = Sharer { taker, group, held: HashMap::new(), stopping };
    let ended = done.clone().drop_guard();
    // Ends during the drain: it is waited for there.
    shutdown.spawn_link(info_span!("sharing"), async move {
        sharer.run().await;
        drop(ended);
    });
    Ok(StopSharing { stop, done })
}

/// Follows what the group says.
struct Sharer {
    taker: Arc<Taker>,
    group: Ownership,
    held: HashMap<u32, Held>,
    stopping: oneshot::Receiver<()>,
}

/// A partition that the group has given us.
struct Held {
    stop: CancellationToken,
    stopped: CancellationToken,
}

impl Sharer {
    async fn run(&mut self) {
        let shutdown = self.taker.ground.shutdown.clone();
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
            self.taker.metrics.rebalances.set(i64::try_from(self.group.rebalances()).unwrap_or(0));
            match event {
                Some(Event::Assigned(partitions)) => {
                    info!(?partitions, "the group gives us");
                    for partition in partitions {
                        self.hold(partition, &shutdown);
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
        let held = self.held.keys().copied().collect();
        self.stop(held).await;
        if !is_stopping {
            error!("this db_proxy cannot take part in the group any more");
            shutdown.fail();
        }
    }

    fn hold(&mut self, partition: u32, shutdown: &Shutdown) {
        let held = Held { stop: CancellationToken::new(), stopped: CancellationToken::new() };
        let (stop, stopped) = (held.stop.clone(), held.stopped.clone().drop_guard());
        let before = self.held.insert(partition, held);
        let taker = Arc::clone(&self.taker);
        shutdown.spawn_link(info_span!("sharing", partition), async move {
            if let Some(before) = before {
                before.stop.cancel();
                before.stopped.cancelled().await;
            }
            taker.hold(partition, &stop).await;
            drop(stopped);
        });
    }

    /// Stops partitions, and waits until they have stopped or it takes too long.
    async fn stop(&mut self, partitions: Vec<u32>) {
        let held: Vec<_> =
            partitions.iter().filter_map(|partition| self.held.get(partition)).collect();
        for held in &held {
            held.stop.cancel();
        }
        let limit =
            if self.taker.ground.shutdown.is_begun() { LAST_STOP_LIMIT } else { STOP_LIMIT };
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

/// Takes partitions.
struct Taker {
    ground: Ground,
    topic: KafkaTopic,
    owner: String,
    metrics: SharingMetrics,
}

impl fmt::Debug for Taker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taker").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Taker {
    /// Takes a partition and serves it, again and again, until `stop`.
    async fn hold(&self, partition: u32, stop: &CancellationToken) {
        loop {
            let opened = tokio::select! {
                opened = self.take(partition) => opened,
                () = stop.cancelled() => return,
            };
            let running = self.ground.begin(partition, opened);
            let why = tokio::select! {
                why = running.ended() => Some(why),
                () = stop.cancelled() => None,
            };
            let Some(why) = why else {
                self.hand_over(running).await;
                return;
            };
            self.metrics.lost(why).inc();
            self.abandon(running);
            let pause = if why == Ended::Fenced { AFTER_FENCED } else { AGAIN_AFTER };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Tries until the partition is ours. One line for each thing that keeps us from it.
    async fn take(&self, partition: u32) -> OpenPartition {
        let mut told = String::new();
        let mut refused = None;
        loop {
            let error = match self.try_to_take(partition).await {
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

    async fn try_to_take(&self, partition: u32) -> Result<OpenPartition, OpenError> {
        let log = self.topic.partition(partition);
        let stores = self.ground.partitions.stores();
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
                if self.ground.partitions.owned(partition).is_some() {
                    self.metrics.show_log(partition, numbers.lag(), numbers.margin());
                }
            }
        }
    }

    /// Stops a partition in good order: it may go to somebody else, who finds in the log what could not
    /// be stored in time.
    async fn hand_over(&self, running: Running) {
        let Owned { partition, epoch } = running.served.owned;
        self.ground.partitions.remove(running.served.owned);
        if timeout(STOP_LIMIT, running.finish()).await.is_err() {
            warn!(partition, epoch, "not everything was stored: the log has it");
        }
        // Somebody else had begun before we were told to stop: we stood still.
        if let Some(why) = running.served.partition.ending().why() {
            self.metrics.lost(why).inc();
        }
        self.abandon(running);
    }

    /// Lets go of a partition that somebody else has, or will have.
    fn abandon(&self, running: Running) {
        self.ground.partitions.remove(running.served.owned);
        self.ground.metrics.forget(running.served.owned.partition);
        drop(running);
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
