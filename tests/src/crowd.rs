//! People who talk without a pause, with a client that keeps its side of the promise, and take down
//! everything that they say and hear.
//!
//! Each of them says something to their neighbours and their groups in turn, a few messages ahead of
//! what has been acknowledged, whatever happens to the cluster meanwhile: mostly what others have said
//! too, sometimes a voice message or something long, now and then very much at once. Some have old
//! phones, which speak as well, or an old PC instead of the library. Others enter a group and leave it,
//! and speak there whether they may or not. In the end everything that was taken down is checked.
//!
//! ```text
//! talker ──> words           what is said
//!   │
//! old ──> mouth ──> words    old clients, which say one thing at a time
//!   │
//! notices                    what is told besides messages, and what comes to the library
//! outsiders                  people who enter and leave
//! reading                    everything once more, in the end
//!     └──> shared            the record, and how far everybody is
//! ```
//!
//! A crowd must be the first to talk in a cluster: it takes what it did not say for invented.

mod mouth;
mod notices;
mod old;
mod outsiders;
mod reading;
mod shared;
mod talker;
mod words;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::{Backoff, Client, ClientType, FileOutbox, Options, Servers, StartFrom, TlsConfig};
use proto::ids::UserId;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::history::{
    self, Conv, Latency, Phase, Recorder, Report, Thresholds, Verdict, What, check,
};
use crate::programs::scratch;
use crate::{PASSWORD, PATIENCE};
use mouth::Numbers;
use notices::Wire;
use old::{Habits, OldClient};
use outsiders::{come_and_go, make_group};
use shared::{DeviceId, LIBRARY, OLD_PC, PHONE, RIVAL, Shared, Stage};
use talker::{Talker, listen};

/// Between two messages of one of them. Slower than a gateway's limit.
const PAUSE: Duration = Duration::from_millis(30);
/// How long everything that was said may take to be acknowledged and to reach everybody, after the
/// last fault has ended.
const SETTLE_LIMIT: Duration = Duration::from_mins(1);
/// The pause between two messages of the people who enter a group and leave it.
const OUTSIDERS_PAUSE: Duration = Duration::from_millis(500);
/// How many of the people record which users are online.
const WATCHERS: u32 = 2;
/// The longest wait of a client before it connects again.
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// What a failed test shows of a list.
const SHOWN_MAX: usize = 20;

/// Which people talk, and how.
#[derive(Debug, Clone)]
pub struct CrowdOptions {
    /// The login endpoint.
    pub login: String,
    /// Which certificates to believe, where TLS is spoken.
    pub tls: Option<TlsConfig>,
    /// How many talk, at least two: the first demo users.
    pub people: u32,
    /// Whether they talk in group 1 too. Then they must all be in it.
    pub group: bool,
    /// How many of them have an old phone as well, which lives on what it is pushed.
    pub listeners: u32,
    /// How many of them, the last ones, have an old PC instead of a client that keeps its contract.
    pub old_pcs: u32,
    /// How many more users, the next ones by number, enter a group of their own and leave it while
    /// the people talk there.
    pub outsiders: u32,
    /// How long each pauses between two messages.
    pub pause: Duration,
    /// Where the servers are, if not at the login endpoint.
    pub servers: Option<Servers>,
    /// A file for the history, written as it happens.
    pub record: Option<PathBuf>,
}

impl CrowdOptions {
    /// The usual ones: this many people, who talk to neighbours and in group 1.
    pub fn new(login: &str, people: u32) -> Self {
        Self {
            login: login.to_owned(),
            tls: None,
            people,
            group: true,
            listeners: people.min(3),
            old_pcs: people / 4,
            outsiders: 0,
            pause: PAUSE,
            servers: None,
            record: None,
        }
    }

    fn servers(&self) -> Servers {
        self.servers.clone().unwrap_or_else(|| Servers::Login(vec![self.login.clone()]))
    }
}

/// The people.
#[derive(Debug)]
pub struct Crowd {
    runtime: Runtime,
    stage: watch::Sender<Stage>,
    acked: watch::Receiver<usize>,
    shared: Arc<Shared>,
    talkers: JoinSet<()>,
    listeners: JoinSet<()>,
    /// A client goes offline with the last of its handles.
    clients: BTreeMap<u32, Client>,
    last_user: u32,
    outboxes: TempDir,
}

/// What became of it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Messages acknowledged.
    pub acked: usize,
    /// Connections that were lost and made again.
    pub reconnects: usize,
    /// Messages that a client handed out, live or by repair.
    pub heard: usize,
}

/// A fault that goes on. It ends with this, as one that fired once unless told otherwise.
#[derive(Debug)]
#[must_use = "the fault ends where this is dropped"]
pub struct Nemesis {
    recorder: Recorder,
    what: String,
    target: String,
    fired: u64,
}

