//! A disk without room, under db_proxy alone.

use std::fs;
use std::time::{Duration, Instant};

use client::{ClientType, Connection, Conversation, Draft, Kind, SendReply, hello};
use proto::client::SendOutcome;
use tokio::runtime::Runtime;

use super::daemons::site_of;
use super::{Run, Scenario, Skipped, percentile};
use crate::{Crowd, Device, PASSWORD, PATIENCE, Site, SiteOptions, Volume, wait_until};

const PEOPLE: u32 = 10;
/// Users outside the crowd who fill what is left of the log, each with messages of one size: so a
/// user's message that was told to wait is not overtaken by a smaller one of the same user.
const FILLERS: [(u32, usize); 4] = [(11, 390_000), (12, 60_000), (13, 4_000), (14, 300)];
/// The user whose answers are timed, and the user written to.
const ASKS: u32 = 15;
const ASKED: u32 = 16;
const USERS: u32 = 20;
/// Room for one segment of the log, the spares that the first start makes, and a little more.
const VOLUME_MIB: u64 = 512;
/// As long as a segment, and some room for the store, is to be left at the start.
const LEFT_BYTES: u64 = 24 << 20;
/// Until a sender with the extension is told to try again, for 99 of 100.
const TOLD_LIMIT: Duration = Duration::from_millis(100);
/// Lines about it while nothing is taken.
const LINES_MAX: usize = 3;
/// Lines until then: what is left takes small messages while large ones find no room.
const LINES_BEFORE_MAX: usize = 20;

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "disk-full",
    about: "the volume of log and store is full for 60 s: sends are refused for now in ≤ 100 ms, nothing acknowledged is lost, no process ends, one line tells of it, the first acknowledgement comes ≤ 5 s after there is room",
    short: 1,
    long: 1,
    run: full,
}];

fn full(run: &mut Run) -> Result<(), Skipped> {
    const BACK_LIMIT: Duration = Duration::from_secs(5);
    let volume = Volume::make(VOLUME_MIB).map_err(Skipped)?;
    let mut site = start_nearly_full(run, &volume);
    let runtime = Runtime::new().expect("start a runtime");
    let mut crowd = Crowd::start(&site.login, None, PEOPLE);
    crowd.wait_for_acks(100);

    volume.fill(0);
    let filled: Vec<Vec<u32>> =
        FILLERS.map(|(user, size)| runtime.block_on(fill(&site, user, size))).to_vec();
    wait_until("the log is full", PATIENCE, || {
        volume.fill(0);
        site.metric("db_proxy", "talkhub_db_proxy_log_full") == 1
    });
    let (began, lines_before) = (Instant::now(), lines_of(&site));
    let lasts = run.lasts(Duration::from_mins(1), Duration::from_secs(3));
    let before = crowd.acked();
    let mut told = runtime.block_on(ask(&site.gateways[0], lasts));
    // The store may have moved something and made room.
    volume.fill(0);
    let lasted = began.elapsed();
    let lines = lines_of(&site) - lines_before;
    let acked_meanwhile = crowd.acked() - before;
    for name in site.names() {
        assert!(site.lives(&name), "{name} outlives a full disk");
    }
    let turned_away = site.metric("db_proxy", "talkhub_db_proxy_retries_total");
    let not_stored = site.metric("db_proxy", "talkhub_db_proxy_store_failures_total");

    volume.free();
    let freed = Instant::now();
    crowd.wait_for_acks(1);
    let back = freed.elapsed();
    crowd.wait_for_acks(100);
    for ((user, _size), acked) in FILLERS.iter().zip(&filled) {
        runtime.block_on(check(&site, *user, acked));
    }
    let summary = crowd.finish(&site.gateways[0], None);

    run.figure("full", format_args!("{lasted:.1?}, {acked_meanwhile} acknowledged meanwhile"));
    run.figure("turned away by db_proxy, batches the store could not write", {
        format!("{turned_away}, {not_stored}")
    });
    let longest = told.iter().max().copied().unwrap_or_default();
    let (asked, p99) = (told.len(), percentile(&mut told, 0.99));
    run.figure(
        "told to try again: times, after (p99, longest)",
        format_args!("{asked}, {p99:.2?}, {longest:.2?} (p99 ≤ 100 ms)"),
    );
    run.figure("room again to first acknowledgement", format_args!("{back:.2?} (≤ 5 s)"));
    run.figure(
        "lines in the log about it until it was full, while it was",
        format_args!("{lines_before}, {lines}"),
    );
    let filling: usize = filled.iter().map(Vec::len).sum();
    run.figure("acknowledged", format_args!("{} and {filling} that filled it", summary.acked));
    assert!(turned_away > 0 && asked > 0, "something was refused");
    assert!(not_stored > 0, "the store had no room either");
    assert!(p99 <= TOLD_LIMIT, "a sender is told after {p99:?}");
    assert!(back <= BACK_LIMIT, "the first acknowledgement came after {back:?}");
    assert!(lines_before <= LINES_BEFORE_MAX, "{lines_before} lines tell that it gets full");
    assert!(lines <= LINES_MAX, "{lines} lines tell that the log is full");
    Ok(())
}

