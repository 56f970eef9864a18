//! The circuit breaker: whether Redis is asked at all.
//!
//! ```text
//!            late or failed answer            TRIES_MAX tries in a row have failed
//!   open ─────────────────────────► shut ─────────────────────────► away (said once)
//!    ▲                                │                                │
//!    └── a try answers in time ───────┘                                │
//!    └── a try answers in time (said once) ────────────────────────────┘
//! ```
//!
//! One late answer shuts the gate, since behind a shut gate an answer is only slower, and behind an
//! open one every request would wait. The next try follows at once, so that a short delay
//! costs a millisecond of misses. It is not logged.

use std::fmt;

use ::redis::aio::MultiplexedConnection;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::metrics::CacheMetrics;

/// Failures in a row after which Redis is said to be away.
const TRIES_MAX: u32 = 3;

/// Which opening of the gate a connection belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn(u64);

/// Hands out the connection while it works.
pub(super) struct Gate {
    inner: Mutex<Inner>,
    /// Wakes the prober.
    was_shut: Notify,
    metrics: CacheMetrics,
}

struct Inner {
    connection: Option<MultiplexedConnection>,
    turn: u64,
    failures: u32,
    away: bool,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate that is shut.
    pub(super) fn new(metrics: CacheMetrics) -> Self {
        let inner = Inner { connection: None, turn: 0, failures: 0, away: false };
        Self { inner: Mutex::new(inner), was_shut: Notify::new(), metrics }
    }

    pub(super) fn is_open(&self) -> bool {
        self.inner.lock().connection.is_some()
    }

    /// The connection, unless the gate is shut.
    pub(super) fn connection(&self) -> Option<(MultiplexedConnection, Turn)> {
        let inner = self.inner.lock();
        inner.connection.clone().map(|connection| (connection, Turn(inner.turn)))
    }

    /// Shuts the gate because an answer over the connection of `turn` was late or an error. Others
    /// that wait for answers over the same connection may still get them.
    pub(super) fn shut(&self, turn: Turn, why: &str) {
        self.metrics.failures.inc();
        let mut inner = self.inner.lock();
        if Turn(inner.turn) == turn && inner.connection.take().is_some() {
            inner.failures = 1;
            tracing::debug!(why, "Redis is not asked for a moment");
            self.was_shut.notify_one();
        }
    }

    /// Notes a failed try.
    pub(super) fn failed(&self, server: &impl fmt::Display, why: &str) {
        self.metrics.failures.inc();
        let mut inner = self.inner.lock();
        inner.failures = inner.failures.saturating_add(1);
        if inner.failures >= TRIES_MAX {
            self.say_away(&mut inner, server, why);
        }
    }

    /// Notes that it was away from the beginning.
    pub(super) fn away(&self, server: &impl fmt::Display, why: &str) {
        self.metrics.failures.inc();
        self.say_away(&mut self.inner.lock(), server, why);
    }

    fn say_away(&self, inner: &mut Inner, server: &impl fmt::Display, why: &str) {
        if !std::mem::replace(&mut inner.away, true) {
            warn!(%server, why, "Redis is away: what it would have kept takes longer");
            self.metrics.away.set(1);
        }
    }

    /// Opens the gate with a connection that has just answered.
    pub(super) fn open(&self, connection: MultiplexedConnection) {
        let mut inner = self.inner.lock();
        inner.connection = Some(connection);
        inner.turn += 1;
        inner.failures = 0;
        if std::mem::take(&mut inner.away) {
            info!("Redis is back");
            self.metrics.away.set(0);
        }
    }

    /// Completes once the gate is shut. For one waiter.
    pub(super) async fn shutting(&self) {
        while self.is_open() {
            self.was_shut.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use daemon::Metrics;

    use super::*;

    #[test]
    fn it_is_said_to_be_away_at_the_third_failure_in_a_row() {
        let metrics = CacheMetrics::new(&Metrics::new("db_proxy"));
        let gate = Gate::new(metrics.clone());
        for (failures, away) in [(1, 0), (2, 0), (3, 1), (4, 1)] {
            gate.failed(&"the server", "no answer in time");
            assert_eq!((metrics.failures.get(), metrics.away.get()), (failures, away));
        }
    }
}
