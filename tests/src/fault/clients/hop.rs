//! A user whose devices move from gateway to gateway while others talk to the user: one device is an
//! old client, the other one the library.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use client::{
    Client, ClientType, Conversation, Event, Events, Limits, Options, Servers, StartFrom,
};
use proto::client::KickReason;
use proto::ids::MsgId;
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tokio::time::{sleep, sleep_until, timeout_at};

use super::super::daemons::{site_of, speakers_of, tell_spoken};
use super::super::old::{Book, Line, Source};
use super::super::talk::{Talker, Talkers, Truth, nothing_wrong};
use super::super::{Run, Skipped, percentile};
use crate::{Ends, PASSWORD, PATIENCE, Random, Site, SiteOptions};

const PEOPLE: u32 = 10;
const USER: u32 = 1;
const TALKERS: std::ops::RangeInclusive<u32> = 2..=6;
/// All of them together: 50 messages a second.
const TALK_EVERY: Duration = Duration::from_millis(100);
const HOP_EVERY: Duration = Duration::from_secs(2);

/// What is allowed to take how long.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// From the answer to a login to the last message that had been acknowledged before it.
    complete: Duration,
    /// From an acknowledgement to the push, on a connection that is up.
    push: Duration,
}

impl Pace {
    /// What is promised.
    const LONG: Self = Self { complete: Duration::from_secs(2), push: Duration::from_secs(1) };
    /// The same on a machine that does something else as well: what is late comes, all the same.
    const SHORT: Self = Self { complete: Duration::from_secs(20), push: Duration::from_secs(5) };
}

/// What becomes of the sockets that are left.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Half-open: neither end is told.
    Frozen,
    /// They stay as they are; the gateway throws them out.
    Kept,
    /// They are reset just after the new login.
    Reset,
    /// They are reset while their gateway stands still: it notices that, and says that the user is
    /// gone, long after the user has moved elsewhere.
    Late,
}

impl Way {
    const ALL: [Self; 4] = [Self::Frozen, Self::Kept, Self::Reset, Self::Late];

    /// Each once, and then at random.
    fn of(round: usize, random: &mut Random) -> Self {
        let index = if round < Self::ALL.len() { round } else { random.index(Self::ALL.len()) };
        Self::ALL.get(index).copied().unwrap_or(Self::Frozen)
    }
}

/// The scenario.
pub(super) fn run(run: &mut Run) -> Result<(), Skipped> {
    let site = run.start(&SiteOptions { wires: true, ..site_of(PEOPLE) });
    let runtime = Runtime::new().expect("start a runtime");
    let truth = Truth::default();
    let talker = |user| Talker {
        user,
        to: vec![Conversation::user(USER), Conversation::group(1)],
        every: TALK_EVERY,
    };
    let talkers =
        Talkers::start(runtime.handle(), &site.login, TALKERS.map(talker).collect(), &truth);
    let speakers = speakers_of(&site, PEOPLE, run);
    let pace = if run.is_long { Pace::LONG } else { Pace::SHORT };
    let mut hopping = Hopping::new(&site, &truth, pace);
    let ended = runtime.block_on(hopping.hop(run, talkers));
    let spoken = speakers.finish(&site);
    let heard = (hopping.old.book.heard.len(), hopping.library.book.heard.len());
    let rate = ended.rate;
    let mut wrong = truth.against(USER, &hopping.old.book, &conversations());
    wrong.extend(truth.against(USER, &hopping.library.book, &conversations()));
    wrong.extend(ended.wrong);
    let Converged { mut old, mut library, .. } = ended.converged;
    run.figure("hops", format!("{} ({:?})", run.rounds, ended.ways));
    run.figure("acknowledged", format_args!("{}, {rate}/s", truth.count()));
    run.figure("pushed to the old client, handed out by the library", format_args!("{heard:?}"));
    for (name, times) in [("old client", &mut old), ("library", &mut library)] {
        let (p50, p99) = (percentile(times, 0.5), percentile(times, 0.99));
        let most = percentile(times, 1.0);
        run.figure(
            &format!("login to complete, {name}"),
            format_args!("p50 {p50:.1?}, p99 {p99:.1?}, max {most:.1?} (≤ {:?})", pace.complete),
        );
    }
    nothing_wrong(&wrong);
    truth.check();
    tell_spoken(run, &spoken);
    assert!(rate >= 25, "there was something to receive: {rate}/s");
    assert!(heard.0 > run.rounds, "the old client lives on pushes: {heard:?}");
    Ok(())
}

/// The conversations that the user hears: with each talker, and the group.
fn conversations() -> Vec<Conversation> {
    TALKERS.map(Conversation::user).chain([Conversation::group(1)]).collect()
}

#[derive(Debug, Default)]
struct Converged {
    old: Vec<Duration>,
    library: Vec<Duration>,
}

#[derive(Debug, Default)]
struct Ended {
    /// Acknowledged in a second.
    rate: u64,
    converged: Converged,
    ways: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

struct Hopping<'a> {
    site: &'a Site,
    truth: &'a Truth,
    pace: Pace,
    old: Old,
    library: Library,
}

