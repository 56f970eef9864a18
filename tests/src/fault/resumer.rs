//! A device that logs in with its token again and again, and says something each time.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{ClientType, Connection, Conversation, Draft, SendReply, hello};
use proto::client::{Hello, ResumeRequest, ResumeToken, SendOutcome};
use proto::features::KEEPS_TOKENS;
use proto::{Command, encode_message};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::{PASSWORD, PATIENCE};

/// Between two logins.
const PAUSE: Duration = Duration::from_millis(250);

/// How long it is waited for a newer token, which need not come.
const TOKEN_LIMIT: Duration = Duration::from_millis(250);

/// The device.
pub(super) struct Resumer {
    gateways: Vec<String>,
    user: u32,
    /// The user it talks to.
    peer: u32,
    token: Bytes,
}

/// Makes a file of keys that tokens are signed with, and returns it as the settings name it.
pub(super) fn keys_in(folder: &Path) -> String {
    use std::os::unix::fs::OpenOptionsExt;

    let file = folder.join("token-keys");
    let mut options = std::fs::OpenOptions::new();
    let made = options.write(true).create(true).truncate(true).mode(0o600).open(&file);
    let key = format!("1 {}\n", "5a".repeat(32));
    std::io::Write::write_all(&mut made.expect("a file of keys"), key.as_bytes()).expect("keys");
    toml::Value::from(file.display().to_string()).to_string()
}

impl Resumer {
    /// Logs in with the password, and sends a first message: a new conversation cannot be begun while
    /// the database is away. The user is in no crowd.
    pub(super) fn log_in(gateways: &[String], user: u32, peer: u32) -> Self {
        let mut this = Self { gateways: gateways.to_vec(), user, peer, token: Bytes::new() };
        block_on(async {
            let mut connection =
                Connection::connect(&this.gateways[0], None).await.expect("connect");
            let (name, kind) = (format!("u{user}"), ClientType::Android);
            connection.login(&name, PASSWORD, kind, Some(keeping())).await.expect("let in");
            this.token = newer(&mut connection, PATIENCE).await.expect("a token after the login");
            this.speak(&mut connection).await;
        });
        this
    }

    /// Logs in with the token for a while. Returns how long each login took, and how many newer tokens
    /// came.
    ///
    /// # Panics
    ///
    /// If it is not let in, or what it says is not acknowledged.
    pub(super) fn resume_for(&mut self, lasts: Duration) -> (Vec<Duration>, usize) {
        let until = Instant::now() + lasts;
        let (mut took, mut tokens) = (Vec::new(), 0);
        block_on(async {
            while Instant::now() < until {
                let gateway = &self.gateways[took.len() % self.gateways.len()];
                let mut connection = Connection::connect(gateway, None).await.expect("connect");
                let began = Instant::now();
                let token = Some(self.token.clone());
                let request = ResumeRequest { token, ..ResumeRequest::default() };
                let login = connection.resume_with(&request, keeping()).await;
                let login = login.unwrap_or_else(|error| panic!("let in by its token: {error:?}"));
                took.push(began.elapsed());
                assert_eq!(login.user.user_id, self.user);
                self.speak(&mut connection).await;
                if let Some(token) = newer(&mut connection, TOKEN_LIMIT).await {
                    tokens += 1;
                    self.token = token;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        (took, tokens)
    }

    async fn speak(&self, connection: &mut Connection) {
        let draft = Draft::text(Conversation::user(self.peer), "here again");
        match connection.send_message(&draft).await {
            Ok(SendReply::Result(result)) => assert_eq!(result.outcome(), SendOutcome::Ok),
            other => panic!("what it says is acknowledged: {other:?}"),
        }
    }
}

fn keeping() -> Hello {
    Hello { features: Some(KEEPS_TOKENS), ..hello() }
}

/// The token that comes within `limit`, if one does. It is said to be kept, so that the one before ends.
async fn newer(connection: &mut Connection, limit: Duration) -> Option<Bytes> {
    let token = timeout(limit, async {
        loop {
            let frame = connection.next_frame(PATIENCE).await.ok()?;
            if frame.known_command() == Some(Command::ResumeToken) {
                return Some(frame.parse::<ResumeToken>().expect("a token").token);
            }
        }
    });
    let token = token.await.ok()??;
    let kept = proto::client::ResumeTokenKept { token: token.clone() };
    let kept = encode_message(Command::ResumeTokenKept, 1, &kept);
    connection.send_bytes(&kept).await.expect("say that it is kept");
    Some(token)
}

fn block_on(work: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
}
