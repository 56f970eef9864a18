//! Clients that never read, in a group in which much is said: they cost the gateway little, the others
//! do not notice them, and in the end they miss nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::{
    Client, ClientType, Connection, Conversation, Kind, Limits, Options, Outcome, Push, Servers,
};
use proto::Command;
use proto::client::{Heartbeat, MessageListReply};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use self::told::Told;
use super::daemons::site_of;
use super::old::{Book, Line};
use super::talk::nothing_wrong;
use super::{Run, Scenario, Skipped, percentile};
use crate::device::{get_in, page_request};
use crate::{PASSWORD, PATIENCE, Random, Site, sum_of};

mod told;

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "slow-readers",
    about: "members of a group that never read while it receives 1 MiB/s: the gateway grows by ≤ 256 MiB, once they have filled up the others' p99 is ≤ 2× of without them, until then nobody waits ≥ 1 s, and those who did not read miss nothing in the end",
    short: 60,
    long: 2_000,
    run,
}];

const SENDERS: u32 = 4;
const HEALTHY: u32 = 20;
/// All senders together say 64 of them in a second: 1 MiB. In the short form they are twice as long,
/// since the kernel takes some MiB for a client before anybody sees that it does not read.
const BODY: usize = 16 << 10;
const SAY_EVERY: Duration = Duration::from_micros(62_500);
/// In the short form nobody speaks while a healthy one has so many to read: no more than an outbox and the kernel
/// hold. On a machine with other work a healthy one may not be given the time to read, and would be taken for a slow
/// one. The long form measures how long they wait, and so does not wait for them.
const AHEAD_MAX: u32 = 4;
/// The gateway of the healthy and of the slow ones.
const GATEWAY: &str = "msg_server-1";
/// How often a healthy one says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Before the first measurement.
const WARM: Duration = Duration::from_secs(1);
/// The time in which the slow ones have all just come, and a gateway cannot know yet which clients
/// read: each takes what the kernel and its outbox hold. It is measured by itself.
const FILLING: Duration = Duration::from_secs(3);
/// How long anybody may wait meanwhile.
const FILLING_LIMIT: Duration = Duration::from_secs(1);
const GROWTH_MAX: u64 = 256 << 20;
/// Below this the figure says more about the machine than about the gateway.
const P99_FLOOR: Duration = Duration::from_millis(50);
/// Messages that each slow one pulls at the end.
const PULLED: u32 = 64;
/// Slow ones that pull everything.
const PULL_ALL: usize = 10;
/// Slow ones that pull, or log in, at the same time.
const AT_ONCE: usize = 16;

fn run(run: &mut Run) -> Result<(), Skipped> {
    let slow = u32::try_from(run.rounds).unwrap_or(u32::MAX);
    raise_open_files();
    let site = run.start(&site_of(SENDERS + HEALTHY + slow));
    // The healthy ones measure: no others may keep them from it.
    let (runtime, others) = (new_runtime(), new_runtime());
    let (body, ahead_max) = if run.is_long { (BODY, None) } else { (2 * BODY, Some(AHEAD_MAX)) };
    let told = Arc::new(Told::new(body, ahead_max));
    let mut crew = Crew { site: &site, told: Arc::clone(&told), others: &others, slow };
    let seed = run.random.below(u64::MAX);
    let result = runtime.block_on(crew.work(run, seed));
    let Worked { without, filling, with, growth, kernel, closed, logins, pulled } = result;
    let rate = u64::from(told.count()) * (told.body as u64)
        / 1024
        / told.seconds.load(Ordering::Relaxed).max(1);
    run.figure("slow readers, logins, closed for it", format!("{slow}, {logins}, {closed}"));
    run.figure("the group receives", format!("{rate} KiB/s, {} messages", told.count()));
    run.figure("delivery without them", &without);
    run.figure("delivery while all have just come", &filling);
    run.figure("delivery with them", &with);
    run.figure(
        "ratio of p99",
        format!("{:.2} (≤ 2, or p99 ≤ {P99_FLOOR:?})", with.p99_to(&without)),
    );
    run.figure("growth of the gateway", format!("{} MiB (≤ 256 MiB)", growth >> 20));
    run.figure("what the kernel keeps for all sockets", format!("{} MiB", kernel >> 20));
    run.figure("pulled in the end", pulled);
    nothing_wrong(&told.wrong.lock().expect("nobody panicked with it"));
    assert!(closed >= u64::from(slow), "every slow reader was too slow: {closed} of {slow}");
    assert!(!run.is_long || rate >= 800, "the group receives much: {rate} KiB/s");
    assert!(growth <= GROWTH_MAX, "the gateway grows by {} MiB", growth >> 20);
    // What a push costs is the same on a machine on which others work as well. How long one message in a
    // hundred takes is not, and a few seconds say nothing about it.
    let noisy = without.p99 > P99_FLOOR;
    let fair = with.p99 <= without.p99.saturating_mul(2).max(P99_FLOOR);
    let cheap = with.cpu <= 2 * without.cpu;
    if noisy && run.is_long {
        run.figure("judged by", "CPU/push: this machine has other work, see the p99 without them");
    }
    assert!(cheap, "pushes to the others cost more: {with}, not {without}");
    assert!(!run.is_long || fair || noisy, "the others notice: {with}, not {without}");
    let waited = filling.most;
    assert!(!run.is_long || waited < FILLING_LIMIT, "the others wait {waited:?} while all come");
    Ok(())
}

