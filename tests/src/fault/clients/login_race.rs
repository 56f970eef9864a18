//! A login and a message at the same moment: whichever comes first, the device has the message soon
//! after, because the history has it, or because it is pushed, or both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{ClientType, Conversation, Draft};
use proto::Command;
use proto::client::MessageAck;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::super::daemons::site_of;
use super::super::old::{Book, Line};
use super::super::talk::{Truth, nothing_wrong};
use super::super::{Run, Skipped, percentile};
use crate::Random;

/// Users who log in again and again at the same time; each has a friend who writes to them.
const RACERS: u32 = 8;
/// The message is sent this long before or after the login.
const AROUND: Duration = Duration::from_millis(50);
/// From the answer to the login, or from the acknowledgement if that is later, to the message.
const COMPLETE_LIMIT: Duration = Duration::from_secs(2);
/// What comes twice comes within this time.
const LATER: Duration = Duration::from_millis(30);

/// The scenario.
pub(super) fn run(run: &mut Run) -> Result<(), Skipped> {
    let site = run.start(&site_of(2 * RACERS));
    let runtime = Runtime::new().expect("start a runtime");
    let truth = Truth::default();
    let left = Arc::new(Mutex::new(run.rounds));
    let mut races = JoinSet::new();
    for user in 1..=RACERS {
        let racer = Racer {
            user,
            friend: user + RACERS,
            gateways: site.gateways.clone(),
            random: Random::from_seed(run.random.below(u64::MAX)),
            truth: truth.clone(),
            book: Book::new(user, "racer"),
            tally: Tally::default(),
        };
        races.spawn_on(racer.race(Arc::clone(&left)), runtime.handle());
    }
    let mut tally = Tally::default();
    runtime.block_on(async {
        loop {
            tokio::select! {
                ended = races.join_next() => match ended {
                    Some(ended) => tally.add(ended.expect("a racer does not panic")),
                    None => break,
                },
                () = sleep_until((Instant::now() + Duration::from_secs(10)).into()) => {
                    let done = run.rounds - *left.lock().await;
                    run.progress(done, "logins");
                }
            }
        }
    });
    let Tally { by, mut took, logins, wrong } = tally;
    let (p50, p99) = (percentile(&mut took, 0.5), percentile(&mut took, 0.99));
    let most = percentile(&mut took, 1.0);
    run.figure("complete", format_args!("{} of {logins} logins", took.len()));
    run.figure("the message came by", format_args!("{by:?}"));
    run.figure(
        "login and message to complete",
        format_args!("p50 {p50:.1?}, p99 {p99:.1?}, max {most:.1?} (≤ 2 s)"),
    );
    nothing_wrong(&wrong);
    truth.check();
    assert_eq!((took.len(), logins), (run.rounds, run.rounds), "all are complete");
    let raced = by.get("push").copied().unwrap_or(0) > 0 && by.len() > 1;
    assert!(raced || run.rounds < 20, "the message came before and after the login: {by:?}");
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    by: BTreeMap<&'static str, usize>,
    took: Vec<Duration>,
    logins: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        for (by, count) in other.by {
            *self.by.entry(by).or_default() += count;
        }
        self.took.extend(other.took);
        self.logins += other.logins;
        self.wrong.extend(other.wrong);
    }
}

struct Racer {
    user: u32,
    friend: u32,
    gateways: Vec<String>,
    random: Random,
    truth: Truth,
    book: Book,
    tally: Tally,
}

/// A user who writes while the other one logs in.
struct Friend {
    line: Line,
    book: Book,
    said: usize,
}

impl Racer {
    async fn race(mut self, left: Arc<Mutex<usize>>) -> Tally {
        let gateway = self.gateway();
        let mut book = Book::new(self.friend, "friend");
        let line = Line::open_when_back(&gateway, ClientType::Windows, &mut book).await;
        let mut friend = Friend { line, book, said: 0 };
        let mut earlier = None;
        loop {
            {
                let mut left = left.lock().await;
                if *left == 0 {
                    break;
                }
                *left -= 1;
            }
            self.tally.logins += 1;
            match self.one(&mut friend, earlier.take()).await {
                Ok(line) => earlier = Some(line),
                Err(why) => self.tally.wrong.push(why),
            }
        }
        self.tally.wrong.extend(self.truth.against(self.user, &self.book, &self.conversations()));
        self.tally
    }

