//! A gateway with a storage and a hub that do what the test says.

mod log;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use daemon::link::{self, LinkFrame, LinkHandler, LinkKey, LinkOptions};
use daemon::{
    ClusterConfig, Context, Identity, Link, ListenTlsConfig, Role, Running, Secret, Shutdown,
};
use parking_lot::Mutex;
use prost::Message;
use proto::cluster::{Kind, wire};
use proto::ids::{ConversationId, GroupId, UserId};
use proto::limits::LIMIT_AFTER_LOGIN;
use proto::{Command, Frame, client, encode_message, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::{Config, LimitsConfig};

pub(super) const LIMIT: Duration = Duration::from_secs(10);
pub(super) const WINDOWS: u32 = 1;
pub(super) const MAC: u32 = 2;
pub(super) const ANDROID: u32 = 0x12;
const KEY: &str = "a key for tests alone";

/// The gateway and its peers.
pub(super) struct World {
    pub(super) addr: SocketAddr,
    pub(super) db: Arc<FakeDb>,
    pub(super) hub: Arc<FakeHub>,
    running: Running,
    peers: Shutdown,
    db_shutdown: Mutex<Shutdown>,
    db_addr: SocketAddr,
}

/// Storage. Answers at once unless told otherwise.
pub(super) struct FakeDb {
    pub(super) links: Mutex<Vec<Link>>,
    /// Whether sends are answered by themselves.
    pub(super) answers_sends: AtomicBool,
    pub(super) groups: Mutex<HashMap<u32, Vec<wire::Membership>>>,
    /// What was published, in the order of the log.
    pub(super) history: Mutex<Vec<wire::Publish>>,
    /// Whether it knows of cursors and floors. Otherwise it is one of an older release.
    pub(super) has_cursors: AtomicBool,
    /// The last record of its log.
    pub(super) head: AtomicU64,
    /// Whether it has forgotten what changed before its head.
    pub(super) forgets: AtomicBool,
    /// Whether fetches are answered completely.
    pub(super) answers_fetches: AtomicBool,
    /// Messages in one answer to a fetch.
    pub(super) page: AtomicUsize,
    follows: mpsc::Sender<Option<u64>>,
    pub(super) followed: tokio::sync::Mutex<mpsc::Receiver<Option<u64>>>,
    fetches: mpsc::Sender<wire::FetchRequest>,
    pub(super) fetched: tokio::sync::Mutex<mpsc::Receiver<wire::FetchRequest>>,
    /// Whether what clients ask is answered, and with "changed".
    pub(super) answers_asks: AtomicBool,
    submits: mpsc::Sender<wire::Submit>,
    asks: mpsc::Sender<wire::Ask>,
    pub(super) submitted: tokio::sync::Mutex<mpsc::Receiver<wire::Submit>>,
    pub(super) asked: tokio::sync::Mutex<mpsc::Receiver<wire::Ask>>,
    next_id: AtomicU64,
}

/// The hub. Confirms at once unless told otherwise, and echoes what is forwarded.
pub(super) struct FakeHub {
    pub(super) links: Mutex<Vec<Link>>,
    pub(super) confirms: AtomicBool,
    /// Told of as the largest epoch of any user, once.
    pub(super) larger_epoch: AtomicU64,
    pub(super) pc_online: AtomicBool,
    changes: mpsc::Sender<wire::InterestChange>,
    pub(super) changed: tokio::sync::Mutex<mpsc::Receiver<wire::InterestChange>>,
}

impl World {
    pub(super) async fn start() -> Self {
        Self::start_with(|_limits| {}).await
    }

    pub(super) async fn start_with(change: impl FnOnce(&mut LimitsConfig)) -> Self {
        Self::start_on(FakeDb::new(), |config| change(&mut config.limits)).await
    }

    /// With a storage that names what changes, whose log has come to `head`. The cursor is there.
    pub(super) async fn start_at(head: u64) -> Self {
        let db = FakeDb::new();
        db.has_cursors.store(true, Ordering::SeqCst);
        db.head.store(head, Ordering::SeqCst);
        let world = Self::start_on(db, |_config| {}).await;
        assert_eq!(world.db.next_follow().await, None, "there is no cursor yet");
        world
    }

    pub(super) async fn start_with_tls(tls: ListenTlsConfig) -> Self {
        Self::start_on(FakeDb::new(), |config| config.tls = Some(tls)).await
    }

    async fn start_on(db: Arc<FakeDb>, change: impl FnOnce(&mut Config)) -> Self {
        let peers = Shutdown::default();
        let db_shutdown = peers.child();
        let hub = FakeHub::new();
        let any = "127.0.0.1:0".parse().unwrap();
        let db_addr = listen(any, Role::DbProxy, "db", db.clone(), &db_shutdown).await;
        let hub_addr = listen(any, Role::RouteServer, "r1", hub.clone(), &peers).await;

        let mut config = Config {
            cluster: ClusterConfig {
                key: Some(Secret::new(KEY)),
                name: "g1".to_owned(),
                ..ClusterConfig::default()
            },
            listen: Some(any),
            route_servers: vec![hub_addr.to_string()],
            db_proxies: vec![db_addr.to_string()],
            ..Config::default()
        };
        change(&mut config);
        let shutdown = Shutdown::default();
        let serving = crate::run(Context::fixed(config, shutdown.clone())).await.unwrap();
        timeout(LIMIT, serving.ready.ready()).await.expect("linked in time");
        let addr = serving.addr("clients").unwrap();
        let running = Running { serving, shutdown };
        let db_shutdown = Mutex::new(db_shutdown);
        Self { addr, db, hub, running, peers, db_shutdown, db_addr }
    }

    pub(super) async fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.addr).await.unwrap())
    }

    pub(super) fn tls_addr(&self) -> SocketAddr {
        self.running.serving.addr("tls clients").unwrap()
    }

    /// A client that is logged in.
    pub(super) async fn client(&self, user: u32, client_type: u32) -> Client {
        let mut client = self.connect().await;
        client.log_in(user, client_type).await;
        client
    }

    /// A client that is logged in and knows the extension.
    pub(super) async fn extended(&self, user: u32, client_type: u32) -> Client {
        let mut client = self.client(user, client_type).await;
        let hello = client::Hello { client: "test".to_owned(), features: None };
        client.send(Command::Hello, 2, &hello).await;
        client.expect::<client::HelloReply>(Command::HelloReply, 2).await;
        client
    }

    /// Cuts the link to storage; the gateway dials again.
    pub(super) fn cut_db(&self) {
        for link in self.db.links.lock().iter() {
            link.reset("the test cuts it");
        }
    }

    /// Takes storage away for good.
    pub(super) async fn stop_db(&self) {
        let shutdown = self.db_shutdown.lock().clone();
        shutdown.begin();
        shutdown.drain(LIMIT).await.unwrap();
    }

    /// Brings storage back where it was.
    pub(super) async fn restart_db(&self) {
        let shutdown = self.peers.child();
        listen(self.db_addr, Role::DbProxy, "db", self.db.clone(), &shutdown).await;
        *self.db_shutdown.lock() = shutdown;
    }

    /// Stops the gateway and everything else.
    pub(super) async fn stop(self) {
        self.running.stop(LIMIT).await.unwrap();
        self.peers.begin();
        self.peers.drain(LIMIT).await.unwrap();
    }

    pub(super) fn shutdown(&self) -> &Shutdown {
        &self.running.shutdown
    }
}

