//! A disk that is slow or answers with errors, under db_proxy alone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::daemons::site_of;
use super::{Run, Scenario, Skipped, hold, percentile};
use crate::strace::is_injected;
use crate::{Crowd, Site, Strace, wait_until};

const PEOPLE: u32 = 10;
const SIGABRT: i32 = 6;

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "disk-slow",
        about: "now and then a flush of db_proxy takes 2 s longer: nothing lost, no process ends, the next acknowledgement comes ≤ 1 s after the stall",
        short: 2,
        long: 30,
        run: slow,
    },
    Scenario {
        name: "disk-error",
        about: "the n-th flush or write of db_proxy fails with EIO or ENOSPC: of the log, the process aborts, acknowledges nothing more and starts again cleanly; of the store, it goes on; nothing lost",
        short: 6,
        long: 200,
        run: error,
    },
];

fn slow(run: &mut Run) -> Result<(), Skipped> {
    const STALL: Duration = Duration::from_secs(2);
    const BACK_LIMIT: Duration = Duration::from_secs(1);
    Strace::works().map_err(Skipped)?;
    let mut site = run.start(&site_of(PEOPLE));
    let mut crowd = Crowd::start(&site.login, None, PEOPLE);
    crowd.wait_for_acks(50);
    let delay = format!("inject=fdatasync,fsync:delay_exit={}:when=20+20", STALL.as_micros());
    let strace =
        Strace::attach(site.pid("db_proxy"), &["-e", "trace=fdatasync,fsync", "-e", &delay]);
    let mut stalls = Vec::new();
    // Only the log's flushes are waited for by people; the store's are late unseen.
    let late_of_log = || strace.injected().iter().filter(|line| is_of_log(line)).count();
    while late_of_log() < run.rounds {
        let before = crowd.acked();
        let began = Instant::now();
        wait_until("the next acknowledgement", STALL * 3, || crowd.acked() > before);
        let took = began.elapsed();
        if took > STALL * 3 / 4 {
            stalls.push(took);
        }
        run.progress(stalls.len(), format_args!("{} acknowledged", crowd.acked()));
    }
    let mut late = strace.detach();
    late.retain(|line| is_injected(line));
    for name in site.names() {
        assert!(site.lives(&name), "{name} outlives a slow disk");
    }
    let summary = crowd.finish(&site.gateways[0], None);
    let of_log = late.iter().filter(|line| is_of_log(line)).count();
    run.figure("late flushes", format_args!("{of_log} of the log, {} others", late.len() - of_log));
    let longest = stalls.iter().max().copied().unwrap_or_default();
    let median = percentile(&mut stalls, 0.5);
    run.figure(
        "time without an acknowledgement, median, longest",
        format_args!("{median:.2?}, {longest:.2?} (2 s late, back in ≤ 1 s)"),
    );
    run.figure(
        "acknowledged, reconnects",
        format_args!("{}, {}", summary.acked, summary.reconnects),
    );
    assert!(of_log >= run.rounds, "{of_log} flushes of the log were late");
    assert!(longest <= STALL + BACK_LIMIT, "the longest stall lasted {longest:?}");
    Ok(())
}

/// A call that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failure {
    call: &'static str,
    errno: &'static str,
    of_log: bool,
}

const fn failure(call: &'static str, errno: &'static str, of_log: bool) -> Failure {
    Failure { call, errno, of_log }
}

/// Two of the log for each of the store, whose flushes are rare.
const FAILURES: [Failure; 6] = [
    failure("fdatasync", "EIO", true),
    failure("pwrite64", "ENOSPC", true),
    failure("pwrite64", "EIO", false),
    failure("pwrite64", "EIO", true),
    failure("fdatasync", "EIO", true),
    failure("pwrite64", "ENOSPC", false),
];

/// What happened to one db_proxy after another.
#[derive(Debug, Default)]
struct Met {
    aborts: usize,
    of_store: usize,
    not_called: usize,
    kinds: Vec<(Failure, usize)>,
}

