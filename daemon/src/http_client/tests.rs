//! Tests of the client with other systems that answer what the test says.

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, LOCATION};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Long enough for a loaded machine.
const LIMITS: AnswerLimits = AnswerLimits { time: Duration::from_secs(20), body_len: 100 };

/// Another system that takes one connection after another; each is served by a script.
async fn serving<F>(script: impl Fn(TcpStream) -> F + Send + 'static) -> (HttpUrl, JoinSet<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?a=b", listener.local_addr().unwrap());
    let mut served = JoinSet::new();
    served.spawn(async move {
        loop {
            let (stream, _peer) = listener.accept().await.unwrap();
            script(stream).await;
        }
    });
    (url.parse().unwrap(), served)
}

/// Reads one request; `None` at the end of the connection.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() == length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text);
            }
        }
        if stream.read_buf(&mut read).await.unwrap() == 0 {
            return None;
        }
    }
}

/// Answers each request of a connection with these bytes.
async fn answering(answer: impl Into<Vec<u8>>) -> (HttpUrl, JoinSet<()>) {
    let answer = answer.into();
    serving(move |mut stream| {
        let answer = answer.clone();
        async move {
            while request(&mut stream).await.is_some() {
                stream.write_all(&answer).await.unwrap();
            }
        }
    })
    .await
}

fn client() -> HttpClient {
    let ca = some_authority();
    let options = HttpClientOptions { allow_private: true, ca: Some(ca.path().to_owned()) };
    HttpClient::new(&options).unwrap()
}

/// The machine of a test may have no authorities of its own.
fn some_authority() -> tempfile::NamedTempFile {
    let CertifiedKey { cert, .. } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), cert.pem()).unwrap();
    file
}

async fn post(url: &HttpUrl, limits: AnswerLimits) -> Result<HttpAnswer, HttpClientError> {
    let headers = HeaderMap::from_iter([(
        axum::http::HeaderName::from_static("webhook-id"),
        HeaderValue::from_static("one"),
    )]);
    client().post(url, headers, Bytes::from_static(b"{}"), limits).await
}

