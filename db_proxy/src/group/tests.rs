//! Partitions on a real Kafka and a real database, and the db_proxies that share them.

use std::time::Instant;

use backends::{Kafka, MariaDb};
use cache::MemoryCache;
use daemon::{LinkTable, Metrics, Readiness};
use fold::admission::Change;
use partition::metrics::PublishMetrics;
use partition::publisher::Publisher;
use partition::stall::StallDetector;
use partition::test::{PATIENCE, USERS, message, single, user};
use partition::{Limits, Outcome};
use proto::ids::{ConversationId, Offset};
use record_log::Unopened as _;
use record_log::kafka::{NewTopic, Options, ensure_topic};
use store::mysql::{MySqlOptions, MySqlStore};
use store::{ConversationStore as _, Store, UserStore as _};

use super::*;
use crate::config::Config;
use crate::log_tools;
use crate::log_tools::health::Health;
use crate::log_tools::records::{Replay, Shown};
use crate::metrics::OwnedMetrics;
use crate::partitions::Partitions;

const PARTITIONS: u32 = 4;

/// A topic and a database of its own.
struct Site {
    topic: KafkaTopic,
    options: MySqlOptions,
}

impl Site {
    async fn new(name: &str) -> Self {
        let mut settings = Options::new(Kafka::shared().bootstrap(), name, PARTITIONS);
        settings.group = name.to_owned();
        settings.allow_unsafe_topic = true;
        let making = tokio::task::spawn_blocking(move || {
            ensure_topic(&settings, NewTopic::default()).unwrap();
            (KafkaTopic::connect(settings).unwrap(), MariaDb::shared().fresh_database())
        });
        let (topic, url) = making.await.unwrap();
        let options = MySqlOptions { partitions: PARTITIONS, ..MySqlOptions::new(url) };
        MySqlStore::migrate(&options).await.unwrap();
        let site = Self { topic, options };
        let users = (1..=USERS).map(|id| user(id, &format!("u{id}")));
        site.store().await.add_users(users.collect(), true).await.unwrap();
        site
    }

    async fn store(&self) -> MySqlStore {
        MySqlStore::open(self.options.clone()).await.unwrap()
    }

    /// A db_proxy that takes part.
    async fn member(&self, name: &str) -> Proxy {
        let (shutdown, metrics) = (Shutdown::default(), Metrics::new("db_proxy"));
        let store = self.store().await;
        let stores = (0..PARTITIONS).map(|part| Arc::new(store.for_partition(part).unwrap()) as _);
        let gateways = Arc::new(LinkTable::default());
        let stalls = StallDetector::default();
        let partitions: Vec<Arc<dyn Store>> = stores.collect();
        let partitions =
            Partitions::new(partitions, Arc::clone(&gateways), true, Some(stalls.clone()));
        let shared = Shared {
            partitions: Arc::new(partitions),
            publisher: Publisher::new(gateways, PublishMetrics::new(&metrics)),
            cache: Arc::new(MemoryCache::default()),
            limits: Limits {
                queue_max: 1_024,
                waiting_max: 1_024,
                held_max: 256,
                unstored_bytes_max: 1 << 20,
                conversations_max: 1_000,
            },
            metrics: OwnedMetrics::new(&metrics),
            stalls,
            last_clock: partition::last_clock::LastClock::default(),
            store_is_remote: true,
            readiness: Readiness::default(),
            shutdown: shutdown.clone(),
        };
        // The topic's numbers are each member's own.
        let options = self.topic.options().clone();
        let topic = tokio::task::spawn_blocking(move || KafkaTopic::connect(options).unwrap());
        let stop = start(shared.clone(), topic.await.unwrap(), name.to_owned()).unwrap();
        Proxy { shared, stop, shutdown }
    }
}

struct Proxy {
    shared: Shared,
    stop: LeaveGroup,
    shutdown: Shutdown,
}

impl Proxy {
    fn owned(&self) -> usize {
        (0..PARTITIONS).filter(|one| self.shared.partitions.owned(*one).is_some()).count()
    }

    /// What becomes of one more message of a conversation; `None` if it is not owned here.
    async fn send(&self, id: ConversationId) -> Option<Outcome> {
        let served = self.shared.partitions.of(id)?;
        Some(served.partition.change(Change::Send(message(id, 1))).await)
    }