async fn listen(
    addr: SocketAddr,
    role: Role,
    name: &str,
    handler: Arc<dyn LinkHandler>,
    shutdown: &Shutdown,
) -> SocketAddr {
    let key = LinkKey::new(KEY.as_bytes());
    let identity = Identity { role, name: name.to_owned(), boot: link::new_boot(), key, tls: None };
    let options = LinkOptions::default();
    link::listen(addr, identity, &[Role::MsgServer], handler, options, shutdown).await.unwrap()
}

impl FakeDb {
    fn new() -> Arc<Self> {
        let (submits, submitted) = mpsc::channel(10_000);
        let (asks, asked) = mpsc::channel(10_000);
        let (follows, followed) = mpsc::channel(10_000);
        let (fetches, fetched) = mpsc::channel(10_000);
        Arc::new(Self {
            links: Mutex::default(),
            answers_sends: AtomicBool::new(true),
            groups: Mutex::default(),
            history: Mutex::default(),
            has_cursors: AtomicBool::new(false),
            head: AtomicU64::new(0),
            forgets: AtomicBool::new(false),
            answers_fetches: AtomicBool::new(true),
            page: AtomicUsize::new(1000),
            follows,
            followed: followed.into(),
            fetches,
            fetched: fetched.into(),
            answers_asks: AtomicBool::new(true),
            submits,
            asks,
            submitted: submitted.into(),
            asked: asked.into(),
            next_id: AtomicU64::new(1),
        })
    }