fn new_runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("start a runtime")
}

/// Many sockets here, and as many in the daemons, which inherit this.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
}

struct Crew<'a> {
    site: &'a Site,
    told: Arc<Told>,
    others: &'a Runtime,
    slow: u32,
}

struct Worked {
    without: Delivery,
    filling: Delivery,
    with: Delivery,
    growth: u64,
    kernel: u64,
    closed: u64,
    logins: u64,
    pulled: String,
}

/// How the healthy ones are served.
#[derive(Debug)]
struct Delivery {
    count: usize,
    p50: Duration,
    p99: Duration,
    most: Duration,
    /// Of the gateway, for each push.
    cpu: Duration,
}

impl Delivery {
    fn p99_to(&self, other: &Self) -> f64 {
        self.p99.as_secs_f64() / other.p99.as_secs_f64().max(1e-6)
    }
}

impl std::fmt::Display for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, p50, p99, most, cpu } = self;
        write!(f, "p50 {p50:.1?}, p99 {p99:.1?}, max {most:.1?} of {count}; {cpu:.1?} CPU/push")
    }
}

impl Crew<'_> {
    async fn work(&mut self, run: &mut Run, seed: u64) -> Worked {
        let mut healthy = JoinSet::new();
        let gateway = self.gateway(0).to_owned();
        for user in SENDERS + 1..=SENDERS + HEALTHY {
            healthy.spawn(listen(gateway.clone(), user, Arc::clone(&self.told)));
        }
        let mut senders = JoinSet::new();
        for user in 1..=SENDERS {
            let sender = say(self.gateway(1).to_owned(), user, Arc::clone(&self.told));
            senders.spawn_on(sender, self.others.handle());
        }
        let window = run.lasts(Duration::from_mins(1), Duration::from_secs(4));
        self.talk(true);
        // Until all are there, and everything is warm.
        sleep(WARM).await;
        let (without, _most, _kernel) = self.measure(window).await;
        self.talk(false);

        let before = self.site.resident_bytes(GATEWAY);
        let closed = self.closed();
        let mut slow = self.slow_ones(run, seed);
        // All of them at once are there when the talk begins.
        let began = Instant::now();
        while slow.logins.load(Ordering::Relaxed) < u64::from(self.slow) {
            assert!(began.elapsed() < 4 * PATIENCE, "the slow readers get in");
            sleep(Duration::from_millis(50)).await;
        }
        slow.phase.send_replace(Phase::Talk);
        self.talk(true);
        let (filling, most, kernel) = self.measure(FILLING).await;
        let (with, later_most, later_kernel) = self.measure(window).await;
        let (most, kernel) = (most.max(later_most), kernel.max(later_kernel));
        let began = Instant::now();
        while self.closed() - closed < u64::from(self.slow) && began.elapsed() < PATIENCE {
            sleep(Duration::from_millis(50)).await;
        }
        self.talk(false);
        self.told.seconds.store((WARM + FILLING + 2 * window).as_secs(), Ordering::Relaxed);
        slow.phase.send_replace(Phase::Over);
        while slow.tasks.join_next().await.is_some() {}
        // What was said last is acknowledged.
        sleep(Duration::from_millis(500)).await;
        senders.abort_all();
        let closed = self.closed() - closed;
        let logins = slow.logins.load(Ordering::Relaxed);
        let pulled = self.pull().await;
        self.all_heard(&mut healthy).await;
        let growth = most.saturating_sub(before);
        Worked { without, filling, with, growth, kernel, closed, logins, pulled }
    }

    fn gateway(&self, index: usize) -> &str {
        self.site.gateways.get(index).expect("there are two gateways")
    }

    fn talk(&self, is_saying: bool) {
        self.told.is_saying.store(is_saying, Ordering::Relaxed);
    }

    fn closed(&self) -> u64 {
        let page = self.site.metrics(GATEWAY).unwrap_or_default();
        let reason = "talkhub_msg_server_closed_total{reason=\"SlowReader\"}";
        let line = page.lines().find_map(|line| line.strip_prefix(reason));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Watches for a while. Returns how the healthy ones were served, and the most that the gateway,
    /// and the kernel for all sockets of the machine, had in memory.
    async fn measure(&self, window: Duration) -> (Delivery, u64, u64) {
        let usage = || {
            let page = self.site.metrics(GATEWAY).unwrap_or_default();
            (cpu_time(self.site), sum_of(&page, "talkhub_msg_server_pushes_out_total"))
        };
        let (cpu, pushes) = usage();
        self.told.latencies.lock().expect("nobody panicked with it").clear();
        let end = Instant::now() + window;
        let (mut most, mut kernel) = (0, 0);
        while Instant::now() < end {
            sleep(Duration::from_millis(200)).await;
            most = self.site.resident_bytes(GATEWAY).max(most);
            kernel = kernel_bytes().max(kernel);
        }
        let mut latencies =
            std::mem::take(&mut *self.told.latencies.lock().expect("nobody panicked with it"));
        let (cpu_after, pushes_after) = usage();
        let pushed = u32::try_from(pushes_after - pushes).unwrap_or(u32::MAX).max(1);
        let delivery = Delivery {
            count: latencies.len(),
            p50: percentile(&mut latencies, 0.5),
            p99: percentile(&mut latencies, 0.99),
            most: percentile(&mut latencies, 1.0),
            cpu: cpu_after.saturating_sub(cpu) / pushed,
        };
        (delivery, most, kernel)
    }

    fn slow_ones(&self, run: &mut Run, seed: u64) -> SlowOnes {
        // They do not read, so they do not notice that they are closed: they come again after a while.
        let again = run.lasts(Duration::from_secs(20), Duration::from_mins(1));
        let logins = Arc::new(AtomicU64::new(0));
        let (phase, phases) = watch::channel(Phase::Before);
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let mut tasks = JoinSet::new();
        for user in 0..self.slow {
            let one = SlowOne {
                user: SENDERS + HEALTHY + 1 + user,
                gateway: self.gateway(0).parse().expect("a gateway is at an address"),
                told: Arc::clone(&self.told),
                again,
                random: Random::from_seed(seed ^ u64::from(user)),
                room: Arc::clone(&room),
            };
            tasks.spawn_on(one.live(phases.clone(), Arc::clone(&logins)), self.others.handle());
        }
        SlowOnes { tasks, logins, phase }
    }

    /// The slow ones read at last. Returns what that came to.
    async fn pull(&self) -> String {
        let began = Instant::now();
        let head = self.told.count();
        let mut tasks = JoinSet::new();
        let room = Arc::new(Semaphore::new(AT_ONCE));
        for user in 0..self.slow {
            let everything = (user as usize) < PULL_ALL;
            let from = if everything { 1 } else { head.saturating_sub(PULLED - 1).max(1) };
            let (told, room) = (Arc::clone(&self.told), Arc::clone(&room));
            let (gateway, user) = (self.gateway(0).to_owned(), SENDERS + HEALTHY + 1 + user);
            tasks.spawn_on(
                async move {
                    let _place = room.acquire().await;
                    let pulled = pull(&gateway, user, from, head, &told).await;
                    pulled.unwrap_or_else(|why| {
                        told.wrong(format!("u{user} pulls: {why}"));
                        0
                    })
                },
                self.others.handle(),
            );
        }
        let mut messages = 0;
        while let Some(pulled) = tasks.join_next().await {
            messages += pulled.expect("a reader does not panic");
        }
        let all = PULL_ALL.min(self.slow as usize);
        let took = began.elapsed();
        format!(
            "{messages} messages in {took:.1?}: {all} read all {head}, the others {PULLED} each"
        )
    }

    /// Every healthy one has everything.
    async fn all_heard(&self, healthy: &mut JoinSet<Heard>) {
        self.told.is_over.store(true, Ordering::Relaxed);
        let ended = timeout(PATIENCE, async {
            while let Some(heard) = healthy.join_next().await {
                let Heard { user, first, last } = heard.expect("a listener does not panic");
                let head = self.told.count();
                if last != head || first > 64 * 3 {
                    self.told.wrong(format!("u{user} heard {first} to {last} of {head}"));
                }
            }
        });
        ended.await.expect("the healthy ones end");
    }
}

