//! An endpoint of webhooks, or a hook, that answers or fails as the test says, and notes what it was sent.

use std::collections::HashMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// A request to the endpoint.
#[derive(Debug, Clone)]
pub struct Got {
    /// Its headers, with names in lower case.
    pub headers: HashMap<String, String>,
    /// Its body as it came.
    pub body: String,
    /// Whether the endpoint answered with 2xx.
    pub is_taken: bool,
}

impl Got {
    /// The id of the event.
    pub fn id(&self) -> &str {
        self.headers.get("webhook-id").map_or("", String::as_str)
    }

    /// What the event says.
    pub fn event(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// How a request is answered.
#[derive(Debug, Clone)]
pub enum Reply {
    /// With 204.
    Taken,
    /// With 200 and this body: what a hook says.
    Says(Value),
    /// With 204, after a while.
    Late(Duration),
    /// With 200 and a body of so many bytes.
    Huge(usize),
    /// With a status, and lines of a header, each of which ends with CR and LF.
    Status(u16, String),
    /// With a byte of the header now and then, for ever.
    Drip,
    /// Never.
    Hang,
    /// The connection is closed.
    Closed,
}

/// How many times an event came before, and how it is answered.
type Script = dyn Fn(&Got, usize) -> Reply + Send + Sync;

/// The endpoint.
#[derive(Debug)]
pub struct Receiver {
    /// Where it is.
    pub url: String,
    got: Arc<Mutex<Vec<Got>>>,
    _served: JoinSet<()>,
}

impl Receiver {
    /// Listens on a free port, and answers as `script` says: it is told how often an event came before.
    pub async fn start(script: impl Fn(&Got, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/talkhub", listener.local_addr().expect("it listens"));
        let (got, script): (Arc<Mutex<Vec<Got>>>, Arc<Script>) = (Arc::default(), Arc::new(script));
        let (noted, mut served) = (Arc::clone(&got), JoinSet::new());
        served.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((socket, _peer)) = listener.accept().await else { continue };
                connections.spawn(serve(socket, Arc::clone(&noted), Arc::clone(&script)));
            }
        });
        Self { url, got, _served: served }
    }

    /// All requests so far, in the order in which they came.
    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Verifies the signatures of requests by a program that has nothing of ours in it. Blocks. Returns what it says.
pub fn verify(got: &[Got], secret: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/verify_webhooks.py");
    let mut python = Command::new("python3")
        .args(["-B", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 can be run");
    let mut input = python.stdin.take().expect("it is piped");
    for one in got {
        let line = json!({ "secret": secret, "headers": one.headers, "body": one.body });
        writeln!(input, "{line}").expect("it reads");
    }
    drop(input);
    let output = python.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.starts_with(&format!("{} verified", got.len())), "{said}");
    said.into_owned()
}

async fn serve(mut socket: TcpStream, noted: Arc<Mutex<Vec<Got>>>, script: Arc<Script>) {
    while let Some(mut got) = read(&mut socket).await {
        let reply = {
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            let before = noted.iter().filter(|earlier| earlier.id() == got.id()).count();
            let reply = script(&got, before);
            got.is_taken =
                matches!(reply, Reply::Taken | Reply::Says(_) | Reply::Late(_) | Reply::Huge(_))
                    || matches!(reply, Reply::Status(200..=299, _));
            noted.push(got);
            reply
        };
        let empty = |status: u16, lines: &str| {
            format!("HTTP/1.1 {status} x\r\n{lines}content-length: 0\r\n\r\n")
        };
        let answer = match reply {
            Reply::Taken => empty(204, ""),
            Reply::Says(body) => {
                let body = body.to_string();
                format!("HTTP/1.1 200 x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            }
            Reply::Late(time) => {
                sleep(time).await;
                empty(204, "")
            }
            Reply::Huge(len) => {
                format!("HTTP/1.1 200 x\r\ncontent-length: {len}\r\n\r\n{}", "x".repeat(len))
            }
            Reply::Status(status, lines) => empty(status, &lines),
            Reply::Drip => return drip(socket).await,
            Reply::Hang => std::future::pending().await,
            Reply::Closed => return,
        };
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn drip(mut socket: TcpStream) {
    for byte in b"HTTP/1.1 200 OK\r\nx: ".iter().chain(std::iter::repeat(&b'x')) {
        if socket.write_all(&[*byte]).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Reads a request; `None` at the end of the connection.
async fn read(socket: &mut TcpStream) -> Option<Got> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(read.get(..end)?).into_owned();
            let headers: HashMap<_, _> = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let len: usize = headers.get("content-length")?.parse().ok()?;
            if let Some(body) = read.get(end + 4..end + 4 + len) {
                let body = String::from_utf8(body.to_vec()).ok()?;
                return Some(Got { headers, body, is_taken: false });
            }
        }
        if socket.read_buf(&mut read).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}
