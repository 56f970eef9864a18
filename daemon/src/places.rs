//! The places for connections at one port, so that no host holds them all.
//!
//! When all are taken, the connection that has sent nothing for longest gives way to the next one; and
//! so does, among those of one address, when that has as many as it may. A connection that is worth
//! keeping is settled, and from then on does not give way.

mod table;

use std::fmt;
use std::future::Future;
use std::io::IoSlice;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{self, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::metrics::{Counter, Metrics};
use crate::network::Origin;
use table::{Table, Way};

/// How long one that was told to go may take before the next one is told.
const GOING: Duration = Duration::from_millis(20);

/// What becomes of those that connect. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct PlaceMetrics {
    /// Connections that had to give way.
    pub(crate) gave_way: Counter,
    /// Connections closed at once: too many from one address.
    pub(crate) refused_addresses: Counter,
    /// Connections closed because the header of a proxy was late or wrong.
    pub(crate) bad_proxy_headers: Counter,
}

impl PlaceMetrics {
    /// Shows the figures on `page`.
    pub fn register(page: &Metrics) -> Self {
        Self {
            gave_way: page.counter(
                "gave_way",
                "Connections of clients that were silent for longest and gave way to others.",
            ),
            refused_addresses: page.counter(
                "refused_addresses",
                "Connections closed at once: too many from one address.",
            ),
            bad_proxy_headers: page.counter(
                "bad_proxy_headers",
                "Connections of listed proxies closed: their header was late or wrong.",
            ),
        }
    }
}

/// The places at one port.
#[derive(Debug)]
pub(crate) struct Places {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table<Arc<Told>>>,
    /// Told whenever a guest has left.
    left: Notify,
    metrics: PlaceMetrics,
}

/// How a guest learns that it has to go.
#[derive(Default)]
struct Told {
    state: Mutex<ToldState>,
    notify: Notify,
}

#[derive(Default)]
struct ToldState {
    is_told: bool,
    call: Option<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").field("is_told", &self.state.lock().is_told).finish_non_exhaustive()
    }
}

impl Told {
    fn tell(&self) {
        let mut state = self.state.lock();
        state.is_told = true;
        let call = state.call.take();
        drop(state);
        self.notify.notify_waiters();
        if let Some(call) = call {
            call();
        }
    }

    async fn told(&self) {
        let mut notified = pin!(self.notify.notified());
        notified.as_mut().enable();
        if !self.state.lock().is_told {
            notified.await;
        }
    }
}

/// One connection's place, given up when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Place {
    inner: Arc<Taken>,
}

#[derive(Debug)]
struct Taken {
    shared: Arc<Shared>,
    id: u64,
    told: Arc<Told>,
}

/// Its address has as many connections as it may, and none of them gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many connections from one address")]
pub(crate) struct TooMany;

impl Places {
    /// `places` places, at most `per_address` of them for one address other than loopback; 0 is no
    /// such limit.
    pub(crate) fn new(places: usize, per_address: usize, metrics: PlaceMetrics) -> Self {
        let table = Mutex::new(Table::new(places, per_address));
        Self { shared: Arc::new(Shared { table, left: Notify::new(), metrics }) }
    }

    /// Waits for a place. Another guest may be told to give its place up for it. Cancel-safe.
    pub(crate) async fn take(&self) -> Place {
        loop {
            let mut left = pin!(self.shared.left.notified());
            // From here on no leaving is missed.
            left.as_mut().enable();
            let told = Arc::new(Told::default());
            let id = self.shared.table.lock().enter(Arc::clone(&told), Instant::now());
            if let Some(id) = id {
                let shared = Arc::clone(&self.shared);
                return Place { inner: Arc::new(Taken { shared, id, told }) };
            }
            let again = match self.make_way() {
                Way::Made(()) => GOING,
                Way::In(after) => after,
                Way::Barred => {
                    left.await;
                    continue;
                }
            };
            tokio::select! {
                () = left => {}
                () = sleep(again) => {}
            }
        }
    }

    /// Tells the one that has been silent for longest to go, if it may have to.
    pub(crate) fn make_way(&self) -> Way<()> {
        // Told after the lock is free: going takes it.
        let way = self.shared.table.lock().make_way(Instant::now());
        self.shared.carry_out(way)
    }
}

impl Shared {
    fn carry_out(&self, way: Way<Arc<Told>>) -> Way<()> {
        match way {
            Way::Made(told) => {
                self.metrics.gave_way.inc();
                told.tell();
                Way::Made(())
            }
            Way::In(after) => Way::In(after),
            Way::Barred => Way::Barred,
        }
    }
}

impl Place {
    /// Counts the connection for its address.
    pub(crate) fn belongs_to(&self, ip: IpAddr) -> Result<(), TooMany> {
        let Some(origin) = Origin::of(ip) else { return Ok(()) };
        let Taken { shared, id, .. } = self.inner.as_ref();
        let way = shared.table.lock().belongs(*id, origin, Instant::now());
        match way.map(|way| shared.carry_out(way)) {
            None | Some(Way::Made(())) => Ok(()),
            Some(Way::In(_) | Way::Barred) => {
                shared.metrics.refused_addresses.inc();
                Err(TooMany)
            }
        }
    }

    /// The client has sent something.
    pub fn heard(&self) {
        self.inner.shared.table.lock().heard(self.inner.id, Instant::now());
    }

