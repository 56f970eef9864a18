//! One client's connection: one request, one answer.
//!
//! # What bounds it
//!
//! - Memory: a header of 8 KiB, a body of 16 KiB, which is read and dropped.
//! - Time: 3 s for the TLS handshake, for the header and for the body, each; 10 s in all; when the daemon
//!   stops, 2 s.
//! - Connections: the accept loop's places. A connection makes way for others if it is silent for longer
//!   than all others.
//!
//! What a client has sent is never repeated to it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use daemon::places::Heard;
use daemon::{Guest, Shutdown};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;

use crate::answer;
use crate::config::Config;
use crate::metrics::LoginMetrics;
use crate::reports::Reports;

/// The least that hyper can do.
const HEADER_LEN_MAX: usize = 8 << 10;
const BODY_LEN_MAX: usize = 16 << 10;
/// For the TLS handshake, for the header, and for the body, each.
const PART_LIMIT: Duration = Duration::from_secs(3);
/// For a whole connection, TLS and writing included.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// For requests in flight when the daemon stops.
const LAST_REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// What the path of a request for a gateway begins with; TeamTalk never looked further.
const PATH: &str = "/msg_server";

/// What is needed to answer clients. Clones answer alike.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    pub(crate) reports: Arc<Reports>,
    pub(crate) settings: watch::Receiver<Arc<Config>>,
    pub(crate) metrics: LoginMetrics,
    pub(crate) shutdown: Shutdown,
}

impl Http {
    /// Serves one connection, which is what `secure` makes of its socket: itself, or TLS on it.
    pub(crate) async fn serve<S, F>(self, guest: Guest, secure: impl FnOnce(Heard) -> F)
    where
        S: AsyncRead + AsyncWrite + Unpin,
        F: Future<Output = std::io::Result<S>>,
    {
        self.metrics.connections.inc();
        let Guest { socket, place, .. } = guest;
        let handshake = secure(Heard::new(socket, place.clone()));
        let serve = async {
            match timeout(PART_LIMIT, handshake).await {
                Ok(Ok(socket)) => self.talk(socket).await,
                Ok(Err(error)) => debug!(%error, "no TLS"),
                Err(_elapsed) => debug!("no TLS in time"),
            }
        };
        match timeout(CONNECTION_LIMIT, place.unless_told(serve)).await {
            Ok(Some(())) => {}
            Ok(None) => debug!("made way for others"),
            Err(_elapsed) => debug!("took too long"),
        }
    }

    async fn talk(&self, socket: impl AsyncRead + AsyncWrite + Unpin) {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PART_LIMIT)
            .max_buf_size(HEADER_LEN_MAX)
            .keep_alive(false)
            // Clients of the kind that compares headers letter by letter.
            .title_case_headers(true)
            .serve_connection(
                TokioIo::new(socket),
                service_fn(async |request| Ok::<_, Infallible>(self.answer(request).await)),
            );
        let mut connection = std::pin::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => Some(served),
            () = self.shutdown.begun() => None,
        };
        let served = if let Some(served) = served {
            Ok(served)
        } else {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_REQUEST_LIMIT, connection).await
        };
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "gone before the answer"),
            Err(_elapsed) => debug!("not done when the daemon stopped"),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        if let Err(status) = swallow(body).await {
            self.metrics.other_requests.inc();
            return text(status, "no body is expected\n");
        }
        let path = head.uri.path();
        let asks_for_gateway = path.starts_with(PATH);
        if !asks_for_gateway {
            self.metrics.other_requests.inc();
        }
        if !matches!(head.method, Method::GET | Method::HEAD | Method::POST) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "ask with GET\n");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
            return refusal;
        }
        if asks_for_gateway {
            self.reports.first().await;
            let settings = Arc::clone(&self.settings.borrow());
            let json = self.reports.choose(|choice| answer::json(choice, &settings));
            // The type that TeamTalk clients are set up for, although this is JSON.
            return response(StatusCode::OK, "text/html;charset=utf-8", json.into());
        }
        match path {
            "/healthz" => text(StatusCode::OK, "alive\n"),
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }
}

/// Reads a body and drops it, so that the client has done writing when it is answered.
async fn swallow(body: Incoming) -> Result<(), StatusCode> {
    if body.is_end_stream() {
        return Ok(());
    }
    // Refused for what its header says before any of it is read.
    if body.size_hint().lower() > BODY_LEN_MAX as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    match timeout(PART_LIMIT, Limited::new(body, BODY_LEN_MAX).collect()).await {
        Ok(Ok(_dropped)) => Ok(()),
        Ok(Err(_too_long_or_broken)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_elapsed) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain;charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
