//! Asks a login server which gateway to use.
//!
//! `GET <base>/msg_server` answers with one JSON object. Servers differ in small things (a port as
//! text or as a number, a key that is missing), so reading is tolerant: only an address and a port
//! are needed.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use crate::socket;
use crate::tls::TlsConfig;

/// The answer is a few hundred bytes; more than this is not one.
const ANSWER_LEN_MAX: usize = 16 * 1024;
/// How long one server may take to answer.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Host name or address.
    pub host: String,
    /// A second address of the same gateway, if there is one.
    pub backup_host: Option<String>,
    /// TCP port.
    pub port: u16,
    /// Port that speaks TLS, if the server names one (`tlsPort`).
    pub tls_port: Option<u16>,
    /// Base address of the picture store, used as it is.
    pub msfs: Option<String>,
    /// Spare base address of the picture store.
    pub msfs_backup: Option<String>,
    /// Where the list of things to discover is.
    pub discovery: Option<String>,
}

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The address of the login server is not one.
    #[error("{0:?} is not an http or https address")]
    Url(String),
    /// The address says https, and no [`TlsConfig`] says which certificates to believe.
    #[error("https needs a TLS configuration")]
    NoTls,
    /// The login server cannot be reached.
    #[error("connect to the login server")]
    Connect(#[source] io::Error),
    /// The exchange broke off.
    #[error("ask the login server")]
    Http(#[source] Box<dyn Error + Send + Sync>),
    /// The login server took too long.
    #[error("the login server did not answer in time")]
    TimedOut,
    /// The login server answered with something else.
    #[error("the login server answered {0}")]
    Status(StatusCode),
    /// The answer names no gateway.
    #[error("the answer of the login server cannot be read")]
    Malformed,
    /// The login server has no gateway to give: none is there (1), or all are full (2).
    #[error("the login server says {code}: {text}")]
    Refused {
        /// Its code.
        code: i64,
        /// Its text for the user.
        text: String,
    },
}

/// Asks one login server. `url` is its base address (`http://host:8080`), with or without the
/// final `/msg_server`.
pub async fn lookup(url: &str, tls: Option<&TlsConfig>) -> Result<Gateway, LookupError> {
    let uri = endpoint(url)?;
    match timeout(LOOKUP_LIMIT, exchange(&uri, tls)).await {
        Ok(body) => read_answer(&body?),
        Err(_elapsed) => Err(LookupError::TimedOut),
    }
}

/// Asks login servers in turn until one names a gateway. Returns the last error if none does.
pub async fn lookup_any(urls: &[String], tls: Option<&TlsConfig>) -> Result<Gateway, LookupError> {
    let mut error = LookupError::Url(String::new());
    for url in urls {
        match lookup(url, tls).await {
            Ok(gateway) => return Ok(gateway),
            Err(next) => {
                tracing::debug!(%url, error = &next as &dyn Error, "login server is no help");
                error = next;
            }
        }
    }
    Err(error)
}

fn endpoint(url: &str) -> Result<Uri, LookupError> {
    let base = url.trim_end_matches('/');
    let full = if base.ends_with("/msg_server") || base.contains('?') {
        base.to_owned()
    } else {
        format!("{base}/msg_server")
    };
    let uri: Uri = full.parse().map_err(|_| LookupError::Url(url.to_owned()))?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    if is_http && uri.host().is_some() { Ok(uri) } else { Err(LookupError::Url(url.to_owned())) }
}

async fn exchange(uri: &Uri, tls: Option<&TlsConfig>) -> Result<Bytes, LookupError> {
    let is_https = uri.scheme_str() == Some("https");
    let tls = match (is_https, tls) {
        (true, None) => return Err(LookupError::NoTls),
        (true, tls) => tls,
        (false, _) => None,
    };
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let addr = format!("{host}:{port}");
    let socket = socket::connect(&addr, tls).await.map_err(LookupError::Connect)?;

    let http = |error: hyper::Error| LookupError::Http(error.into());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(http)?;
    let path = uri.path_and_query().map_or("/msg_server", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, addr)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| LookupError::Http(error.into()))?;

    let answer = async move {
        let response = sender.send_request(request).await.map_err(http)?;
        if response.status() != StatusCode::OK {
            return Err(LookupError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), ANSWER_LEN_MAX);
        Ok(body.collect().await.map_err(LookupError::Http)?.to_bytes())
    };
    // The connection moves the bytes, and ends when `answer` has dropped its sender. Why it ended
    // does not matter once the answer is there.
    let (answer, _ended) = tokio::join!(answer, connection);
    answer
}

