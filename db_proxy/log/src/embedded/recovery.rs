//! Finding out, at opening, what of the log is whole, and what to do about the rest.
//!
//! ```text
//!        scan from                            last whole batch
//!            │                                        │
//! … │ segment │ batch │ batch │ … │ batch │ batch │ batch │ torn batch │ zeros …
//!             └───────── known to be flushed ─────┘└ again ┘└ zeroed ──┘
//! ```
//!
//! What proves that a batch was flushed is described in `scan.rs`.
//!
//! One write is in flight at a time, so only the last batch or marker may be unflushed.
//!
//! # Invariants
//!
//! - When damage is found, nothing is changed.
//! - The last batch or marker is written and flushed again before anything is served, even after a
//!   clean end. The page cache may show pages that never reached the disk.

use std::collections::VecDeque;

use proto::ids::Offset;

use crate::LogError;

use super::damage::REMEDY;
use super::files::{Fatal, Folder, LogFile, io_error};
use super::format::Meta;
use super::scan::Scan;
use super::segment;
use super::zeros::zero;

#[cfg(feature = "faults")]
mod mutants;

/// A log as found, ready to be appended to.
#[derive(Debug)]
pub(super) struct Recovered {
    /// The bases of all segments, in order; the last one is appended to.
    pub(super) segments: VecDeque<u64>,
    /// The file of the last segment.
    pub(super) file: Box<dyn LogFile>,
    /// Where the next batch goes.
    pub(super) position: u64,
    /// The offset that the next record gets.
    pub(super) next: u64,
    /// The last offset that the files prove to be flushed.
    pub(super) proven: u64,
    /// The time of the last batch.
    pub(super) timestamp_ms: u64,
    /// How many bytes were cut.
    pub(super) truncated_bytes: u64,
    /// How many records were checked.
    pub(super) scanned_records: u64,
}

/// Checks the segments of a log from the one that holds `scan_from` on, and repairs the tail.
/// `None` if there are no segments at all and none were to be expected.
pub(super) fn recover(
    folder: &dyn Folder,
    meta: Meta,
    scan_from: Offset,
    fatal: Fatal,
) -> Result<Option<Recovered>, LogError> {
    let names = folder.names().map_err(|source| io_error("list", folder.describe(""), source))?;
    let segments = segment::bases(&names);
    check_sizes(folder, meta, &segments)?;
    let Some(&first) = segments.first() else {
        return match scan_from {
            Offset(0) => Ok(None),
            _ => Err(missing(folder, scan_from.0, 0)),
        };
    };
    if first > scan_from.0.saturating_add(1) {
        return Err(LogError::Damaged(format!(
            "{} begins at offset {first}, but the store holds records only up to {}: those in \
             between are missing. Restore the missing segments from a backup, or give these records \
             up knowingly",
            folder.describe(""),
            scan_from.0,
        )));
    }
    let begin = segments.partition_point(|base| *base <= scan_from.0).saturating_sub(1);
    let mut scan = Scan::new(folder, meta.id, segments[begin]);
    for (at, &base) in segments.iter().enumerate().skip(begin) {
        scan.segment(base, segments.get(at + 1).copied())?;
        #[cfg(feature = "faults")]
        if scan.tail.is_some() {
            break; // It was the last one, or a mutant cuts the log here.
        }
    }
    #[cfg(feature = "faults")]
    let segments = mutants::give_up_the_rest(folder, segments, &mut scan, scan_from)?;
    if scan_from.0 >= scan.next {
        return Err(missing(folder, scan_from.0, scan.next - 1));
    }
    Ok(Some(Recovered { segments: segments.into(), ..repair(scan, fatal)? }))
}

/// A segment never has another size than when it got its name.
fn check_sizes(folder: &dyn Folder, meta: Meta, segments: &[u64]) -> Result<(), LogError> {
    for &base in segments {
        let name = segment::name(base);
        let size = folder.open(&name).and_then(|file| file.size());
        let size = size.map_err(|source| io_error("open", folder.describe(&name), source))?;
        if size != meta.segment_bytes {
            return Err(LogError::Damaged(format!(
                "{} should be {} bytes long and is {size}; it begins at offset {base}. {REMEDY}",
                folder.describe(&name),
                meta.segment_bytes,
            )));
        }
    }
    Ok(())
}

fn missing(folder: &dyn Folder, applied: u64, last: u64) -> LogError {
    LogError::Damaged(format!(
        "{} ends at offset {last}, but the store holds records up to {applied}: this is an old copy \
         of the log, or its last segments are lost. Nothing was changed. Bring back the files that \
         belong to this store, or give the difference up knowingly",
        folder.describe(""),
    ))
}

/// Writes the last batch again, cuts what is torn, and flushes both.
fn repair(scan: Scan<'_>, fatal: Fatal) -> Result<Recovered, LogError> {
    let mut tail = scan.tail.expect("the last segment is always scanned");
    let (begin, end, dirty_end) = (tail.last_batch, tail.end, tail.dirty_end);
    let name = scan.folder.describe(&tail.name);
    let batch_len = usize::try_from(end - begin).expect("the length of a batch is limited");
    let batch = tail.reader.window(begin, batch_len);
    let batch = batch.map_err(|source| io_error("read", &name, source))?.to_vec();
    let file = tail.reader.into_file();
    file.write_all_at(&batch, begin)
        .and_then(|()| zero(&*file, end, dirty_end))
        .and_then(|()| file.sync())
        .and_then(|()| scan.folder.sync())
        .unwrap_or_else(|error| fatal(&name, &error));
    Ok(Recovered {
        segments: VecDeque::new(),
        file,
        position: end,
        next: scan.next,
        proven: scan.proven,
        timestamp_ms: scan.timestamp_ms,
        truncated_bytes: dirty_end - end,
        scanned_records: scan.records,
    })
}