struct SlowOnes {
    tasks: JoinSet<()>,
    logins: Arc<AtomicU64>,
    phase: watch::Sender<Phase>,
}

/// What the slow ones wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// All of them to be there.
    Before,
    Talk,
    Over,
}

/// A user who logs in and never reads.
struct SlowOne {
    user: u32,
    gateway: SocketAddr,
    told: Arc<Told>,
    again: Duration,
    random: Random,
    room: Arc<Semaphore>,
}

impl SlowOne {
    async fn live(mut self, mut phases: watch::Receiver<Phase>, logins: Arc<AtomicU64>) {
        let again = u64::try_from(self.again.as_micros()).unwrap_or(u64::MAX);
        // The first time all together, then each at a time of its own.
        let mut stays = Duration::from_micros(self.random.below(again));
        let mut book = Book::new(self.user, "slow");
        while *phases.borrow() != Phase::Over {
            let place = self.room.acquire().await;
            let line = self.log_in(&mut book).await;
            drop(place);
            match line {
                // Kept, and never read from.
                Ok(_line) => {
                    logins.fetch_add(1, Ordering::Relaxed);
                    if phases.wait_for(|phase| *phase >= Phase::Talk).await.is_err() {
                        return;
                    }
                    let over = phases.wait_for(|phase| *phase == Phase::Over);
                    // Whichever comes first.
                    drop(timeout(stays, over).await);
                }
                Err(why) => {
                    self.told.wrong(format!("u{} does not get in: {why}", self.user));
                    return;
                }
            }
            stays = self.again;
        }
    }

