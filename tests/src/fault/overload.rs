//! Five times as much as can be done, of logins and then of messages, with a db_proxy for each of the
//! two roles.
//!
//! How much can be done is measured first. The log is made slow and its queue short, so that it is
//! the owner that is overloaded, and neither the machine nor the test that makes the flood.

mod apart;
mod flood;
mod logins;
mod messages;

use std::ops::Range;
use std::time::{Duration, Instant};

use backends::MariaDb;

use super::beside::{Notice, shown};
use super::daemons::site_of;
use super::{Run, Scenario, Skipped, hold, percentile};
use crate::strace::is_injected;
use crate::{Crowd, CrowdOptions, Probe, SiteOptions, Strace};
use apart::Apart;
use logins::{Attempt, End, Known, Strangers};
use messages::{Pace, Senders, Tally};

const PEOPLE: u32 = 6;
/// Users who are in no crowd, by their numbers: a pair that talks, users who log in all the time, users
/// who flood, and the users they write to.
const PAIR: (u32, u32) = (PEOPLE + 1, PEOPLE + 2);
const KNOWN: Range<u32> = PAIR.1 + 1..PAIR.1 + 5;
const FLOODING: Range<u32> = KNOWN.end..KNOWN.end + 8;
const PEERS: Range<u32> = FLOODING.end..FLOODING.end + 40;

/// How many times as much as can be done.
const TIMES: f64 = 5.0;
/// Changes that may wait for the log, which takes this long for each flush.
const QUEUE_MAX: u64 = 32;
const FLUSH: Duration = Duration::from_millis(100);
/// Changes that may wait for a look into the store.
const WAITING_MAX: u64 = 64;
/// Logins that may wait for the check of a password.
const HASHES_WAITING_MAX: u64 = 256;
/// Wrong logins of one network that are checked.
const GUESSES_MAX: u32 = 1_000_000;
/// How long a refusal may take, but for one of a hundred.
const REFUSED_LIMIT: Duration = Duration::from_secs(1);
/// How much of what can be done is done under the flood, at least.
const DONE_MIN: f64 = 0.8;
/// How many times as much as was really done must have been asked for: on a machine that did something
/// else while it was measured what can be done, it is less than wanted, and nothing is shown.
const TIMES_MIN: f64 = 4.0;
/// With a 99th percentile above this before the flood, there is nothing to compare with.
const P99_CEILING: Duration = Duration::from_millis(100);
/// Of five, four are too many; at least this share is refused.
const REFUSED_MIN: f64 = 0.5;
/// How much the other role may notice.
const NOTICE: Notice = Notice { slower_max: 2.0, floor: Duration::from_millis(15) };
/// What a daemon may have more in memory under the flood than before. Without bounds the messages of a
/// minute alone would be more.
const GROWTH_MAX: u64 = 32 << 20;
/// Between two looks at the daemons.
const LOOK: Duration = Duration::from_millis(250);

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "overload",
        about: "roles apart; logins, then messages, at five times what can be done, 60 s each: refused early with *retry*, ≥ 80 % of what can be done is done, no queue beyond its bound, nothing lost or doubled; p99 of the other role ≤ 2× of before",
        short: 1,
        long: 1,
        run: overload,
    },
    Scenario {
        name: "flood",
        about: "57 wrong logins a second from 250 networks against a db_proxy that has just started: everybody who is right gets in within 3 s; p99 of messages ≤ 2× of before",
        short: 1,
        long: 1,
        run: flood::flood,
    },
];

fn overload(run: &mut Run) -> Result<(), Skipped> {
    Strace::works().map_err(Skipped)?;
    let database = MariaDb::start();
    let mut apart = Apart::start(run, &options(&database));
    let gateways = apart.site.gateways.clone();
    let mut wanted = CrowdOptions::new(&apart.site.login, PEOPLE);
    wanted.pause = Duration::from_millis(200);
    let mut crowd = Crowd::with(&wanted);
    crowd.wait_for_acks(20);
    let known = Known::start(&gateways, KNOWN.collect());

    let probe = Probe::start((&gateways[0], PAIR.0), (&gateways[1], PAIR.1));
    let fault = crowd.nemesis("flood", "logins");
    logins_flood(run, &apart, &probe);
    fault.end();
    probe.finish();

    known.ended();
    let fault = crowd.nemesis("flood", "messages");
    messages_flood(run, &apart, (&crowd, &known));
    fault.end();
    drop(known);
    crowd.wait_for_acks(20);
    assert!(apart.lives(), "no daemon dies of a flood");
    let summary = crowd.finish(&gateways[0], None);
    run.figure(
        "people beside it: acknowledged, reconnects",
        format_args!("{}, {}", summary.acked, summary.reconnects),
    );
    apart.stop();
    Ok(())
}

