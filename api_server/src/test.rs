//! An API server with a db_proxy that answers what the test says, and a program that uses it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::link::{self, LinkHandler, LinkKey};
use daemon::{Context, Identity, Link, LinkFrame, LinkOptions, Role, Shutdown};
use parking_lot::Mutex;
use proto::api_key::ApiKey;
use proto::cluster::Kind;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    AdminAnswer, AdminError, AdminRequest, Answer, ApiKeyLine, Ask, AskStatus, Outcome, Owned,
    Ownership, Reason, Submit, SubmitAnswer,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Config;
use crate::calls::assert_documented;

/// Long enough for a loaded machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const CLUSTER_KEY: &str = "the key of these tests";

/// The key that the db_proxy knows.
pub(crate) fn key() -> ApiKey {
    ApiKey { id: [1; 8], secret: [2; 32] }
}

/// What the db_proxy was asked, besides keys.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    Admin(What),
    Ask(Ask),
    Submit(Submit),
}

/// A db_proxy that knows one key.
#[derive(Debug)]
pub(crate) struct DbProxy {
    key: Mutex<Option<ApiKeyLine>>,
    pub(crate) asked: Mutex<Vec<Asked>>,
    answers: Mutex<VecDeque<Told>>,
}

/// An answer of the db_proxy.
#[derive(Debug)]
enum Told {
    Admin(AdminAnswer),
    Ask(Answer),
    Submit(Result<u32, Reason>),
    /// None, ever.
    Nothing,
}

impl LinkHandler for DbProxy {
    fn up(&self, link: &Link) {
        let owned = vec![Owned { partition: 0, epoch: 1 }];
        let ownership = Ownership { partitions: 1, owned, logins: true };
        link.send(Kind::Ownership.number(), 0, &ownership).unwrap();
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        match Kind::from_number(frame.kind) {
            Some(Kind::Admin) => self.admin(link, &frame),
            Some(Kind::Ask) => {
                let ask: Ask = frame.parse().unwrap();
                self.asked.lock().push(Asked::Ask(ask));
                match self.next() {
                    Told::Ask(answer) => {
                        link.answer(&frame, Kind::Ask.number(), &answer).unwrap();
                    }
                    Told::Nothing => {}
                    other => panic!("a question, and no {other:?}"),
                }
            }
            Some(Kind::Submit) => self.submit(link, &frame),
            other => panic!("nobody asks {other:?}"),
        }
    }

    fn down(&self, _link: &Link) {}
}

impl DbProxy {
    fn next(&self) -> Told {
        self.answers.lock().pop_front().expect("the test says what is answered")
    }

    fn admin(&self, link: &Link, frame: &LinkFrame) {
        let request: AdminRequest = frame.parse().unwrap();
        let what = request.what.unwrap();
        let answer = if let What::ApiKeyFind(find) = &what {
            let shown = find.shown.as_ref().map(Bytes::len);
            assert_eq!((&find.id[..], shown, request.by), (&key().id[..], Some(32), None));
            match self.key.lock().clone() {
                Some(line) => AdminAnswer { api_keys: vec![line], ..done() },
                None => refused(AdminError::NotFound),
            }
        } else if request.by.is_none() {
            // What the server asks by itself: there are no webhooks, and no consumers.
            let is_known = matches!(what, What::WebhookList(_) | What::ConsumerList(_));
            assert!(is_known, "nobody asks this in no name: {what:?}");
            done()
        } else {
            assert_eq!(request.by.as_deref(), Some("tests"), "the key's name is told");
            self.asked.lock().push(Asked::Admin(what));
            match self.next() {
                Told::Admin(answer) => answer,
                Told::Nothing => return,
                other => panic!("an administrator's request, and no {other:?}"),
            }
        };
        link.answer(frame, Kind::Admin.number(), &answer).unwrap();
    }

    fn submit(&self, link: &Link, frame: &LinkFrame) {
        let submit: Submit = frame.parse().unwrap();
        self.asked.lock().push(Asked::Submit(submit.clone()));
        let told = match self.next() {
            Told::Submit(told) => told,
            Told::Nothing => return,
            other => panic!("a message, and no {other:?}"),
        };
        let outcome = if told.is_ok() { Outcome::Ok } else { Outcome::Refused };
        let answer = SubmitAnswer {
            sender: submit.sender,
            client_msg_id: submit.client_msg_id,
            outcome: outcome.into(),
            msg_id: told.ok(),
            create_time: told.ok().map(|_| 1_000),
            reason: told.err().map(i32::from),
            conversation: submit.conversation,
            epoch: submit.epoch,
        };
        link.send(Kind::SubmitAnswer.number(), 0, &answer).unwrap();
    }
}

/// The answer to what was done.
pub(crate) fn done() -> AdminAnswer {
    AdminAnswer { done: true, ..AdminAnswer::default() }
}

/// The answer to what was not.
pub(crate) fn refused(code: AdminError) -> AdminAnswer {
    let (error, error_code) = (Some("no".to_owned()), Some(code.into()));
    AdminAnswer { done: false, error, error_code, ..AdminAnswer::default() }
}

/// An API server, and the only db_proxy that it knows.
pub(crate) struct Site {
    addr: SocketAddr,
    pub(crate) db_proxy: Arc<DbProxy>,
    shutdown: Shutdown,
}

impl Site {
    /// A site whose key has all scopes.
    pub(crate) async fn start() -> Self {
        Self::with(&["read", "send", "users", "groups", "admin"], "").await
    }

    /// A site whose key has these scopes, with more lines of settings.
    pub(crate) async fn with(scopes: &[&str], settings: &str) -> Self {
        Self::set(scopes, settings, "").await
    }

