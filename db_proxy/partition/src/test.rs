//! What several tests need: a db_proxy's parts over a real log and a real store in a folder that
//! goes away, and the far ends of its links.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cache::Cache;
use daemon::metrics::Counter;
use daemon::{LinkTable, Metrics, Readiness, Shutdown};
use fold::admission::{Change, Message};
use fold::effects::EPOCH_EVERY;
use fold::window::{Frame, Identity, content_crc};
use proto::client::GroupType;
use proto::cluster::wire::Owned;
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, UserId};
use proto::log::GroupCreated;
use record_log::embedded::{EmbeddedLog, Options};
use record_log::{LogId, LogReader, Tails};
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{ConversationStore, UserStore};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::consumers::Source;
use crate::metrics::{OneMetrics, PartitionMetrics, PublishMetrics};
use crate::open::{self, OpenError};
use crate::publisher::Publisher;
use crate::stall::StallDetector;
use crate::state::State;
use crate::store_writer::{self, StopStoreWriter};
use crate::{HOLD, Limits, Outcome, Owner, Partition, STALLED_AFTER};

pub mod far;

use store::test::gated::GatedStore;
pub use store::test::{PATIENCE, gated, user};

/// How many users there are: u1, u2, …
pub const USERS: u32 = 20;

/// The parts of a db_proxy that has taken its partition.
pub struct Proxy {
    pub setup: Setup,
    pub shutdown: Shutdown,
    pub partition: Partition,
    pub store: Arc<GatedStore>,
    pub gateways: Arc<LinkTable>,
    pub metrics: PartitionMetrics,
    /// Where they are shown.
    pub page: Metrics,
    /// Whether its thread moves.
    pub readiness: Readiness,
    /// How often something was published.
    pub published: Counter,
    pub store_writer: Option<StopStoreWriter>,
    pub epoch: u64,
    pub log: LogId,
    pub tails: Arc<dyn Tails>,
}

/// Where and how it runs.
#[derive(Clone)]
pub struct Setup {
    pub dir: Arc<TempDir>,
    pub limits: Limits,
    pub hold: Duration,
    pub segment_bytes: u64,
    pub keep_bytes: u64,
    pub epoch_every: u64,
    /// Whether the store worker runs.
    pub store_writer: bool,
    pub trim_every: Duration,
    pub cache: Option<Arc<dyn Cache>>,
    /// After how long without a sign of life its thread counts as stalled.
    pub stalled_after: Duration,
}

impl Setup {
    pub fn new() -> Self {
        let limits = Limits {
            queue_max: 4_096,
            waiting_max: 1_024,
            held_max: 256,
            unstored_bytes_max: 64 << 20,
            conversations_max: 1_000,
        };
        Self {
            dir: Arc::new(TempDir::new().unwrap()),
            limits,
            hold: HOLD,
            segment_bytes: 2 << 20,
            keep_bytes: 1 << 30,
            epoch_every: EPOCH_EVERY,
            store_writer: true,
            trim_every: store_writer::TRIM_EVERY,
            cache: None,
            stalled_after: STALLED_AFTER,
        }
    }

