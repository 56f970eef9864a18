//! Dialing over real sockets: how soon it comes back, by what names, and which daemons the other
//! end lets in.
//!
//! Where time is paused, it jumps to the next timer whenever all tasks wait.

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::link::{Link, LinkFrame, LinkKey, LinkMetrics, listen};
use crate::metrics::Metrics;
use crate::random::random_u64;

const SOON: Duration = Duration::from_secs(20);

/// Hands out the links as they come up; and those that went down.
struct Seen {
    ups: mpsc::Sender<Link>,
    downs: mpsc::Sender<Link>,
    /// Whether each link is lost to a panic of its handler when it goes down.
    panics: bool,
}

impl LinkHandler for Seen {
    fn up(&self, link: &Link) {
        self.ups.try_send(link.clone()).expect("the test looks");
    }

    fn frame(&self, _link: &Link, _frame: LinkFrame) {}

    fn down(&self, link: &Link) {
        self.downs.try_send(link.clone()).expect("the test looks");
        assert!(!self.panics, "on purpose");
    }
}

/// One end of links.
struct Party {
    shutdown: Shutdown,
    handler: Arc<Seen>,
    ups: mpsc::Receiver<Link>,
    downs: mpsc::Receiver<Link>,
    options: LinkOptions,
}

impl Party {
    fn new() -> Self {
        let (up, ups) = mpsc::channel(64);
        let (down, downs) = mpsc::channel(64);
        let handler = Arc::new(Seen { ups: up, downs: down, panics: false });
        let (shutdown, options) = (Shutdown::default(), LinkOptions::default());
        Self { shutdown, handler, ups, downs, options }
    }

    fn handler(&self) -> Arc<dyn LinkHandler> {
        Arc::<Seen>::clone(&self.handler)
    }

    /// Listens at any port of this address as a db_proxy.
    async fn listen(&self, ip: &str) -> SocketAddr {
        let addr = SocketAddr::new(ip.parse().unwrap(), 0);
        let identity = identity(Role::DbProxy);
        let accepts = [Role::MsgServer];
        let options = self.options.clone();
        listen(addr, identity, &accepts, self.handler(), options, &self.shutdown).await.unwrap()
    }

    /// Keeps links to these targets as a gateway, for as long as the sender lives and after.
    fn dial(&self, targets: &[&str]) -> watch::Sender<Vec<String>> {
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        let (targets, list) = watch::channel(targets);
        let identity = identity(Role::MsgServer);
        let options = self.options.clone();
        dial(list, identity, Role::DbProxy, self.handler(), options, &self.shutdown);
        targets
    }

    async fn up(&mut self) -> Link {
        timeout(SOON, self.ups.recv()).await.expect("a link comes up").expect("the handler lives")
    }

    async fn down(&mut self) {
        let down = timeout(SOON, self.downs.recv()).await;
        down.expect("a link goes down").expect("the handler lives");
    }

    async fn stop(self) {
        self.shutdown.begin();
        self.shutdown.drain(SOON).await.expect("everything ends");
    }
}

fn identity(role: Role) -> Identity {
    let (name, key) = (role.name().to_owned(), LinkKey::new(b"key"));
    Identity { role, name, boot: random_u64(), key, tls: None }
}

/// A gateway with a link to a db_proxy, at that address.
async fn linked() -> (Party, Link, Party) {
    let (store, mut gateway) = (Party::new(), Party::new());
    let addr = store.listen("127.0.0.1").await;
    drop(gateway.dial(&[&addr.to_string()]));
    let link = gateway.up().await;
    (gateway, link, store)
}

