//! The admin page: `/healthz`, `/readyz` and `/metrics`, on an address of its own.
//!
//! It stays up while the daemon drains, so that whoever gives out work sees that it must stop. It
//! shows numbers only; whoever reaches the address may read them.
//!
//! # What bounds it
//!
//! - Connections: [`PLACES`]; the one that is silent for longest gives way.
//! - Time: 3 s for a header, and between two requests; a minute for a connection.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::time::timeout;
use tracing::{debug, error, info_span};

use crate::accept::{self, Acceptor, Doors, Guest};
use crate::metrics::Metrics;
use crate::places::Heard;
use crate::ready::Readiness;
use crate::shutdown::{Group, Shutdown};

/// Connections at once. Each is a file of the daemon, which has better uses for it.
const PLACES: usize = 64;

/// For the header of a request, and for the silence before it.
const HEADER_LIMIT: Duration = Duration::from_secs(3);

/// For a whole connection, a reader that reads nothing included.
const CONNECTION_LIMIT: Duration = Duration::from_mins(1);

/// What requests in flight get when the daemon ends.
const LAST_REQUESTS_LIMIT: Duration = Duration::from_millis(500);

/// What the page shows. Clones show the same.
#[derive(Debug, Clone)]
pub struct AdminPage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    metrics: Metrics,
    shutdown: Shutdown,
    /// Set when the daemon serves: before, it is not ready.
    readiness: OnceLock<Readiness>,
}

impl AdminPage {
    /// The page of a daemon that does not serve yet.
    pub fn new(metrics: Metrics, shutdown: Shutdown) -> Self {
        Self { inner: Arc::new(Inner { metrics, shutdown, readiness: OnceLock::new() }) }
    }

    /// Says that the daemon serves, and is ready when `readiness` says so. Only the first counts.
    pub fn serves(&self, readiness: &Readiness) {
        self.inner.readiness.get_or_init(|| readiness.clone());
    }
}

/// Serves the page at `addr` until the links close, and returns where.
pub fn listen(addr: SocketAddr, page: &AdminPage, shutdown: &Shutdown) -> io::Result<SocketAddr> {
    let listener = accept::bind(addr)?;
    let addr = listener.local_addr()?;
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(page.clone());
    let (vital, own) = (shutdown.vital(), shutdown.clone());
    shutdown.spawn_link(info_span!("admin"), async move {
        let _ends_with_the_loop = vital;
        let ending = own.clone();
        let serve = move |guest| serve(guest, router.clone(), ending.clone());
        let acceptor = Acceptor::new(listener, Doors::new(PLACES));
        acceptor.run_in(Group::Links, own, serve).await;
    });
    Ok(addr)
}

async fn serve(guest: Guest, router: Router, shutdown: Shutdown) {
    let Guest { socket, place, .. } = guest;
    let socket = Heard::new(socket, place.clone());
    let talk = place.unless_told(talk(socket, router, shutdown));
    if !matches!(timeout(CONNECTION_LIMIT, talk).await, Ok(Some(()))) {
        debug!("closed: it took too long, or others waited");
    }
}

async fn talk(socket: Heard, router: Router, shutdown: Shutdown) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shutdown.closing_links() => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_REQUESTS_LIMIT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = served {
        debug!(%error, "the page was not read to its end");
    }
}