fn options(database: &MariaDb) -> SiteOptions {
    let mut options = site_of(PEOPLE);
    options.cluster.users = PEERS.end - 1;
    options.cluster.mysql.push(database.fresh_database());
    let limit = |daemon, key, value: u64| (daemon, "limits", key, value.to_string());
    // What one client may do is not what is overloaded.
    options.settings = vec![
        limit("msg_server", "sends_per_s", 1_000_000),
        limit("msg_server", "sends_burst", 1_000_000),
        limit("msg_server", "sent_bytes_per_s", 1_000_000_000),
        limit("msg_server", "sent_bytes_burst", 1_000_000_000),
        limit("msg_server", "unanswered_max", 1_000),
        limit("db_proxy", "queue_max", QUEUE_MAX),
        limit("db_proxy", "waiting_max", WAITING_MAX),
        // Strangers may guess: what is overloaded is what checks.
        ("db_proxy", "logins", "network_failures", GUESSES_MAX.to_string()),
        ("db_proxy", "logins", "all_per_hour", GUESSES_MAX.to_string()),
    ];
    options
}

/// More logins than passwords can be checked; messages are what must not suffer.
fn logins_flood(run: &mut Run, apart: &Apart, probe: &Probe) {
    let mut strangers = Strangers::new(&apart.site.gateways);
    let mut peaks = Peaks::new(apart);
    let short = run.lasts(Duration::from_secs(10), Duration::from_secs(2));
    strangers.in_turn(4, short);
    peaks.watch(apart, short);
    let checked = of_end(&strangers.finish(), End::Wrong).len();
    let can = per_second(checked, short);
    // Hashes take memory that is given back between two.
    peaks.begin_anew();

    let mut before = answers(probe, run.lasts(Duration::from_secs(20), Duration::from_secs(2)));
    let lasts = run.lasts(Duration::from_mins(1), Duration::from_secs(5));
    let began = Instant::now();
    strangers.per_second(TIMES * can, lasts);
    peaks.watch(apart, lasts);
    let mut meanwhile = probe.answers_since(began);
    let attempts = strangers.finish();
    peaks.look(apart);

    let [mut wrong, mut later] = [End::Wrong, End::Later].map(|end| of_end(&attempts, end));
    let others = attempts.len() - wrong.len() - later.len();
    run.figure("logins: checked when one waits for the other", format!("{can:.0}/s"));
    run.figure(
        "flood: tried, checked, told to try again, neither",
        format!(
            "{:.0}/s for {lasts:?}: {}, {}, {others} (0)",
            per_second(attempts.len(), lasts),
            wrong.len(),
            later.len()
        ),
    );
    let done = per_second(wrong.len(), lasts) / can;
    run.figure(
        "checked of what can be",
        format!("{:.0} % (≥ {:.0} %)", 100.0 * done, 100.0 * DONE_MIN),
    );
    run.figure("a check took", shown(&mut wrong));
    run.figure("a refusal took", format!("{} (≤ {REFUSED_LIMIT:?})", shown(&mut later)));
    run.figure(
        "waited for a check, at most",
        format!("{} (≤ {HASHES_WAITING_MAX})", peaks.hashes_waiting),
    );
    run.figure("memory grew by at most", format!("{} (≤ {} MiB)", peaks.grown(), GROWTH_MAX >> 20));
    tell_other(run, "messages", &mut before, &mut meanwhile);

    assert_eq!(others, 0, "everybody is told something");
    assert_flooded(run, attempts.len(), wrong.len());
    assert_refused(&mut later, attempts.len());
    assert!(!run.is_long || done >= DONE_MIN, "{done:.2} of the checks that can be made are made");
    assert!(peaks.hashes_waiting > 0, "it is shown how many wait");
    assert!(peaks.hashes_waiting <= HASHES_WAITING_MAX, "{} wait", peaks.hashes_waiting);
    peaks.assert_grown();
}