fn error(run: &mut Run) -> Result<(), Skipped> {
    Strace::works().map_err(Skipped)?;
    let mut site = run.start(&site_of(PEOPLE));
    let mut crowd = Crowd::start(&site.login, None, PEOPLE);
    crowd.wait_for_acks(50);
    let mut met = Met::default();
    for round in 0..run.rounds {
        let failure = FAILURES[round % FAILURES.len()];
        // Every n from the first on, so that each call of a while of work fails once.
        let nth = round / FAILURES.len() + 1;
        met.fail(&mut site, &mut crowd, failure, nth);
        run.progress(round, format_args!("{} acknowledged", crowd.acked()));
    }
    let summary = crowd.finish(&site.gateways[0], None);
    let kinds = FAILURES.map(|one| met.kinds.iter().filter(|(other, _)| *other == one).count());
    run.figure("of the log: db_proxy aborted, started again cleanly", met.aborts);
    run.figure("of the store: db_proxy went on", met.of_store);
    run.figure("failures that no call met", met.not_called);
    let kinds: Vec<String> = FAILURES
        .iter()
        .zip(kinds)
        .map(|(one, count)| {
            let whose = if one.of_log { "log" } else { "store" };
            format!("{whose} {} {} {count}", one.call, one.errno)
        })
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    run.figure("kinds", kinds.join(", "));
    run.figure(
        "acknowledged, reconnects",
        format_args!("{}, {}", summary.acked, summary.reconnects),
    );
    assert!(met.aborts * 2 >= run.rounds, "the log was hurt: {met:?}");
    assert!(met.of_store > 0, "the store was hurt: {met:?}");
    assert!(met.not_called * 4 <= run.rounds, "{} failures were not met", met.not_called);
    Ok(())
}

impl Met {
    /// Lets the `nth` such call of each thread fail, and sees what becomes of the process.
    fn fail(&mut self, site: &mut Site, crowd: &mut Crowd, failure: Failure, nth: usize) {
        const MEET_LIMIT: Duration = Duration::from_secs(20);
        let Failure { call, errno, of_log } = failure;
        let files = files(site.db_folder(), of_log);
        let inject = format!("inject={call}:error={errno}:when={nth}");
        let trace = format!("trace={call}");
        let mut args = vec!["-e", &trace, "-e", &inject];
        for file in &files {
            args.extend(["-P", file.to_str().expect("folders of tests have plain names")]);
        }
        let strace = Strace::attach(site.pid("db_proxy"), &args);
        let began = Instant::now();
        while strace.injected().is_empty() && began.elapsed() < MEET_LIMIT && site.lives("db_proxy")
        {
            hold(Duration::from_millis(5));
        }
        let hit = strace.injected();
        if hit.is_empty() {
            self.not_called += 1;
            return;
        }
        assert!(hit.iter().all(|line| is_of_log(line) == of_log), "meant otherwise: {hit:?}");
        self.kinds.push((failure, nth));
        if of_log {
            let status = site.wait_end("db_proxy", Duration::from_secs(10));
            assert_eq!(status.signal(), Some(SIGABRT), "it aborts: {status} after {hit:?}");
            // The thread whose call failed is the one that acknowledges: it must do nothing more.
            assert_eq!(calls_after(&strace.detach()), Vec::<String>::new(), "it stops at once");
            self.aborts += 1;
            site.start_daemon("db_proxy");
        } else {
            drop(strace);
            assert!(site.lives("db_proxy"), "a store that fails ends nothing: {hit:?}");
            self.of_store += 1;
        }
        crowd.wait_for_acks(20);
    }
}

/// What the thread whose call failed did to the same files after that.
fn calls_after(lines: &[String]) -> Vec<String> {
    let thread = |line: &String| line.split(' ').next().map(str::to_owned);
    let mut lines = lines.iter().skip_while(|line| !line.contains("(INJECTED"));
    let failed = lines.next().and_then(thread);
    let is_call = |line: &&String| thread(line) == failed && line.contains('(');
    lines.filter(is_call).cloned().collect()
}

/// The files of the log that are written to, or those of the store.
fn files(db_folder: &Path, of_log: bool) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![db_folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("db_proxy has a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.retain(|path| {
        let is_segment = path.extension().is_some_and(|suffix| suffix == "segment");
        let in_log = path.parent().is_some_and(|folder| folder.ends_with("log"));
        if of_log { is_segment } else { !in_log }
    });
    assert!(!files.is_empty(), "there are files in {}", db_folder.display());
    files
}

/// Whether a call was for a segment of the log.
fn is_of_log(line: &str) -> bool {
    line.contains(".segment>")
}
