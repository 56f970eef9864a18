//! What a gateway or an administrator gets over a real link.

use std::net::SocketAddr;
use std::time::Duration;

use cache::MemoryCache;
use daemon::{LinkOptions, Metrics};
use logins::LoginMetrics;
use logins::login::Checks;
use logins::login::guesses::{GuessLimits, Guesses};
use logins::passwords::Passwords;
use logins::tokens::Tokens;
use logins::tokens::clock::Clock;
use logins::tokens::text::Keys;
use partition::consumers::Consumers;
use partition::followers::Followers;
use partition::stall::StallDetector;
use partition::test::far::{self, Far};
use partition::test::{PATIENCE, Proxy, Setup};
use prost::Message;
use proto::client::SessionType;
use proto::cluster::wire::Ownership;
use proto::limits::{HEADER_LEN, LIMIT_TO_CLIENT};
use proto::lists::Placeholders;
use proto::{Command, client};
use tokio::time::timeout;

use super::*;
use crate::commands::reply::ignored;
use crate::metrics::{OwnedMetrics, RequestMetrics};
use crate::partitions::Served;

mod administration;
mod cached;
mod consuming;
mod groups;
mod history;
mod keys;
mod lists;
mod missed;
mod people;
mod sending;
mod tokens;
mod verify;
mod webhooks;

/// A db_proxy that listens, and one gateway.
struct Server {
    proxy: Proxy,
    addr: SocketAddr,
    requests: Links,
    logins: LoginMetrics,
    gateway: Far,
    link: Link,
}

/// How often these tests tell gateways what changed.
const TELL_EVERY: Duration = Duration::from_millis(20);

const BOUNDS: Bounds =
    Bounds { requests: 64, logins: 64, groups: GroupLimits { made: 20, joined: 30 } };

/// How long tokens are good for.
const TOKENS: Duration = Duration::from_hours(24);

const GATEWAY_BOOT: u64 = 70;
const SINGLE: i32 = SessionType::Single as i32;
const GROUP: i32 = SessionType::Group as i32;

impl Server {
    async fn start() -> Self {
        Self::with(Setup { segment_bytes: 32 << 20, ..Setup::new() }.start().await).await
    }

    async fn with(proxy: Proxy) -> Self {
        let page = Metrics::new("db_proxy");
        let metrics = RequestMetrics::new(&page);
        let shown = OwnedMetrics::new(&page).of(0);
        let owned = proxy.owned();
        let followers = Followers::new(proxy.state().clone(), owned, shown.followers);
        let consumers = Consumers::new(proxy.source(), shown.consumers, &proxy.shutdown);
        followers.watch(TELL_EVERY, &proxy.shutdown);
        let store: Arc<dyn store::Store> = Arc::<_>::clone(&proxy.store) as _;
        let cache = proxy.setup.cache.clone();
        let cache = cache.unwrap_or_else(|| Arc::new(MemoryCache::default()));
        let passwords = Passwords::new(0, None).unwrap();
        let guesses = Guesses::new(Arc::clone(&cache), GuessLimits::default());
        let tokens = Tokens::new(Arc::clone(&store), Keys::default(), TOKENS, Clock::default());
        let counted = LoginMetrics::new(&page);
        let logins =
            Logins::new(store, cache, Checks { passwords, guesses }, tokens, counted.clone());
        let stores = vec![Arc::<_>::clone(&proxy.store) as _];
        let partitions = Partitions::new(stores, Arc::clone(&proxy.gateways), true, None);
        partitions.add(Served {
            owned,
            partition: proxy.partition.clone(),
            followers,
            consumers,
            confirmed: StallDetector::default().confirmed(),
        });
        let kicks = Arc::new(Kicks::new(Arc::clone(&proxy.gateways)));
        let placeholders = Placeholders::default();
        let sources = Sources { partitions: Arc::new(partitions), logins, kicks, placeholders };
        let requests = Links::new(sources, BOUNDS, metrics, proxy.shutdown.clone());
        let addr = daemon::link::listen(
            SocketAddr::from(([127, 0, 0, 1], 0)),
            far::identity(Role::DbProxy, "db", 1),
            &[Role::MsgServer, Role::Consumer, Role::Admin],
            Arc::new(requests.clone()),
            LinkOptions::default(),
            &proxy.shutdown,
        );
        let addr = addr.await.unwrap();
        let who = far::identity(Role::MsgServer, "gateway", GATEWAY_BOOT);
        let (mut gateway, link) = Far::dial(addr, who, &proxy.shutdown).await;
        let (_link, first) = gateway.frame().await;
        let ownership: Ownership = first.parse().unwrap();
        assert_eq!(
            (ownership.partitions, ownership.owned, ownership.logins),
            (1, vec![owned], true)
        );
        Self { proxy, addr, requests, logins: counted, gateway, link }
    }

