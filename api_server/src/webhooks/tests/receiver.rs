//! An endpoint that answers as the test says, and notes what it was sent.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::test::PATIENCE;

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Got {
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Bytes,
    pub(super) at: Instant,
}

impl Got {
    pub(super) fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }
}

/// How a request is answered.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// With a status, and lines of a header.
    Status(u16, &'static str),
    /// With 200 and a body of so many bytes.
    Huge(usize),
    /// With a byte of the header now and then, for ever.
    Drip,
    /// Never.
    Hang,
    /// The connection is reset.
    Reset,
}

/// The endpoint.
pub(super) struct Receiver {
    pub(super) url: String,
    got: mpsc::Receiver<Got>,
    /// By event: how it is answered next. What is not here is answered with 204.
    replies: Arc<Mutex<HashMap<String, Vec<Reply>>>>,
    _served: JoinSet<()>,
}

impl Receiver {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/talkhub", listener.local_addr().unwrap());
        let (tell, got) = mpsc::channel(1_024);
        let replies: Arc<Mutex<HashMap<String, Vec<Reply>>>> = Arc::default();
        let (scripts, mut served) = (Arc::clone(&replies), JoinSet::new());
        served.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _peer) = listener.accept().await.unwrap();
                connections.spawn(serve(socket, tell.clone(), Arc::clone(&scripts)));
            }
        });
        Self { url, got, replies, _served: served }
    }

    /// How an event is answered: the first time, the second time, and so on; then with 204.
    pub(super) fn replies(&self, id: &str, replies: &[Reply]) {
        let mut reversed = replies.to_vec();
        reversed.reverse();
        self.replies.lock().insert(id.to_owned(), reversed);
    }

    /// The next request.
    pub(super) async fn next(&mut self) -> Got {
        timeout(PATIENCE, self.got.recv()).await.expect("a request in time").unwrap()
    }

    /// The next request, if there is one.
    pub(super) fn try_next(&mut self) -> Option<Got> {
        self.got.try_recv().ok()
    }
}

async fn serve(
    mut socket: TcpStream,
    tell: mpsc::Sender<Got>,
    replies: Arc<Mutex<HashMap<String, Vec<Reply>>>>,
) {
    while let Some(got) = read(&mut socket).await {
        let reply = replies.lock().get_mut(got.id()).and_then(Vec::pop);
        // The test may have ended.
        tell.try_send(got).ok();
        let answer = match reply.unwrap_or(Reply::Status(204, "")) {
            Reply::Status(status, lines) => {
                format!("HTTP/1.1 {status} x\r\n{lines}content-length: 0\r\n\r\n")
            }
            Reply::Huge(len) => {
                format!("HTTP/1.1 200 x\r\ncontent-length: {len}\r\n\r\n{}", "x".repeat(len))
            }
            Reply::Drip => {
                for byte in b"HTTP/1.1 200 OK\r\nx: ".iter().chain(std::iter::repeat(&b'x')) {
                    if socket.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                return;
            }
            Reply::Hang => std::future::pending().await,
            Reply::Reset => {
                // What was sent and is not read makes the end of the connection a reset.
                return;
            }
        };
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(socket: &mut TcpStream) -> Option<Got> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(read[..end].to_vec()).unwrap();
            assert!(head.starts_with("POST /talkhub HTTP/1.1"), "{head}");
            let headers: HashMap<_, _> = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let len: usize = headers["content-length"].parse().unwrap();
            if read.len() >= end + 4 + len {
                let body = Bytes::copy_from_slice(&read[end + 4..end + 4 + len]);
                return Some(Got { headers, body, at: Instant::now() });
            }
        }
        if socket.read_buf(&mut read).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}
