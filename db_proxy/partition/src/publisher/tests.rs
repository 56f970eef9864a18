//! The way of a publication: one replica, the next one, or straight to the gateways.

use std::net::SocketAddr;

use daemon::{LinkOptions, Metrics, Role};
use proto::ids::ClientMsgId;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::test::far::{self, Far};
use crate::test::{PATIENCE, group, single};

const OWNED: Owned = Owned { partition: 2, epoch: 3 };

#[tokio::test]
async fn an_acknowledged_publication_is_done() {
    let mut setup = Setup::start(&["r1"], &[7]).await;
    setup.publish(1, 5);
    let (link, frame) = setup.route("r1").frame().await;
    assert_eq!(setup.publisher.unacknowledged(), 1);

    let publish: Publish = frame.parse().unwrap();
    assert_eq!(publish.conversation, single(1, 2).number());
    assert_eq!((publish.msg_id, publish.offset, publish.prev_offset), (1, 5, 4));
    assert_eq!((publish.epoch, publish.partition, publish.member_version), (3, 2, 0));
    assert_eq!(publish.origin, Some(Origin { gateway_boot: 9, session: 8 }));
    let mut bytes = bytes::BytesMut::from(&publish.frame[..]);
    let to_client = proto::frame::decode(&mut bytes, LIMIT_TO_CLIENT).unwrap().unwrap();
    assert_eq!((to_client.known_command(), to_client.seq), (Some(Command::MessageData), 0));
    let message: MessageData = to_client.parse().unwrap();
    assert_eq!((message.from_user_id, message.to_session_id, message.msg_id), (1, 2, 1));
    assert_eq!((message.create_time, message.msg_type), (1_800_000_000, 1));
    assert_eq!((&message.msg_data[..], message.client_msg_id), (&b"body"[..], None));

    link.answer(&frame, frame.kind, &PublishAck::default()).unwrap();
    setup.all_acknowledged().await;
    assert!(setup.gateway(7).try_frame().is_none(), "the replica has told it");
    let page = setup.page.encode().unwrap();
    assert!(page.contains("\ntalkhub_db_proxy_publish_seconds_count 1\n"), "{page}");
}

#[tokio::test]
async fn gateways_that_the_replica_could_not_reach_are_served_from_here() {
    let mut setup = Setup::start(&["r1"], &[7, 8]).await;
    setup.publish(1, 5);
    let (link, frame) = setup.route("r1").frame().await;
    let missed = PublishAck { missed_gateway_boots: vec![8, 99], ..PublishAck::default() };
    link.answer(&frame, frame.kind, &missed).unwrap();
    let (_link, served) = setup.gateway(8).frame().await;
    assert_eq!((served.kind, &served.body), (Kind::Publish.number(), &frame.body));
    assert!(!served.answer);
    setup.all_acknowledged().await;
    assert!(setup.gateway(7).try_frame().is_none());
}

#[tokio::test]
async fn a_replica_that_has_just_started_leaves_the_gateways_to_us() {
    let mut setup = Setup::start(&["r1"], &[7, 8]).await;
    setup.publish(1, 5);
    let (link, frame) = setup.route("r1").frame().await;
    let newcomer = PublishAck { newcomer: Some(true), ..PublishAck::default() };
    link.answer(&frame, frame.kind, &newcomer).unwrap();
    for boot in [7, 8] {
        let (_link, served) = setup.gateway(boot).frame().await;
        assert_eq!(served.body, frame.body);
    }
    assert_eq!(setup.publisher.unacknowledged(), 0);
}

#[tokio::test]
async fn without_a_replica_every_gateway_is_served_directly_and_in_order() {
    let mut setup = Setup::start(&[], &[7, 8]).await;
    for msg_id in 1..=100 {
        setup.publish(msg_id, u64::from(msg_id));
    }
    for boot in [7, 8] {
        for msg_id in 1..=100 {
            let (_link, frame) = setup.gateway(boot).frame().await;
            assert_eq!(frame.parse::<Publish>().unwrap().msg_id, msg_id);
        }
    }
    assert_eq!(setup.publisher.unacknowledged(), 0);
}

