//! A replica between gateways and owners, over real links.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar};

use bytes::Bytes;
use daemon::link::{self, Identity, LinkKey, LinkOptions};
use daemon::{Metrics, Shutdown};
use proto::cluster::interest_hash_group;
use proto::ids::{ConversationId, GroupId, UserId};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::*;
use crate::{presence, seats};

const LIMIT: Duration = Duration::from_secs(10);
const NOBODY: [u64; 0] = [];
const ANDROID: u32 = 0x12;
const WINDOWS: u32 = 1;

/// A replica on a port of its own.
struct Replica {
    links: Arc<Links>,
    addr: SocketAddr,
    key: LinkKey,
    shutdown: Shutdown,
}

/// The other end of a link, which remembers what comes in.
struct Fake {
    link: Link,
    frames: mpsc::Receiver<LinkFrame>,
    ended: watch::Receiver<bool>,
    shutdown: Shutdown,
}

struct Listener {
    links: mpsc::Sender<Link>,
    frames: mpsc::Sender<LinkFrame>,
    ended: watch::Sender<bool>,
    /// Frames are taken only while this is open.
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    shut: std::sync::Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let shut = self.shut.lock().unwrap();
        drop(self.opened.wait_while(shut, |shut| *shut).unwrap());
    }

    fn set_shut(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }
}

impl LinkHandler for Listener {
    fn up(&self, link: &Link) {
        // A fake looks at its first link only.
        self.links.try_send(link.clone()).ok();
    }

    fn frame(&self, _link: &Link, frame: LinkFrame) {
        self.gate.pass();
        self.frames.try_send(frame).ok();
    }

    fn down(&self, _link: &Link) {
        self.ended.send_replace(true);
    }
}

impl Replica {
    async fn start() -> Self {
        Self::start_with(LinkOptions::default()).await
    }

    async fn start_with(options: LinkOptions) -> Self {
        Self::start_on(links(), options).await
    }

    async fn start_on(links: Links, options: LinkOptions) -> Self {
        let links = Arc::new(links);
        let (shutdown, key) = (Shutdown::default(), LinkKey::random());
        let identity = identity(Role::RouteServer, 1, &key);
        let accepts = [Role::MsgServer, Role::DbProxy];
        let handler = Arc::clone(&links);
        let any = "127.0.0.1:0".parse().unwrap();
        let addr = link::listen(any, identity, &accepts, handler, options, &shutdown).await;
        Self { links, addr: addr.unwrap(), key, shutdown }
    }

    async fn connect(&self, role: Role, boot: u64) -> Fake {
        self.connect_through(role, boot, Arc::default()).await
    }

    async fn connect_through(&self, role: Role, boot: u64, gate: Arc<Gate>) -> Fake {
        let (links, mut linked) = mpsc::channel(1);
        let (keep, frames) = mpsc::channel(1000);
        let (ending, ended) = watch::channel(false);
        let (_fixed, targets) = watch::channel(vec![self.addr.to_string()]);
        let listener = Arc::new(Listener { links, frames: keep, ended: ending, gate });
        let shutdown = self.shutdown.child();
        let identity = identity(role, boot, &self.key);
        let options = LinkOptions::default();
        link::dial(targets, identity, Role::RouteServer, listener, options, &shutdown);
        let link = timeout(LIMIT, linked.recv()).await.expect("a link in time").unwrap();
        Fake { link, frames, ended, shutdown }
    }

    /// A gateway that has sent a table with these sessions and groups.
    async fn gateway(&self, boot: u64, users: &[wire::UserInterest], groups: &[u32]) -> Fake {
        let gateway = self.connect(Role::MsgServer, boot).await;
        gateway.send(Kind::InterestTable, &table(users, groups));
        let mut gateway = gateway.settled().await;
        gateway.next::<wire::PresenceChanges>(Kind::PresenceChanges).await;
        gateway
    }
}

impl Fake {
    fn send(&self, kind: Kind, message: &impl Message) {
        self.link.send(kind.number(), 0, message).unwrap();
    }