impl Nemesis {
    /// Sets how often it really happened, counted at the target.
    pub fn fired(&mut self, times: u64) {
        self.fired = times;
    }

    /// The fault has ended.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Nemesis {
    fn drop(&mut self) {
        let (what, target) = (std::mem::take(&mut self.what), std::mem::take(&mut self.target));
        let (phase, fired) = (Phase::End, self.fired);
        self.recorder.record(What::Nemesis { what, target, phase, fired });
    }
}

impl Crowd {
    /// Lets the first `people` demo users talk. They must all be in group 1. Blocks.
    pub fn start(login: &str, tls: Option<&TlsConfig>, people: u32) -> Self {
        Self::with(&CrowdOptions { tls: tls.cloned(), ..CrowdOptions::new(login, people) })
    }

    /// Lets them talk as told. Blocks.
    pub fn with(options: &CrowdOptions) -> Self {
        let runtime = Runtime::new().expect("start a runtime");
        let recorder = options.record.as_ref().map_or_else(Recorder::new, |path| {
            Recorder::into_file(path).expect("make a file for the history")
        });
        let shared = Arc::new(Shared::new(recorder, options.people, options.group));
        let acked = shared.acked.subscribe();
        let mut crowd = Self {
            runtime,
            stage: watch::Sender::new(Stage::Talking),
            acked,
            shared,
            talkers: JoinSet::new(),
            listeners: JoinSet::new(),
            clients: BTreeMap::new(),
            last_user: options.people + options.outsiders,
            outboxes: TempDir::new_in(scratch()).expect("make a folder for the outboxes"),
        };
        crowd.connect(options);
        crowd.make_groups(options);
        crowd.begin(options);
        crowd
    }

    /// Starts a client for everybody.
    fn connect(&mut self, options: &CrowdOptions) {
        let everybody: Vec<UserId> = (1..=self.last_user).map(UserId).collect();
        let people = 1..=options.people - options.old_pcs;
        for user in people.chain(options.people + 1..=self.last_user) {
            let mut client = Options::new(options.servers(), format!("u{user}"), PASSWORD);
            client.tls.clone_from(&options.tls);
            client.start_from = StartFrom::Beginning;
            client.limits.events_max = 4096;
            client.limits.reconnect = Backoff::new(Duration::from_millis(100), RECONNECT_MAX);
            // Some keep what they say on disk, as a real program would.
            if user % 4 == 0 {
                let file = self.outboxes.path().join(format!("u{user}"));
                client.outbox = Some(Box::new(FileOutbox::open(file).expect("open an outbox")));
            }
            client.watcher = Some(Arc::new(Wire { user, shared: Arc::clone(&self.shared) }));
            let started = self.runtime.block_on(Client::start(client));
            let (client, events) = started.expect("a client starts");
            self.shared.enter((user, LIBRARY));
            let watched = if user <= WATCHERS { everybody.clone() } else { Vec::new() };
            let listener = listen(user, client.clone(), events, watched, Arc::clone(&self.shared));
            self.listeners.spawn_on(listener, self.runtime.handle());
            self.clients.insert(user, client);
        }
    }

    fn make_groups(&self, options: &CrowdOptions) {
        let mut groups = Vec::new();
        if options.group {
            groups.push(1);
        }
        if let Some(client) = self.clients.get(&1).filter(|_| options.outsiders > 0) {
            let group = self.runtime.block_on(make_group(client, options.people));
            self.shared.state().open_group = Some(group);
            groups.push(group.0);
        }
        for group in groups {
            for user in 1..=options.people {
                let conv = Conv::group(group);
                self.shared.recorder.record(What::Member { conv, user, join: 1, leave: None });
            }
        }
    }

    /// Starts every client's tasks.
    fn begin(&mut self, options: &CrowdOptions) {
        let handle = self.runtime.handle().clone();
        for (user, client) in &self.clients {
            let is_outsider = *user > options.people;
            let shared = Arc::clone(&self.shared);
            let talker = Talker::new(*user, client.clone(), shared);
            let pause = if is_outsider { OUTSIDERS_PAUSE } else { options.pause };
            self.talkers.spawn_on(talker.talk(pause, self.stage.subscribe()), &handle);
        }
        for (device, habits) in old_clients(options) {
            if habits.stays {
                self.shared.enter(device);
                self.shared.state().reading.insert(device);
            }
            let (servers, tls) = (options.servers(), options.tls.clone());
            let (shared, stage) = (Arc::clone(&self.shared), self.stage.subscribe());
            let watched = (1..=self.last_user).collect();
            let old = OldClient { device, habits, servers, tls, watched, shared, stage };
            self.listeners.spawn_on(old.run(), &handle);
        }
        let open_group = self.shared.state().open_group;
        if let (Some(group), Some(client)) = (open_group, self.clients.get(&1)) {
            let outsiders: Vec<u32> = (options.people + 1..=self.last_user).collect();
            let (client, shared) = (client.clone(), Arc::clone(&self.shared));
            let stage = self.stage.subscribe();
            self.talkers.spawn_on(come_and_go(client, shared, (group, outsiders), stage), &handle);
        }
    }

