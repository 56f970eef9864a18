//! Asks other systems by HTTP: hooks, webhooks.
//!
//! What an answer may cost is bounded by the caller ([`AnswerLimits`]). Redirects are not followed: they are
//! answers like others.
//!
//! # Which addresses are connected to
//!
//! A URL may come from somebody who must not reach what this machine reaches (server-side request forgery,
//! CWE-918). A client without `allow_private` connects only to addresses of the public internet
//! ([`is_public`]). A name is resolved once for each connection, and the connection goes to the very address
//! that was checked, so a name that changes its mind in between gains nothing.
//!
//! # What bounds it
//!
//! [`IDLE_MAX`] unused connections to each host are kept, for [`IDLE_FOR`]. A header of
//! an answer that has not ended after [`HEADER_LEN_MAX`] bytes, and what one read brings beyond them, is an error. The caller bounds how many requests there are at once.

mod address;
mod connect;
mod url;

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

use crate::config::ConfigError;
use crate::tls;
use connect::{ConnectError, Connector};

pub use address::is_public;
pub use url::{BadUrl, HttpUrl};

/// Unused connections to one host that are kept. Beyond, a connection is closed after its answer.
const IDLE_MAX: usize = 16;

/// How long an unused connection is kept.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// Bytes of an answer before its body, after which no more of them is read.
const HEADER_LEN_MAX: usize = 64 << 10;

/// How a client connects.
#[derive(Debug, Clone, Default)]
pub struct HttpClientOptions {
    /// Connects to addresses that are not of the public internet, too: where only the operator says the URLs.
    pub allow_private: bool,
    /// The authorities that are believed, as a PEM file. Those of the system, if it is not said.
    pub ca: Option<PathBuf>,
}

/// Asks other systems. Clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
}

/// What an answer may cost.
#[derive(Debug, Clone, Copy)]
pub struct AnswerLimits {
    /// From resolving the name to the end of the answer's header; the body has what is left of it.
    pub time: Duration,
    /// Bytes of the body.
    pub body_len: usize,
}

/// What another system answered.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body. `None` if the body is longer than the limit, or did not come whole in time.
    pub body: Option<Bytes>,
}

/// Why there is no answer. None of them says anything that the other system has sent.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// The name has no address that may be connected to.
    #[error("its address is none of the public internet")]
    Forbidden,
    /// No connection: the name, the network, or TLS.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// No answer within the limit.
    #[error("no answer in time")]
    TimedOut,
    /// The connection ended without an answer, or what came is none.
    #[error("no answer that can be read")]
    Broken,
}

impl HttpClient {
    /// A client with no connections yet.
    ///
    /// # Errors
    ///
    /// If the authorities cannot be read.
    pub fn new(options: &HttpClientOptions) -> Result<Self, ConfigError> {
        let tls = tls::client_config(options.ca.as_deref())?;
        let connector = Connector::new(tls, options.allow_private);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE_FOR)
            .http1_max_buf_size(HEADER_LEN_MAX)
            .build(connector);
        Ok(Self { client })
    }

    /// Posts a body, and waits for the answer. If this is dropped, the other system may have had the request all
    /// the same.
    ///
    /// # Errors
    ///
    /// [`HttpClientError`]. It is then unknown whether the other system has had the request.
    pub async fn post(
        &self,
        url: &HttpUrl,
        headers: HeaderMap,
        body: Bytes,
        limits: AnswerLimits,
    ) -> Result<HttpAnswer, HttpClientError> {
        let until = Instant::now() + limits.time;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.uri().clone();
        *request.headers_mut() = headers;
        let asked = timeout_at(until, self.client.request(request)).await;
        let answer = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(HttpClientError::of(&error)),
            Err(_late) => return Err(HttpClientError::TimedOut),
        };
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, limits.body_len);
        let body = match timeout_at(until, body.collect()).await {
            Ok(Ok(whole)) => Some(whole.to_bytes()),
            Ok(Err(_long_or_broken)) => None,
            Err(_late) => None,
        };
        Ok(HttpAnswer { status: head.status, headers: head.headers, body })
    }
}

impl HttpClientError {
    fn of(error: &hyper_util::client::legacy::Error) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            match error.downcast_ref::<ConnectError>() {
                Some(ConnectError::Forbidden) => return Self::Forbidden,
                Some(ConnectError::Io(error)) => {
                    return Self::Connect(io::Error::new(error.kind(), error.to_string()));
                }
                None => cause = error.source(),
            }
        }
        Self::Broken
    }
}

#[cfg(test)]
mod tests;
