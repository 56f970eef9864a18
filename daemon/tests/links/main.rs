//! Links between two ends over real sockets: which daemons are let in, what arrives, and what happens
//! when one end goes away.

mod certificates;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::link::{dial, listen};
use daemon::{
    CallError, Identity, Link, LinkError, LinkFrame, LinkHandler, LinkKey, LinkOptions, LinkTable,
    Role, Shutdown,
};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

/// A kind that the test handler answers with the number plus one.
const ASK: u16 = 1;
/// A kind that it never answers.
const IGNORE: u16 = 2;
/// A kind that makes it panic.
const PANIC: u16 = 3;

#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(uint64, tag = "1")]
    value: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Up(String),
    Frame(u16, Vec<u8>),
    BatchEnd,
    Down(String),
}

/// Tells the test what happens, and answers.
struct Recorder {
    events: mpsc::Sender<(Link, Event)>,
    table: LinkTable,
}

impl Recorder {
    fn new() -> (Arc<Self>, mpsc::Receiver<(Link, Event)>) {
        let (events, received) = mpsc::channel(10_000);
        (Arc::new(Self { events, table: LinkTable::default() }), received)
    }

    fn record(&self, link: &Link, event: Event) {
        self.events.try_send((link.clone(), event)).expect("the test reads its events");
    }
}

impl LinkHandler for Recorder {
    fn up(&self, link: &Link) {
        self.table.add(link);
        self.record(link, Event::Up(link.peer().name.clone()));
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        match frame.kind {
            ASK => {
                let Number { value } = frame.parse().expect("a number");
                link.answer(&frame, ASK, &Number { value: value + 1 }).expect("the link is up");
            }
            IGNORE => {}
            PANIC => panic!("on purpose"),
            kind => self.record(link, Event::Frame(kind, frame.body.to_vec())),
        }
    }

    fn batch_end(&self, link: &Link) {
        self.record(link, Event::BatchEnd);
    }

    fn down(&self, link: &Link) {
        self.table.remove(link);
        self.record(link, Event::Down(link.peer().name.clone()));
    }
}