    async fn leave(self) {
        self.stop.finish().await;
        self.shutdown.begin();
        self.shutdown.drain(PATIENCE).await.unwrap();
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE * 2, "{what} in time");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Conversations in every partition.
fn conversations() -> Vec<ConversationId> {
    (2..=USERS).map(|other| single(1, other)).collect()
}

/// Sends one message to each conversation, through its owner.
async fn talk(members: &[&Proxy], msg_id: u32) {
    for id in conversations() {
        let mut sent = None;
        for member in members {
            sent = sent.or(member.send(id).await);
        }
        let Some(Outcome::Sent { msg_id: given, .. }) = sent else { panic!("{id}: {sent:?}") };
        assert_eq!(given.0, msg_id, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_the_partitions_and_numbers_go_on_wherever_they_are() {
    let site = Site::new("sharing").await;
    let first = site.member("first").await;
    until("the first gets all", || first.owned() == 4).await;
    talk(&[&first], 1).await;

    let second = site.member("second").await;
    until("each gets its half", || first.owned() == 2 && second.owned() == 2).await;
    talk(&[&first, &second], 2).await;

    first.leave().await;
    until("the second inherits", || second.owned() == 4).await;
    talk(&[&second], 3).await;
    let lost = second.shared.metrics.group().lost(Ended::Fenced).get();
    assert_eq!(lost, 0, "nobody was fenced: every move was in good order");
    second.leave().await;

    let store = site.store().await;
    for id in conversations() {
        let part = proto::cluster::partition_of(id.number(), PARTITIONS);
        let stored = store.for_partition(part).unwrap().conversation(id, 9).await.unwrap();
        assert_eq!(stored.recent.len(), 3, "{id}");
    }
    let looked = tokio::task::spawn_blocking(move || look(&site)).await.unwrap();
    let [inspected, verified] = looked;
    let heads = inspected.lines().filter(|line| line.ends_with("  second"));
    assert_eq!(heads.count(), 4, "each partition and its last owner: {inspected}");
    assert!(inspected.contains("epoch ") && inspected.contains("message "), "{inspected}");
    assert_eq!(verified.matches("the same record as in the log").count(), 4, "{verified}");
    assert!(verified.ends_with("all is well\n"), "{verified}");
}

/// What an operator sees when looking at the topic.
fn look(site: &Site) -> [String; 2] {
    let options = site.topic.options();
    let mut config = Config::default();
    config.kafka.bootstrap.clone_from(&options.bootstrap);
    config.kafka.topic.clone_from(&options.topic);
    config.kafka.group.clone_from(&options.group);
    config.kafka.partitions = PARTITIONS;
    config.kafka.allow_unsafe_topic = true;
    config.store.mysql.push(daemon::Secret::new(&site.options.shards[0]));
    let shown = Shown { count: Some(50), ..Shown::default() };
    let (mut inspected, mut verified) = (Vec::new(), Vec::new());
    log_tools::inspect(&config, shown, &mut inspected).unwrap();
    let health = log_tools::verify(&config, Shown::default(), &mut verified).unwrap();
    assert_eq!(health, Health::Fine);
    let mut replayed = Vec::new();
    let replay = |consumer, out: &mut Vec<u8>| {
        let replay = Replay { consumer, from: Offset(2), partition: Some(1) };
        log_tools::replay(&config, replay, out)
    };
    replay("push", &mut replayed).unwrap();
    let replayed = String::from_utf8(replayed).unwrap();
    assert_eq!(replayed, "partition   push goes on from\n1           2\n");
    replay(&options.group, &mut Vec::new()).expect_err("the fold is not set back");
    [inspected, verified].map(|text| String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_another_one_has_fenced_gives_up_and_takes_the_partition_again() {
    let site = Site::new("fenced").await;
    let member = site.member("member").await;
    until("it has all", || member.owned() == 4).await;
    talk(&[&member], 1).await;

    let id = single(1, 2);
    let before = member.shared.partitions.of(id).unwrap().owned;
    let part = before.partition;
    let log = site.topic.partition(part).id();
    let store = site.store().await.for_partition(part).unwrap();
    let other = store.claim("somebody else".to_owned(), log).await.unwrap();
    // It is told in the log at once, and by the store when it is stored.
    let outcome = member.send(id).await.unwrap();
    let accepted = |outcome: &Outcome| matches!(outcome, Outcome::Sent { .. });
    assert!(accepted(&outcome) || outcome == Outcome::Moved, "{outcome:?}");
    let lost = member.shared.metrics.group().lost(Ended::Fenced);
    until("it gives up", || lost.get() == 1).await;
    until("it has it again", || member.owned() == 4).await;
    let after = member.shared.partitions.of(id).unwrap().owned;
    assert!(after.epoch > other.epoch && other.epoch > before.epoch, "{after:?}");

    let Some(Outcome::Sent { msg_id, .. }) = member.send(id).await else { panic!("it is served") };
    assert_eq!(msg_id.0, if accepted(&outcome) { 3 } else { 2 }, "what was acknowledged counts");
    member.leave().await;
}