    /// From now on this connection does not give way to others.
    pub fn settle(&self) {
        self.inner.shared.table.lock().settle(self.inner.id);
        // What is never called need not be kept.
        self.inner.told.state.lock().call = None;
    }

    /// Does `work`, and gives it up when the connection has to give way: `None` then.
    pub async fn unless_told<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.inner.told.told() => None,
            done = work => Some(done),
        }
    }

    /// Calls `call` once when the connection has to give way; at once if it had to before. It must be
    /// short: it runs in the task that waits for the place.
    pub fn when_told(&self, call: impl FnOnce() + Send + 'static) {
        let mut state = self.inner.told.state.lock();
        if state.is_told {
            drop(state);
            call();
        } else {
            state.call = Some(Box::new(call));
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.shared.table.lock().leave(self.id);
        self.shared.left.notify_waiters();
    }
}

/// A socket that tells its place of what it reads.
#[derive(Debug)]
pub struct Heard {
    socket: TcpStream,
    place: Place,
}

impl Heard {
    /// Tells `place` whenever `socket` has brought something.
    pub fn new(socket: TcpStream, place: Place) -> Self {
        Self { socket, place }
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.socket).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.place.heard();
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_gets_the_place_of_the_one_silent_for_longest() {
        let places = Places::new(2, 0, PlaceMetrics::default());
        let (first, second) = (places.take().await, places.take().await);
        tokio::time::advance(Duration::from_secs(1)).await;
        first.heard();
        let leaving = async {
            assert_eq!(second.unless_told(std::future::pending::<()>()).await, None);
            drop(second);
        };
        let (third, ()) = tokio::join!(places.take(), leaving);
        assert_eq!(places.shared.metrics.gave_way.get(), 1);
        assert_eq!(third.unless_told(async { 7 }).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_settled_guest_keeps_the_place_until_it_is_given_up() {
        let places = Places::new(1, 0, PlaceMetrics::default());
        let first = places.take().await;
        first.when_told(|| panic!("it was settled"));
        first.settle();
        let mut next = pin!(places.take());
        assert!(tokio::time::timeout(Duration::from_mins(1), next.as_mut()).await.is_err());
        let clone = first.clone();
        drop(first);
        assert!(tokio::time::timeout(Duration::from_mins(1), next.as_mut()).await.is_err());
        drop(clone);
        next.await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_its_share_and_this_machine_all() {
        let places = Places::new(9, 1, PlaceMetrics::default());
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let first = places.take().await;
        first.belongs_to(ip).unwrap();
        first.settle();
        let second = places.take().await;
        assert_eq!(second.belongs_to(ip), Err(TooMany));
        assert_eq!(places.shared.metrics.refused_addresses.get(), 1);
        for _local in 0..3 {
            places.take().await.belongs_to("127.0.0.1".parse().unwrap()).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_told_and_does_not_go_does_not_hold_up_the_next() {
        let places = Places::new(2, 0, PlaceMetrics::default());
        let (stays, goes) = (places.take().await, places.take().await);
        tokio::time::advance(Duration::from_secs(1)).await;
        let began = Instant::now();
        let leaving = async move {
            assert_eq!(goes.unless_told(std::future::pending::<()>()).await, None);
        };
        let (_third, ()) = tokio::join!(places.take(), leaving);
        assert_eq!(began.elapsed(), Duration::from_millis(20));
        assert_eq!(places.shared.metrics.gave_way.get(), 2);
        assert_eq!(stays.unless_told(async { 7 }).await, None, "it has been told all the same");
    }

    #[tokio::test(start_paused = true)]
    async fn newcomers_wait_until_a_guest_has_been_silent_for_a_moment() {
        let places = Places::new(1, 0, PlaceMetrics::default());
        let first = places.take().await;
        let began = Instant::now();
        let leaving = async move {
            assert_eq!(first.unless_told(std::future::pending::<()>()).await, None);
            began.elapsed()
        };
        let (_second, told_after) = tokio::join!(places.take(), leaving);
        assert_eq!(told_after, Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_made_once_when_the_time_has_come_or_at_once_if_it_is_over() {
        let places = Places::new(1, 0, PlaceMetrics::default());
        let first = places.take().await;
        let calls = Arc::new(Mutex::new(Vec::new()));
        let call = |what: &'static str| {
            let calls = Arc::clone(&calls);
            move || calls.lock().push(what)
        };
        first.when_told(call("at its time"));
        assert!(calls.lock().is_empty());
        tokio::time::advance(Duration::from_secs(1)).await;
        for _told in 0..2 {
            places.make_way();
        }
        assert_eq!(*calls.lock(), ["at its time"]);
        first.clone().when_told(call("too late"));
        assert_eq!(*calls.lock(), ["at its time", "too late"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_has_its_share_gets_another_place_by_the_silence_of_one_it_has() {
        let places = Places::new(9, 1, PlaceMetrics::default());
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let first = places.take().await;
        first.belongs_to(ip).unwrap();
        // Too soon: what the first has sent may be on its way.
        let second = places.take().await;
        assert_eq!(second.belongs_to(ip), Err(TooMany));
        drop(second);
        tokio::time::advance(table::SILENT_MIN).await;
        let third = places.take().await;
        third.belongs_to(ip).unwrap();
        assert_eq!(first.unless_told(async { 7 }).await, None);
        let figures = &places.shared.metrics;
        assert_eq!((figures.gave_way.get(), figures.refused_addresses.get()), (1, 1));
        places.take().await.belongs_to("192.0.2.2".parse().unwrap()).expect("another address");
    }
}
