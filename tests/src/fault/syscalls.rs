//! A daemon dies exactly before one system call: every call that it makes while one message passes,
//! one after the other.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use client::Conversation;

use super::daemons::site_of;
use super::ledger::{PLACES, Pair};
use super::{Run, Scenario, Skipped, hold, say};
use crate::{Site, Strace, most_calls, wait_until};

const PEOPLE: u32 = 4;
const SIGKILL: i32 = 9;
/// How long db_proxy goes on with a message that has been delivered: the store writes it.
const AFTER: Duration = Duration::from_millis(200);
/// How long a message may take, with a tracer, if the kill does not happen.
const PASS_LIMIT: Duration = Duration::from_secs(20);
/// How often a point is tried that no message reached: threads share the work as they like.
const TRIES: usize = 3;
/// How often it is looked on, to find out which calls there are.
const LOOKS: usize = 2;

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "syscalls",
    about: "each daemon on the way of a message is killed at each system call that it makes for it (≥ 100 in all; rounds are deaths at most): the message is there once, under one number",
    short: 8,
    long: 1_000,
    run: syscalls,
}];

/// Where a daemon dies: at the `nth` such call of one of its threads, while a message passes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    daemon: String,
    call: String,
    nth: usize,
    in_group: bool,
}

impl Point {
    fn place(&self) -> Conversation {
        PLACES[usize::from(self.in_group)]
    }
}

fn syscalls(run: &mut Run) -> Result<(), Skipped> {
    const POINTS_MIN: usize = 100;
    Strace::works().map_err(Skipped)?;
    let mut site = run.start(&site_of(PEOPLE));
    let pair = Pair::start(&site);
    // The first message of a conversation is another one: it makes it.
    for place in PLACES {
        pair.say(place);
        pair.check(&"the start");
    }
    let mut points: Vec<Point> = points(&site, &pair).into_iter().collect();
    let all = points.len();
    run.random.shuffle(&mut points);
    let (mut fired, mut missed) = (Vec::new(), Vec::new());
    for point in &points {
        // Points that no message reaches say nothing: on a busy machine they are many.
        if fired.len() == run.rounds {
            break;
        }
        let mut died = false;
        for _ in 0..TRIES {
            died = dies_at(&mut site, &pair, point);
            if died {
                break;
            }
        }
        if died {
            fired.push(point);
        } else {
            missed.push(point);
        }
        let tried = fired.len() + missed.len();
        run.progress(fired.len(), format_args!("{tried} of {all} points tried"));
    }
    let said = pair.finish(&site.gateways[0]);
    let tried = fired.len() + missed.len();
    run.figure("calls of one message, in all, tried", format_args!("{all}, {tried}"));
    run.figure("deaths", by_daemon(&fired));
    run.figure("points that no message reached", missed.len());
    run.figure("messages", said);
    if !missed.is_empty() {
        say(format_args!("not reached: {missed:?}"));
    }
    let wanted = run.rounds.min(POINTS_MIN);
    assert!(fired.len() >= wanted, "{} of {tried} points fired", fired.len());
    Ok(())
}

/// Every call that a daemon makes while a message passes.
fn points(site: &Site, pair: &Pair) -> BTreeSet<Point> {
    let mut points = BTreeSet::new();
    let names = site.names();
    let beside = ["login_server", "api_server"];
    let is_beside = |name: &String| beside.iter().any(|kind| name.starts_with(kind));
    let on_the_way = names.iter().filter(|name| !is_beside(name));
    for daemon in on_the_way {
        for (in_group, place) in [false, true].into_iter().zip(PLACES) {
            for _ in 0..LOOKS {
                let strace = Strace::attach(site.pid(daemon), &[]);
                let before = strace.lines().len();
                pair.say(place);
                pair.check(&"nothing");
                hold(AFTER);
                let lines = strace.detach();
                for (call, most) in most_calls(lines.iter().skip(before)) {
                    points.extend((1..=most).map(|nth| {
                        let (daemon, call) = (daemon.clone(), call.clone());
                        Point { daemon, call, nth, in_group }
                    }));
                }
            }
        }
    }
    points
}

/// Sends a message while the point is armed. Returns whether the daemon died of it; it runs again.
fn dies_at(site: &mut Site, pair: &Pair, point: &Point) -> bool {
    let Point { daemon, call, nth, .. } = point;
    pair.wait_connected();
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
    let strace = Strace::attach(site.pid(daemon), &["-e", &trace, "-e", &inject]);
    // One that dies before anything is said dies of something else.
    let in_time = site.lives(daemon);
    pair.say(point.place());
    wait_until("the message is through, or the daemon dead", PASS_LIMIT, || {
        pair.is_through() || !site.lives(daemon)
    });
    if site.lives(daemon) {
        wait_a_moment_for(|| !site.lives(daemon));
    }
    drop(strace);
    let died = !site.lives(daemon);
    if died {
        let status = site.wait_end(daemon, Duration::ZERO);
        assert_eq!(status.signal(), Some(SIGKILL), "{point:?} ended {daemon} with {status}");
        site.start_daemon(daemon);
    }
    pair.check(point);
    died && in_time
}

fn wait_a_moment_for(mut what: impl FnMut() -> bool) {
    let step = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    while waited < AFTER && !what() {
        hold(step);
        waited += step;
    }
}

fn by_daemon(points: &[&Point]) -> String {
    let daemons: BTreeSet<&str> = points.iter().map(|point| point.daemon.as_str()).collect();
    let counts = daemons.into_iter().map(|daemon| {
        let count = points.iter().filter(|point| point.daemon == daemon).count();
        format!("{daemon} {count}")
    });
    format!("{} ({})", points.len(), counts.collect::<Vec<_>>().join(", "))
}