    pub fn log_dir(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn store_path(&self) -> PathBuf {
        self.dir.path().join("store.sqlite")
    }

    /// A copy of the folder, as a kill would leave it.
    pub fn copy(&self) -> Self {
        let copy = Self { dir: Arc::new(TempDir::new().unwrap()), ..self.clone() };
        copy_dir(self.dir.path(), copy.dir.path());
        copy
    }

    pub async fn try_start(&self) -> Result<Proxy, OpenError> {
        let (setup, runtime) = (self.clone(), Handle::current());
        let opening = tokio::task::spawn_blocking(move || {
            let mut options = Options::new(setup.log_dir());
            options.segment_bytes = setup.segment_bytes;
            options.spare_segments = 1;
            options.keep_bytes = setup.keep_bytes;
            let log = EmbeddedLog::prepare(options)?;
            let on_broken_fold = |text: &str| panic!("{text}");
            let options = SqliteOptions { readers: 3, on_broken_fold };
            let store = SqliteStore::open(&setup.store_path(), options)?;
            let store = Arc::new(GatedStore::new(store));
            let progress = runtime.block_on(store.claim("owner".to_owned(), log.id()))?;
            let opening = Arc::clone(&store) as _;
            let opened = open::open(Box::new(log), opening, progress, "owner", &runtime)?;
            Ok::<_, OpenError>((opened, store))
        });
        let (opened, store) = opening.await.unwrap()?;
        Ok(self.run(opened, store).await)
    }

    async fn run(&self, opened: open::OpenPartition, store: Arc<GatedStore>) -> Proxy {
        let users = (1..=USERS).map(|id| user(id, &format!("u{id}")));
        store.add_users(users.collect(), true).await.unwrap();

        let (shutdown, readiness) = (Shutdown::default(), Readiness::default());
        let metrics = Metrics::new("db_proxy");
        let gateways = Arc::new(LinkTable::default());
        let publishing = PublishMetrics::new(&metrics);
        let published = publishing.publications.clone();
        let publisher = Publisher::new(Arc::clone(&gateways), publishing);
        publisher.watch(&shutdown);
        let (log, tails) = (opened.log.id(), opened.log.tails());
        let one = OneMetrics::new(&metrics);
        let partition_metrics = one.partition;
        let state = match &self.cache {
            Some(cache) => opened.state.with_cache(Arc::clone(cache), opened.log.id()),
            None => opened.state,
        };
        let owner = Owner {
            log: opened.log,
            state: state.remembering_groups(),
            owned: Owned { partition: 0, epoch: opened.epoch },
            name: opened.owner,
            epoch_every: self.epoch_every,
            limits: self.limits,
            hold: self.hold,
            publisher,
            metrics: partition_metrics.clone(),
            confirmed: StallDetector::default().confirmed(),
            last_clock: crate::last_clock::LastClock::default(),
            pulse: readiness.pulse("partition", self.stalled_after),
        };
        let partition = owner.start(&shutdown);
        let store_writer = self.store_writer.then(|| {
            store_writer::start(partition.clone(), one.store_writer, self.trim_every, &shutdown)
        });
        Proxy {
            setup: self.clone(),
            shutdown,
            partition,
            store,
            gateways,
            metrics: partition_metrics,
            page: metrics,
            readiness,
            published,
            store_writer,
            epoch: opened.epoch,
            log,
            tails,
        }
    }

    pub async fn start(&self) -> Proxy {
        self.try_start().await.unwrap()
    }

    /// Why it does not start.
    pub async fn refusal(&self) -> String {
        match self.try_start().await {
            Err(OpenError::Refused(why)) => why,
            Err(OpenError::Failed(why)) => panic!("failed, but not for good: {why}"),
            Ok(_proxy) => panic!("it started"),
        }
    }
}

impl Proxy {
    pub async fn start() -> Self {
        Setup::new().start().await
    }

    pub fn state(&self) -> &State {
        self.partition.state()
    }

    pub fn owned(&self) -> Owned {
        Owned { partition: 0, epoch: self.epoch }
    }

    /// Where its records are read.
    pub fn source(&self) -> Source {
        let (state, tails) = (self.state().clone(), Arc::clone(&self.tails));
        Source { state, owned: self.owned(), log: self.log, tails }
    }

    /// Ends it as a kill would: what is not stored stays in the log. Waits until log and store are
    /// closed.
    pub async fn kill(self) -> Setup {
        self.shutdown.close_links();
        self.end().await
    }

    /// Ends it as SIGTERM would: everything is stored.
    pub async fn stop(self) -> Setup {
        self.stop_with(()).await
    }

    /// As [`Self::stop`], and lets go of what else holds the store.
    pub async fn stop_with<T>(mut self, holder: T) -> Setup {
        self.partition.stop().await;
        if let Some(store_writer) = self.store_writer.take() {
            timeout(PATIENCE, store_writer.finish()).await.unwrap();
        }
        drop(holder);
        self.end().await
    }

    async fn end(self) -> Setup {
        self.partition.stop().await;
        self.shutdown.begin();
        self.shutdown.drain(PATIENCE).await.unwrap();
        let Self { setup, store, partition, .. } = self;
        drop(partition);
        // The connections are closed when the store is dropped for the last time.
        let mut store = Some(store);
        let began = Instant::now();
        while let Some(held) = store.take() {
            assert!(began.elapsed() < PATIENCE, "the test holds the store itself");
            if let Err(held) = Arc::try_unwrap(held) {
                store = Some(held);
                tokio::task::yield_now().await;
            }
        }
        setup
    }

