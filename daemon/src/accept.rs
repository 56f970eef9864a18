//! The accept loop of every listening port.
//!
//! # What bounds it
//!
//! - Connections: each has a place ([`crate::places`]). When all are taken, the one that has been silent
//!   for longest gives way, if any may; else the next connection waits in the kernel's backlog, where
//!   that costs nothing.
//! - Connections of one address, where a limit is set.
//! - Files: clients are not accepted when the process has no more than [`FILES_KEPT`] left, which are for
//!   links, log and admin page. When it has none at all, the loop pauses instead of spinning.
//! - Time: the header of a proxy must come within [`HEADER_LIMIT`].

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, debug_span, info, warn};

use crate::network::Network;
use crate::places::{Place, PlaceMetrics, Places};
use crate::process_limits::files_max;
use crate::proxy_protocol;
use crate::shutdown::{Group, Shutdown};

/// Connections that the kernel completes before we take them; more are left to try again. The
/// kernel's own limit, `net.core.somaxconn`, applies too.
const BACKLOG: i32 = 4096;

/// How long to wait for files or memory to come back.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a listed proxy may take for its header.
const HEADER_LIMIT: Duration = Duration::from_secs(3);

/// Files that are kept back from clients, for links, the log and the admin page.
const FILES_KEPT: u64 = 64;

/// Binds a port to accept from. Port 0 is a free one. Must be called inside the runtime.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Else a restart would wait for the kernel to forget the connections of the last run.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// How many connections clients may hold at a port, and which proxies are believed about where a client
/// is.
#[derive(Debug, Clone)]
pub struct Doors {
    /// Connections held at once.
    pub places: usize,
    /// Connections held at once of one address (IPv6: one /64) other than loopback; 0 is no limit.
    pub places_per_address: usize,
    /// Proxies, whose connections begin with a header that says where the client is.
    pub proxies: Vec<Network>,
    /// Whether files are kept back from the clients that connect here.
    pub keeps_files_back: bool,
    /// Where all this is counted.
    pub metrics: PlaceMetrics,
}

impl Doors {
    /// So many places for all clients together, and no other bound.
    pub fn new(places: usize) -> Self {
        Self {
            places,
            places_per_address: 0,
            proxies: Vec::new(),
            keeps_files_back: false,
            metrics: PlaceMetrics::default(),
        }
    }
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Guest {
    /// The socket, behind the header of a proxy if there was one.
    pub socket: TcpStream,
    /// Where the client is, as far as is known.
    pub peer: SocketAddr,
    /// Its place, which it may have to give up.
    pub place: Place,
}

/// Accepts connections, each served by a task of its own.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    places: Places,
    proxies: Arc<[Network]>,
    keeps_files_back: bool,
    metrics: PlaceMetrics,
    until: CancellationToken,
}

impl Acceptor {
    /// Accepts until shutdown begins.
    pub fn new(listener: TcpListener, doors: Doors) -> Self {
        let Doors { places, places_per_address, proxies, keeps_files_back, metrics } = doors;
        Self {
            listener,
            places: Places::new(places, places_per_address, metrics.clone()),
            proxies: proxies.into(),
            keeps_files_back,
            metrics,
            until: CancellationToken::new(),
        }
    }

    /// Accepts only until `token` is cancelled, if that is earlier: that ends the accept loop, and not
    /// the connections.
    pub fn until(mut self, token: CancellationToken) -> Self {
        self.until = token;
        self
    }