    /// How many messages have been acknowledged.
    pub fn acked(&self) -> usize {
        *self.acked.borrow()
    }

    /// Waits until that many more messages have been acknowledged. Blocks.
    pub fn wait_for_acks(&mut self, more: usize) {
        let wanted = self.acked() + more;
        let reached = self.acked.wait_for(|acked| *acked >= wanted);
        let limit = async { timeout(PATIENCE, reached).await.is_ok() };
        assert!(self.runtime.block_on(limit), "{more} more messages are acknowledged in time");
    }

    /// What everything is taken down with, for what a test wants to add.
    pub fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    /// A fault begins now, and ends where the result does.
    pub fn nemesis(&self, what: &str, target: &str) -> Nemesis {
        let recorder = self.shared.recorder.clone();
        let (what, target) = (what.to_owned(), target.to_owned());
        let start = What::Nemesis {
            what: what.clone(),
            target: target.clone(),
            phase: Phase::Start,
            fired: 0,
        };
        recorder.record(start);
        Nemesis { recorder, what, target, fired: 1 }
    }

    /// Adds to what must have happened for a run to count: messages that were sent again and
    /// messages that were missed and fetched, where others than these people counted them.
    pub fn count(&self, retries: u64, repairs: u64) {
        self.shared.recorder.record(What::Counters { retries, repairs });
    }

    /// Waits until everybody has everything that is acknowledged by now, in whichever way it comes.
    /// Returns how long that took. Blocks.
    pub fn settle(&self, limit: Duration) -> Duration {
        let began = Instant::now();
        let heads = self.shared.heads();
        let wait = async { timeout(limit, self.everybody_has(&heads)).await.is_ok() };
        let settled = self.runtime.block_on(wait);
        if !settled {
            let missing = first(&self.shared.missing(&heads));
            // What is missing may have a reason that the rules see already.
            let report = self.shared.recorder.read(|events| check(events, &Thresholds::default()));
            let path = self.save();
            panic!(
                "everybody has everything within {limit:?}, not:\n{missing}\nthe history is in {}\n{report}",
                path.display()
            );
        }
        began.elapsed()
    }

    async fn everybody_has(&self, heads: &std::collections::HashMap<Conv, shared::Head>) {
        let mut steps = self.shared.steps.subscribe();
        while !self.shared.missing(heads).is_empty() {
            steps.changed().await.expect("it lives as long as this");
        }
    }

    async fn everything_is_read(&self) {
        let mut steps = self.shared.steps.subscribe();
        while !self.shared.is_over() {
            steps.changed().await.expect("it lives as long as this");
        }
    }

    /// How long the crowd has talked by now: the clock of the following.
    pub fn now(&self) -> Duration {
        self.shared.recorder.now()
    }

    /// How long the answers took that came between two moments.
    pub fn latency(&self, within: Range<Duration>) -> Latency {
        self.shared.recorder.read(|events| history::latency(events, micros(&within)))
    }

    /// Waits for the next acknowledgement after a moment. Returns how long after it that came.
    /// Blocks.
    pub fn next_ack(&mut self, after: Duration) -> Duration {
        let after_us = micros(&(after..after)).start;
        let Self { runtime, acked, shared, .. } = self;
        let next = async {
            loop {
                let next = shared.recorder.read(|events| history::next_ack(events, after_us));
                if let Some(us) = next {
                    return us;
                }
                acked.changed().await.expect("it lives as long as this");
            }
        };
        let found = runtime.block_on(async { timeout(PATIENCE, next).await });
        Duration::from_micros(found.expect("something is acknowledged in time") - after_us)
    }

    /// For each user, the longest time during which they waited for acknowledgements and none
    /// came.
    pub fn stalls(&self, within: Range<Duration>) -> BTreeMap<u32, Duration> {
        let stalls = self.shared.recorder.read(|events| history::stalls(events, micros(&within)));
        stalls.into_iter().map(|(user, us)| (user, Duration::from_micros(us))).collect()
    }

