//! How much a whole cluster takes, and how fast it answers: embedded, with a database, and with the
//! log on Kafka, one after another on the same machine, in one table.
//!
//! Every client has a connection of its own and talks to one user who is not there: what is measured is
//! sending, not delivery. At saturation it sends as many messages as a gateway lets it have unanswered,
//! waits for all the answers, and begins again; at a modest rate it sends one and waits for the answer.
//!
//! It says something about programs that are built for release, on a machine that does nothing else.

use std::fmt::{self, Display};
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use backends::{Kafka, MariaDb};
use client::{ClientType, Connection, ConnectionError, Conversation, Draft, hello};
use proto::Command;
use proto::client::{SendOutcome, SendResult};
use proto::frame::encode_message;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};

use crate::fault::{hold, percentile};
use crate::site::Setting;
use crate::{
    KafkaLog, Options, PASSWORD, PATIENCE, Receiver, Reply, Site, SiteOptions, wait_until,
};

pub mod api;
pub mod fanout;

/// The daemons whose CPU is shown.
const KINDS: [&str; 2] = ["db_proxy", "msg_server"];
/// A hundred bytes.
const TEXT: &str = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";
/// Answers that come while everything gets going are not counted.
const WARM_UP: Duration = Duration::from_secs(3);
/// Between saturation and the modest rate: what the store is behind by then is not measured.
const CALM_LIMIT: Duration = Duration::from_mins(2);
/// A hundredth of a second, on every Linux.
const TICK: Duration = Duration::from_millis(10);
/// Where in an interval the clients begin.
const PHASES: u32 = 16;
/// Between two messages that a hanging hook is asked about.
const HELD_EVERY: Duration = Duration::from_millis(100);
/// Longer than anything is measured.
const HELD_FOR: Duration = Duration::from_hours(1);
/// The secret of a hook that checks nothing.
const HOOK_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// Writes that are flushed to say what the disk does.
const FLUSHES: usize = 200;

/// What to run, and for how long.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Clients, each with a connection of its own.
    pub clients: u32,
    /// Messages of each that may be unanswered.
    pub window: u32,
    /// How long each of the two is measured.
    pub lasts: Duration,
    /// Messages a second of all clients together, in the second.
    pub rate: u32,
    /// How many db_proxies share the log on Kafka.
    pub db_proxies: u16,
}

impl LoadOptions {
    /// The user whom a hanging hook is asked about. The others talk to those before this one.
    const fn held(&self) -> u32 {
        2 * self.clients + 1
    }
}

/// A hook that never answers, and the file that names it.
struct HangingHook {
    folder: TempDir,
    receiver: Receiver,
}

impl HangingHook {
    fn start(runtime: &Runtime, sender: u32) -> Self {
        let receiver = runtime.block_on(Receiver::start(|_got, _before| Reply::Hang));
        let folder = TempDir::new().expect("a folder");
        let hook = Self { folder, receiver };
        let url = &hook.receiver.url;
        let text = format!(
            "[[hooks]]\nname = 'hangs'\nurl = '{url}'\nsecret = '{HOOK_SECRET}'\nsenders = [{sender}]\n"
        );
        fs::write(hook.file(), text).expect("keep the hook");
        hook
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("hooks.toml")
    }
}

/// Says something now and then, which a hook is asked about.
async fn hold_up(gateways: Vec<String>, user: u32) -> Result<(), ConnectionError> {
    let (connection, end) = (log_in_one(&gateways, user).await, Instant::now() + HELD_FOR);
    Talker::new(connection, Conversation::user(1)).pace(HELD_EVERY, end).await.map(drop)
}

/// What is behind the gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// Log and store in the data folder.
    Embedded,
    /// The log in the data folder, the store on MariaDB.
    Database,
    /// The log on one broker, the store on MariaDB.
    Kafka,
    /// As embedded, while a hook hangs that is asked about the messages of one more user.
    HangingHook,
}

impl Behind {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Embedded, Self::HangingHook, Self::Database, Self::Kafka];

    /// What it is called on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Database => "mysql",
            Self::Kafka => "kafka",
            Self::HangingHook => "hook",
        }
    }

    const fn about(self) -> &'static str {
        match self {
            Self::Embedded => "embedded log, SQLite",
            Self::Database => "embedded log, MySQL",
            Self::Kafka => "Kafka (one broker), MySQL",
            Self::HangingHook => "embedded, a hook hangs",
        }
    }
}

/// A line of the table.
#[derive(Debug, Clone)]
pub struct Line {
    behind: Behind,
    /// Messages acknowledged in a second at saturation.
    pub per_second: f64,
    /// How long an answer took then: half of them less, 99 of 100 less.
    saturated: [Duration; 2],
    /// The same at the modest rate.
    modest: [Duration; 2],
    /// CPU for each message at saturation: of the db_proxies, of the gateways.
    cpu: [Duration; 2],
    /// Messages that were not stored at the first try.
    turned_away: u64,
}