/// More messages than the log takes; logins are what must not suffer.
fn messages_flood(run: &mut Run, apart: &Apart, (crowd, known): (&Crowd, &Known)) {
    let mut senders = Senders::log_in(&apart.site.gateways, FLOODING, &PEERS);
    let delay = format!("inject=fdatasync:delay_exit={}", FLUSH.as_micros());
    let pid = apart.site.pid("db_proxy");
    let slow = Strace::attach(pid, &["-e", "trace=fdatasync", "-e", &delay]);
    let can = acknowledged_when_waiting(run, &mut senders, crowd);

    let mut peaks = Peaks::new(apart);
    known.ended();
    hold(run.lasts(Duration::from_secs(20), Duration::from_secs(2)));
    let mut before = accepted(&known.ended());
    let lasts = run.lasts(Duration::from_mins(1), Duration::from_secs(5));
    let others = crowd.acked();
    senders.start(Pace::PerSecond(TIMES * can), lasts);
    peaks.watch(apart, lasts);
    let others = crowd.acked() - others;
    let mut meanwhile = accepted(&known.ended());
    let mut tally = senders.finish();
    peaks.look(apart);
    let flushes = slow.detach().iter().filter(|line| is_injected(line)).count();
    let stored = senders.check();

    let sent = tally.sent();
    let done = per_second(tally.acked.len() + others, lasts) / can;
    run.figure(
        "messages: acknowledged when they wait for each other",
        format!("{can:.0}/s, {FLUSH:?} a flush, {QUEUE_MAX} in the queue"),
    );
    let Tally { acked, retried, refused, unanswered, without_turn } = &mut tally;
    run.figure(
        "flood: sent, acknowledged, told to try again, neither",
        format!(
            "{:.0}/s for {lasts:?}: {}, {}, {} (0)",
            per_second(sent, lasts),
            acked.len(),
            retried.len(),
            *refused + *unanswered
        ),
    );
    run.figure("not sent, since everything waited for an answer", &without_turn);
    run.figure(
        "acknowledged of what can be",
        format!("{:.0} % (≥ {:.0} %)", 100.0 * done, 100.0 * DONE_MIN),
    );
    run.figure("an acknowledgement took", shown(acked));
    run.figure("a refusal took", format!("{} (≤ {REFUSED_LIMIT:?})", shown(retried)));
    run.figure(
        "in the queue, waiting for the store, unanswered in gateways, at most",
        format!(
            "{} (≤ {QUEUE_MAX}), {} (≤ {WAITING_MAX}), {}",
            peaks.queued, peaks.waiting, peaks.unanswered
        ),
    );
    run.figure("memory grew by at most", format!("{} (≤ {} MiB)", peaks.grown(), GROWTH_MAX >> 20));
    run.figure("late flushes", flushes);
    run.figure("in the histories, each once, all acknowledged among them", stored);
    tell_other(run, "logins", &mut before, &mut meanwhile);

    assert_eq!(
        (*refused, *unanswered),
        (0, 0),
        "everything is answered, and nothing is refused for ever"
    );
    assert!(flushes > 0, "the log was slow");
    assert_flooded(run, sent, acked.len());
    assert_refused(retried, sent);
    assert!(!run.is_long || done >= DONE_MIN, "{done:.2} of what can be acknowledged is");
    assert!(peaks.queued > 0, "it is shown how many are in the queue");
    // Those that are just being refused, or taken, are counted too.
    assert!(peaks.queued <= QUEUE_MAX + 4 && peaks.waiting <= WAITING_MAX, "{peaks:?}");
    peaks.assert_grown();
}

/// How many messages a second are acknowledged if no more are sent than can be taken.
fn acknowledged_when_waiting(run: &Run, senders: &mut Senders, crowd: &Crowd) -> f64 {
    let lasts = run.lasts(Duration::from_secs(10), Duration::from_secs(3));
    let window = usize::try_from(2 * QUEUE_MAX).expect("it is small");
    // The first time, every conversation is looked up.
    senders.start(Pace::Window(window), lasts);
    senders.finish();
    let others = crowd.acked();
    senders.start(Pace::Window(window), lasts);
    per_second(senders.finish().acked.len() + crowd.acked() - others, lasts)
}

