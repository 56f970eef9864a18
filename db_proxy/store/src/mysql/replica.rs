//! One replica of a shard: whether it is the right one, and whether it is asked now.
//!
//! # Invariants
//!
//! - No row is taken from a replica before it has said that it is one of this shard; it is asked again
//!   each time it comes back.
//! - No call fails because of a replica, or waits for it longer than its limit; after a failed or late
//!   answer none waits at all for a while ([`daemon::breaker`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::breaker::{Breaker, Turn};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tracing::{info, warn};

use super::address::Address;
use super::failure::{self, Failure};
use super::link::Link;
use super::options::MySqlOptions;
use super::pool::{Bounds, Pool};
use super::schema::{self, Original};
use crate::StoreError;
use crate::metrics::ReplicaMetrics;

/// The server's number for a database that does not exist.
const NO_SUCH_DATABASE: u16 = 1049;

/// A replica of one shard.
#[derive(Debug)]
pub(super) struct Replica {
    address: Address,
    original: Arc<Original>,
    pool: Pool,
    breaker: Breaker,
    limit: Duration,
    metrics: ReplicaMetrics,
}

impl Replica {
    /// Connects. One that is away, or not as far as the primary's tables, is no error: it is asked
    /// again later. One that cannot become right by itself is refused.
    pub(super) async fn open(
        address: Address,
        original: Original,
        options: &MySqlOptions,
    ) -> Result<Self, StoreError> {
        let limits = options.limits;
        // Each call as a whole has a narrower bound, in `ask`.
        let bounds = Bounds {
            connections: options.readers,
            wait: limits.connect,
            step: limits.connect,
            whole: None,
        };
        let replica = Self {
            pool: Pool::new(address.clone(), bounds),
            address,
            original: Arc::new(original),
            breaker: Breaker::new(limits.replica_rest),
            limit: limits.replica,
            metrics: options.replica_metrics.clone(),
        };
        let checked = timeout(limits.connect, replica.check()).await;
        if let Err(failure) = checked.unwrap_or(Err(Failure::Slow(limits.connect))) {
            let why = failure.text();
            match refusal(failure, &replica.address) {
                StoreError::Unavailable(_) => replica.failed(&why),
                refused => return Err(refused),
            }
        }
        Ok(replica)
    }

    async fn check(&self) -> Result<(), Failure> {
        let (address, original) = (self.address.clone(), Arc::clone(&self.original));
        let checking = self.pool.attempt(move |link| {
            let (address, original) = (address.clone(), Arc::clone(&original));
            async move { schema::check_replica(link, &address, &original).await }.boxed()
        });
        checking.await
    }

    /// What the replica answers, if it is asked now and answers in time.
    pub(super) async fn ask<T, F>(&self, work: F) -> Option<T>
    where
        F: for<'a> Fn(&'a mut Link) -> BoxFuture<'a, Result<T, Failure>> + Send + Sync,
        T: Send,
    {
        let turn = self.breaker.turn(Instant::now());
        let asking = async {
            if turn == Turn::Try {
                self.check().await?;
            }
            self.pool.attempt(work).await
        };
        if turn == Turn::Leave {
            return None;
        }
        match timeout(self.limit, asking).await.unwrap_or(Err(Failure::Slow(self.limit))) {
            Ok(found) => {
                if turn == Turn::Try && self.breaker.answered() {
                    info!(server = self.pool.name(), "a replica is read from again");
                    self.metrics.away.dec();
                }
                Some(found)
            }
            Err(failure) => {
                self.failed(&failure.text());
                None
            }
        }
    }

    fn failed(&self, why: &str) {
        if self.breaker.failed(Instant::now()) {
            let server = self.pool.name();
            warn!(server, why, "a replica is away: what it would have answered, its primary does");
            self.metrics.away.inc();
        }
    }

    /// Counts what came from the replica and what it lacked.
    pub(super) fn count(&self, found: usize, answered: usize) {
        self.metrics.reads.inc_by(found as u64);
        self.metrics.misses.inc_by(answered.saturating_sub(found) as u64);
    }
}

/// What a failure means while the store is opened.
fn refusal(failure: Failure, address: &Address) -> StoreError {
    if failure.code() == Some(NO_SUCH_DATABASE) {
        let name = address.name();
        let what_to_do = "there is no such database: name one that is a replica of a shard's";
        return StoreError::Refused(format!("{name}: {what_to_do} ({})", failure.text()));
    }
    failure::refusal(failure, address)
}