/// A site whose db_proxy has its data on the volume, which is nearly full from the start: so no spare
/// segment can be made.
fn start_nearly_full(run: &Run, volume: &Volume) -> Site {
    let db_folder = Some(volume.path().join("db"));
    let mut options = SiteOptions { db_folder, ..site_of(PEOPLE) };
    options.cluster.users = USERS;
    options.settings.push(("db_proxy", "log", "spare_segments", "1".to_owned()));
    let mut site = run.prepare(&options);
    for file in fs::read_dir(site.db_folder().join("log")).expect("the log has a folder").flatten()
    {
        if file.path().extension().is_some_and(|suffix| suffix == "spare") {
            fs::remove_file(file.path()).expect("a spare is nothing but room");
        }
    }
    volume.fill(LEFT_BYTES);
    for name in site.names() {
        site.start_daemon(&name);
    }
    site
}

/// Sends messages of one size until no more are taken. Returns the numbers of those that were.
async fn fill(site: &Site, user: u32, size: usize) -> Vec<u32> {
    const AT_ONCE: usize = 4;
    const STUCK: Duration = Duration::from_millis(1_500);
    let mut connection = log_in(&site.gateways[0], user).await;
    connection.set_limit(STUCK);
    let (mut acked, mut sent, mut posted) = (Vec::new(), 0, std::collections::VecDeque::new());
    loop {
        while posted.len() < AT_ONCE {
            sent += 1;
            let draft = Draft::new(to(user), kind(size), body(user, sent, size));
            let seq = connection.post_message(&draft).await;
            posted.push_back(seq.expect("the gateway reads on"));
        }
        let Some(seq) = posted.pop_front() else { return acked };
        match connection.send_reply(seq).await {
            Ok(SendReply::Result(result)) if result.outcome() == SendOutcome::Ok => {
                acked.push(result.msg_id.expect("what is stored has a number"));
            }
            // Told to try again, or not told anything yet: full.
            _ => return acked,
        }
    }
}

/// Sends one message after another while nothing can be stored. Returns after how long each was
/// told to try again.
async fn ask(gateway: &str, lasts: Duration) -> Vec<Duration> {
    let mut connection = log_in(gateway, ASKS).await;
    connection.set_limit(PATIENCE);
    let began = Instant::now();
    let mut told = Vec::new();
    while told.is_empty() || began.elapsed() < lasts {
        assert!(began.elapsed() < lasts + PATIENCE, "something is refused at last");
        let asked = Instant::now();
        let draft = Draft::text(Conversation::user(ASKED), &format!("{} of u{ASKS}", told.len()));
        let reply = connection.send_message(&draft).await.expect("a send is answered");
        let SendReply::Result(result) = reply else { panic!("the extended answer, not {reply:?}") };
        match result.outcome() {
            SendOutcome::Retry => told.push(asked.elapsed()),
            // A small message may still find room where a batch found none.
            SendOutcome::Ok => {}
            SendOutcome::Refused => panic!("nobody is told that it never will be: {result:?}"),
        }
    }
    told
}

/// Everything that was acknowledged is there, under its number.
async fn check(site: &Site, user: u32, acked: &[u32]) {
    let mut device = Device::mobile(&site.gateways[1], user).await;
    let stored: Vec<u32> =
        device.history(to(user)).await.iter().rev().map(|info| info.msg_id).collect();
    assert!(stored.iter().copied().zip(1..).all(|(one, expected)| one == expected), "H5: dense");
    let lost: Vec<&u32> = acked.iter().filter(|msg_id| !stored.contains(msg_id)).collect();
    assert!(lost.is_empty(), "H1: u{user} lost {lost:?} of {} messages", acked.len());
}

async fn log_in(gateway: &str, user: u32) -> Connection {
    let connection = Connection::connect(gateway, None).await;
    let mut connection = connection.expect("the gateway is there");
    let kind = ClientType::Windows;
    let login = connection.login(&format!("u{user}"), PASSWORD, kind, Some(hello())).await;
    login.expect("a user logs in");
    connection
}

fn to(user: u32) -> Conversation {
    Conversation::user(user + 1)
}

/// Large ones are voices: texts are limited.
const fn kind(size: usize) -> Kind {
    if size > 64 << 10 { Kind::Voice } else { Kind::Text }
}

/// Content of this size that no other user sends.
fn body(user: u32, number: usize, size: usize) -> bytes::Bytes {
    let mut body = format!("{number} of u{user} ").into_bytes();
    body.resize(size, b'.');
    match kind(size) {
        Kind::Voice => body.into(),
        Kind::Text => proto::text::encrypt(&String::from_utf8_lossy(&body[..size * 3 / 5])),
    }
}

/// How often the log says that there is no room, or that there is.
fn lines_of(site: &Site) -> usize {
    let log = site.log();
    let about = ["until there is room", "has room again", "No space left", "disk is full"];
    log.lines().filter(|line| about.iter().any(|text| line.contains(text))).count()
}