    pub(super) fn join(&self, user: u32, group: u32, join_msg_id: u32, version: u64) {
        let membership = wire::Membership { group, join_msg_id, version };
        self.groups.lock().entry(user).or_default().push(membership);
    }

    pub(super) async fn next_submit(&self) -> wire::Submit {
        timeout(LIMIT, self.submitted.lock().await.recv()).await.expect("in time").unwrap()
    }

    pub(super) async fn next_ask(&self) -> wire::Ask {
        timeout(LIMIT, self.asked.lock().await.recv()).await.expect("in time").unwrap()
    }

    pub(super) async fn next_follow(&self) -> Option<u64> {
        timeout(LIMIT, self.followed.lock().await.recv()).await.expect("in time").unwrap()
    }

    pub(super) async fn next_fetch(&self) -> wire::FetchRequest {
        timeout(LIMIT, self.fetched.lock().await.recv()).await.expect("in time").unwrap()
    }

    /// The link that came up last.
    pub(super) fn link(&self) -> Link {
        self.links.lock().last().cloned().expect("linked")
    }

    pub(super) fn answer(
        &self,
        submit: &wire::Submit,
        outcome: wire::Outcome,
        msg_id: Option<u32>,
    ) {
        answer(&self.link(), submit, outcome, msg_id);
    }
}

fn answer(link: &Link, submit: &wire::Submit, outcome: wire::Outcome, msg_id: Option<u32>) {
    let answer = wire::SubmitAnswer {
        sender: submit.sender,
        client_msg_id: submit.client_msg_id.clone(),
        outcome: outcome.into(),
        msg_id,
        create_time: Some(1_700_000_000),
        reason: (outcome == wire::Outcome::Refused).then_some(wire::Reason::NotMember.into()),
        conversation: submit.conversation,
    };
    link.send(Kind::SubmitAnswer.number(), 0, &answer).ok();
}