#[tokio::test(start_paused = true)]
async fn links_that_break_at_once_come_back_more_and_more_slowly_and_a_good_one_soon() {
    let (mut gateway, mut link, store) = linked().await;
    let mut waits = Vec::new();
    let mut again = async |gateway: &mut Party, link: &Link| {
        link.reset("for a test");
        gateway.down().await;
        let went = Instant::now();
        let link = gateway.up().await;
        waits.push(went.elapsed());
        link
    };
    for _break in 0..7 {
        link = again(&mut gateway, &link).await;
    }
    // It stays up for as long as makes it a good one.
    sleep(Duration::from_secs(5)).await;
    again(&mut gateway, &link).await;
    let steps = [50, 100, 200, 400, 800, 1_000, 1_000, 50].map(Duration::from_millis);
    for (wait, step) in waits.iter().zip(steps) {
        // A moment more goes by until the link is up.
        let most = step + Duration::from_millis(20);
        assert!((step / 2..=most).contains(wait), "{wait:?} of {step:?} in {waits:?}");
    }
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_listens_and_says_nothing_is_tried_again_after_the_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Party::new();
    let began = Instant::now();
    drop(gateway.dial(&[&silent.local_addr().unwrap().to_string()]));
    let mut held = Vec::new();
    for _attempt in 0..2 {
        held.push(timeout(SOON, silent.accept()).await.unwrap().unwrap());
    }
    let limit = gateway.options.handshake_limit;
    let took = began.elapsed();
    assert!((limit..limit + Duration::from_millis(100)).contains(&took), "{took:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_daemon_is_found_by_its_name_and_linked_to_once() {
    let (mut store, mut gateway) = (Party::new(), Party::new());
    let addr = store.listen("127.0.0.1").await;
    // Twice the same, in two ways.
    let by_name = format!("localhost:{}", addr.port());
    let targets = gateway.dial(&[&by_name, &addr.to_string()]);
    assert_eq!(gateway.up().await.peer().addr, addr);
    store.up().await;
    // The link stays when one of the two goes, and goes with the other.
    let other = Party::new();
    let second = other.listen("127.0.0.1").await;
    targets.send_replace(vec![by_name, second.to_string()]);
    assert_eq!(gateway.up().await.peer().addr, second);
    assert!(gateway.downs.try_recv().is_err(), "the first is still wanted");
    targets.send_replace(vec![second.to_string()]);
    gateway.down().await;
    for party in [gateway, store, other] {
        party.stop().await;
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_keeps_the_addresses_it_had() {
    let addr: SocketAddr = "192.0.2.1:1".parse().unwrap();
    let mut resolved = Resolved::new();
    let targets = ["gone:1", "no name at all", "192.0.2.1:1"].map(str::to_owned).to_vec();
    resolved.insert("gone:1".to_owned(), vec![addr]);
    resolved.insert("no name at all".to_owned(), vec![addr]);
    let names = take_literals(targets[1..].to_vec(), &mut resolved);
    assert_eq!(names, ["no name at all"]);
    assert!(!resolved.contains_key("gone:1"), "it is no target");
    resolve(names, &mut resolved).await;
    assert_eq!(resolved["no name at all"], [addr]);
    assert_eq!(resolved["192.0.2.1:1"], [addr]);
}

#[tokio::test]
async fn a_dialer_whose_list_will_not_change_goes_on() {
    let (mut gateway, link, mut store) = linked().await;
    store.up().await.reset("for a test");
    gateway.down().await;
    assert_ne!(gateway.up().await, link);
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn a_handler_that_panics_when_a_link_goes_down_does_not_end_the_dialing() {
    let (store, mut gateway) = (Party::new(), Party::new());
    Arc::get_mut(&mut gateway.handler).expect("nobody else has it yet").panics = true;
    let addr = store.listen("127.0.0.1").await;
    drop(gateway.dial(&[&addr.to_string()]));
    for _link in 0..2 {
        gateway.up().await.reset("for a test");
        gateway.down().await;
    }
    gateway.up().await;
    assert!(!gateway.shutdown.failed());
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn attempts_that_fail_are_counted_and_only_refusals_as_such() {
    let page = Metrics::new("test");
    let metrics = LinkMetrics::register(&page);
    let mut gateway = Party::new();
    gateway.options = LinkOptions::counted(metrics.clone());
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = nobody.local_addr().unwrap();
    drop(nobody);
    drop(gateway.dial(&[&addr.to_string()]));
    let failed = "talkhub_test_link_failed_dials_total{role=\"db_proxy\"} ";
    let counted = || {
        let page = page.encode().unwrap();
        let count = page.lines().find_map(|line| line.strip_prefix(failed)).map(str::parse);
        count.map_or(0, |count| count.expect("a number"))
    };
    let twice = async {
        while counted() < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, twice).await.expect("it tries again");
    assert_eq!(metrics.refusals(), 0, "nobody was there to refuse");
    gateway.stop().await;
}

#[tokio::test]
async fn strangers_who_say_nothing_do_not_keep_a_daemon_out() {
    let mut store = Party::new();
    store.options.links_max = 4;
    // So long that it is not what makes room.
    store.options.handshake_limit = Duration::from_mins(10);
    let addr = store.listen("127.0.0.1").await;
    let mut silent = Vec::new();
    for _stranger in 0..12 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    let mut gateway = Party::new();
    drop(gateway.dial(&[&addr.to_string()]));
    let link = gateway.up().await;
    store.up().await;
    // A link is settled: strangers make way for each other, and not it for them.
    for _stranger in 0..12 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    let first = &mut silent[12];
    let closed = timeout(SOON, tokio::io::AsyncReadExt::read(first, &mut [0; 1])).await;
    assert_eq!(closed.expect("it has made way").unwrap_or(0), 0);
    assert!(!link.is_closed());
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn a_listener_that_ends_closes_its_links_and_takes_no_new_ones() {
    let (mut gateway, link, mut store) = linked().await;
    let addr = link.peer().addr;
    store.up().await;
    // Begun, the links are still there for those that finish.
    store.shutdown.begin();
    let stranger = TcpStream::connect(addr).await;
    assert!(stranger.is_ok(), "it still listens");
    store.shutdown.close_links();
    gateway.down().await;
    store.stop().await;
    let refused = async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, refused).await.expect("nobody listens");
    gateway.stop().await;
}