    /// The answer to a client's request, as the gateway gets it.
    async fn answer(&self, user: u32, command: Command, request: &impl Message) -> Answer {
        self.answer_to(user, 0x01, command, request.encode_to_vec()).await
    }

    async fn answer_to(
        &self,
        user: u32,
        client_type: u32,
        command: Command,
        body: Vec<u8>,
    ) -> Answer {
        let ask = Ask {
            user,
            client_type,
            origin: origin(),
            command: u32::from(command.number()),
            body: body.into(),
            partitions: Vec::new(),
            rest: None,
        };
        self.link.call(Kind::Ask.number(), &ask, PATIENCE).await.unwrap()
    }

    /// The reply to a client's request, which must be of the command that belongs to it.
    async fn ask<R: Message + Default>(
        &self,
        user: u32,
        (command, reply): (Command, Command),
        request: &impl Message,
    ) -> R {
        let answer = self.answer(user, command, request).await;
        assert_eq!(answer.status, AskStatus::Answered as i32, "{command:?}");
        assert_eq!(answer.command, Some(u32::from(reply.number())));
        let body = answer.body.expect("an answer has a body");
        assert!(body.len() + HEADER_LEN <= LIMIT_TO_CLIENT, "{command:?}: {} bytes", body.len());
        R::decode(body).unwrap()
    }

    /// All parts of the reply to a client's request, as the gateway asks for them one after another.
    async fn parts<R: Message + Default>(
        &self,
        user: u32,
        (command, reply): (Command, Command),
        request: &impl Message,
    ) -> Vec<R> {
        let mut ask = Ask {
            user,
            client_type: 1,
            origin: origin(),
            command: u32::from(command.number()),
            body: request.encode_to_vec().into(),
            ..Ask::default()
        };
        let mut parts = Vec::new();
        loop {
            let answer: Answer = self.link.call(Kind::Ask.number(), &ask, PATIENCE).await.unwrap();
            assert_eq!(answer.status, AskStatus::Answered as i32, "{command:?}");
            assert_eq!(answer.command, Some(u32::from(reply.number())));
            let body = answer.body.expect("an answer has a body");
            let len = body.len() + HEADER_LEN;
            assert!(len <= LIMIT_TO_CLIENT, "{command:?}: {len} bytes");
            parts.push(R::decode(body).unwrap());
            assert!(parts.len() < 1_000, "it comes to an end");
            ask.rest = answer.rest;
            if ask.rest.is_none() {
                return parts;
            }
        }
    }

    /// An administrator's link.
    async fn admin(&self) -> (Far, Link) {
        Far::dial(self.addr, far::identity(Role::Admin, "admin", 5), &self.proxy.shutdown).await
    }

    async fn stop(self) {
        self.requests.idle().await;
        let Self { proxy, link, gateway, requests, .. } = self;
        drop((link, gateway));
        proxy.stop_with(requests).await;
    }
}

fn origin() -> Origin {
    Origin { gateway_boot: GATEWAY_BOOT, session: 4 }
}

