//! Damage in the log, as an operator meets it. Ten thousand damaged images of a log are a test of
//! db_proxy itself; here are a few with everything around them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::daemons::site_of;
use super::{Run, Scenario, Skipped};
use crate::{Crowd, Random, Site, snapshot, wait_until};

const PEOPLE: u32 = 10;
const EXIT_REFUSED: i32 = 78;

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "log-bits",
    about: "a bit of the log is flipped, a page of it zeroed, or its end cut off, while db_proxy is stopped or dead: it refuses to start with 78 and one line that says which file, where, and what to do, changes nothing, and starts once the file is restored",
    short: 3,
    long: 30,
    run: log_bits,
}];

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    BitFlipped,
    PageZeroed,
    Truncated,
}

const DAMAGES: [Damage; 3] = [Damage::BitFlipped, Damage::Truncated, Damage::PageZeroed];
const PAGE: u64 = 4096;

fn log_bits(run: &mut Run) -> Result<(), Skipped> {
    let mut site = run.start(&site_of(PEOPLE));
    let mut crowd = Crowd::start(&site.login, None, PEOPLE);
    crowd.wait_for_acks(400);
    let (mut stopped, mut killed, mut said) = (0, 0, String::new());
    for round in 0..run.rounds {
        if run.random.below(2) == 0 {
            let (status, _took) = site.stop("db_proxy");
            assert!(status.success(), "db_proxy ends well, not {status}");
            stopped += 1;
        } else {
            site.kill("db_proxy");
            killed += 1;
        }
        let damage = DAMAGES[round % DAMAGES.len()];
        let segment = newest_segment(site.db_folder());
        let healthy = fs::read(&segment).expect("the log can be read");
        let at = hurt(&segment, &healthy, damage, &mut run.random);
        let log = site.db_folder().join("log");
        let files = snapshot(&log);
        said = refused(&mut site, &segment, &format!("{damage:?} at {at}"));
        // Not by `assert_eq`: a failure would print every byte.
        assert!(snapshot(&log) == files, "{damage:?}: a refusal changes nothing");
        fs::write(&segment, &healthy).expect("the file can be restored");
        site.start_daemon("db_proxy");
        crowd.wait_for_acks(100);
        run.progress(round, format_args!("{} acknowledged", crowd.acked()));
    }
    let summary = crowd.finish(&site.gateways[0], None);
    run.figure("refusals", run.rounds);
    run.figure("db_proxy stopped, killed before", format_args!("{stopped}, {killed}"));
    run.figure("such as", said);
    run.figure("acknowledged", summary.acked);
    Ok(())
}

/// Does it, to what was acknowledged. Returns where.
fn hurt(segment: &Path, healthy: &[u8], damage: Damage, random: &mut Random) -> u64 {
    let used = healthy.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    // What was written last before a kill may not be proven yet: then damage cannot be told from an
    // append that was never finished.
    let proven = used * 3 / 4;
    assert!(proven > 4 * PAGE, "the log has something to damage: {used} bytes");
    let file = File::options().write(true).open(segment).expect("the log can be opened");
    let at = random.below(proven);
    match damage {
        Damage::BitFlipped => {
            let byte = usize::try_from(at).ok().and_then(|at| healthy.get(at)).copied();
            let flipped = byte.unwrap_or(0) ^ (1 << random.below(8));
            file.write_all_at(&[flipped], at).expect("write a byte");
            at
        }
        Damage::PageZeroed => {
            let page = at / PAGE * PAGE;
            let zeros = vec![0; usize::try_from(PAGE).expect("a page is small")];
            file.write_all_at(&zeros, page).expect("write a page");
            page
        }
        Damage::Truncated => {
            file.set_len(at).expect("cut the file");
            at
        }
    }
}

/// Starts db_proxy, which must refuse. Returns the line that it says.
fn refused(site: &mut Site, segment: &Path, what: &str) -> String {
    const REFUSE_LIMIT: Duration = Duration::from_secs(10);
    let before = site.log().len();
    site.launch("db_proxy");
    wait_until(&format!("db_proxy refuses a log with {what} (exit code 78)"), REFUSE_LIMIT, || {
        !site.lives("db_proxy")
    });
    let status = site.wait_end("db_proxy", Duration::ZERO);
    let log = site.log();
    // Gateways that miss it talk too.
    let name = segment.file_name().and_then(|name| name.to_str()).expect("a plain name");
    let added = log.get(before..).unwrap_or_default().lines();
    let lines: Vec<&str> = added.filter(|line| line.contains(name)).collect();
    assert_eq!(status.code(), Some(EXIT_REFUSED), "{what}: refused with 78, not {status}: {log}");
    let [line] = lines.as_slice() else {
        panic!("{what}: one line tells of it, not {}:\n{}", lines.len(), lines.join("\n"));
    };
    let path = segment.display().to_string();
    // A file that is too short has no place that is damaged.
    assert!(line.contains("at byte") || line.contains("bytes long"), "{what}: where: {line}");
    for part in [path.as_str(), "offset", "Restore the file from a backup"] {
        assert!(line.contains(part), "{what}: {part} is in: {line}");
    }
    (*line).to_owned()
}

fn newest_segment(db_folder: &Path) -> PathBuf {
    let files = fs::read_dir(db_folder.join("log")).expect("the log has a folder");
    let paths = files.flatten().map(|file| file.path());
    let segments = paths.filter(|path| path.extension().is_some_and(|suffix| suffix == "segment"));
    segments.max().expect("the log has a segment")
}