    async fn log_in(&self, book: &mut Book) -> Result<Line, String> {
        let socket = TcpSocket::new_v4().map_err(|error| error.to_string())?;
        // Little is kept for it on this side.
        socket.set_recv_buffer_size(4096).map_err(|error| error.to_string())?;
        let socket = socket.connect(self.gateway).await.map_err(|error| error.to_string())?;
        let line = Line::over(socket, ClientType::Android, book).await;
        line.map_err(|error| error.to_string())
    }
}

/// What a healthy one has heard.
struct Heard {
    user: u32,
    first: u32,
    last: u32,
}

/// Reads at once whatever comes, until nothing has come for long.
async fn listen(gateway: String, user: u32, told: Arc<Told>) -> Heard {
    let (mut connection, _login) = get_in(&gateway, None, (user, ClientType::Windows), None).await;
    told.listens(user);
    let heard = hear(&mut connection, user, &told).await;
    told.leaves(user);
    heard
}

async fn hear(connection: &mut Connection, user: u32, told: &Told) -> Heard {
    let mut heard = Heard { user, first: 0, last: 0 };
    let mut beat = Instant::now();
    loop {
        if beat.elapsed() > HEARTBEAT {
            beat = Instant::now();
            if let Err(error) = connection.send(Command::Heartbeat, &Heartbeat {}).await {
                told.wrong(format!("u{user} cannot send a heartbeat: {error}"));
                return heard;
            }
        }
        match connection.next_push(Duration::from_millis(500)).await {
            Ok(Push::Message(message)) => {
                let Some((_number, age)) = told.read(&message.msg_data) else {
                    told.wrong(format!("u{user}: nobody said {}", message.msg_id));
                    continue;
                };
                told.latencies.lock().expect("nobody panicked with it").push(age);
                if heard.first == 0 {
                    heard.first = message.msg_id;
                } else if message.msg_id != heard.last + 1 {
                    let Heard { last, .. } = heard;
                    told.wrong(format!("u{user} hears {} after {last}", message.msg_id));
                }
                heard.last = message.msg_id;
                told.hears(user, message.msg_id);
            }
            Ok(_other) => {}
            Err(client::ConnectionError::TimedOut) => {
                if told.is_over.load(Ordering::Relaxed) {
                    return heard;
                }
            }
            Err(error) => {
                told.wrong(format!("u{user} is cut off after {}: {error}", heard.last));
                return heard;
            }
        }
    }
}