#[tokio::test]
async fn what_is_no_request_is_ignored() {
    let server = Server::start().await;
    for command in [Command::MessageData, Command::Heartbeat, Command::MessageListReply] {
        let answer = server.answer(1, command, &client::LogoutRequest::default()).await;
        assert_eq!(answer, ignored(), "{command:?}");
    }
    let ask = Ask { user: 1, origin: origin(), command: 99_999, ..Ask::default() };
    let answer: Answer = server.link.call(Kind::Ask.number(), &ask, PATIENCE).await.unwrap();
    assert_eq!(answer, ignored());
    let unreadable = server.answer_to(1, 1, Command::MessageListRequest, vec![0xff; 3]).await;
    assert_eq!(unreadable, ignored());
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_answered_completely_is_unavailable() {
    use partition::test::gated::Gate;
    use proto::client::{MessageListRequest, RecentSessionsRequest, UnreadCountRequest};

    let server = Server::start().await;
    server.proxy.store.reads.send_replace(Gate::Away);
    let list = MessageListRequest {
        session_type: SINGLE,
        session_id: 2,
        msg_count: 9,
        ..MessageListRequest::default()
    };
    for answer in [
        server.answer(1, Command::MessageListRequest, &list).await,
        server.answer(1, Command::UnreadCountRequest, &UnreadCountRequest::default()).await,
        server.answer(1, Command::RecentSessionsRequest, &RecentSessionsRequest::default()).await,
    ] {
        assert_eq!(answer, unavailable());
    }
    let memberships = MembershipsRequest { user: 1, partitions: Vec::new() };
    let memberships: Memberships =
        server.link.call(Kind::Memberships.number(), &memberships, PATIENCE).await.unwrap();
    assert!(!memberships.complete);
    server.proxy.store.reads.send_replace(Gate::Open);
    server.stop().await;
}

#[tokio::test]
async fn more_requests_than_can_be_answered_are_turned_away_at_once() {
    use partition::test::gated::Gate;

    let server = Server::start().await;
    server.proxy.store.reads.send_replace(Gate::Closed);
    let all = u32::try_from(BOUNDS.requests).unwrap();
    let taken = server.requests.slots.requests.acquire_many(all).await.unwrap();
    let unread = client::UnreadCountRequest::default();
    assert_eq!(server.answer(1, Command::UnreadCountRequest, &unread).await, unavailable());
    let fetch = FetchRequest { conversation: 1, from: 1, to: 1, after_offset: None };
    let fetched: Fetched = server.link.call(Kind::Fetch.number(), &fetch, PATIENCE).await.unwrap();
    assert!(!fetched.complete && fetched.complete_upto == 0);
    drop(taken);
    server.proxy.store.reads.send_replace(Gate::Open);
    server
        .ask::<client::UnreadCountReply>(
            1,
            (Command::UnreadCountRequest, Command::UnreadCountReply),
            &unread,
        )
        .await;
    server.stop().await;
}

#[tokio::test]
async fn a_flood_of_one_role_leaves_the_other_its_room() {
    let server = Server::start().await;
    let all = u32::try_from(BOUNDS.requests).unwrap();
    let unread = client::UnreadCountRequest::default();
    let shield = client::GetPushShieldRequest::default();
    let verify = Verify { name: "u1".to_owned(), ..Verify::default() };
    for floods_logins in [true, false] {
        let Slots { requests, logins } = &server.requests.slots;
        let flooded = if floods_logins { logins } else { requests };
        let taken = flooded.acquire_many(all).await.unwrap();
        let of_conversations = server.answer(1, Command::UnreadCountRequest, &unread).await;
        let of_users = server.answer(1, Command::GetPushShieldRequest, &shield).await;
        let verified: Verified =
            server.link.call(Kind::Verify.number(), &verify, PATIENCE).await.unwrap();
        assert_eq!(of_conversations == unavailable(), !floods_logins);
        assert_eq!(of_users == unavailable(), floods_logins);
        assert_eq!(verified == login::unavailable(), floods_logins, "{verified:?}");
        drop(taken);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_question_that_cannot_be_read_resets_the_link_room_or_not() {
    let server = Server::start().await;
    let all = u32::try_from(BOUNDS.requests).unwrap();
    let Slots { requests, logins } = &server.requests.slots;
    for has_room in [true, false] {
        let taken = if has_room { 0 } else { all };
        let taken = (requests.acquire_many(taken).await, logins.acquire_many(taken).await);
        for kind in [
            Kind::Ask,
            Kind::Verify,
            Kind::Resume,
            Kind::Token,
            Kind::Memberships,
            Kind::Fetch,
            Kind::Submit,
            Kind::Follow,
        ] {
            let who = far::identity(Role::MsgServer, "other", GATEWAY_BOOT + 1);
            let (_far, link) = Far::dial(server.addr, who, &server.proxy.shutdown).await;
            link.send_raw(kind.number(), 1, &[0xff; 5]).unwrap();
            let cut_off = async {
                while !link.is_closed() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, cut_off).await.unwrap_or_else(|_| panic!("{kind:?}"));
        }
        drop(taken);
    }
    server.stop().await;
}

#[test]
fn a_gateway_of_an_older_release_says_only_that_a_message_may_have_come_before() {
    let first = |first, resend| {
        let submit = Submit { first, resend, ..sending::submit(partition::test::single(1, 2), 1) };
        read_submit(&submit).unwrap().first
    };
    assert!(!first(None, None));
    assert!(first(None, Some(true)), "such a gateway sends it first again");
    assert!(!first(Some(false), Some(true)));
    assert!(first(Some(true), None));
}
