//! Connections to one database: lent to one call at a time, bounded in number and in every wait.
//!
//! # Invariants
//!
//! - A connection goes back only after a call that ended well, or after its transaction was rolled
//!   back. One whose call failed, ran out of time or was dropped is closed: an answer half read, or
//!   one still to come, would be taken for the answer to the next statement.
//! - There are never more connections than permits.
//! - No wait is without a bound: for a permit, for a connection, for the answer to a statement.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use mysql_async::Conn;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::address::Address;
use super::failure::{Failure, Remedy};
use super::link::Link;
use crate::StoreError;

/// More calls than this waiting for a connection: the next is turned away at once.
const WAITING_MAX: usize = 4_096;

/// A connection idle for longer is replaced before the server (see `link`) or something on the way
/// drops it.
const IDLE_MAX: Duration = Duration::from_mins(5);

/// How often a call is tried, and the first pause between; each further one is twice as long.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(25);

/// What is done on a connection. Behind a pointer, so that the pool's part is compiled once for each type of
/// answer, and not for each of a hundred calls.
type Work<'w, T> =
    dyn for<'a> Fn(&'a mut Link) -> BoxFuture<'a, Result<T, Failure>> + Send + Sync + 'w;

/// The bounds of one pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Connections.
    pub(super) connections: usize,
    /// For a free connection, and for a new one.
    pub(super) wait: Duration,
    /// For the answer to each statement.
    pub(super) step: Duration,
    /// For the whole of a call, if it has such a bound.
    pub(super) whole: Option<Duration>,
}

/// Connections to one database.
pub(super) struct Pool {
    address: Address,
    bounds: Bounds,
    idle: Mutex<Vec<(Instant, Link)>>,
    permits: Semaphore,
    waiting: AtomicUsize,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("address", &self.address)
            .field("free", &self.permits.available_permits())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool without a connection yet.
    pub(super) fn new(address: Address, bounds: Bounds) -> Self {
        Self {
            address,
            bounds,
            idle: Mutex::default(),
            permits: Semaphore::new(bounds.connections.max(1)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// For people: server, user and database.
    pub(super) fn name(&self) -> &str {
        self.address.name()
    }

    /// Runs `work` on a connection. It may run several times: it reads, or what it writes is one
    /// transaction that may be tried again.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        F: for<'a> Fn(&'a mut Link) -> BoxFuture<'a, Result<T, Failure>> + Send + Sync,
        T: Send,
    {
        self.attempt(work).await.map_err(|failure| failure.into_store_error(self.address.name()))
    }

    /// The same, with the failure as it was.
    pub(super) async fn attempt<T, F>(&self, work: F) -> Result<T, Failure>
    where
        F: for<'a> Fn(&'a mut Link) -> BoxFuture<'a, Result<T, Failure>> + Send + Sync,
        T: Send,
    {
        self.attempt_within(&work).await
    }

    async fn attempt_within<T: Send>(&self, work: &Work<'_, T>) -> Result<T, Failure> {
        match self.bounds.whole {
            Some(whole) => {
                timeout(whole, self.try_often(work)).await.unwrap_or(Err(Failure::Slow(whole)))
            }
            None => self.try_often(work).await,
        }
    }

    async fn try_often<T: Send>(&self, work: &Work<'_, T>) -> Result<T, Failure> {
        let _permit = self.permit().await?;
        let mut pause = PAUSE;
        for _try in 1..TRIES {
            match self.try_once(work).await {
                Ok(done) => return Ok(done),
                Err((failure, was_idle)) => match failure.remedy() {
                    // The others were made before the server went away, too.
                    Remedy::Reconnect if was_idle => self.idle.lock().clear(),
                    Remedy::Again | Remedy::Reconnect => {
                        sleep(pause).await;
                        pause *= 2;
                    }
                    Remedy::Later | Remedy::None => return Err(failure),
                },
            }
        }
        self.try_once(work).await.map_err(|(failure, _was_idle)| failure)
    }

    /// With a failure: whether the connection was made for an earlier call.
    async fn try_once<T: Send>(&self, work: &Work<'_, T>) -> Result<T, (Failure, bool)> {
        let (mut lease, was_idle) = match self.take_idle() {
            Some(lease) => (lease, true),
            None => (self.connect().await.map_err(|failure| (failure, false))?, false),
        };
        match work(lease.link()).await {
            Ok(done) => {
                lease.give_back();
                Ok(done)
            }
            Err(failure) => {
                // The store's own answers say nothing against the connection.
                if matches!(failure, Failure::Store(_)) && lease.link().roll_back().await.is_ok() {
                    lease.give_back();
                }
                Err((failure, was_idle))
            }
        }
    }

    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Failure> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        let waiting = Waiting::among(&self.waiting);
        if waiting.before >= WAITING_MAX {
            return Err(Failure::Busy("too many calls wait for a connection"));
        }
        match timeout(self.bounds.wait, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(Failure::Busy("the pool is closed")),
            Err(_elapsed) => Err(Failure::Busy("all connections are taken")),
        }
    }

    fn take_idle(&self) -> Option<Lease<'_>> {
        let mut idle = self.idle.lock();
        let (since, link) = idle.pop()?;
        if since.elapsed() < IDLE_MAX {
            return Some(Lease { link: Some(link), pool: self });
        }
        // The newest is the last: the others are older still.
        idle.clear();
        None
    }

    async fn connect(&self) -> Result<Lease<'_>, Failure> {
        let connecting = async {
            let conn = Conn::new(self.address.options()).await?;
            let mut link = Link::new(conn, self.bounds.step);
            link.set_up().await?;
            Ok::<_, Failure>(link)
        };
        let link = timeout(self.bounds.wait, connecting)
            .await
            .unwrap_or(Err(Failure::Slow(self.bounds.wait)))?;
        Ok(Lease { link: Some(link), pool: self })
    }
}

/// One connection on loan. Dropped without [`Lease::give_back`], it is closed.
struct Lease<'a> {
    link: Option<Link>,
    pool: &'a Pool,
}

impl Lease<'_> {
    fn link(&mut self) -> &mut Link {
        self.link.as_mut().expect("only `give_back` takes it, and that consumes the lease")
    }

    fn give_back(mut self) {
        let Some(link) = self.link.take() else { return };
        if link.is_clean() {
            self.pool.idle.lock().push((Instant::now(), link));
        }
    }
}

/// A call that waits for a connection.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn among(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