    async fn call<M: Message + Default>(&self, kind: Kind, message: &impl Message) -> M {
        self.link.call(kind.number(), message, LIMIT).await.unwrap()
    }

    /// Returns when everything sent so far, in both directions, has arrived.
    async fn settled(self) -> Self {
        self.call::<wire::Status>(Kind::Status, &wire::StatusRequest::default()).await;
        self
    }

    async fn next<M: Message + Default>(&mut self, kind: Kind) -> M {
        let frame = timeout(LIMIT, self.frames.recv()).await.expect("a frame in time").unwrap();
        assert_eq!(Kind::from_number(frame.kind), Some(kind));
        frame.parse().unwrap()
    }

    /// Asserts that nothing has come in that was not looked at.
    async fn heard_nothing(self) -> Self {
        let mut fake = self.settled().await;
        let frame = fake.frames.try_recv();
        assert!(frame.is_err(), "gateway {} got {frame:?}", fake.link.peer().name);
        fake
    }

    async fn ended(&mut self) {
        timeout(LIMIT, self.ended.wait_for(|ended| *ended)).await.expect("an end in time").unwrap();
    }

    /// Goes away without a word and stays away.
    fn vanish(&self) {
        self.shutdown.close_links();
    }
}

fn links() -> Links {
    Links::new(ReplicaMetrics::register(&Metrics::new("route_server")))
}

fn identity(role: Role, boot: u64, key: &LinkKey) -> Identity {
    Identity { role, name: format!("{role}-{boot}"), boot, key: key.clone(), tls: None }
}

fn pc(user: u32, epoch: u64) -> wire::UserInterest {
    wire::UserInterest { user, session: epoch, client_type: WINDOWS, epoch, age_us: None }
}

fn phone(user: u32, epoch: u64) -> wire::UserInterest {
    wire::UserInterest { user, session: epoch, client_type: ANDROID, epoch, age_us: None }
}

fn table(users: &[wire::UserInterest], groups: &[u32]) -> wire::InterestTable {
    wire::InterestTable {
        begin: Some(true),
        users: users.to_vec(),
        groups: groups.to_vec(),
        complete: Some(true),
    }
}

fn add(user: wire::UserInterest) -> wire::InterestChange {
    wire::InterestChange { add_users: vec![user], ..wire::InterestChange::default() }
}

fn single(one: u32, other: u32, origin: u64) -> wire::Publish {
    wire::Publish {
        conversation: ConversationId::single(UserId(one), UserId(other)).unwrap().number(),
        msg_id: 5,
        origin: Some(wire::Origin { gateway_boot: origin, session: 1 }),
        frame: Bytes::from_static(b"the frame"),
        ..wire::Publish::default()
    }
}

fn changes(online: &[u32], offline: &[u32], count: u32) -> wire::PresenceChanges {
    wire::PresenceChanges {
        online: online.to_vec(),
        offline: offline.to_vec(),
        pc_users_online: count,
    }
}

#[tokio::test]
async fn a_publish_reaches_the_interested_the_origin_and_the_unknown_and_no_other_gateway() {
    let replica = Replica::start().await;
    let mut interested = replica.gateway(1, &[pc(7, 10)], &[]).await;
    let mut origin = replica.gateway(2, &[], &[]).await;
    let other = replica.gateway(3, &[pc(9, 10)], &[4]).await;
    let mut unknown = replica.connect(Role::MsgServer, 4).await.settled().await;
    let owner = replica.connect(Role::DbProxy, 100).await;

    let publish = single(7, 8, 2);
    let ack: wire::PublishAck = owner.call(Kind::Publish, &publish).await;
    assert_eq!(ack.missed_gateway_boots, NOBODY);
    for gateway in [&mut interested, &mut origin, &mut unknown] {
        assert_eq!(gateway.next::<wire::Publish>(Kind::Publish).await, publish);
    }
    interested.heard_nothing().await;
    origin.heard_nothing().await;
    unknown.heard_nothing().await;

    let conversation = ConversationId::group(GroupId(4)).unwrap().number();
    let publish = wire::Publish { conversation, origin: None, ..publish };
    owner.call::<wire::PublishAck>(Kind::Publish, &publish).await;
    let mut other = other;
    assert_eq!(other.next::<wire::Publish>(Kind::Publish).await, publish);
    other.heard_nothing().await;
}