async fn healthz(State(page): State<AdminPage>) -> Response {
    let stalled = page.inner.readiness.get().map(Readiness::stalled).unwrap_or_default();
    if stalled.is_empty() {
        (StatusCode::OK, "alive\n").into_response()
    } else {
        let text = format!("no sign of life from: {}\n", stalled.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn readyz(State(page): State<AdminPage>) -> Response {
    let unready = |text: String| (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    if page.inner.shutdown.is_begun() {
        return unready("draining\n".to_owned());
    }
    match page.inner.readiness.get().map(Readiness::unmet) {
        None => unready("starting\n".to_owned()),
        Some(unmet) if unmet.is_empty() => (StatusCode::OK, "ready\n").into_response(),
        Some(unmet) => unready(format!("waiting for: {}\n", unmet.join(", "))),
    }
}

async fn metrics(State(page): State<AdminPage>) -> Response {
    match page.inner.metrics.encode() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            error!(%error, "cannot show the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::mpsc;

    use super::*;

    async fn get(addr: SocketAddr, path: &str) -> String {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_page_follows_the_daemon_through_its_life() {
        let shutdown = Shutdown::default();
        let metrics = Metrics::new("test");
        metrics.counter("things", "Things.").inc();
        let page = AdminPage::new(metrics, shutdown.clone());
        let addr = listen("127.0.0.1:0".parse().unwrap(), &page, &shutdown).unwrap();

        assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 200"), "alive while starting");
        assert!(get(addr, "/readyz").await.contains("starting"));
        assert!(get(addr, "/metrics").await.contains("talkhub_test_things_total 1"));

        let readiness = Readiness::default();
        let hub = readiness.condition("hub");
        page.serves(&readiness);
        assert!(get(addr, "/readyz").await.contains("waiting for: hub"));
        hub.set(true);
        assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 200"));

        shutdown.begin();
        assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 503"), "not ready when draining");
        assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 200"));
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }

    fn page(shutdown: &Shutdown) -> SocketAddr {
        let page = AdminPage::new(Metrics::new("test"), shutdown.clone());
        listen("127.0.0.1:0".parse().unwrap(), &page, shutdown).unwrap()
    }

    /// Time is paused: it jumps to the next timer whenever everybody waits.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_dawdles_is_let_go_within_seconds() {
        let shutdown = Shutdown::default();
        let addr = page(&shutdown);
        for beginning in ["", "GET /met", "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"] {
            let begun = tokio::time::Instant::now();
            let mut socket = TcpStream::connect(addr).await.unwrap();
            socket.write_all(beginning.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).await.unwrap();
            let took = begun.elapsed();
            assert!(took <= HEADER_LIMIT + Duration::from_millis(100), "{beginning:?}: {took:?}");
        }
        shutdown.begin();
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn silent_connections_do_not_keep_others_from_the_page() {
        let shutdown = Shutdown::default();
        let addr = page(&shutdown);
        let mut silent = Vec::new();
        for _connection in 0..3 * PLACES {
            silent.push(TcpStream::connect(addr).await.unwrap());
        }
        let begun = std::time::Instant::now();
        assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 200"));
        // Those that are let go at their limit would take a second at least.
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        shutdown.begin();
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }

    /// The connection of a client that has asked for a page which never comes. Time stands still from
    /// there on.
    async fn hanging_request(shutdown: &Shutdown) -> TcpStream {
        let (ask, mut asked) = mpsc::channel(1);
        let never = move || {
            let ask = ask.clone();
            async move {
                ask.send(()).await.expect("the test waits");
                std::future::pending::<&'static str>().await
            }
        };
        let router = Router::new().route("/", axum::routing::get(never));
        let listener = accept::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap();
        let (own, ending) = (shutdown.clone(), shutdown.clone());
        let serve = move |guest| serve(guest, router.clone(), ending.clone());
        let acceptor = Acceptor::new(listener, Doors::new(PLACES));
        shutdown.spawn_link(info_span!("admin"), acceptor.run_in(Group::Links, own, serve));
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        asked.recv().await.unwrap();
        tokio::time::pause();
        socket
    }

    #[tokio::test]
    async fn a_request_that_hangs_does_not_hold_up_the_end_of_the_daemon() {
        let shutdown = Shutdown::default();
        let _socket = hanging_request(&shutdown).await;
        shutdown.begin();
        // Links have a second even if no time is left.
        shutdown.drain(Duration::ZERO).await.unwrap();
    }

    #[tokio::test]
    async fn no_connection_stays_for_more_than_a_minute() {
        let shutdown = Shutdown::default();
        let mut socket = hanging_request(&shutdown).await;
        let begun = tokio::time::Instant::now();
        let mut answer = Vec::new();
        // A wait for the socket may end by a jump to this limit, but not without the socket.
        let closed = timeout(Duration::from_secs(61), socket.read_to_end(&mut answer)).await;
        closed.expect("it is closed").unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(50), "{:?}", begun.elapsed());
    }
}
