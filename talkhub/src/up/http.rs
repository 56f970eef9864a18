//! Asks a daemon's admin page whether the daemon is ready.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(1);
/// The page answers in a line; nothing else is ours.
const ANSWER_MAX: u64 = 4096;

/// Whether the daemon whose admin page is at `page` says that it is ready.
pub(super) async fn is_ready(page: SocketAddr) -> bool {
    ready(page).await.is_ok()
}

/// As [`is_ready`], with what the daemon waits for.
pub(super) async fn ready(page: SocketAddr) -> Result<(), String> {
    let answer = match timeout(LIMIT, get(page, "/readyz")).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_elapsed) => return Err("no answer".to_owned()),
    };
    if answer.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    let body = answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(_head, body)| body);
    Err(body.trim().to_owned())
}

async fn get(page: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(page).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {page}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    socket.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What is made of a page that answers like this.
    async fn asked(answer: &[u8]) -> Result<(), String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let page = listener.local_addr().unwrap();
        let serve = async {
            let (mut socket, _peer) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let len = socket.read(&mut request).await.unwrap();
            assert!(request[..len].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            // It may have read enough before the end.
            socket.write_all(answer).await.ok();
        };
        tokio::join!(ready(page), serve).0
    }

    #[tokio::test]
    async fn only_a_page_that_says_so_is_that_of_a_daemon_that_is_ready() {
        assert_eq!(asked(b"HTTP/1.1 200 OK\r\n\r\nready\n").await, Ok(()));
        for (answer, why) in [
            (
                &b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\nwaiting for: hub\n"[..],
                "waiting for: hub",
            ),
            (b"HTTP/1.1 2000 No\r\n\r\nodd", "odd"),
            (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
            (b"SSH-2.0-somebody else\r\n", "SSH-2.0-somebody else"),
            (b"", ""),
        ] {
            assert_eq!(asked(answer).await, Err(why.to_owned()));
        }
    }

    #[tokio::test]
    async fn of_an_answer_that_does_not_end_only_the_beginning_is_read() {
        let answer = [b"HTTP/1.1 500 No\r\n\r\n".to_vec(), vec![b'x'; 1 << 20]].concat();
        let why = asked(&answer).await.unwrap_err();
        assert!(why.len() < 4_096 && why.ends_with('x'), "{}", why.len());
    }

    /// Time is paused: it jumps to the next timer whenever all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn a_page_that_does_not_answer_within_a_second_is_not_ready() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let page = listener.local_addr().unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(ready(page).await, Err("no answer".to_owned()));
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        drop(listener);
        assert!(!is_ready(page).await);
        assert!(ready(page).await.unwrap_err().contains("refused"));
    }
}