/// The head of the table.
pub const HEAD: &str = concat!(
    "                          |         at saturation          |  at a modest rate  ",
    "|   CPU per message\n",
    "behind the gateways       | acked/s       p50        p99   |     p50       p99  ",
    "| db_proxy   gateways",
);

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
        let us = |time: Duration| format!("{:.1} µs", time.as_secs_f64() * 1e6);
        let Self { per_second, saturated, modest, cpu, turned_away, .. } = self;
        write!(
            f,
            "{:<25} | {per_second:>7.0} {:>9} {:>10}  | {:>9} {:>9} | {:>8}  {:>8}",
            self.behind.about(),
            ms(saturated[0]),
            ms(saturated[1]),
            ms(modest[0]),
            ms(modest[1]),
            us(cpu[0]),
            us(cpu[1]),
        )?;
        if *turned_away > 0 {
            write!(f, "  ({turned_away} told to try again)")?;
        }
        Ok(())
    }
}

/// What the figures were measured on.
pub fn machine() -> io::Result<String> {
    let cores = std::thread::available_parallelism()?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    let mut file = tempfile::tempfile_in(crate::programs::scratch())?;
    let mut took = Vec::with_capacity(FLUSHES);
    for _flush in 0..FLUSHES {
        let began = Instant::now();
        file.write_all(&[b'x'; 256])?;
        file.sync_data()?;
        took.push(began.elapsed());
    }
    let [p50, p99] = [0.5, 0.99].map(|share| percentile(&mut took, share));
    Ok(format!("{cores} cores, load {load}, fdatasync p50 {p50:.2?} p99 {p99:.2?}"))
}

/// Runs a cluster, and measures it. Blocks.
pub fn measure(behind: Behind, options: &LoadOptions) -> Line {
    let on_servers = matches!(behind, Behind::Database | Behind::Kafka);
    let database = on_servers.then(MariaDb::start);
    let kafka = (behind == Behind::Kafka).then(|| Kafka::start(1));
    let runtime = Runtime::new().expect("start a runtime");
    let hook =
        (behind == Behind::HangingHook).then(|| HangingHook::start(&runtime, options.held()));
    let mut site = site_of(options, database.as_ref(), kafka.as_ref());
    site.cluster.hooks = hook.as_ref().map(HangingHook::file);
    let site = Site::start(&site);
    let held =
        hook.is_some().then(|| runtime.spawn(hold_up(site.gateways.clone(), options.held())));
    let connections = (1..).zip(runtime.block_on(log_in(&site, options.clients)));
    let talker =
        |(user, connection)| Talker::new(connection, Conversation::user(options.clients + user));
    let clients: Vec<_> = connections.map(talker).collect();

    let until = Instant::now() + WARM_UP + options.lasts;
    let window = options.window;
    let talking = runtime.spawn(all(clients, move |client| client.saturate(window, until)));
    hold(WARM_UP);
    let (began, before) = (Instant::now(), cpu_of(&site, KINDS));
    hold(until.saturating_duration_since(began));
    let (lasted, after) = (began.elapsed(), cpu_of(&site, KINDS));
    let mut clients = runtime.block_on(talking).expect("everything is answered");
    let mut saturated = answers(&mut clients, began..began + lasted);
    let acked = u32::try_from(saturated.len()).expect("a few million at most").max(1);

    calm(&site);
    let began = Instant::now();
    let until = began + options.lasts;
    let every = Duration::from_secs(1) * options.clients / options.rate;
    let talking = runtime.spawn(all(clients, move |client| client.pace(every, until)));
    let mut clients = runtime.block_on(talking).expect("everything is answered");
    let mut modest = answers(&mut clients, began..until);
    if let Some(held) = held {
        held.abort();
    }
    Line {
        behind,
        per_second: f64::from(acked) / lasted.as_secs_f64(),
        saturated: percentiles(&mut saturated),
        modest: percentiles(&mut modest),
        cpu: [0, 1].map(|who| after[who].saturating_sub(before[who]) / acked),
        turned_away: clients.iter().map(|client| client.turned_away).sum(),
    }
}

fn site_of(
    options: &LoadOptions,
    database: Option<&MariaDb>,
    kafka: Option<&Kafka>,
) -> SiteOptions {
    let mut cluster = Options { users: options.held(), group: 0, ..Options::default() };
    cluster.mysql.extend(database.map(MariaDb::fresh_database));
    if let Some(kafka) = kafka {
        let bootstrap = kafka.bootstrap();
        cluster.kafka = Some(KafkaLog { bootstrap, partitions: 8, is_unsafe: true });
        cluster.db_proxies = options.db_proxies;
    }
    SiteOptions { cluster, settings: unlimited(options.window), ..SiteOptions::default() }
}

/// Settings under which a client may send as fast as it can, with `window` messages unanswered: what one
/// person may do is not what is measured.
fn unlimited(window: u32) -> Vec<Setting> {
    let limit = |key, value: u32| ("msg_server", "limits", key, value.to_string());
    vec![
        limit("sends_per_s", 1_000_000),
        limit("sends_burst", 1_000_000),
        limit("sent_bytes_per_s", 1_000_000_000),
        limit("sent_bytes_burst", 1_000_000_000),
        limit("unanswered_max", window.max(32)),
    ]
}