/// Says something at a steady rate while it is time to.
async fn say(gateway: String, user: u32, told: Arc<Told>) {
    let servers = Servers::Gateways(vec![gateway]);
    let mut options = Options::new(servers, format!("u{user}"), PASSWORD);
    options.limits = Limits { answer: PATIENCE, ..Limits::default() };
    let (client, events) = Client::start(options).await.expect("a client without an outbox");
    drop(events);
    client.online().await.expect("a sender gets in");
    let mut ticks = interval(SAY_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut answers = JoinSet::new();
    for number in 0_u64.. {
        ticks.tick().await;
        while !told.is_saying.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(20)).await;
            ticks.reset();
        }
        while !told.may_say() {
            sleep(Duration::from_millis(5)).await;
            ticks.reset();
        }
        let number = u64::from(user) << 32 | number;
        let sending = client.send(Conversation::group(1), Kind::Voice, told.body(number));
        let told = Arc::clone(&told);
        answers.spawn(async move {
            match sending.await {
                Outcome::Ok { msg_id, .. } => {
                    let mut places = told.places.lock().expect("nobody panicked with it");
                    places.insert(number, msg_id.0);
                }
                other => told.wrong(format!("a message of u{user} ended with {other:?}")),
            }
        });
        while answers.try_join_next().is_some() {}
    }
}

/// Reads a part of the history, each message of it. Returns how many.
async fn pull(gateway: &str, user: u32, from: u32, to: u32, told: &Told) -> Result<usize, String> {
    let mut book = Book::new(user, "slow");
    let line = Line::open(gateway, ClientType::Android, &mut book).await;
    let mut line = line.map_err(|error| error.to_string())?;
    let heads = line.heads(&mut book).await.map_err(|error| error.to_string())?;
    let group = Conversation::group(1);
    if heads.get(&group) != Some(&to) {
        return Err(format!("the newest is {heads:?}, not {to}"));
    }
    let (mut next, mut count) = (to, 0);
    while next >= from {
        let request = page_request(group, next, (next - from + 1).min(24));
        let reply: MessageListReply = line
            .ask(&mut book, Command::MessageListRequest, &request)
            .await
            .map_err(|error| error.to_string())?;
        if reply.messages.is_empty() {
            return Err(format!("there is no {next}"));
        }
        for info in &reply.messages {
            if info.msg_id != next || !told.is_at(&info.msg_data, next) {
                return Err(format!("{} is where {next} belongs", info.msg_id));
            }
            next -= 1;
            count += 1;
        }
    }
    Ok(count)
}

/// What the gateway has used of the processors.
fn cpu_time(site: &Site) -> Duration {
    /// What the kernel counts in, on every Linux there is.
    const TICK: Duration = Duration::from_millis(10);
    let pid = site.pid(GATEWAY).as_raw_nonzero();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name stands in brackets and may hold anything.
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let ticks =
        rest.split_whitespace().skip(11).take(2).filter_map(|text| text.parse::<u32>().ok());
    TICK * ticks.sum::<u32>()
}

/// What the kernel keeps of TCP, of all processes.
fn kernel_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"));
    let pages = line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE
}
