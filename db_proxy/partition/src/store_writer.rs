//! The store worker: writes what was folded, in batches, behind the log.
//!
//! # Invariants
//!
//! - One batch at a time, in log order; a batch that could not be written is tried again as it was.
//! - The log is trimmed only up to what the store holds for good.
//!
//! A store that is away stops nothing here but this worker: what it has not taken stays in memory
//! and in the log, up to the partition's limit on unstored bytes.

use std::time::Duration;

use daemon::Shutdown;
use proto::ids::Offset;
use store::{Batch, StoreError};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, info_span, warn};

use crate::metrics::{self, StoreWriterMetrics};
use crate::state::State;
use crate::{Ended, Partition};

/// Between two batches, so that a batch is worth its commit. No request waits for the store.
const PAUSE: Duration = Duration::from_millis(20);

/// After a failed write.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How often the log is trimmed.
pub const TRIM_EVERY: Duration = Duration::from_secs(10);

/// Stops the worker once everything is stored. Dropping it does the same.
#[derive(Debug)]
pub struct StopStoreWriter {
    stop: oneshot::Sender<()>,
    done: oneshot::Receiver<()>,
}

impl StopStoreWriter {
    /// Waits until everything that was folded is stored and the worker has ended. The caller bounds
    /// the wait: a store that is away keeps it waiting.
    pub async fn finish(self) {
        let Self { stop, done } = self;
        drop(stop);
        if done.await.is_err() {
            warn!("the store worker ended early: the log has what it did not store");
        }
    }
}

/// Starts the worker of a partition, which trims the log every `trim_every`.
pub fn start(
    partition: Partition,
    metrics: StoreWriterMetrics,
    trim_every: Duration,
    shutdown: &Shutdown,
) -> StopStoreWriter {
    let (stop, stopping) = oneshot::channel();
    let (finished, done) = oneshot::channel();
    metrics::show(&metrics.stored_offset, partition.state().lock().stored);
    let mut worker = StoreWriter {
        state: partition.state().clone(),
        partition,
        metrics,
        shutdown: shutdown.clone(),
        stopping,
        trim_every,
        trimmed_at: Instant::now(),
        trimmed_to: Offset(0),
        away: false,
    };
    shutdown.spawn_link(info_span!("storing"), async move {
        worker.run().await;
        if finished.send(()).is_err() {
            warn!("the daemon did not wait for the store");
        }
    });
    StopStoreWriter { stop, done }
}

struct StoreWriter {
    state: State,
    partition: Partition,
    metrics: StoreWriterMetrics,
    shutdown: Shutdown,
    stopping: oneshot::Receiver<()>,
    trim_every: Duration,
    trimmed_at: Instant,
    trimmed_to: Offset,
    away: bool,
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Nothing more would be stored, and that would show only when the memory is full.
            self.shutdown.fail();
        }
    }
}

impl StoreWriter {
    async fn run(&mut self) {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = self.store_all() => {}
            // The daemon waits no longer; the log has what was not stored.
            () = shutdown.closing_links() => warn!("not everything was stored: the log has it"),
        }
    }

    /// Returns once it was told to stop and everything is stored.
    async fn store_all(&mut self) {
        let mut is_stopping = false;
        loop {
            while let Some((epoch, after, batch)) = self.state.next_batch() {
                if !self.write(epoch, after, batch).await {
                    self.partition.ending().end(Ended::Fenced);
                    return;
                }
                if !is_stopping {
                    // Here too: under load there is always another batch.
                    self.trim().await;
                    sleep(PAUSE).await;
                }
            }
            if is_stopping {
                return;
            }
            self.trim().await;
            let unstored = self.state.unstored.clone();
            tokio::select! {
                () = unstored.notified() => {}
                _dropped = &mut self.stopping => is_stopping = true,
                () = sleep(self.trim_every) => {}
            }
        }
    }

    /// Writes a batch until it is written. False if another owner has taken over.
    async fn write(&mut self, epoch: u64, after: Offset, batch: Batch) -> bool {
        let applied = batch.applied;
        let messages = batch.messages.len() as u64;
        loop {
            let asked = Instant::now();
            match self.state.store().commit(epoch, after, batch.clone()).await {
                Ok(()) => {
                    self.metrics.commit.observe(asked.elapsed());
                    break;
                }
                Err(StoreError::Unavailable(why)) => {
                    if !self.away {
                        warn!(why, "the store is away: the log keeps what it does not take");
                    }
                    self.away = true;
                    self.metrics.failures.inc();
                    sleep(RETRY_PAUSE).await;
                }
                Err(error) => {
                    error!(%error, "the partition is not ours any more");
                    return false;
                }
            }
        }
        if std::mem::take(&mut self.away) {
            info!("the store is back");
        }
        self.state.stored(applied);
        self.metrics.batches.inc();
        self.metrics.messages.inc_by(messages);
        metrics::show(&self.metrics.stored_offset, applied);
        true
    }

    async fn trim(&mut self) {
        if self.trimmed_at.elapsed() < self.trim_every {
            return;
        }
        self.trimmed_at = Instant::now();
        match timeout(TRIM_EVERY, self.state.store().flushed_progress()).await {
            Ok(Ok(flushed)) if flushed > self.trimmed_to => {
                self.trimmed_to = flushed;
                self.partition.trim(flushed);
            }
            Ok(Ok(_unchanged)) => {}
            Ok(Err(error)) => warn!(%error, "the log is not trimmed now"),
            Err(_elapsed) => warn!("the store takes long to flush: the log is not trimmed now"),
        }
    }
}
