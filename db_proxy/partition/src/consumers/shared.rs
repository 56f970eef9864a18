//! What all consumers of one partition share: where records come from, and what is noted of those who fall
//! behind.

use std::collections::HashSet;
use std::sync::Arc;

use daemon::Shutdown;
use parking_lot::Mutex;
use proto::cluster::wire::Owned;
use proto::ids::Offset;
use record_log::{LogError, LogId, Tails};
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::metrics::ConsumersMetrics;
use crate::state::State;

/// Where records come from.
#[derive(Debug)]
pub struct Source {
    /// What is folded of the partition.
    pub state: State,
    /// Which partition it is, and since which epoch.
    pub owned: Owned,
    /// Its log.
    pub log: LogId,
    /// Where that is read.
    pub tails: Arc<dyn Tails>,
}

/// What all consumers of a partition share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) source: Source,
    pub(super) metrics: ConsumersMetrics,
    pub(super) shutdown: Shutdown,
    /// The consumers to which records are lost. Each is noted once.
    fallen: Mutex<HashSet<String>>,
}

impl Shared {
    pub(super) fn new(source: Source, metrics: ConsumersMetrics, shutdown: &Shutdown) -> Self {
        Self { source, metrics, shutdown: shutdown.clone(), fallen: Mutex::default() }
    }

    /// The first record that the log has.
    pub(super) async fn first(&self) -> Result<Offset, LogError> {
        let tails = Arc::clone(&self.source.tails);
        let first = spawn_blocking(move || tails.first()).await;
        first.unwrap_or_else(|_ended| Err(LogError::Lost("the runtime ends".to_owned())))
    }

    /// Notes that records are lost to a consumer; once, until it is in the log again.
    pub(super) fn note_fallen(&self, name: &str, first: Offset) {
        if self.fallen.lock().insert(name.to_owned()) {
            self.metrics.fallen_behind.inc();
            let first = first.0;
            warn!(
                consumer = name,
                first, "a consumer was behind for too long: the log begins after its place"
            );
        }
    }

    /// The consumer's place is in the log.
    pub(super) fn note_within(&self, name: &str) {
        self.fallen.lock().remove(name);
    }
}