    /// The same, with more lines of the table of the cluster.
    pub(crate) async fn with_cluster(scopes: &[&str], cluster: &str) -> Self {
        Self::set(scopes, "", cluster).await
    }

    async fn set(scopes: &[&str], settings: &str, cluster: &str) -> Self {
        let hash = ring::digest::digest(&ring::digest::SHA256, &key().secret);
        let line = ApiKeyLine {
            id: key().id.to_vec().into(),
            name: "tests".to_owned(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            hash: Some(Bytes::copy_from_slice(hash.as_ref())),
            ..ApiKeyLine::default()
        };
        let db_proxy = Arc::new(DbProxy {
            key: Mutex::new(Some(line)),
            asked: Mutex::default(),
            answers: Mutex::default(),
        });
        let shutdown = Shutdown::default();
        let key = LinkKey::new(CLUSTER_KEY.as_bytes());
        let us = Identity { role: Role::DbProxy, name: "db".to_owned(), boot: 1, key, tls: None };
        let (any, accepts) = (SocketAddr::from(([127, 0, 0, 1], 0)), [Role::ApiServer]);
        let handler: Arc<dyn LinkHandler> = Arc::clone(&db_proxy) as _;
        let options = LinkOptions::default();
        let links = link::listen(any, us, &accepts, handler, options, &shutdown).await.unwrap();
        let settings = format!(
            "http_addr = '127.0.0.1:0'\ndb_proxies = ['{links}']\n{settings}\n[cluster]\nkey = '{CLUSTER_KEY}'\n{cluster}\n"
        );
        let settings: Config = daemon::config::parse(&settings).unwrap();
        let serving = crate::run(Context::fixed(settings, shutdown.clone())).await.unwrap();
        Self { addr: serving.addr("http").unwrap(), db_proxy, shutdown }
    }

    /// What the db_proxy answers to the next requests of administrators.
    pub(crate) fn answers(&self, answers: impl IntoIterator<Item = AdminAnswer>) {
        self.db_proxy.answers.lock().extend(answers.into_iter().map(Told::Admin));
    }

    /// What it answers to the next question of a user: a reply, or a status alone.
    pub(crate) fn replies(&self, reply: Result<&dyn Encoded, AskStatus>) {
        let answer = match reply {
            Ok(reply) => {
                let by = vec![Owned { partition: 0, epoch: 1 }];
                let status = AskStatus::Answered.into();
                Answer { status, body: Some(reply.encoded()), by, ..Answer::default() }
            }
            Err(status) => Answer { status: status.into(), ..Answer::default() },
        };
        self.db_proxy.answers.lock().push_back(Told::Ask(answer));
    }

    /// What becomes of the next message.
    pub(crate) fn stores(&self, told: Result<u32, Reason>) {
        self.db_proxy.answers.lock().push_back(Told::Submit(told));
    }

    /// The next request has no answer.
    pub(crate) fn hangs(&self) {
        self.db_proxy.answers.lock().push_back(Told::Nothing);
    }

    /// What was to be answered is not asked for.
    pub(crate) fn answers_nothing(&self) {
        self.db_proxy.answers.lock().clear();
    }

    /// The key is another one from now on; `None`: it was revoked.
    pub(crate) fn change_key(&self, change: impl FnOnce(ApiKeyLine) -> Option<ApiKeyLine>) {
        let mut key = self.db_proxy.key.lock();
        *key = key.take().and_then(change);
    }

    /// What the db_proxy was asked since this was called last.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.db_proxy.asked.lock())
    }

    /// Asks without a body.
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, None).await
    }

    /// Asks with the good key, and a body if there is one. Returns the status and the body.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let shown = format!("Authorization: Bearer {}", key().to_text());
        self.send(method, path, &[&shown], body).await
    }

    /// Asks with these lines in the header.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        lines: &[&str],
        body: Option<&Value>,
    ) -> (u16, Value) {
        self.say(method, path, lines, body.map(ToString::to_string)).await
    }

    /// Asks with the good key and this text as the body.
    pub(crate) async fn send_text(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let shown = format!("Authorization: Bearer {}", key().to_text());
        self.say(method, path, &[&shown], Some(body.to_owned())).await
    }

    async fn say(
        &self,
        method: &str,
        path: &str,
        lines: &[&str],
        body: Option<String>,
    ) -> (u16, Value) {
        let mut head = vec![format!("{method} {path} HTTP/1.1"), "Host: api".to_owned()];
        head.push("Connection: close".to_owned());
        head.extend(lines.iter().map(|line| (*line).to_owned()));
        if let Some(body) = &body {
            head.push("Content-Type: application/json".to_owned());
            head.push(format!("Content-Length: {}", body.len()));
        }
        let request = format!("{}\r\n\r\n{}", head.join("\r\n"), body.unwrap_or_default());
        let answer = self.raw(&request).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert_documented(method, path, status);
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Sends these bytes, and reads to the end of the connection.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut socket = TcpStream::connect(self.addr).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = timeout(PATIENCE, socket.read_to_string(&mut answer));
        read.await.expect("an answer in time").unwrap();
        answer
    }

    /// Stops it. Everything that was to be answered has been.
    pub(crate) async fn stop(self) {
        assert!(self.db_proxy.answers.lock().is_empty(), "it was not asked");
        self.shutdown.begin();
        self.shutdown.drain(PATIENCE).await.unwrap();
    }
}

/// A message of protobuf.
pub(crate) trait Encoded {
    /// Its bytes.
    fn encoded(&self) -> Bytes;
}

impl<M: prost::Message> Encoded for M {
    fn encoded(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}
