//! The accept loop of every listening port.
//!
//! # What bounds it
//!
//! - Connections: a slot is taken before a connection is, so whoever is over the limit waits in the
//!   kernel's backlog, where he costs us nothing.
//! - Files: when the process has no more, the loop pauses instead of spinning.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, debug_span, warn};

use crate::shutdown::{Group, Shutdown};

/// Connections that the kernel completes before we take them; more are left to try again. The
/// kernel's own limit, `net.core.somaxconn`, applies too.
const BACKLOG: i32 = 4096;

/// How long to wait for files or memory to come back.
const PAUSE: Duration = Duration::from_millis(100);

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

/// Accepts connections, each served by a task of its own.
#[derive(Debug)]
pub struct Acceptor {
    /// Where connections come in.
    pub listener: TcpListener,
    /// Connections held at once.
    pub slots_max: usize,
    /// Ends the accept loop, and not the connections, when it is cancelled.
    pub until: CancellationToken,
}

impl Acceptor {
    /// Accepts until shutdown begins.
    pub fn new(listener: TcpListener, slots_max: usize) -> Self {
        Self { listener, slots_max, until: CancellationToken::new() }
    }

    /// Accepts only until `token` is cancelled, if that is earlier.
    pub fn until(mut self, token: CancellationToken) -> Self {
        self.until = token;
        self
    }

    /// Accepts until shutdown begins, with a task of [`Shutdown::spawn`] for each connection; a
    /// panic in one ends that connection. Spawn this as a vital task only if it has no `until`.
    pub async fn run<F, R>(self, shutdown: Shutdown, serve: F)
    where
        F: Fn(TcpStream, SocketAddr) -> R,
        R: Future<Output = ()> + Send + 'static,
    {
        self.run_in(Group::Tasks, shutdown, serve).await;
    }

    /// As [`Self::run`], for connections that live as long as `group` does.
    pub(crate) async fn run_in<F, R>(self, group: Group, shutdown: Shutdown, serve: F)
    where
        F: Fn(TcpStream, SocketAddr) -> R,
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
        F: Fn(TcpStream, SocketAddr) -> R,
        R: Future<Output = ()> + Send + 'static,
    {
        let slots = Arc::new(Semaphore::new(self.slots_max.min(Semaphore::MAX_PERMITS)));
        let mut paused = false;
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            match self.listener.accept().await {
                Ok((socket, peer)) => {
                    paused = false;
                    // Frames are written whole; Nagle would only hold them back.
                    if let Err(error) = socket.set_nodelay(true) {
                        debug!(%error, %peer, "gone before it was served");
                        continue;
                    }
                    bound_unsent(&socket, peer);
                    let served = serve(socket, peer);
                    // At debug level: at 100,000 connections a recorded span for each is memory.
                    shutdown.spawn_in(group, debug_span!("connection", %peer), async move {
                        let _freed_even_by_a_panic = slot;
                        served.await;
                    });
                }
                Err(error) if is_shortage(&error) => {
                    // One line for each shortage, however long it lasts.
                    if !paused {
                        warn!(%error, "cannot accept, pausing");
                    }
                    paused = true;
                    sleep(PAUSE).await;
                }
                // The one who wanted to connect has given up.
                Err(error) => debug!(%error, "not accepted"),
            }
        }
    }
}

/// Whether this process or the machine has run out of something, so that the next try fails too.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;

    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|shortage| code == Some(shortage.raw_os_error()))
}

/// Lets a write fail with "would block" once this much waits in the kernel to be sent. Otherwise the
/// kernel takes megabytes for a client that reads nothing, before our own bounds count anything.
fn bound_unsent(socket: &TcpStream, peer: SocketAddr) {
    const UNSENT_BYTES_MAX: u32 = 64 << 10;
    if let Err(error) = SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX) {
        // It costs memory, and nobody his connection.
        debug!(%error, %peer, "the kernel keeps its own bound for what is unsent");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tracing::Span;

    use super::*;

    fn listening(slots_max: usize) -> (Acceptor, SocketAddr) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap();
        (Acceptor::new(listener, slots_max), addr)
    }

    /// Serves each connection until its client has gone.
    fn start(acceptor: Acceptor, shutdown: &Shutdown) -> tokio::sync::mpsc::Receiver<()> {
        let (served, servings) = tokio::sync::mpsc::channel(16);
        let accept = acceptor.run(shutdown.clone(), move |mut socket, _peer| {
            let served = served.clone();
            async move {
                served.send(()).await.expect("the test still counts");
                socket.read_u8().await.expect_err("the client only goes away");
            }
        });
        shutdown.spawn(Span::none(), accept);
        servings
    }

    #[tokio::test]
    async fn a_connection_over_the_limit_waits_for_a_slot() {
        let shutdown = Shutdown::default();
        let (acceptor, addr) = listening(1);
        let mut servings = start(acceptor, &shutdown);

        let first = TcpStream::connect(addr).await.unwrap();
        servings.recv().await.unwrap();
        let second = TcpStream::connect(addr).await.unwrap();
        tokio::task::yield_now().await;
        assert!(servings.try_recv().is_err(), "the second waits in the backlog");
        drop(first);
        servings.recv().await.unwrap();

        drop(second);
        shutdown.begin();
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_frees_the_slot() {
        let shutdown = Shutdown::default();
        let (acceptor, addr) = listening(1);
        let accept = acceptor.run(shutdown.clone(), |socket, _peer| async move {
            drop(socket);
            panic!("on purpose");
        });
        shutdown.spawn(Span::none(), accept);
        for _ in 0..3 {
            let mut client = TcpStream::connect(addr).await.unwrap();
            client.read_u8().await.unwrap_err();
        }
        shutdown.begin();
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn a_cancelled_token_stops_accepting_and_keeps_the_connections() {
        let shutdown = Shutdown::default();
        let (acceptor, addr) = listening(8);
        let token = CancellationToken::new();
        let mut servings = start(acceptor.until(token.clone()), &shutdown);
        let client = TcpStream::connect(addr).await.unwrap();
        servings.recv().await.unwrap();

        token.cancel();
        while TcpStream::connect(addr).await.is_ok() {
            // Until the loop has seen the token, the kernel still takes connections.
            tokio::task::yield_now().await;
        }
        assert!(!shutdown.is_begun());
        drop(client);
        shutdown.begin();
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }

    #[test]
    fn only_a_shortage_pauses_the_loop() {
        assert!(is_shortage(&io::Error::from_raw_os_error(24)), "EMFILE");
        assert!(!is_shortage(&io::Error::from(io::ErrorKind::ConnectionAborted)));
    }
}