impl LinkHandler for FakeDb {
    fn up(&self, link: &Link) {
        self.links.lock().push(link.clone());
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        match Kind::from_number(frame.kind).unwrap() {
            Kind::Verify => {
                let verify: wire::Verify = frame.parse().unwrap();
                let user = verify.name.strip_prefix('u').and_then(|id| id.parse().ok());
                let accepted = user.filter(|_id| verify.credential == "pw");
                let info =
                    accepted.map(|user_id| client::UserInfo { user_id, ..Default::default() });
                let verified = wire::Verified {
                    result: if accepted.is_some() { 0 } else { 6 },
                    text: "says storage".to_owned(),
                    user_info: info.map(|info| info.encode_to_vec().into()),
                    user: accepted,
                };
                link.answer(&frame, frame.kind, &verified).unwrap();
            }
            Kind::Memberships => {
                let request: wire::MembershipsRequest = frame.parse().unwrap();
                let groups = self.groups.lock().get(&request.user).cloned().unwrap_or_default();
                let upto_offset = self
                    .has_cursors
                    .load(Ordering::SeqCst)
                    .then(|| self.head.load(Ordering::SeqCst));
                let answer = wire::Memberships { complete: true, groups, upto_offset };
                link.answer(&frame, frame.kind, &answer).unwrap();
            }
            Kind::Submit => {
                let submit: wire::Submit = frame.parse().unwrap();
                if self.answers_sends.load(Ordering::SeqCst) {
                    let id = self.next_id.fetch_add(1, Ordering::SeqCst);
                    answer(link, &submit, wire::Outcome::Ok, Some(u32::try_from(id).unwrap()));
                }
                self.submits.try_send(submit).unwrap();
            }
            Kind::Ask => {
                let ask: wire::Ask = frame.parse().unwrap();
                if self.answers_asks.load(Ordering::SeqCst) {
                    let answer = wire::Answer {
                        status: wire::AskStatus::Answered.into(),
                        command: Some(ask.command + 1),
                        body: Some(Bytes::from_static(b"\x08\x07")),
                        changed: Some(true),
                    };
                    link.answer(&frame, frame.kind, &answer).unwrap();
                }
                self.asks.try_send(ask).unwrap();
            }
            Kind::Fetch => {
                let request: wire::FetchRequest = frame.parse().unwrap();
                link.answer(&frame, frame.kind, &self.fetch(&request)).unwrap();
                self.fetches.try_send(request).unwrap();
            }
            Kind::Follow => {
                let request: wire::Follow = frame.parse().unwrap();
                assert_eq!(request.partition, 0);
                self.follow(link, request.after_offset);
            }
            other => panic!("{other:?} is not for storage"),
        }
    }

    fn down(&self, link: &Link) {
        self.links.lock().retain(|other| other != link);
    }
}

impl FakeHub {
    fn new() -> Arc<Self> {
        let (changes, changed) = mpsc::channel(10_000);
        Arc::new(Self {
            links: Mutex::default(),
            confirms: AtomicBool::new(true),
            larger_epoch: AtomicU64::new(0),
            pc_online: AtomicBool::new(false),
            changes,
            changed: changed.into(),
        })
    }

    pub(super) fn send(&self, kind: Kind, message: &impl Message) {
        self.links.lock().last().unwrap().send(kind.number(), 0, message).unwrap();
    }

    pub(super) async fn next_change(&self) -> wire::InterestChange {
        timeout(LIMIT, self.changed.lock().await.recv()).await.expect("in time").unwrap()
    }
}

impl LinkHandler for FakeHub {
    fn up(&self, link: &Link) {
        self.links.lock().push(link.clone());
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        match Kind::from_number(frame.kind).unwrap() {
            Kind::InterestChange => {
                let change: wire::InterestChange = frame.parse().unwrap();
                if frame.request != 0 && self.confirms.load(Ordering::SeqCst) {
                    let own = change.add_users.first().map_or(0, |user| user.epoch);
                    let larger = self.larger_epoch.swap(0, Ordering::SeqCst);
                    let registered = wire::Registered {
                        largest_epoch: Some(own.max(larger)),
                        pc_online: Some(self.pc_online.load(Ordering::SeqCst)),
                        pc_users_online: Some(1),
                    };
                    link.answer(&frame, frame.kind, &registered).unwrap();
                }
                self.changes.try_send(change).unwrap();
            }
            Kind::Forward => link.send_raw(frame.kind, 0, &frame.body).unwrap(),
            Kind::Status => {
                let request: wire::StatusRequest = frame.parse().unwrap();
                let online = request.users.into_iter().filter(|user| user % 2 == 1).collect();
                link.answer(&frame, frame.kind, &wire::Status { online }).unwrap();
            }
            Kind::InterestTable | Kind::InterestChecksum | Kind::Kick => {}
            other => panic!("{other:?} is not for the hub"),
        }
    }

    fn down(&self, link: &Link) {
        self.links.lock().retain(|other| other != link);
    }
}