fn read_answer(body: &[u8]) -> Result<Gateway, LookupError> {
    let answer: Value = serde_json::from_slice(body).map_err(|_| LookupError::Malformed)?;
    let text = |key: &str| answer.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let number = |key: &str| match answer.get(key)? {
        Value::Number(number) => number.as_i64(),
        Value::String(digits) => digits.trim().parse().ok(),
        _ => None,
    };
    let port = |key| number(key).and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0);

    match number("code") {
        None | Some(0) => {}
        Some(code) => {
            let text = text("msg").unwrap_or_default().to_owned();
            return Err(LookupError::Refused { code, text });
        }
    }
    let hosts = [text("priorIP"), text("backupIP")];
    let mut hosts = hosts.into_iter().flatten().map(str::to_owned);
    let host = hosts.next().ok_or(LookupError::Malformed)?;
    let backup_host = hosts.next().filter(|backup| *backup != host);
    let owned = |key| text(key).map(str::to_owned);
    Ok(Gateway {
        host,
        backup_host,
        port: port("port").ok_or(LookupError::Malformed)?,
        tls_port: port("tlsPort").or_else(|| port("tls_port")),
        msfs: owned("msfsPrior"),
        msfs_backup: owned("msfsBackup"),
        discovery: owned("discovery"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_the_original_server_is_read() {
        let answer = br#"{"backupIP":"10.0.0.2","code":0,"discovery":"http://d/","msfsBackup":"",
            "msfsPrior":"http://m/","msg":"","port":"8000","priorIP":"10.0.0.1"}"#;
        let gateway = Gateway {
            host: "10.0.0.1".into(),
            backup_host: Some("10.0.0.2".into()),
            port: 8000,
            tls_port: None,
            msfs: Some("http://m/".into()),
            msfs_backup: None,
            discovery: Some("http://d/".into()),
        };
        assert_eq!(read_answer(answer).unwrap(), gateway);
    }

    #[test]
    fn numbers_may_be_text_and_text_may_be_missing() {
        let gateway = read_answer(br#"{"priorIP":"h","port":8000,"tlsPort":"8443"}"#).unwrap();
        assert_eq!((gateway.port, gateway.tls_port), (8000, Some(8443)));
        assert_eq!(read_answer(br#"{"backupIP":"b","port":"1","code":"0"}"#).unwrap().host, "b");
    }

    #[test]
    fn an_answer_without_a_gateway_is_an_error() {
        let full = read_answer(br#"{"code":2,"msg":"full"}"#).unwrap_err();
        assert!(matches!(full, LookupError::Refused { code: 2, text } if text == "full"));
        for bad in [
            "",
            "[]",
            "{}",
            "<html>",
            r#"{"priorIP":"h"}"#,
            r#"{"priorIP":"h","port":"0"}"#,
            r#"{"priorIP":"h","port":"65536"}"#,
            r#"{"priorIP":"","port":"80"}"#,
        ] {
            assert!(matches!(read_answer(bad.as_bytes()), Err(LookupError::Malformed)), "{bad}");
        }
    }

    #[test]
    fn the_path_is_added_where_it_is_missing() {
        for url in ["http://h:8080", "http://h:8080/", "http://h:8080/msg_server"] {
            assert_eq!(endpoint(url).unwrap(), "http://h:8080/msg_server", "{url}");
        }
        assert_eq!(endpoint("https://h/im").unwrap(), "https://h/im/msg_server");
        for bad in ["", "h:8080", "ftp://h", "http://", "/msg_server"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    /// Time is paused: it jumps to the next timer whenever all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn a_login_server_that_does_not_answer_is_left_after_five_seconds() {
        let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let began = tokio::time::Instant::now();
        let asked = timeout(Duration::from_mins(1), lookup(&url, None)).await;
        let error = asked.expect("it is left").unwrap_err();
        assert!(matches!(error, LookupError::TimedOut), "{error}");
        assert_eq!(began.elapsed().as_secs(), 5);
    }
}