#[tokio::test]
async fn a_replica_that_does_not_acknowledge_is_followed_by_the_next_and_then_by_the_gateways() {
    let mut setup = Setup::start(&["r1", "r2"], &[7]).await;
    let [first, second] = ranked(single(1, 2));
    let began = Instant::now();
    setup.publisher.watch(&setup.shutdown);
    setup.publish(1, 5);
    let (_link, to_first) = setup.route(first).frame().await;
    let (_link, to_second) = setup.route(second).frame().await;
    assert!(began.elapsed() >= ACK_LIMIT, "{:?}", began.elapsed());
    let (_link, direct) = setup.gateway(7).frame().await;
    assert!(began.elapsed() >= 2 * ACK_LIMIT, "{:?}", began.elapsed());
    assert_eq!((&to_second.body, &direct.body), (&to_first.body, &to_first.body));
    assert_eq!(to_second.request, to_first.request);
    assert_eq!(setup.publisher.unacknowledged(), 0, "there is nobody left to wait for");
    assert!(setup.route(first).try_frame().is_none(), "each had it once");
}

/// The clock is not looked at here: only the end of the link can have moved it on.
#[tokio::test]
async fn what_a_lost_replica_had_goes_to_the_next_at_once() {
    let mut setup = Setup::start(&["r1", "r2"], &[7]).await;
    let [first, second] = ranked(single(1, 2));
    for msg_id in 1..=20 {
        setup.publish(msg_id, u64::from(msg_id));
    }
    let (link, acknowledged) = setup.route(first).frame().await;
    link.answer(&acknowledged, acknowledged.kind, &PublishAck::default()).unwrap();
    setup.until(|publisher| publisher.unacknowledged() == 19).await;
    link.reset("the test says so");
    for msg_id in 2..=20 {
        let (_link, frame) = setup.route(second).frame().await;
        assert_eq!(frame.parse::<Publish>().unwrap().msg_id, msg_id);
    }
    assert!(setup.gateway(7).try_frame().is_none());
}

#[tokio::test]
async fn what_the_only_replica_had_when_it_was_lost_goes_to_the_gateways() {
    let mut setup = Setup::start(&["r1"], &[7]).await;
    setup.publish(1, 5);
    let (link, _frame) = setup.route("r1").frame().await;
    setup.publisher.down(&setup.to("r1"));
    let (_link, frame) = setup.gateway(7).frame().await;
    assert_eq!(frame.parse::<Publish>().unwrap().msg_id, 1);
    assert_eq!(setup.publisher.unacknowledged(), 0);
    drop(link);
}

#[tokio::test]
async fn an_acknowledgement_that_comes_late_or_twice_changes_nothing() {
    let mut setup = Setup::start(&["r1", "r2"], &[7]).await;
    let [first, second] = ranked(single(1, 2));
    setup.publisher.watch(&setup.shutdown);
    setup.publish(1, 5);
    let (to_first, frame) = setup.route(first).frame().await;
    let (to_second, again) = setup.route(second).frame().await;
    to_second.answer(&again, again.kind, &PublishAck::default()).unwrap();
    setup.all_acknowledged().await;
    let page = setup.page.encode().unwrap();
    assert!(page.contains("publish_seconds_bucket{le=\"0.25\"} 0\n"), "from the fold: {page}");
    let missed = PublishAck { missed_gateway_boots: vec![7], ..PublishAck::default() };
    to_first.answer(&frame, frame.kind, &missed).unwrap();
    to_first.answer(&frame, frame.kind, &missed).unwrap();
    // A later publication's answer comes after them on the same link.
    setup.publisher.down(&setup.to(second));
    setup.publish(2, 6);
    let (to_first, frame) = setup.route(first).frame().await;
    to_first.answer(&frame, frame.kind, &PublishAck::default()).unwrap();
    setup.all_acknowledged().await;
    assert!(setup.gateway(7).try_frame().is_none());
}