/// A client of the gateway.
pub(super) struct Client<S = TcpStream> {
    socket: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) fn new(socket: S) -> Self {
        Self { socket, buffer: BytesMut::new() }
    }

    pub(super) async fn log_in(&mut self, user: u32, client_type: u32) {
        self.send(Command::LoginRequest, 1, &login(user, client_type)).await;
        let reply: client::LoginReply = self.expect(Command::LoginReply, 1).await;
        assert_eq!(reply.result, 0, "{:?}", reply.result_text);
    }

    pub(super) async fn send(&mut self, command: Command, seq: u16, message: &impl Message) {
        self.write(&encode_message(command, seq, message)).await;
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// The next frame; `None` when the gateway has closed.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let next = async {
            loop {
                if let Some(frame) = frame::decode(&mut self.buffer, LIMIT_AFTER_LOGIN).unwrap() {
                    return Some(frame);
                }
                match self.socket.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_read) => {}
                }
            }
        };
        timeout(LIMIT, next).await.expect("a frame in time")
    }

    /// The next frame, which must be this one.
    pub(super) async fn expect<M: Message + Default>(&mut self, command: Command, seq: u16) -> M {
        let frame = self.next().await.expect("a frame, not the end");
        assert_eq!((frame.known_command(), frame.seq), (Some(command), seq));
        frame.parse().unwrap()
    }

    /// Everything that was said to the client so far has been read, and nothing else came.
    pub(super) async fn expect_quiet(&mut self) {
        self.write(&heartbeat(999)).await;
        self.expect::<client::Heartbeat>(Command::Heartbeat, 999).await;
    }

    pub(super) async fn expect_closed(&mut self) {
        let frame = self.next().await;
        assert!(frame.is_none(), "{frame:?}");
    }

    /// The gateway closes, whatever it says before.
    pub(super) async fn expect_end_of_stream(&mut self) {
        let mut rest = Vec::new();
        let end = timeout(LIMIT, self.socket.read_to_end(&mut rest)).await.expect("in time");
        if end.is_err() {
            // Reset is an end as well.
        }
    }

    pub(super) async fn expect_push(&mut self) -> client::MessageData {
        self.expect(Command::MessageData, 0).await
    }
}

pub(super) fn heartbeat(seq: u16) -> Bytes {
    encode_message(Command::Heartbeat, seq, &client::Heartbeat {})
}

pub(super) fn login(user: u32, client_type: u32) -> client::LoginRequest {
    client::LoginRequest {
        user_name: format!("u{user}"),
        password: "pw".to_owned(),
        online_status: client::UserStatus::Online.into(),
        client_type: i32::try_from(client_type).unwrap(),
        client_version: None,
    }
}

pub(super) fn text(to: u32, content: &str) -> client::MessageData {
    client::MessageData {
        to_session_id: to,
        msg_type: client::MessageType::SingleText.into(),
        msg_data: Bytes::copy_from_slice(content.as_bytes()),
        ..client::MessageData::default()
    }
}

pub(super) fn single(one: u32, other: u32) -> u64 {
    ConversationId::single(UserId(one), UserId(other)).unwrap().number()
}

pub(super) fn group(group: u32) -> u64 {
    ConversationId::group(GroupId(group)).unwrap().number()
}

/// Message `msg_id` of a conversation, at ten times its number in the log.
pub(super) fn publish(conversation: u64, msg_id: u32, sender: u32) -> wire::Publish {
    let message = client::MessageData {
        from_user_id: sender,
        to_session_id: 0,
        msg_id,
        create_time: 1_700_000_000,
        msg_type: client::MessageType::SingleText.into(),
        msg_data: Bytes::from_static(b"content"),
        ..client::MessageData::default()
    };
    wire::Publish {
        conversation,
        msg_id,
        offset: u64::from(msg_id) * 10,
        prev_offset: u64::from(msg_id).saturating_sub(1) * 10,
        member_version: 1,
        sender,
        client_msg_id: Some(Bytes::copy_from_slice(&[u8::try_from(msg_id % 200).unwrap(); 16])),
        origin: None,
        frame: encode_message(Command::MessageData, 0, &message),
        added: Vec::new(),
        removed: Vec::new(),
        epoch: 1,
        partition: 0,
        first_visible: None,
    }
}
