//! What is asked of a login server by HTTP, and what it answers: one request on each connection.
//!
//! No answer repeats what the client has sent.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use daemon::http::HttpLimits;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::answer;
use crate::config::Config;
use crate::metrics::LoginMetrics;
use crate::reports::Reports;

/// A body is read and dropped.
const BODY_LEN_MAX: usize = 16 << 10;
/// For the TLS handshake, for the header, and for the body, each.
const PART_LIMIT: Duration = Duration::from_secs(3);
/// For a whole connection, TLS and writing included.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// For requests in flight when the daemon stops.
const LAST_REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// What one connection may take.
pub(crate) const LIMITS: HttpLimits = HttpLimits {
    part: PART_LIMIT,
    connection: CONNECTION_LIMIT,
    last_requests: LAST_REQUEST_LIMIT,
    header_len: 8 << 10,
    one_request: true,
};

/// What the path of a request for a gateway begins with; TeamTalk never looked further.
const PATH: &str = "/msg_server";

/// What is needed to answer clients. Clones answer alike.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    pub(crate) reports: Arc<Reports>,
    pub(crate) settings: watch::Receiver<Arc<Config>>,
    pub(crate) metrics: LoginMetrics,
}

impl Http {
    /// All paths are answered in one place: clients write more behind the one that is looked at.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .fallback(async |State(http): State<Self>, request: Request| http.answer(request).await)
            .with_state(self)
    }

    async fn answer(&self, request: Request) -> Response {
        let (head, body) = request.into_parts();
        if let Err(status) = discard(body).await {
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
            self.reports.wait_for_a_gateway().await;
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
async fn discard(body: Body) -> Result<(), StatusCode> {
    if body.is_end_stream() {
        return Ok(());
    }
    // Refused for what its header says before any of it is read.
    if body.size_hint().lower() > BODY_LEN_MAX as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    match timeout(PART_LIMIT, axum::body::to_bytes(body, BODY_LEN_MAX)).await {
        Ok(Ok(_dropped)) => Ok(()),
        Ok(Err(_too_long_or_broken)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_elapsed) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

fn text(status: StatusCode, text: &'static str) -> Response {
    response(status, "text/plain;charset=utf-8", text.into())
}

fn response(status: StatusCode, kind: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