    /// Lets them finish, waits until everybody has everything, reads all histories through
    /// `gateway`, and checks that all of it fits together. Blocks.
    pub fn finish(self, gateway: &str, tls: Option<&TlsConfig>) -> Summary {
        self.verdict(gateway, tls, &Thresholds::default()).0
    }

    /// The same with thresholds. Panics unless the run is clean, and keeps its history then; a run
    /// in which too little happened is not clean. Blocks.
    pub fn verdict(
        mut self,
        gateway: &str,
        tls: Option<&TlsConfig>,
        thresholds: &Thresholds,
    ) -> (Summary, Report) {
        self.end(gateway, tls);
        let report = self.shared.recorder.read(|events| check(events, thresholds));
        let state = self.shared.state();
        if report.verdict != Verdict::Clean || !state.wrong.is_empty() {
            let path = self.save();
            let wrong = first(&state.wrong);
            panic!("the history is in {}\n{wrong}\n{report}", path.display());
        }
        let acked = usize::try_from(report.figures.acked).expect("they are in memory");
        let (reconnects, heard) = (state.reconnects, state.heard);
        drop(state);
        (Summary { acked, reconnects, heard }, report)
    }

    fn end(&mut self, gateway: &str, tls: Option<&TlsConfig>) {
        self.stage.send_replace(Stage::Settling);
        let mut talkers = std::mem::take(&mut self.talkers);
        let all = async {
            while let Some(ended) = talkers.join_next().await {
                ended.expect("nobody panics");
            }
        };
        let ended = self.runtime.block_on(async { timeout(SETTLE_LIMIT, all).await.is_ok() });
        if !ended {
            self.shared.complain("not everything that was said was answered in time".to_owned());
        }
        let heads = self.shared.heads();
        // What is still missing then, the rules find.
        let wait = async { timeout(SETTLE_LIMIT, self.everybody_has(&heads)).await.is_ok() };
        if !self.runtime.block_on(wait) {
            let missing = self.shared.missing(&heads);
            self.shared.complain(format!("not everybody has everything:\n{}", first(&missing)));
        }
        self.stage.send_replace(Stage::Reading);
        let wait = async { timeout(SETTLE_LIMIT, self.everything_is_read()).await.is_ok() };
        // Of two devices on one seat the rules tell.
        let is_over = self.runtime.block_on(wait);
        let reading = self.shared.state().reading.clone();
        if !is_over && !reading.is_empty() {
            self.shared.complain(format!("what old clients have read stays unread: {reading:?}"));
        }
        self.shared.record_finals();
        self.listeners.abort_all();
        let Self { runtime, shared, clients, last_user, listeners, .. } = self;
        runtime.block_on(async {
            while listeners.join_next().await.is_some() {}
            reading::read_all(gateway, tls, shared, *last_user).await;
        });
        clients.clear();
    }

    /// Keeps the history, so that it can be looked into later.
    fn save(&self) -> PathBuf {
        static SAVED: AtomicU64 = AtomicU64::new(0);
        let number = SAVED.fetch_add(1, Ordering::Relaxed);
        let name = format!("history-{}-{number}.jsonl", std::process::id());
        let path = scratch().join(name);
        self.shared.recorder.save(&path).expect("keep the history");
        path
    }
}

/// Phones of the first of the people, a second one of the very first, and the PCs of the last.
fn old_clients(options: &CrowdOptions) -> Vec<(DeviceId, Habits)> {
    const PHONES: [&[ClientType]; 2] =
        [&[ClientType::Android], &[ClientType::Ios, ClientType::Android]];
    let phones = (1..=options.listeners.min(options.people)).map(|user| {
        let numbers = Some(if user % 2 == 0 { Numbers::One } else { Numbers::FromOne });
        let kinds = PHONES[user as usize % PHONES.len()];
        // One of them stays, so that one client hears everything on one connection.
        let wanders = user % 3 != 1;
        ((user, PHONE), Habits { kinds, numbers, wanders, stays: true })
    });
    let rival = Habits { kinds: PHONES[0], numbers: None, wanders: false, stays: false };
    let rival = (options.listeners > 1).then_some(((2, RIVAL), rival));
    let pcs = (options.people - options.old_pcs + 1..=options.people).map(|user| {
        let (kinds, numbers) = (&[ClientType::Windows][..], Some(Numbers::Repeating));
        ((user, OLD_PC), Habits { kinds, numbers, wanders: user % 2 == 1, stays: true })
    });
    phones.chain(rival).chain(pcs).collect()
}

fn micros(within: &Range<Duration>) -> Range<u64> {
    let us = |moment: Duration| u64::try_from(moment.as_micros()).unwrap_or(u64::MAX);
    us(within.start)..us(within.end)
}

fn first(lines: &[String]) -> String {
    lines.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join("\n")
}