/// Logs the first users in, by turns on each gateway.
async fn log_in(site: &Site, users: u32) -> Vec<Connection> {
    let mut connections = Vec::new();
    for user in 1..=users {
        connections.push(log_in_one(&site.gateways, user).await);
    }
    connections
}

async fn log_in_one(gateways: &[String], user: u32) -> Connection {
    let gateway = &gateways[user as usize % gateways.len()];
    let mut connection = Connection::connect(gateway, None).await.expect("a gateway listens");
    connection.set_limit(PATIENCE);
    let name = format!("u{user}");
    let login = connection.login(&name, PASSWORD, ClientType::Windows, Some(hello())).await;
    login.expect("everybody is let in");
    connection
}

/// A client that sends.
struct Talker {
    connection: Connection,
    to: Conversation,
    /// When each answer came, and how long it took.
    answers: Vec<(Instant, Duration)>,
    turned_away: u64,
}

/// Lets all of them do something at the same time.
async fn all<T, E, F>(clients: Vec<T>, what: impl Fn(T) -> F) -> Vec<T>
where
    T: Send + 'static,
    E: fmt::Debug + Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let mut tasks: JoinSet<_> = clients.into_iter().map(what).collect();
    let mut clients = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        clients.push(ended.expect("nobody panics").expect("connections stay open"));
    }
    clients
}

impl Talker {
    const fn new(connection: Connection, to: Conversation) -> Self {
        Self { connection, to, answers: Vec::new(), turned_away: 0 }
    }

    fn message(&mut self, bytes: &mut Vec<u8>) {
        let draft = Draft::text(self.to, TEXT);
        let seq = self.connection.next_seq();
        bytes.extend_from_slice(&encode_message(Command::MessageData, seq, &draft.to_wire()));
    }

    /// Waits for one answer to what was sent then.
    async fn answer(&mut self, sent: Instant) -> Result<(), ConnectionError> {
        loop {
            let frame = self.connection.next_frame(PATIENCE).await?;
            if frame.known_command() != Some(Command::SendResult) {
                continue;
            }
            let result: SendResult = frame.parse()?;
            if result.outcome() == SendOutcome::Ok {
                let now = Instant::now();
                self.answers.push((now, now - sent));
            } else {
                self.turned_away += 1;
            }
            return Ok(());
        }
    }

    /// Sends so many messages at once, and waits for all answers.
    async fn burst(&mut self, messages: u32) -> Result<(), ConnectionError> {
        let mut bytes = Vec::new();
        for _message in 0..messages {
            self.message(&mut bytes);
        }
        let sent = Instant::now();
        self.connection.send_bytes(&bytes).await?;
        for _message in 0..messages {
            self.answer(sent).await?;
        }
        Ok(())
    }

    /// Sends as many as may be unanswered, waits for all answers, and begins again.
    async fn saturate(mut self, window: u32, until: Instant) -> Result<Self, ConnectionError> {
        while Instant::now() < until {
            self.burst(window).await?;
        }
        Ok(self)
    }

    /// Sends one after another, as a person who waits for the answer does.
    async fn pace(mut self, every: Duration, until: Instant) -> Result<Self, ConnectionError> {
        // Not all at once: each begins somewhere else.
        let number = self.to.number();
        let first = every / PHASES * (number % PHASES);
        let mut ticks = interval_at((Instant::now() + first).into(), every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < until {
            ticks.tick().await;
            self.burst(1).await?;
        }
        Ok(self)
    }
}

/// Takes the answers that came within a time from all of them.
fn answers(talkers: &mut [Talker], within: Range<Instant>) -> Vec<Duration> {
    let all = talkers.iter_mut().flat_map(|talker| talker.answers.drain(..));
    all.filter(|(at, _took)| within.contains(at)).map(|(_at, took)| took).collect()
}

fn percentiles(answers: &mut [Duration]) -> [Duration; 2] {
    [0.5, 0.99].map(|share| percentile(answers, share))
}

/// Waits until everything is stored.
fn calm(site: &Site) {
    wait_until("everything is stored", CALM_LIMIT, || {
        let [folded, stored] = ["talkhub_db_proxy_log_offset", "talkhub_db_proxy_store_offset"]
            .map(|metric| site.metric_sum("db_proxy", metric));
        folded > 0 && stored >= folded
    });
}

/// The CPU that the daemons of two kinds have used.
fn cpu_of(site: &Site, kinds: [&str; 2]) -> [Duration; 2] {
    kinds.map(|kind| {
        let names = site.names().into_iter().filter(|name| name.starts_with(kind));
        names.map(|name| cpu(site.pid(&name).as_raw_nonzero().get())).sum()
    })
}

/// The CPU that a process has used, in user and in kernel mode.
fn cpu(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // After the name, which is in parentheses, come the fields from the third on.
    let fields = stat.rsplit_once(") ").map_or("", |(_name, fields)| fields);
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u32>().ok());
    ticks.map(|ticks| TICK * ticks).sum()
}
