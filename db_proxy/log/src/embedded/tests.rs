//! What the log keeps, whatever happens to it. The parts look at opening and room, at torn writes,
//! at damage, at long lives of a log against a model, and at many images of logs of every kind.

mod changing;
mod damage;
mod images;
mod model;
mod opening;
mod surveying;
mod tailing;
mod torn;

use std::io;
use std::panic::{self, AssertUnwindSafe};

use super::*;
use memory::MemoryFolder;

/// Small, so that a few batches fill a segment.
const SEGMENT_BYTES: u64 = 8192;

/// What takes the place of the end of the process.
struct Aborted;

fn abort_in_test(_what: &str, _error: &io::Error) -> ! {
    // Not a panic, which would print a message each time.
    panic::resume_unwind(Box::new(Aborted))
}

/// Runs something that may abort. `None` if it did.
fn unless_aborted<T>(run: impl FnOnce() -> T) -> Option<T> {
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(value) => Some(value),
        Err(payload) if payload.is::<Aborted>() => None,
        Err(payload) => panic::resume_unwind(payload),
    }
}

fn options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, keep_bytes: 0, ..Options::new("memory") }
}

fn open_with(
    folder: &MemoryFolder,
    scan_from: u64,
    spares: MakeSpares,
) -> Result<Opened, LogError> {
    let folder = Arc::new(folder.clone());
    Prepared::new(options(), folder, abort_in_test, spares)?.open(Offset(scan_from))
}

/// Looks at the log first: both have to come to the same result.
fn open(folder: &MemoryFolder, scan_from: u64) -> Result<Opened, LogError> {
    let survey = surveying::survey(folder);
    let opened = open_with(folder, scan_from, MakeSpares::OnDemand);
    if let Some((survey, seen)) = survey.filter(|_| scan_from == 0) {
        surveying::check_agrees(&survey, &seen, &opened);
    }
    opened
}

/// Ends a log as a killed process does: nothing more is written.
fn kill(mut log: EmbeddedLog) {
    log.writer.is_broken = true;
}

/// All records that the log holds.
fn records(log: &EmbeddedLog) -> Vec<LogRecord> {
    let mut records = Vec::new();
    let (first, next) = log.range();
    log.read(first, &mut |record| {
        records.push(record);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(records.len() as u64, next.0 - first.0);
    records
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % sides as u64).unwrap()
    }

    fn payloads(&mut self, count: usize, len_max: usize) -> Vec<Bytes> {
        (0..count)
            .map(|_| {
                let len = self.roll(len_max + 1);
                (0..len).map(|_| u8::try_from(self.roll(256)).unwrap()).collect()
            })
            .collect()
    }
}