#[tokio::test]
async fn beyond_what_may_wait_the_gateways_are_served_directly() {
    let mut setup = Setup::start(&["r1"], &[7]).await;
    let row = row(1, 5);
    for _ in 0..=PENDING_MAX {
        setup.publisher.message(&folded(&row, None), OWNED);
    }
    assert_eq!(setup.publisher.unacknowledged(), PENDING_MAX);
    setup.gateway(7).frame().await;
    assert!(setup.gateway(7).try_frame().is_none(), "only the last one");
}

#[tokio::test]
async fn a_change_of_members_is_told_to_clients_but_a_new_group_is_not() {
    let mut setup = Setup::start(&[], &[7]).await;
    let users = |users: &[u32]| users.iter().copied().map(UserId).collect::<Vec<_>>();
    let (current, added, removed) = (users(&[1, 2]), users(&[2]), users(&[3]));
    let change = |added, removed, quiet| MembersChange {
        group: GroupId(4),
        actor: UserId(1),
        origin: Some(Origin { gateway_boot: 9, session: 8 }),
        current: &current,
        added,
        removed,
        quiet,
        version: 6,
        first_visible: Some(MsgId(11)),
    };
    for (change, expected) in [
        (change(&added, &[], false), &[(GroupChange::Add, 2)][..]),
        (change(&[], &removed, false), &[(GroupChange::Remove, 3)]),
        (change(&added, &removed, false), &[(GroupChange::Remove, 3), (GroupChange::Add, 2)]),
        (change(&added, &removed, true), &[]),
    ] {
        let place = RecordPlace { offset: Offset(9), previous: Offset(8) };
        setup.publisher.members(&change, place, OWNED);
        let (_link, frame) = setup.gateway(7).frame().await;
        let publish: Publish = frame.parse().unwrap();
        assert_eq!((publish.conversation, publish.msg_id), (group(4).number(), 0));
        assert_eq!((publish.offset, publish.prev_offset, publish.member_version), (9, 8, 6));
        assert_eq!(publish.first_visible, Some(11));
        assert_eq!(publish.origin.unwrap().session, 8, "who asked has the reply");
        let mut bytes = bytes::BytesMut::from(&publish.frame[..]);
        for (kind, changed) in expected {
            let to_client = proto::frame::decode(&mut bytes, LIMIT_TO_CLIENT).unwrap().unwrap();
            assert_eq!(to_client.known_command(), Some(Command::GroupMembersNotify));
            let notify: GroupMembersNotify = to_client.parse().unwrap();
            assert_eq!((notify.change, notify.changed_ids), (*kind as i32, vec![*changed]));
            assert_eq!((notify.user_id, notify.group_id, notify.current_ids), (1, 4, vec![1, 2]));
        }
        assert!(bytes.is_empty(), "nothing more");
    }
}

#[tokio::test]
async fn a_notice_of_a_huge_group_fits_a_frame() {
    let users: Vec<UserId> = (1..=300_000).map(|number| UserId(u32::MAX - number)).collect();
    let change = MembersChange {
        group: GroupId(4),
        actor: UserId(1),
        origin: None,
        current: &users,
        added: &users,
        removed: &[],
        quiet: false,
        version: 2,
        first_visible: Some(MsgId(1)),
    };
    let frame = notices(&change);
    assert!(frame.len() <= LIMIT_TO_CLIENT, "{}", frame.len());
}

/// A publisher, fake route_servers and fake gateways.
struct Setup {
    publisher: Arc<Publisher>,
    page: Metrics,
    shutdown: Shutdown,
    routes: Vec<(String, Far)>,
    gateways: Vec<(u64, Far)>,
}

/// Knows the gateways, as the daemon's requests do.
struct Gateways(Arc<LinkTable>);

impl LinkHandler for Gateways {
    fn up(&self, link: &Link) {
        self.0.add(link);
    }

    fn frame(&self, _link: &Link, _frame: LinkFrame) {}

    fn down(&self, link: &Link) {
        self.0.remove(link);
    }
}

impl Publisher {
    /// How many publications are not acknowledged yet.
    fn unacknowledged(&self) -> usize {
        self.pending.lock().unacknowledged.len()
    }
}