    fn gateway(&mut self) -> String {
        let index = self.random.index(self.gateways.len());
        self.gateways.get(index).cloned().unwrap_or_default()
    }

    fn conversations(&self) -> [Conversation; 2] {
        [Conversation::user(self.friend), Conversation::group(1)]
    }

    /// One login and one message. Returns the connection.
    async fn one(&mut self, friend: &mut Friend, earlier: Option<Line>) -> Result<Line, String> {
        let gateway = self.gateway();
        let in_group = self.random.below(2) == 0;
        // Half of the old connections end before, the others are thrown out by the new one.
        let earlier = earlier.filter(|_line| self.random.below(2) == 0);
        let around = u64::try_from(AROUND.as_micros()).unwrap_or(u64::MAX);
        let start = Instant::now() + Duration::from_millis(5);
        let login_at = start + AROUND;
        let send_at = start + Duration::from_micros(self.random.below(2 * around));
        let (conversation, to) = if in_group {
            (Conversation::group(1), Conversation::group(1))
        } else {
            (Conversation::user(self.friend), Conversation::user(self.user))
        };
        let Self { truth, book, user, .. } = self;
        let log_in = async {
            sleep_until(login_at.into()).await;
            let line = Line::open(&gateway, ClientType::Android, book).await;
            let mut line = line.map_err(|error| format!("u{user} logs in: {error}"))?;
            let logged_in = Instant::now();
            let caught_up = line.catch_up(book).await;
            caught_up.map_err(|error| format!("u{user} catches up: {error}"))?;
            Ok::<_, String>((line, logged_in))
        };
        let (logged_in, said) = tokio::join!(log_in, friend.say(truth, to, send_at));
        let ((mut line, logged_in), (msg_id, acked)) = (logged_in?, said?);
        drop(earlier);
        let from = logged_in.max(acked);
        let heads = BTreeMap::from([(conversation, msg_id)]);
        let came = line.listen(book, from + COMPLETE_LIMIT, |book| book.reaches(&heads)).await;
        let came = came.map_err(|error| format!("u{user} is cut off: {error}"))?;
        let took = from.elapsed();
        if !came {
            return Err(format!("{took:.1?} after both without {}", book.missing(&heads)));
        }
        // It may come a second time by the other way, but not twice by one.
        let later = line.listen(book, Instant::now() + LATER, |_book| false).await;
        later.map_err(|error| format!("u{user} is cut off: {error}"))?;
        let by = match book.sources(conversation, msg_id) {
            (true, true) => "both",
            (true, false) => "push",
            (false, true) => "history",
            (false, false) => "nothing",
        };
        *self.tally.by.entry(by).or_default() += 1;
        self.tally.took.push(took);
        Ok(line)
    }
}

impl Friend {
    /// Says something at that time. Returns its number, and when it was acknowledged.
    async fn say(
        &mut self,
        truth: &Truth,
        to: Conversation,
        at: Instant,
    ) -> Result<(u32, Instant), String> {
        // What others say in the group is read in time.
        let Self { line, book, said } = self;
        let waited = line.listen(book, at, |_book| false).await;
        waited.map_err(|error| format!("the friend is cut off: {error}"))?;
        *said += 1;
        let draft = Draft::text(to, &format!("{said} from u{}", book.user())).without_id();
        let index = truth.says(book.user(), to, &draft.data);
        let ack: MessageAck = line
            .ask(book, Command::MessageData, &draft.to_wire())
            .await
            .map_err(|error| format!("the friend has no answer: {error}"))?;
        truth.acked(index, ack.msg_id);
        Ok((ack.msg_id, Instant::now()))
    }
}
