//! The admin page: `/healthz`, `/readyz` and `/metrics`, on an address of its own.
//!
//! It stays up while the daemon drains, so that whatever gives out work (a load balancer, say) sees
//! that it must stop. It shows numbers only; everyone who can reach the address may read them.
//!
//! [`PLACES`] connections; the limits of one are [`HttpLimits::default`].

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tracing::{error, info_span};

use crate::accept::Doors;
use crate::http::{HttpLimits, HttpPort};
use crate::metrics::Metrics;
use crate::ready::Readiness;
use crate::shutdown::Shutdown;

/// Connections at once. Each is a file of the daemon, which has better uses for it.
const PLACES: usize = 64;

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
    let port = HttpPort::bind(addr, Doors::new(PLACES), HttpLimits::default())?;
    let addr = port.addr()?;
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(page.clone());
    port.spawn_as_link(info_span!("admin"), shutdown, router);
    Ok(addr)
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
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

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

    #[tokio::test]
    async fn a_part_without_a_sign_of_life_is_named_and_readiness_is_another_matter() {
        let shutdown = Shutdown::default();
        let page = AdminPage::new(Metrics::new("test"), shutdown.clone());
        let addr = listen("127.0.0.1:0".parse().unwrap(), &page, &shutdown).unwrap();
        let readiness = Readiness::default();
        let (reader, writer) = (Duration::ZERO, Duration::from_hours(1));
        let (_stalls, _moves) =
            (readiness.pulse("reader", reader), readiness.pulse("writer", writer));
        page.serves(&readiness);
        // Another daemon's word does not count here.
        let other = Readiness::default();
        let _never_met = other.condition("hub");
        page.serves(&other);
        let answer = get(addr, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("no sign of life from: reader\n"), "{answer}");
        assert!(get(addr, "/readyz").await.ends_with("ready\n"));
        shutdown.begin();
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn the_page_is_what_collectors_read_and_there_is_nothing_else_on_it() {
        let shutdown = Shutdown::default();
        let addr = page(&shutdown);
        let answer = get(addr, "/metrics").await.to_ascii_lowercase();
        let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert!(answer.contains(kind), "{answer}");
        assert!(answer.ends_with("# eof\n"), "{answer}");
        for path in ["/", "/metrics/", "/settings"] {
            assert!(get(addr, path).await.starts_with("HTTP/1.1 404"), "{path}");
        }
        // What is only asked for is only read.
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(b"POST /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 405");
        shutdown.begin();
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn a_page_whose_address_is_taken_is_an_error_and_no_end_of_the_daemon() {
        let shutdown = Shutdown::default();
        let addr = page(&shutdown);
        let second = AdminPage::new(Metrics::new("test"), shutdown.clone());
        let error = listen(addr, &second, &shutdown).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(!shutdown.is_begun());
        assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 200"), "the first goes on");
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
}
