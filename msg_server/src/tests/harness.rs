//! A gateway with a storage and a hub that do what the test says.

mod db;
mod hub;
mod log;
mod peer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use daemon::link::{self, LinkHandler, LinkKey, LinkOptions};
use daemon::{
    ClusterConfig, Context, Identity, ListenTlsConfig, Metrics, Readiness, Role, Running, Secret,
    Shutdown,
};
use parking_lot::Mutex;
use proto::cluster::{partition_of, wire};
use proto::ids::{ConversationId, GroupId, UserId};
use proto::{Command, client, encode_message};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(super) use db::{FakeDb, Reply};
pub(super) use hub::FakeHub;
pub(super) use peer::Client;

use crate::{Config, LimitsConfig};

pub(super) const LIMIT: Duration = Duration::from_secs(10);
pub(super) const WINDOWS: u32 = 1;
pub(super) const MAC: u32 = 2;
pub(super) const ANDROID: u32 = 0x12;
/// Partitions where there are two storages.
pub(super) const PARTITIONS: u32 = 4;
const KEY: &str = "a key for tests alone";

/// The gateway and its peers.
pub(super) struct World {
    pub(super) addr: SocketAddr,
    pub(super) db: Arc<FakeDb>,
    /// A second one, in a cluster of [`PARTITIONS`].
    pub(super) other: Arc<FakeDb>,
    pub(super) hub: Arc<FakeHub>,
    /// What the gateway shows of itself.
    pub(super) page: Metrics,
    running: Running,
    peers: Shutdown,
    db_shutdown: Mutex<Shutdown>,
    db_addr: SocketAddr,
}

impl World {
    pub(super) async fn start() -> Self {
        Self::start_with(|_limits| {}).await
    }

    pub(super) async fn start_with(change: impl FnOnce(&mut LimitsConfig)) -> Self {
        Self::start_on(vec![FakeDb::new()], |config| change(&mut config.limits)).await
    }

    /// With a storage that names what changes, whose log has come to `head`. The cursor is there.
    pub(super) async fn start_at(head: u64) -> Self {
        let db = FakeDb::new();
        db.has_cursors.store(true, Ordering::SeqCst);
        db.head.store(head, Ordering::SeqCst);
        let world = Self::start_on(vec![db], |_config| {}).await;
        assert_eq!(world.db.next_follow().await, None, "there is no cursor yet");
        world
    }

    /// Behind a proxy at that address, with so many places for each client's address.
    pub(super) async fn start_behind(proxy: &str, per_ip_max: usize) -> Self {
        Self::start_on(vec![FakeDb::new()], |config| {
            config.proxies = vec![proxy.parse().unwrap()];
            config.limits.connections_per_ip_max = per_ip_max;
        })
        .await
    }

    pub(super) async fn start_with_tls(tls: ListenTlsConfig) -> Self {
        Self::start_on(vec![FakeDb::new()], |config| config.tls = Some(tls)).await
    }

    /// With two storages in a cluster of [`PARTITIONS`], whose logs have come to `head`. The first owns
    /// 0 and 1, the other 2 and 3, all in epoch 5, and the cursors are there.
    pub(super) async fn start_two(head: u64) -> Self {
        let dbs = vec![FakeDb::new(), FakeDb::new()];
        for (db, owned) in dbs.iter().zip([[(0, 5), (1, 5)], [(2, 5), (3, 5)]]) {
            db.has_cursors.store(true, Ordering::SeqCst);
            db.head.store(head, Ordering::SeqCst);
            db.partitions.store(PARTITIONS, Ordering::SeqCst);
            db.own(&owned);
        }
        let world = Self::start_on(dbs, |_config| {}).await;
        for db in [&world.db, &world.other] {
            for _partition in 0..2 {
                assert_eq!(db.next_follow().await, None, "there is no cursor yet");
            }
            let owned = db.owned.lock().clone();
            for owned in owned {
                db.settle(owned.partition, head).await;
            }
        }
        world
    }

    async fn start_on(dbs: Vec<Arc<FakeDb>>, change: impl FnOnce(&mut Config)) -> Self {
        let peers = Shutdown::default();
        let db_shutdown = peers.child();
        let hub = FakeHub::new();
        let any = "127.0.0.1:0".parse().unwrap();
        let mut db_addrs = Vec::new();
        for (db, name) in dbs.iter().zip(["db", "db-2"]) {
            db_addrs.push(listen(any, Role::DbProxy, name, db.clone(), &db_shutdown).await);
        }
        let (db_addr, db) = (db_addrs[0], Arc::clone(&dbs[0]));
        let other = dbs.last().cloned().unwrap();
        let hub_addr = listen(any, Role::RouteServer, "r1", hub.clone(), &peers).await;

        let mut config = Config {
            cluster: ClusterConfig {
                key: Some(Secret::new(KEY)),
                name: "g1".to_owned(),
                ..ClusterConfig::default()
            },
            listen: Some(any),
            route_servers: vec![hub_addr.to_string()],
            db_proxies: db_addrs.iter().map(SocketAddr::to_string).collect(),
            ..Config::default()
        };
        change(&mut config);
        let shutdown = Shutdown::default();
        let context = Context::fixed(config, shutdown.clone());
        let page = context.metrics.clone();
        let serving = crate::serve(context).await.unwrap();
        timeout(LIMIT, serving.ready.ready()).await.expect("linked in time");
        let addr = serving.addr("clients").unwrap();
        let running = Running { serving, shutdown };
        let db_shutdown = Mutex::new(db_shutdown);
        Self { addr, db, other, hub, page, running, peers, db_shutdown, db_addr }
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

    /// Whether clients can log in, and what is missing.
    pub(super) fn ready(&self) -> Readiness {
        self.running.serving.ready.clone()
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

/// The same, in the log of its partition of [`PARTITIONS`] and in an epoch.
pub(super) fn placed(publish: wire::Publish, epoch: u64) -> wire::Publish {
    let partition = partition_of(publish.conversation, PARTITIONS);
    wire::Publish { partition, epoch, ..publish }
}

/// A user whose conversation with `user` belongs to that partition of [`PARTITIONS`].
pub(super) fn peer_in(partition: u32, user: u32) -> u32 {
    let mut peers =
        (user + 1..).filter(|&peer| partition_of(single(user, peer), PARTITIONS) == partition);
    peers.next().unwrap()
}

/// The partition of a group, of [`PARTITIONS`].
pub(super) fn group_partition(id: u32) -> u32 {
    partition_of(group(id), PARTITIONS)
}
