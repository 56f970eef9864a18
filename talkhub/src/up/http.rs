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