#[tokio::test]
async fn an_acknowledgement_names_lost_gateways_and_an_origin_that_is_not_here() {
    let replica = Replica::start().await;
    let mut lost = replica.gateway(1, &[pc(7, 10)], &[]).await;
    let owner = replica.connect(Role::DbProxy, 100).await;
    lost.vanish();
    lost.ended().await;
    // The replica sees the end in its own time.
    let probe = replica.gateway(2, &[], &[]).await;
    let ack = loop {
        let ack: wire::PublishAck = owner.call(Kind::Publish, &single(7, 8, 99)).await;
        if ack.missed_gateway_boots.len() == 2 {
            break ack;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(ack.missed_gateway_boots, [1, 99]);
    probe.heard_nothing().await;

    replica.links.tick(Instant::now() + LOST_KEPT);
    let ack: wire::PublishAck = owner.call(Kind::Publish, &single(7, 8, 2)).await;
    assert_eq!(ack.missed_gateway_boots, NOBODY, "it is gone for good");
}

#[tokio::test]
async fn an_owner_is_told_whether_the_replica_has_just_started() {
    let now = Instant::now();
    for (until, told) in [(now + JUST_STARTED_FOR, Some(true)), (now, None)] {
        let links = links().just_started_until(until);
        let replica = Replica::start_on(links, LinkOptions::default()).await;
        let owner = replica.connect(Role::DbProxy, 100).await;
        let ack: wire::PublishAck = owner.call(Kind::Publish, &single(7, 8, 0)).await;
        assert_eq!(ack.newcomer, told);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gateway_that_does_not_read_is_named_and_its_link_reset() {
    let options = LinkOptions { queue_bytes_max: 1 << 20, ..LinkOptions::default() };
    let replica = Replica::start_with(options).await;
    let gate = Arc::new(Gate::default());
    let mut stuck = replica.connect_through(Role::MsgServer, 1, Arc::clone(&gate)).await;
    stuck.send(Kind::InterestTable, &table(&[pc(7, 10)], &[]));
    stuck = stuck.settled().await;
    gate.set_shut(true);
    let owner = replica.connect(Role::DbProxy, 100).await;

    let large = wire::Publish { frame: Bytes::from(vec![0; 500_000]), ..single(7, 8, 1) };
    let mut missed = Vec::new();
    // What the sockets' buffers take is a few megabytes.
    for _attempt in 0..200 {
        let ack: wire::PublishAck = owner.call(Kind::Publish, &large).await;
        missed = ack.missed_gateway_boots;
        if !missed.is_empty() {
            break;
        }
    }
    assert_eq!(missed, [1]);
    gate.set_shut(false);
    stuck.ended().await;
}

#[tokio::test]
async fn a_login_is_answered_with_what_is_known_of_the_user() {
    let replica = Replica::start().await;
    let one = replica.gateway(1, &[pc(7, 100), pc(8, 50)], &[]).await;
    let other = replica.gateway(2, &[], &[]).await;
    let registered: wire::Registered = other.call(Kind::InterestChange, &add(phone(7, 20))).await;
    let expected = wire::Registered {
        largest_epoch: Some(20),
        pc_online: Some(true),
        pc_users_online: Some(2),
        largest_age_us: None,
    };
    assert_eq!(registered, expected);
    let registered: wire::Registered = other.call(Kind::InterestChange, &add(phone(9, 30))).await;
    assert_eq!(registered.pc_online, Some(false));
    one.heard_nothing().await;
}

#[tokio::test]
async fn the_login_with_the_smaller_epoch_is_kicked() {
    let replica = Replica::start().await;
    let mut older = replica.gateway(1, &[pc(7, 100), phone(7, 101)], &[]).await;
    let newer = replica.gateway(2, &[], &[]).await;
    let registered: wire::Registered = newer.call(Kind::InterestChange, &add(pc(7, 200))).await;
    assert_eq!(registered.largest_epoch, Some(200));
    let kick: wire::Kick = older.next(Kind::Kick).await;
    let expected = wire::Kick {
        user: 7,
        device_class: Some(0),
        below_epoch: Some(200),
        reason: Some(1),
        ..wire::Kick::default()
    };
    assert_eq!(kick, expected);
    older.heard_nothing().await;
    newer.heard_nothing().await;
}

#[tokio::test]
async fn a_newcomer_with_the_smaller_epoch_may_raise_it_before_it_is_kicked() {
    let replica = Replica::start().await;
    let there = replica.gateway(1, &[pc(7, 100)], &[]).await;
    let newcomer = replica.gateway(2, &[], &[]).await;
    let registered: wire::Registered = newcomer.call(Kind::InterestChange, &add(pc(7, 90))).await;
    assert_eq!(registered.largest_epoch, Some(100));
    replica.links.tick(Instant::now());
    let there = there.settled().await;
    let mut newcomer = newcomer.settled().await;
    newcomer.next::<wire::PresenceChanges>(Kind::PresenceChanges).await;
    let mut newcomer = newcomer.heard_nothing().await;

    replica.links.tick(Instant::now() + seats::NEWCOMER_GRACE);
    let kick: wire::Kick = newcomer.next(Kind::Kick).await;
    assert_eq!(kick.below_epoch, Some(100));
    drop(there);
}

#[tokio::test]
async fn a_session_that_comes_back_with_a_table_is_kicked_at_once_if_it_is_the_older() {
    let replica = Replica::start().await;
    let newer = replica.gateway(1, &[pc(7, 100)], &[]).await;
    let mut older = replica.connect(Role::MsgServer, 2).await;
    older.send(Kind::InterestTable, &table(&[pc(7, 90)], &[]));
    let kick: wire::Kick = older.next(Kind::Kick).await;
    assert_eq!((kick.user, kick.below_epoch), (7, Some(100)));
    newer.heard_nothing().await;
}

#[tokio::test]
async fn presence_is_announced_by_the_tick_and_a_lost_gateway_has_a_grace() {
    let replica = Replica::start().await;
    let mut watcher = replica.gateway(1, &[], &[]).await;
    let mut other = replica.gateway(2, &[pc(7, 100), pc(8, 100), phone(9, 100)], &[]).await;
    let start = Instant::now();
    replica.links.tick(start);
    let said: wire::PresenceChanges = watcher.next(Kind::PresenceChanges).await;
    assert_eq!((said.online.len(), said.offline.len(), said.pc_users_online), (2, 0, 2));

    let leave = wire::InterestChange { remove_users: vec![pc(8, 100)], ..Default::default() };
    other.send(Kind::InterestChange, &leave);
    other = other.settled().await;
    replica.links.tick(start);
    let said: wire::PresenceChanges = watcher.next(Kind::PresenceChanges).await;
    assert_eq!(said, changes(&[], &[8], 1));

    other.vanish();
    other.ended().await;
    while replica.links.tables.lock().lost.is_empty() {
        tokio::task::yield_now().await;
    }
    replica.links.tick(start);
    let watcher = watcher.heard_nothing().await;
    let asked = wire::StatusRequest { users: vec![7, 8, 9, 10] };
    let status: wire::Status = watcher.call(Kind::Status, &asked).await;
    assert_eq!(status.online, [7], "the gateway of 7 was lost, and no user has logged out");
    let mut watcher = watcher;
    replica.links.tick(Instant::now() + presence::LOST_GRACE);
    let said: wire::PresenceChanges = watcher.next(Kind::PresenceChanges).await;
    assert_eq!(said, changes(&[], &[7], 0));
}

#[tokio::test]
async fn a_gateway_whose_checksum_differs_twice_is_asked_for_its_table() {
    let replica = Replica::start().await;
    let gateway = replica.gateway(1, &[], &[4]).await;
    let right = wire::InterestChecksum {
        users: 0,
        users_xor: 0,
        groups: 1,
        groups_xor: interest_hash_group(4),
    };
    let wrong = wire::InterestChecksum { groups: 2, ..right };
    gateway.send(Kind::InterestChecksum, &right);
    gateway.send(Kind::InterestChecksum, &wrong);
    let mut gateway = gateway.heard_nothing().await;
    gateway.send(Kind::InterestChecksum, &wrong);
    gateway.next::<wire::InterestAgain>(Kind::InterestAgain).await;
}

#[tokio::test]
async fn what_clients_tell_each_other_and_kicks_go_where_the_users_are() {
    let replica = Replica::start().await;
    let mut phone_gateway = replica.gateway(1, &[phone(7, 10)], &[]).await;
    let mut pc_gateway = replica.gateway(2, &[pc(7, 11)], &[]).await;
    let sender = replica.gateway(3, &[], &[]).await;

    let forward = wire::Forward {
        users: vec![7],
        frame: Bytes::from_static(b"typing"),
        ..wire::Forward::default()
    };
    sender.send(Kind::Forward, &forward);
    assert_eq!(phone_gateway.next::<wire::Forward>(Kind::Forward).await, forward);
    assert_eq!(pc_gateway.next::<wire::Forward>(Kind::Forward).await, forward);

    let everybody = wire::Forward { users: vec![], everybody: Some(true), ..forward };
    phone_gateway.send(Kind::Forward, &everybody);
    assert_eq!(phone_gateway.next::<wire::Forward>(Kind::Forward).await, everybody);
    assert_eq!(pc_gateway.next::<wire::Forward>(Kind::Forward).await, everybody);
    let mut sender = sender;
    assert_eq!(sender.next::<wire::Forward>(Kind::Forward).await, everybody);

    let kick =
        wire::Kick { user: 7, device_class: Some(0), reason: Some(2), ..wire::Kick::default() };
    phone_gateway.send(Kind::Kick, &kick);
    assert_eq!(pc_gateway.next::<wire::Kick>(Kind::Kick).await, kick);
    phone_gateway.heard_nothing().await;
    sender.heard_nothing().await;
}

#[tokio::test]
async fn a_gateway_that_dials_again_takes_the_place_of_its_old_link() {
    let replica = Replica::start().await;
    let mut old = replica.gateway(1, &[pc(7, 10)], &[]).await;
    let mut new = replica.gateway(1, &[pc(7, 10)], &[]).await;
    old.ended().await;
    old.vanish();
    let owner = replica.connect(Role::DbProxy, 100).await;
    let ack: wire::PublishAck = owner.call(Kind::Publish, &single(7, 8, 1)).await;
    assert_eq!(ack.missed_gateway_boots, NOBODY);
    new.next::<wire::Publish>(Kind::Publish).await;
    new.heard_nothing().await;
}

#[tokio::test]
async fn a_link_with_a_message_of_another_role_or_an_unreadable_one_is_closed() {
    let replica = Replica::start().await;
    let mut gateway = replica.gateway(1, &[], &[]).await;
    gateway.send(Kind::Publish, &single(7, 8, 1));
    gateway.ended().await;
    let mut owner = replica.connect(Role::DbProxy, 100).await;
    owner.link.send_raw(Kind::Publish.number(), 0, b"no message").unwrap();
    owner.ended().await;
}

#[tokio::test]
async fn a_kind_of_a_later_release_is_skipped() {
    let replica = Replica::start().await;
    let gateway = replica.gateway(1, &[], &[]).await;
    gateway.link.send_raw(0x0399, 0, b"?").unwrap();
    gateway.heard_nothing().await;
}