/// What was seen of the daemons.
#[derive(Debug, Default)]
struct Peaks {
    queued: u64,
    waiting: u64,
    unanswered: u64,
    hashes_waiting: u64,
    /// By daemon: in memory at the start, and at most since.
    memory: Vec<(String, u64, u64)>,
}

impl Peaks {
    fn new(apart: &Apart) -> Self {
        let memory = apart.resident().into_iter().map(|(name, bytes)| (name, bytes, bytes));
        Self { memory: memory.collect(), ..Self::default() }
    }

    /// Begins anew, from what each daemon has had in memory at most: it needs that to do what it can.
    fn begin_anew(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let memory = memory.into_iter().map(|(name, _start, most)| (name, most, most));
        *self = Self { memory: memory.collect(), ..Self::default() };
    }

    fn watch(&mut self, apart: &Apart, lasts: Duration) {
        let until = Instant::now() + lasts;
        while Instant::now() < until {
            self.look(apart);
            hold(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
    }

    fn look(&mut self, apart: &Apart) {
        let of_owner = |metric| apart.site.metric("db_proxy", metric);
        self.queued = self.queued.max(of_owner("talkhub_db_proxy_changes_queued"));
        self.waiting = self.waiting.max(of_owner("talkhub_db_proxy_changes_waiting"));
        let unanswered = apart.site.metric_sum("msg_server", "talkhub_msg_server_unanswered");
        self.unanswered = self.unanswered.max(unanswered);
        let hashes = apart.of_logins("talkhub_db_proxy_password_checks_waiting");
        self.hashes_waiting = self.hashes_waiting.max(hashes);
        for ((_name, _start, most), (_same, now)) in self.memory.iter_mut().zip(apart.resident()) {
            *most = now.max(*most);
        }
    }

    /// By how many MiB which daemon has grown most.
    fn grown(&self) -> String {
        let grown =
            self.memory.iter().map(|(name, start, most)| (most.saturating_sub(*start), name));
        let (bytes, name) = grown.max().expect("there are daemons");
        format!("{} MiB, {name}", bytes >> 20)
    }

    fn assert_grown(&self) {
        for (name, start, most) in &self.memory {
            let grown = most.saturating_sub(*start);
            assert!(grown <= GROWTH_MAX, "{name} had {start} bytes in memory, then {most}");
        }
    }
}

/// A run that proves nothing fails.
fn assert_flooded(run: &Run, asked: usize, done: usize) {
    let second = Duration::from_secs(1);
    let times = per_second(asked, second) / per_second(done.max(1), second);
    assert!(!run.is_long || times >= TIMES_MIN, "no flood: {times:.1} times what was done");
}

fn assert_refused(refused: &mut [Duration], all: usize) {
    let share =
        per_second(refused.len(), Duration::from_secs(1)) / per_second(all, Duration::from_secs(1));
    assert!(share >= REFUSED_MIN, "{} of {all} are told to try again", refused.len());
    let p99 = percentile(refused, 0.99);
    assert!(p99 <= REFUSED_LIMIT, "refusals take {p99:?}");
}

fn tell_other(run: &mut Run, what: &str, before: &mut [Duration], meanwhile: &mut [Duration]) {
    let base = percentile(before, 0.99);
    let comparable = !run.is_long || base <= P99_CEILING;
    assert!(comparable, "{what}: p99 {base:?} before, with which nothing compares");
    NOTICE.check(run, what, before, meanwhile);
}

fn answers(probe: &Probe, lasts: Duration) -> Vec<Duration> {
    let began = Instant::now();
    hold(lasts);
    probe.answers_since(began)
}

fn of_end(attempts: &[Attempt], end: End) -> Vec<Duration> {
    attempts.iter().filter(|attempt| attempt.end == end).map(|attempt| attempt.took).collect()
}

/// How long the logins took, all of which must have been accepted.
fn accepted(attempts: &[Attempt]) -> Vec<Duration> {
    let accepted = of_end(attempts, End::Accepted);
    assert_eq!(accepted.len(), attempts.len(), "whoever is known and right is let in");
    accepted
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(count: usize, lasts: Duration) -> f64 {
    count as f64 / lasts.as_secs_f64()
}