impl<'a> Hopping<'a> {
    fn new(site: &'a Site, truth: &'a Truth, pace: Pace) -> Self {
        Self { site, truth, pace, old: Old::new(truth, pace), library: Library::new(truth, pace) }
    }

    async fn hop(&mut self, run: &mut Run, talkers: Talkers) -> Ended {
        let mut ended = Ended::default();
        let (began, said) = (Instant::now(), self.truth.count());
        let hold = run.lasts(Duration::from_secs(12), Duration::from_secs(3));
        for round in 0..=run.rounds {
            let is_last = round == run.rounds;
            // The last one stays for a while after the old gateway has said that the user is gone.
            let way = match round.checked_sub(1) {
                Some(hop) if !is_last => Way::of(hop, &mut run.random),
                _ => Way::Late,
            };
            let stays = if is_last { hold } else { run.lasts(HOP_EVERY, HOP_EVERY / 2) };
            if round > 0 {
                *ended.ways.entry(format!("{way:?}").to_lowercase()).or_default() += 1;
            }
            let before = self.old.book.heard.len();
            let (old, library) = self.one(round, way, Instant::now() + stays).await;
            for (result, times) in
                [(old, &mut ended.converged.old), (library, &mut ended.converged.library)]
            {
                match result {
                    Ok(time) => times.push(time),
                    Err(why) => ended.wrong.push(format!("hop {round}, {way:?}: {why}")),
                }
            }
            let pushed = self.old.book.heard.len() - before;
            if is_last && pushed < 20 * usize::try_from(hold.as_secs()).unwrap_or(0) {
                ended
                    .wrong
                    .push(format!("only {pushed} pushes in the {hold:?} after the last hop"));
            }
            run.progress(round, format_args!("{} acknowledged", self.truth.count()));
        }
        let acked = (self.truth.count() - said) as u128;
        ended.rate = u64::try_from(acked * 1000 / began.elapsed().as_millis().max(1)).unwrap_or(0);
        // What is left comes by itself.
        let stop = Instant::now() + self.pace.push;
        let (_left, old, library) =
            tokio::join!(talkers.stop(), self.old.stay(stop), self.library.stay(stop));
        ended.wrong.extend([old.err(), library.err()].into_iter().flatten());
        let deadline = Instant::now() + self.pace.push;
        let (old, library) = tokio::join!(self.old.stay(deadline), self.library.stay(deadline));
        ended.wrong.extend([old.err(), library.err()].into_iter().flatten());
        let heads = self.truth.heads(USER, &conversations());
        for book in [&self.old.book, &self.library.book] {
            if !book.reaches(&heads) {
                ended.wrong.push(format!("at the end: {}", book.missing(&heads)));
            }
        }
        ended
    }

    /// One hop, and the time on the gateway until the deadline.
    async fn one(
        &mut self,
        round: usize,
        way: Way,
        deadline: Instant,
    ) -> (Result<Duration, String>, Result<Duration, String>) {
        let Self { site, old, library, .. } = self;
        let here = round % 2;
        let gateway = site.gateways.get(here).expect("there are two gateways");
        let left_name = format!("msg_server-{}", 2 - here);
        let wire = Ends::new("clients", &left_name);
        if matches!(way, Way::Late) && round > 0 {
            site.signal(&left_name, Signal::STOP);
        }
        if matches!(way, Way::Frozen) {
            site.wires().freeze(&wire);
        }
        let keep = matches!(way, Way::Kept);
        let after = async {
            match way {
                Way::Reset => {
                    sleep(Duration::from_millis(20)).await;
                    site.wires().reset(&wire);
                }
                Way::Late => {
                    sleep(Duration::from_millis(300)).await;
                    site.wires().reset(&wire);
                    sleep(Duration::from_millis(300)).await;
                    if round > 0 {
                        site.signal(&left_name, Signal::CONT);
                    }
                }
                Way::Frozen | Way::Kept => {}
            }
        };
        let (old, library, ()) = tokio::join!(
            old.move_to(gateway, keep, deadline),
            library.move_to(gateway, keep, deadline),
            after
        );
        (old, library)
    }
}

/// The old client.
struct Old {
    truth: Truth,
    pace: Pace,
    book: Book,
    line: Option<Line>,
}

impl Old {
    fn new(truth: &Truth, pace: Pace) -> Self {
        Self { truth: truth.clone(), pace, book: Book::new(USER, "old"), line: None }
    }

    /// Logs in elsewhere, catches up, and listens until the deadline. Returns how long it took from
    /// the login until everything that had been acknowledged by then was there.
    async fn move_to(
        &mut self,
        gateway: &str,
        keep: bool,
        deadline: Instant,
    ) -> Result<Duration, String> {
        // A connection that is given up is closed; whether anybody hears of that is up to the wire.
        let left = self.line.take().filter(|_line| keep);
        let mut line = Line::open_when_back(gateway, ClientType::Android, &mut self.book).await;
        let logged_in = Instant::now();
        let heads = self.truth.heads(USER, &conversations());
        let complete = logged_in + self.pace.complete;
        let book = &mut self.book;
        let told = |error| format!("the old client's connection: {error}");
        line.catch_up(book).await.map_err(told)?;
        let all = line.listen(book, complete, |book| book.reaches(&heads)).await.map_err(told)?;
        let took = logged_in.elapsed();
        if !all {
            return Err(format!("after {took:.1?} without {}", book.missing(&heads)));
        }
        self.line = Some(line);
        if let Some(left) = left {
            let mut book = Book::new(USER, "left behind");
            let closed = left.closes(&mut book, self.pace.push).await;
            if !closed || book.kicked != Some(KickReason::DuplicateLogin) {
                return Err(format!("the old session stays: {closed}, {:?}", book.kicked));
            }
        }
        self.stay(deadline).await?;
        Ok(took)
    }

