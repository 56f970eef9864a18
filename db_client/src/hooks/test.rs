//! Hooks and messages for tests.

use std::collections::BTreeSet;
use std::sync::Arc;

use daemon::config::Secret;
use daemon::webhook_signature::WebhookSecret;
use proto::client::MessageType;
use proto::cluster::wire::Submit;
use proto::ids::{ConversationId, GroupId, UserId};
use proto::text::TextCipher;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::test::PATIENCE;

use super::{HookKind, HookMetrics, HookOptions, HookSettings, Source};

/// A hook with the settings that it has if nothing else is said, but a limit that a loaded machine keeps.
pub(crate) fn settings(name: &str, url: &str) -> HookSettings {
    HookSettings {
        name: name.to_owned(),
        url: url.parse().unwrap(),
        secret_file: None,
        secret: Some(Secret::new(WebhookSecret::random().expose())),
        ca: None,
        kind: HookKind::Decide,
        limit_ms: 20_000,
        at_once: 64,
        on_failure: None,
        types: Vec::new(),
        groups: BTreeSet::new(),
        senders: BTreeSet::new(),
        api: true,
    }
}

/// What hooks need besides.
pub(crate) fn options(source: Source) -> HookOptions {
    HookOptions { cipher: TextCipher::default(), source, metrics: HookMetrics::default() }
}

/// A message of this type: to user 9, or to group 7. A text says `h\u{e9}llo`.
pub(crate) fn submit(kind: MessageType, sender: u32) -> Submit {
    let conversation = match kind {
        MessageType::SingleText | MessageType::SingleVoice => {
            ConversationId::single(UserId(sender), UserId(9))
        }
        MessageType::GroupText | MessageType::GroupVoice => ConversationId::group(GroupId(7)),
    };
    Submit {
        sender,
        conversation: conversation.unwrap().number(),
        client_msg_id: vec![9; 16].into(),
        r#type: kind as u32,
        body: TextCipher::default().encrypt("h\u{e9}llo"),
        ..Submit::default()
    }
}

/// How a hook answers.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// With 200 and this.
    Say(Value),
    /// The same, once the channel says so.
    Then(watch::Receiver<bool>, Value),
    /// With a status and no body.
    Status(u16),
    /// Never.
    Hang,
    /// The connection is closed.
    Close,
}

/// A question as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The request line and the headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    pub(crate) fn data(&self) -> Value {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        body["data"].clone()
    }
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A hook that does what the test says.
pub(crate) struct HookServer {
    pub(crate) url: String,
    asked: watch::Sender<Vec<Asked>>,
    _served: JoinSet<()>,
}

impl HookServer {
    pub(crate) async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (asked, script): (_, Arc<Script>) = (watch::Sender::new(Vec::new()), Arc::new(script));
        let (noted, mut served) = (asked.clone(), JoinSet::new());
        served.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _peer)) = listener.accept().await {
                connections.spawn(serve(socket, noted.clone(), Arc::clone(&script)));
            }
        });
        Self { url, asked, _served: served }
    }

    /// The questions, once there are so many.
    pub(crate) async fn asked(&self, count: usize) -> Vec<Asked> {
        let mut asked = self.asked.subscribe();
        let enough = timeout(PATIENCE, asked.wait_for(|asked| asked.len() >= count)).await;
        enough.unwrap().unwrap().clone()
    }

    /// How many there are now.
    pub(crate) fn count(&self) -> usize {
        self.asked.borrow().len()
    }
}

async fn serve(mut socket: TcpStream, noted: watch::Sender<Vec<Asked>>, script: Arc<Script>) {
    while let Some(asked) = read(&mut socket).await {
        let reply = script(&asked);
        noted.send_modify(|all| all.push(asked));
        let (status, body) = match reply {
            Reply::Say(body) => (200, body.to_string()),
            Reply::Then(mut gate, body) => {
                gate.wait_for(|is_open| *is_open).await.unwrap();
                (200, body.to_string())
            }
            Reply::Status(status) => (status, String::new()),
            Reply::Hang => std::future::pending().await,
            Reply::Close => return,
        };
        let len = body.len();
        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {len}\r\n\r\n{body}");
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(socket: &mut TcpStream) -> Option<Asked> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(read[..end].to_vec()).unwrap();
            let asked = Asked { head, body: String::new() };
            let len: usize = asked.header("content-length").parse().unwrap();
            if let Some(body) = read.get(end + 4..end + 4 + len) {
                return Some(Asked { body: String::from_utf8(body.to_vec()).unwrap(), ..asked });
            }
        }
        if socket.read_buf(&mut read).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}
