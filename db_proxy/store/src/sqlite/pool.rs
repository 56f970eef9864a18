//! Connections, and the threads that may block on them.
//!
//! SQLite blocks its thread on the disk, so every use of a connection runs on a thread for blocking
//! work, never on one that serves connections of clients.
//!
//! # Invariants
//!
//! - A call that holds a permit finds a connection: there are never more permits than connections.
//! - A connection comes back even when its user panics.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::StoreError;

/// Some connections of one kind. A call that finds none free waits; the first to ask is the first served.
///
/// The waiting line has no bound of its own: each waiter is a request that its caller has bounded.
pub(super) struct Pool {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    /// A pool that lends each connection to one user at a time.
    pub(super) fn new(connections: Vec<Connection>) -> Self {
        let permits = Arc::new(Semaphore::new(connections.len()));
        Self { idle: Arc::new(Mutex::new(connections)), permits }
    }

    /// A pool of one connection that takes turns with the users of `other`.
    pub(super) fn in_turn_with(other: &Self, connection: Connection) -> Self {
        Self { idle: Arc::new(Mutex::new(vec![connection])), permits: Arc::clone(&other.permits) }
    }

    /// Runs `work` with a connection. Once begun, it is finished even if the caller has stopped waiting.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_owned().await.map_err(|_| closing())?;
        let idle = Arc::clone(&self.idle);
        let done = tokio::task::spawn_blocking(move || {
            // Locals go in reverse: the connection is back before the permit is.
            let _permit = permit;
            let mut borrowed = Borrowed::from(idle);
            work(borrowed.connection.as_mut().ok_or_else(closing)?)
        });
        match done.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(closing()),
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("free", &self.permits.available_permits())
            .finish_non_exhaustive()
    }
}

/// One connection on loan.
struct Borrowed {
    connection: Option<Connection>,
    home: Arc<Mutex<Vec<Connection>>>,
}

impl Borrowed {
    fn from(home: Arc<Mutex<Vec<Connection>>>) -> Self {
        let connection = home.lock().pop();
        Self { connection, home }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.home.lock().extend(self.connection.take());
    }
}

fn closing() -> StoreError {
    StoreError::Unavailable("it is being closed".to_owned())
}