    /// Listens until the deadline, and then has everything that is older than a moment.
    async fn stay(&mut self, deadline: Instant) -> Result<(), String> {
        let Self { truth, pace, book, line: Some(line) } = self else { return Ok(()) };
        let listened = line.listen(book, deadline, |_book| false).await;
        listened.map_err(|error| format!("the old client's connection: {error}"))?;
        if let Some(reason) = book.kicked {
            return Err(format!("the old client is thrown out: {reason:?}"));
        }
        has_what_is_older(truth, book, pace.push)
    }
}

/// Whether what was acknowledged a while ago has come without being asked for.
fn has_what_is_older(truth: &Truth, book: &Book, push: Duration) -> Result<(), String> {
    let Some(then) = Instant::now().checked_sub(push) else { return Ok(()) };
    let heads = truth.heads_at(USER, &conversations(), then);
    if book.reaches(&heads) { Ok(()) } else { Err(format!("no push: {}", book.missing(&heads))) }
}

/// The library, started anew at each hop with what it had.
struct Library {
    truth: Truth,
    pace: Pace,
    book: Book,
    marks: HashMap<Conversation, MsgId>,
    running: Option<(Client, Events)>,
}

impl Library {
    fn new(truth: &Truth, pace: Pace) -> Self {
        let book = Book::new(USER, "library");
        Self { truth: truth.clone(), pace, book, marks: HashMap::new(), running: None }
    }

    async fn move_to(
        &mut self,
        gateway: &str,
        keep: bool,
        deadline: Instant,
    ) -> Result<Duration, String> {
        let left = self.running.take().filter(|_running| keep);
        let servers = Servers::Gateways(vec![gateway.to_owned()]);
        let mut options = Options::new(servers, format!("u{USER}"), PASSWORD);
        options.start_from = StartFrom::Beginning;
        options.marks.clone_from(&self.marks);
        options.limits = Limits { events_max: 4096, ..Limits::default() };
        self.running = Some(Client::start(options).await.expect("a client without an outbox"));
        let get_in = Instant::now() + PATIENCE;
        let Some(logged_in) = self.hear(get_in, |_book, online| online).await? else {
            return Err("the library does not get in".to_owned());
        };
        let heads = self.truth.heads(USER, &conversations());
        let complete = logged_in + self.pace.complete;
        let reached = self.hear(complete, |book, _online| book.reaches(&heads)).await?;
        let Some(reached) = reached else {
            let missing = self.book.missing(&heads);
            return Err(format!("{:?} after the login without {missing}", self.pace.complete));
        };
        if let Some((_client, mut events)) = left {
            kicked(&mut events, self.pace.push).await?;
        }
        self.stay(deadline).await?;
        Ok(reached - logged_in)
    }

    async fn stay(&mut self, deadline: Instant) -> Result<(), String> {
        self.hear(deadline, |_book, _online| false).await?;
        has_what_is_older(&self.truth, &self.book, self.pace.push)
    }

    /// Takes down what is handed out until `holds` or the deadline. Returns when it held.
    async fn hear(
        &mut self,
        deadline: Instant,
        holds: impl Fn(&Book, bool) -> bool,
    ) -> Result<Option<Instant>, String> {
        let Self { book, marks, running: Some((_client, events)), .. } = self else {
            sleep_until(deadline.into()).await;
            return Ok(None);
        };
        let mut online = false;
        loop {
            if holds(book, online) {
                return Ok(Some(Instant::now()));
            }
            let Ok(event) = timeout_at(deadline.into(), events.next()).await else {
                return Ok(None);
            };
            match event {
                Some(Event::Message(message)) => {
                    book.note(&message, Source::Push);
                    marks.insert(message.conversation, message.msg_id);
                }
                Some(Event::Connected { .. }) => online = true,
                // The servers may be busy.
                Some(Event::Disconnected { .. }) if !online => {}
                Some(Event::Sent { .. } | Event::Push(_)) => {}
                other => return Err(format!("to the library happens {other:?}")),
            }
        }
    }
}

/// The library's client that was left is thrown out, and stays out.
async fn kicked(events: &mut Events, limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    loop {
        match timeout_at(deadline.into(), events.next()).await {
            Ok(Some(Event::Kicked(Some(KickReason::DuplicateLogin)))) => return Ok(()),
            Ok(Some(Event::Message(_) | Event::Push(_) | Event::Connected { .. })) => {}
            other => return Err(format!("the library that was left: {other:?}")),
        }
    }
}