fn identity(role: Role, key: &str) -> Identity {
    Identity {
        role,
        name: format!("{role}-1"),
        boot: daemon::link::new_boot(),
        key: LinkKey::new(key.as_bytes()),
        tls: None,
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// One end of links, and what it has seen.
struct Party {
    shutdown: Shutdown,
    handler: Arc<Recorder>,
    events: mpsc::Receiver<(Link, Event)>,
    options: LinkOptions,
    targets: watch::Sender<Vec<String>>,
}

impl Party {
    fn new() -> Self {
        let (handler, events) = Recorder::new();
        let (targets, _nobody_dials_yet) = watch::channel(Vec::new());
        let (shutdown, options) = (Shutdown::default(), LinkOptions::default());
        Self { shutdown, handler, events, options, targets }
    }

    async fn listen(&self, addr: SocketAddr, identity: Identity) -> SocketAddr {
        let (handler, options) = (Arc::clone(&self.handler), self.options.clone());
        listen(addr, identity, &[Role::MsgServer], handler, options, &self.shutdown)
            .await
            .expect("the port is free")
    }

    fn dial(&self, addr: SocketAddr, identity: Identity) {
        let list = self.targets.subscribe();
        self.targets.send_replace(vec![addr.to_string()]);
        let (handler, options) = (Arc::clone(&self.handler), self.options.clone());
        dial(list, identity, Role::DbProxy, handler, options, &self.shutdown);
    }

    /// The next event that is not the end of a batch.
    async fn next(&mut self) -> (Link, Event) {
        loop {
            let next = timeout(SOON, self.events.recv()).await.expect("something happens soon");
            let (link, event) = next.expect("the handler lives");
            if event != Event::BatchEnd {
                return (link, event);
            }
        }
    }

    async fn up(&mut self) -> Link {
        match self.next().await {
            (link, Event::Up(_name)) => link,
            (_, event) => panic!("{event:?} instead of a link"),
        }
    }

    async fn down(&mut self) {
        match self.next().await {
            (_, Event::Down(_name)) => {}
            (_, event) => panic!("{event:?} instead of the end of a link"),
        }
    }

    async fn stop(self) {
        self.shutdown.begin();
        self.shutdown.drain(SOON).await.expect("everything ends");
    }
}

/// A gateway that has dialed a db_proxy.
async fn pair() -> (Party, Link, Party) {
    let (store, mut gateway) = (Party::new(), Party::new());
    let addr = store.listen(any_port(), identity(Role::DbProxy, "key")).await;
    gateway.dial(addr, identity(Role::MsgServer, "key"));
    let link = gateway.up().await;
    (gateway, link, store)
}

#[tokio::test]
async fn a_call_is_answered() {
    let (gateway, link, mut store) = pair().await;
    assert_eq!((link.peer().role, link.peer().name.as_str()), (Role::DbProxy, "db_proxy-1"));
    let answer: Number = link.call(ASK, &Number { value: 41 }, SOON).await.unwrap();
    assert_eq!(answer.value, 42);
    let back = store.up().await;
    assert_eq!(back.peer().role, Role::MsgServer);
    assert_eq!(&*store.handler.table.all(), [back]);
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn frames_arrive_in_order_from_both_ends() {
    let (mut gateway, link, mut store) = pair().await;
    let back = store.up().await;
    let numbers = 0..2_000_u16;
    for number in numbers.clone() {
        link.send_raw(7, 0, &number.to_be_bytes()).unwrap();
        back.send_raw(8, 0, &number.to_be_bytes()).unwrap();
    }
    for number in numbers {
        let body = number.to_be_bytes().to_vec();
        assert_eq!(store.next().await.1, Event::Frame(7, body.clone()));
        assert_eq!(gateway.next().await.1, Event::Frame(8, body));
    }
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn a_large_frame_arrives_and_a_too_large_one_is_refused() {
    let (gateway, link, mut store) = pair().await;
    store.up().await;
    let body = vec![7; (16 << 20) - 16];
    link.send_raw(7, 0, &body).unwrap();
    assert_eq!(store.next().await.1, Event::Frame(7, body));
    assert_eq!(link.send_raw(7, 0, &vec![7; 16 << 20]), Err(LinkError::TooLong));
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn a_call_ends_when_time_is_up_or_the_link_is_down() {
    let (gateway, link, store) = pair().await;
    let short = Duration::from_millis(20);
    let never: Result<Number, _> = link.call(IGNORE, &Number { value: 1 }, short).await;
    assert_eq!(never, Err(CallError::TimedOut));

    let question = Number { value: 1 };
    let waiting = link.call::<Number>(IGNORE, &question, SOON);
    let (answer, ()) = tokio::join!(waiting, async { link.reset("for a test") });
    assert_eq!(answer, Err(CallError::Closed));
    while link.send_raw(IGNORE, 0, b"").is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(link.send_raw(IGNORE, 0, b""), Err(LinkError::Closed));
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn a_dialer_comes_back_after_the_listener_has_restarted() {
    let (mut gateway, link, store) = pair().await;
    let addr = link.peer().addr;
    store.stop().await;
    gateway.down().await;

    let store = Party::new();
    store.listen(addr, identity(Role::DbProxy, "key")).await;
    let again = gateway.up().await;
    assert_ne!(again, link);
    assert_ne!(again.peer().boot, link.peer().boot, "another start of the same daemon");
    let answer: Number = again.call(ASK, &Number { value: 1 }, SOON).await.unwrap();
    assert_eq!(answer.value, 2);
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn a_reset_link_comes_back() {
    let (mut gateway, link, store) = pair().await;
    link.reset("for a test");
    gateway.down().await;
    gateway.up().await;
    assert_eq!(gateway.handler.table.len(), 1);
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn a_handler_that_panics_loses_its_link_and_nothing_else() {
    let (mut gateway, link, mut store) = pair().await;
    store.up().await;
    link.send_raw(PANIC, 0, b"").unwrap();
    store.down().await;
    gateway.down().await;
    gateway.up().await;
    store.up().await;
    assert!(!store.shutdown.failed());
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn a_target_that_vanishes_is_closed_and_a_new_one_is_dialed() {
    let (one, other, mut gateway) = (Party::new(), Party::new(), Party::new());
    let first = one.listen(any_port(), identity(Role::DbProxy, "key")).await;
    let second = other.listen(any_port(), identity(Role::DbProxy, "key")).await;
    gateway.dial(first, identity(Role::MsgServer, "key"));
    assert_eq!(gateway.up().await.peer().addr, first);
    gateway.targets.send_replace(vec![second.to_string()]);
    let mut events = [gateway.next().await, gateway.next().await];
    events.sort_by_key(|(link, _event)| link.peer().addr != first);
    let [(_, gone), (new, came)] = events;
    assert_eq!(gone, Event::Down("db_proxy-1".to_owned()));
    assert_eq!(came, Event::Up("db_proxy-1".to_owned()));
    assert_eq!(new.peer().addr, second);
    for party in [one, other, gateway] {
        party.stop().await;
    }
}

#[tokio::test]
async fn two_addresses_of_one_daemon_make_one_link() {
    let (mut gateway, link, mut store) = pair().await;
    store.up().await;
    let relay = TcpListener::bind(any_port()).await.unwrap();
    let targets = vec![link.peer().addr.to_string(), relay.local_addr().unwrap().to_string()];
    gateway.targets.send_replace(targets);
    let (mut near, _) = relay.accept().await.unwrap();
    let mut far = TcpStream::connect(link.peer().addr).await.unwrap();
    // Ends when the dialer has seen which daemon answers.
    timeout(SOON, tokio::io::copy_bidirectional(&mut near, &mut far)).await.unwrap().ok();
    assert_eq!((gateway.handler.table.len(), store.handler.table.len()), (1, 1));
    assert!(gateway.events.try_recv().is_err() && store.events.try_recv().is_err());
    gateway.stop().await;
    store.stop().await;
}

/// Both have tried; neither has a link.
async fn refused(listener: Identity, dialer: Identity) {
    let (mut store, mut gateway) = (Party::new(), Party::new());
    let addr = store.listen(any_port(), listener).await;
    gateway.dial(addr, dialer);
    let metrics = gateway.options.metrics.clone();
    timeout(SOON, async {
        while metrics.refusals() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("two attempts are refused soon");
    assert!(store.events.try_recv().is_err() && gateway.events.try_recv().is_err());
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn a_wrong_key_makes_no_link() {
    refused(identity(Role::DbProxy, "key"), identity(Role::MsgServer, "other key")).await;
}

#[tokio::test]
async fn a_role_that_the_listener_does_not_accept_makes_no_link() {
    refused(identity(Role::DbProxy, "key"), identity(Role::LoginServer, "key")).await;
}

#[tokio::test]
async fn a_role_that_the_dialer_does_not_expect_makes_no_link() {
    refused(identity(Role::RouteServer, "key"), identity(Role::MsgServer, "key")).await;
}

#[tokio::test]
async fn a_stranger_that_repeats_what_it_has_heard_gets_nowhere() {
    let store = Party::new();
    let addr = store.listen(any_port(), identity(Role::DbProxy, "key")).await;
    // Records the dialer's half of a handshake that succeeds.
    let relay = TcpListener::bind(any_port()).await.unwrap();
    let mut gateway = Party::new();
    gateway.dial(relay.local_addr().unwrap(), identity(Role::MsgServer, "key"));
    let (mut dialer, _) = relay.accept().await.unwrap();
    let mut listener = TcpStream::connect(addr).await.unwrap();
    let mut recorded = Vec::new();
    while gateway.handler.table.is_empty() {
        let (mut buffer, mut back) = ([0; 1024], [0; 1024]);
        tokio::select! {
            read = dialer.read(&mut buffer) => {
                let len = read.unwrap();
                recorded.extend_from_slice(&buffer[..len]);
                listener.write_all(&buffer[..len]).await.unwrap();
            }
            read = listener.read(&mut back) => {
                let len = read.unwrap();
                dialer.write_all(&back[..len]).await.unwrap();
            }
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    gateway.up().await;

    let mut again = TcpStream::connect(addr).await.unwrap();
    again.write_all(&recorded).await.unwrap();
    let mut heard = Vec::new();
    // Reset or closed, whichever: it is over.
    again.read_to_end(&mut heard).await.ok();
    assert_eq!(store.options.metrics.refusals(), 1);
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn whatever_a_stranger_sends_the_listener_goes_on() {
    let mut store = Party::new();
    store.options.handshake_limit = Duration::from_millis(200);
    let addr = store.listen(any_port(), identity(Role::DbProxy, "key")).await;
    let mut state = 7_u64;
    let mut random = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 56).expect("8 bits are left")
    };
    for round in 0..64_u8 {
        let mut bytes: Vec<u8> = (0..usize::from(round) * 7).map(|_| random()).collect();
        if round % 2 == 0 && bytes.len() > 20 {
            // A Hello of the right length, whatever is in it.
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            bytes[4..8].copy_from_slice(&[0xFF, 0, 0, 0]);
            bytes[16..18].copy_from_slice(&[0, 1]);
            bytes[18] = round % 8;
        }
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(&bytes).await.ok();
        if round % 3 == 0 {
            socket.shutdown().await.ok();
        }
        let mut heard = Vec::new();
        timeout(SOON, socket.read_to_end(&mut heard)).await.expect("it is closed soon").ok();
        assert!(heard.len() < 256, "a stranger learns nothing");
    }
    let mut gateway = Party::new();
    gateway.dial(addr, identity(Role::MsgServer, "key"));
    gateway.up().await;
    gateway.stop().await;
    store.stop().await;
}