    /// Waits until the store has everything.
    pub async fn stored(&self) {
        let is_stored = async {
            while self.state().lock().behind().records > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, is_stored).await.expect("the store takes everything in time");
    }

    pub async fn change(&self, change: Change) -> Outcome {
        timeout(PATIENCE, self.partition.change(change)).await.expect("an outcome in time")
    }

    /// Sends a message, and returns its number.
    pub async fn send(&self, send: Message) -> u32 {
        match self.change(Change::Send(send)).await {
            Outcome::Sent { msg_id: MsgId(msg_id), .. } => msg_id,
            other => panic!("{other:?}"),
        }
    }

    /// Makes a group of these users, whose creator is the first.
    pub async fn make_group(&self, number: u32, members: &[u32]) -> ConversationId {
        let created = GroupCreated {
            group: number,
            creator: members[0],
            group_type: GroupType::Temporary as u32,
            name: format!("group {number}"),
            avatar: String::new(),
            members: members.to_vec(),
        };
        let outcome = self.change(Change::CreateGroup(created)).await;
        assert!(matches!(outcome, Outcome::Members { .. }), "{outcome:?}");
        group(number)
    }

    pub async fn change_members(&self, group: u32, add: &[u32], remove: &[u32]) -> Outcome {
        let users = |users: &[u32]| users.iter().copied().map(UserId).collect();
        let (add, remove) = (users(add), users(remove));
        self.change(Change::Members { group: GroupId(group), actor: None, add, remove }).await
    }
}

pub fn single(one: u32, other: u32) -> ConversationId {
    ConversationId::single(UserId(one), UserId(other)).unwrap()
}

pub fn group(number: u32) -> ConversationId {
    ConversationId::group(GroupId(number)).unwrap()
}

/// A message that was never sent before.
pub fn message(conversation: ConversationId, sender: u32) -> Message {
    let words = Bytes::from(format!("{:?}", new_id().0));
    saying(conversation, sender, words)
}

/// A message that was never sent before, with this body.
pub fn saying(conversation: ConversationId, sender: u32, body: Bytes) -> Message {
    let sender = UserId(sender);
    let client_msg_id = new_id();
    let kind = if conversation.as_group().is_some() { 0x11 } else { 1 };
    Message {
        conversation,
        identity: Identity {
            sender,
            client_msg_id,
            content_crc: content_crc(kind, &body),
            frame: Frame::default(),
        },
        resend: false,
        first: false,
        waited_ms: None,
        kind,
        body,
        origin: None,
        known_only: false,
        hooks: Vec::new(),
    }
}

/// A stopped db_proxy that has this message in its store as number 1, and whose log begins behind it; and
/// the last of eight messages behind it, which is still there.
pub async fn out_of_the_log(early: &Message) -> (Setup, Message) {
    let setup = Setup { segment_bytes: 64 << 10, keep_bytes: 0, ..Setup::new() };
    let proxy = setup.start().await;
    assert_eq!(proxy.send(early.clone()).await, 1);
    let mut filler = early.clone();
    for _ in 0..8 {
        filler = saying(early.conversation, 1, Bytes::from(vec![7; 20_000]));
        while proxy.change(Change::Send(filler.clone())).await == Outcome::Retry {
            tokio::task::yield_now().await; // The next segment is still being made.
        }
    }
    proxy.stored().await;
    let flushed = proxy.store.flushed_progress().await.unwrap();
    for _ in 0..4 {
        proxy.partition.trim(flushed);
    }
    let setup = proxy.stop().await;
    let mut options = Options::new(setup.log_dir());
    options.segment_bytes = setup.segment_bytes;
    options.spare_segments = 1;
    let log = EmbeddedLog::open(options, flushed).unwrap().log;
    assert!(log.range().0 > Offset(3), "trimmed: {:?}", log.range());
    drop(log);
    (setup, filler)
}

/// The same message once more.
pub fn resent(send: &Message) -> Message {
    Message { resend: true, first: true, ..send.clone() }
}

pub fn new_id() -> ClientMsgId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    ClientMsgId((1 << 100 | u128::from(number)).to_be_bytes())
}

pub fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else if !entry.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