    /// Accepts until shutdown begins, with a task of [`Shutdown::spawn`] for each connection; a
    /// panic in one ends that connection. Spawn this as a vital task only if it has no `until`.
    ///
    /// `serve` makes what the task does. It must listen to [`Guest::place`] for as long as the
    /// connection may have to give way, or settle it.
    pub async fn run<F, R>(self, shutdown: Shutdown, serve: F)
    where
        F: Fn(Guest) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.run_in(Group::Tasks, shutdown, serve).await;
    }

    /// As [`Self::run`], for connections that live as long as `group` does.
    pub(crate) async fn run_in<F, R>(self, group: Group, shutdown: Shutdown, serve: F)
    where
        F: Fn(Guest) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        tokio::select! {
            () = shutdown.ends(group) => {}
            () = self.until.cancelled() => {}
            () = self.accept_forever(group, &shutdown, serve) => {}
        }
    }

    async fn accept_forever<F, R>(&self, group: Group, shutdown: &Shutdown, serve: F)
    where
        F: Fn(Guest) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let serve = Arc::new(serve);
        let mut paused = false;
        loop {
            let (socket, peer) = self.next(&mut paused).await;
            let place = self.places.take().await;
            // Frames are written whole; Nagle would only hold them back.
            if let Err(error) = socket.set_nodelay(true) {
                debug!(%error, %peer, "gone before it was served");
                continue;
            }
            bound_unsent(&socket, peer);
            let guest = Guest { socket, peer, place };
            // At debug level: at 100,000 connections a recorded span for each is memory.
            let span = debug_span!("connection", %peer);
            if self.proxies.iter().any(|proxy| proxy.contains(peer.ip())) {
                let (serve, metrics) = (Arc::clone(&serve), self.metrics.clone());
                shutdown.spawn_in(group, span, async move {
                    if let Some(guest) = Box::pin(introduced(guest, &metrics)).await {
                        serve(guest).await;
                    }
                });
            } else if guest.place.belongs_to(peer.ip()).is_ok() {
                shutdown.spawn_in(group, span, serve(guest));
            }
        }
    }

    /// Accepts the next connection, when there are files for it.
    async fn next(&self, paused: &mut bool) -> (TcpStream, SocketAddr) {
        loop {
            match self.try_next().await {
                Ok(accepted) => {
                    if std::mem::take(paused) {
                        info!("accepting again");
                    }
                    return accepted;
                }
                Err(error) if is_shortage(&error) => {
                    // One line for each shortage, however long it lasts.
                    if !*paused {
                        warn!(%error, files_max = files_max(), "cannot accept, pausing");
                    }
                    *paused = true;
                    self.places.make_way();
                    sleep(PAUSE).await;
                }
                // The client that wanted to connect has given up.
                Err(error) => debug!(%error, "not accepted"),
            }
        }
    }

    async fn try_next(&self) -> io::Result<(TcpStream, SocketAddr)> {
        if self.keeps_files_back {
            // The lowest free number, which the next connection gets too.
            let next = rustix::io::fcntl_dupfd_cloexec(self.listener.as_fd(), 0)?;
            spare(next.as_raw_fd())?;
        }
        let (socket, peer) = self.listener.accept().await?;
        if self.keeps_files_back {
            // It may have waited for long, and the numbers may have gone meanwhile.
            spare(socket.as_raw_fd())?;
        }
        Ok((socket, peer))
    }
}

/// Whether a client may have the file of this number. The last [`FILES_KEPT`] numbers are for others:
/// since the kernel gives the lowest that is free, these are reached only when the rest is in use.
fn spare(file: i32) -> io::Result<()> {
    let number = u64::try_from(file).unwrap_or(0);
    if number.saturating_add(FILES_KEPT) < files_max() {
        Ok(())
    } else {
        Err(io::Error::from(rustix::io::Errno::MFILE))
    }
}

/// Reads the header of a proxy, and counts the client for its own address; `None` if it cannot be
/// served.
async fn introduced(mut guest: Guest, metrics: &PlaceMetrics) -> Option<Guest> {
    let Guest { socket, peer, place } = &mut guest;
    let header = place.unless_told(timeout(HEADER_LIMIT, proxy_protocol::read(socket))).await?;
    match header {
        Ok(Ok(client)) => *peer = client.unwrap_or(*peer),
        Ok(Err(error)) => {
            // One that goes away is a health check, or a client that has given up.
            if matches!(error, proxy_protocol::HeaderError::Malformed(_)) {
                metrics.bad_proxy_headers.inc();
            }
            debug!(%error, proxy = %peer, "no header of a proxy");
            return None;
        }
        Err(_elapsed) => {
            metrics.bad_proxy_headers.inc();
            debug!(proxy = %peer, "no header of a proxy in time");
            return None;
        }
    }
    debug!(client = %peer, "introduced by a proxy");
    guest.place.heard();
    guest.place.belongs_to(guest.peer.ip()).ok()?;
    Some(guest)
}

/// Whether this process or the machine has run out of something, so that the next try fails too.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;

    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|shortage| code == Some(shortage.raw_os_error()))
}

/// Says at the start if the process may not open as many files as it is to hold connections.
pub fn compare_with_files(connections_max: usize) {
    let files_max = files_max();
    let wanted = u64::try_from(connections_max).unwrap_or(u64::MAX).saturating_add(FILES_KEPT);
    if wanted > files_max {
        warn!(
            connections_max,
            files_max,
            kept_back = FILES_KEPT,
            "connections_max is more than the limit of open files allows: fewer clients will be \
             accepted. Raise LimitNOFILE of the unit (ulimit -n)"
        );
    }
}

/// Lets a write fail with "would block" once this much waits in the kernel to be sent. Otherwise the
/// kernel takes megabytes for a client that reads nothing, before our own bounds count anything.
fn bound_unsent(socket: &TcpStream, peer: SocketAddr) {
    const UNSENT_BYTES_MAX: u32 = 64 << 10;
    if let Err(error) = SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX) {
        // It costs memory only: the connection goes on.
        debug!(%error, %peer, "the kernel keeps its own bound for what is unsent");
    }
}

#[cfg(test)]
mod tests;