#[tokio::test]
async fn a_request_is_posted_with_its_headers_and_answered() {
    let (url, _served) = serving(|mut stream| async move {
        let asked = request(&mut stream).await.unwrap();
        assert!(asked.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("webhook-id: one\r\n") && asked.ends_with("\r\n\r\n{}"), "{asked}");
        stream.write_all(b"HTTP/1.1 202 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let answer = post(&url, LIMITS).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.as_deref()), (202, Some(&b"ok"[..])));
    assert_eq!(answer.headers[CONTENT_LENGTH], "2");
}

#[tokio::test]
async fn requests_one_after_another_have_one_connection() {
    let (url, mut served) = serving(|mut stream| async move {
        for _request in 0..3 {
            request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
        std::future::pending::<()>().await;
    })
    .await;
    let client = client();
    for _request in 0..3 {
        let answer = client.post(&url, HeaderMap::new(), Bytes::new(), LIMITS).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert!(served.try_join_next().is_none(), "it has served one connection");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let answer =
        "HTTP/1.1 307 Elsewhere\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let (url, _served) = answering(answer).await;
    let answer = post(&url, LIMITS).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &answer.headers[LOCATION]),
        (307, &HeaderValue::from_static("http://127.0.0.1:1/"))
    );
}

#[tokio::test]
async fn of_a_huge_body_no_more_is_read_than_the_limit_and_the_status_counts() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: ";
    let (edge, _served) = answering(format!("{head}100\r\n\r\n{}", "a".repeat(100))).await;
    let body = post(&edge, LIMITS).await.unwrap().body.unwrap();
    assert_eq!(body.len(), 100);
    let (beyond, _served) = answering(format!("{head}101\r\n\r\n{}", "a".repeat(101))).await;
    let answer = post(&beyond, LIMITS).await.unwrap();
    assert_eq!((answer.status, answer.body), (StatusCode::OK, None));
    // Chunks that never end.
    let (endless, _served) = serving(|mut stream| async move {
        request(&mut stream).await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut more = stream.write_all(head).await;
        while more.is_ok() {
            more = stream.write_all(b"10\r\n0123456789abcdef\r\n").await;
        }
    })
    .await;
    assert_eq!(post(&endless, LIMITS).await.unwrap().body, None);
}

#[tokio::test]
async fn a_body_that_does_not_come_whole_is_none_and_the_status_counts() {
    let part = "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\na part";
    let (drips, _served) = answering(part).await;
    let limits = AnswerLimits { time: Duration::from_millis(300), body_len: 100 };
    let answer = post(&drips, limits).await.unwrap();
    assert_eq!((answer.status, answer.body), (StatusCode::OK, None));
    let (ends, _served) = serving(move |mut stream| async move {
        request(&mut stream).await.unwrap();
        stream.write_all(part.as_bytes()).await.unwrap();
    })
    .await;
    let answer = post(&ends, LIMITS).await.unwrap();
    assert_eq!((answer.status, answer.body), (StatusCode::OK, None));
}

#[tokio::test]
async fn a_system_that_says_nothing_is_left_when_the_time_is_over() {
    let (url, _served) = serving(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let limits = AnswerLimits { time: Duration::from_millis(100), body_len: 0 };
    assert!(matches!(post(&url, limits).await, Err(HttpClientError::TimedOut)));
}

#[tokio::test]
async fn what_is_no_answer_is_an_error_without_a_word_of_it() {
    for answer in ["", "SECRET\r\n\r\n", "HTTP/1.1 2", "HTTP/1.1 999999 SECRET\r\n\r\n"] {
        let (url, _served) = serving(move |mut stream| async move {
            request(&mut stream).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let error = post(&url, LIMITS).await.unwrap_err();
        assert!(matches!(error, HttpClientError::Broken), "{answer}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("SECRET"));
    }
}

#[tokio::test]
async fn a_header_that_is_too_long_is_no_answer() {
    let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "a".repeat(2 * HEADER_LEN_MAX));
    let (url, _served) = serving(move |mut stream| {
        let long = long.clone();
        async move {
            request(&mut stream).await.unwrap();
            // The client may have gone in the middle of it.
            stream.write_all(long.as_bytes()).await.ok();
        }
    })
    .await;
    let answer = post(&url, LIMITS).await.map(|answer| answer.status);
    assert!(matches!(answer, Err(HttpClientError::Broken)), "{answer:?}");
}

#[tokio::test]
async fn where_nobody_listens_is_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    assert!(matches!(post(&url, LIMITS).await, Err(HttpClientError::Connect(_))));
    let unknown = "http://a-name-that-is-none.invalid/".parse().unwrap();
    assert!(matches!(post(&unknown, LIMITS).await, Err(HttpClientError::Connect(_))));
}

#[tokio::test]
async fn without_leave_no_private_address_is_connected_to_by_whatever_name() {
    let (url, _served) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let port = url.uri().port_u16().unwrap();
    let ca = some_authority();
    let options = HttpClientOptions { allow_private: false, ca: Some(ca.path().to_owned()) };
    let guarded = HttpClient::new(&options).unwrap();
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"] {
        let url = format!("http://{host}:{port}/").parse().unwrap();
        let error = guarded.post(&url, HeaderMap::new(), Bytes::new(), LIMITS).await.unwrap_err();
        // A number is no name that every resolver knows.
        let is_guarded = matches!(error, HttpClientError::Forbidden)
            || (host == "2130706433" && matches!(error, HttpClientError::Connect(_)));
        assert!(is_guarded, "{host}: {error:?}");
    }
    assert_eq!(post(&url, LIMITS).await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn with_tls_only_a_system_with_a_certificate_of_an_authority_is_asked() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (folder.path().join("cert"), folder.path().join("key"));
    std::fs::write(&cert_file, cert.pem()).unwrap();
    std::fs::write(&key_file, signing_key.serialize_pem()).unwrap();
    let acceptor = TlsAcceptor::from(tls::server_config(&cert_file, &key_file).unwrap());
    let (plain, _served) = serving(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // A client that does not believe the certificate goes away.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut read = [0; 1_024];
            assert_ne!(stream.read(&mut read).await.unwrap(), 0);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let port = plain.uri().port_u16().unwrap();
    let url: HttpUrl = format!("https://localhost:{port}/").parse().unwrap();
    let ask = async |ca: PathBuf| {
        let options = HttpClientOptions { allow_private: true, ca: Some(ca) };
        let client = HttpClient::new(&options).unwrap();
        client.post(&url, HeaderMap::new(), Bytes::new(), LIMITS).await
    };
    assert_eq!(ask(cert_file.clone()).await.unwrap().status, StatusCode::OK);
    let other = some_authority();
    let error = ask(other.path().to_owned()).await.unwrap_err();
    assert!(matches!(error, HttpClientError::Connect(_)), "{error:?}");
}