impl Setup {
    async fn start(routes: &[&str], gateways: &[u64]) -> Self {
        let shutdown = Shutdown::default();
        let table = Arc::new(LinkTable::default());
        let page = Metrics::new("db_proxy");
        let publisher = Publisher::new(Arc::clone(&table), PublishMetrics::new(&page));
        let mut setup =
            Self { publisher, page, shutdown, routes: Vec::new(), gateways: Vec::new() };
        setup.dial(routes).await;
        setup.listen(gateways, Arc::clone(&table)).await;
        setup.until(|publisher| publisher.routes.len() == routes.len()).await;
        setup.until(|_publisher| table.len() == gateways.len()).await;
        setup
    }

    async fn dial(&mut self, routes: &[&str]) {
        let mut addrs = Vec::new();
        for name in routes {
            let (far, addr) = Far::listen(Role::RouteServer, name, &self.shutdown).await;
            self.routes.push(((*name).to_owned(), far));
            addrs.push(addr.to_string());
        }
        let (_targets, addrs) = watch::channel(addrs);
        let handler: Arc<Publisher> = Arc::clone(&self.publisher);
        let identity = far::identity(Role::DbProxy, "db", 1);
        let options = LinkOptions::default();
        let to = Role::RouteServer;
        daemon::link::dial(addrs, identity, to, handler, options, &self.shutdown);
    }

    async fn listen(&mut self, gateways: &[u64], table: Arc<LinkTable>) {
        let addr = daemon::link::listen(
            SocketAddr::from(([127, 0, 0, 1], 0)),
            far::identity(Role::DbProxy, "db", 1),
            &[Role::MsgServer],
            Arc::new(Gateways(table)),
            LinkOptions::default(),
            &self.shutdown,
        );
        let addr = addr.await.unwrap();
        for boot in gateways {
            let who = far::identity(Role::MsgServer, &format!("gateway {boot}"), *boot);
            let (far, _link) = Far::dial(addr, who, &self.shutdown).await;
            self.gateways.push((*boot, far));
        }
    }

    fn publish(&self, msg_id: u32, offset: u64) {
        let origin = Some(Origin { gateway_boot: 9, session: 8 });
        self.publisher.message(&folded(&row(msg_id, offset), origin), OWNED);
    }

    fn route(&mut self, name: &str) -> &mut Far {
        let mut routes = self.routes.iter_mut();
        routes.find(|(other, _far)| other == name).map(|(_name, far)| far).unwrap()
    }

    fn gateway(&mut self, boot: u64) -> &mut Far {
        let mut gateways = self.gateways.iter_mut();
        gateways.find(|(other, _far)| *other == boot).map(|(_boot, far)| far).unwrap()
    }

    /// The publisher's end of the link to a replica.
    fn to(&self, name: &str) -> Link {
        self.publisher.routes.all().iter().find(|link| link.peer().name == name).unwrap().clone()
    }

    async fn until(&self, is_so: impl Fn(&Publisher) -> bool) {
        let waiting = async {
            while !is_so(&self.publisher) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("it happens in time");
    }

    async fn all_acknowledged(&self) {
        self.until(|publisher| publisher.unacknowledged() == 0).await;
    }
}

/// The replicas in the order in which the conversation asks them.
fn ranked(conversation: ConversationId) -> [&'static str; 2] {
    let weight = |name| rendezvous_weight(conversation.number(), name);
    if weight("r1") > weight("r2") { ["r1", "r2"] } else { ["r2", "r1"] }
}

fn folded(row: &MessageRow, origin: Option<Origin>) -> FoldedMessage<'_> {
    FoldedMessage { row, previous: Offset(row.offset.0 - 1), member_version: 0, origin }
}

fn row(msg_id: u32, offset: u64) -> MessageRow {
    MessageRow {
        conversation: single(1, 2),
        msg_id: MsgId(msg_id),
        sender: UserId(1),
        client_msg_id: ClientMsgId([3; 16]),
        offset: Offset(offset),
        timestamp_ms: 1_800_000_000_999,
        kind: 1,
        body: Bytes::from_static(b"body"),
    }
}
