//! The admin page: `/healthz`, `/readyz` and `/metrics`, on an address of its own.
//!
//! It stays up while the daemon drains, so that whoever gives out work sees that it must stop. It
//! shows numbers only; whoever reaches the address may read them.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tracing::{error, info_span};

use crate::accept;
use crate::metrics::Metrics;
use crate::ready::Readiness;
use crate::shutdown::Shutdown;

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
    let (stopping, ending) = (shutdown.clone(), shutdown.clone());
    shutdown.spawn_link(info_span!("admin"), async move {
        let serve = axum::serve(listener, router)
            .with_graceful_shutdown(async move { stopping.closing_links().await });
        let end = async {
            ending.closing_links().await;
            tokio::time::sleep(LAST_REQUESTS_LIMIT).await;
        };
        tokio::select! {
            served = async { serve.await } => if let Err(error) = served {
                error!(%error, "the admin page has ended");
            },
            () = end => {}
        }
    });
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
}
