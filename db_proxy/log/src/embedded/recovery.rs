//! Finding out, at opening, what of the log is whole, and what to do about the rest.
//!
//! ```text
//!        scan from                            last whole batch
//!            │                                        │
//! … │ segment │ batch │ batch │ … │ batch │ batch │ batch │ torn batch │ zeros …
//!             └───────── known to be flushed ─────┘└ again ┘└ zeroed ──┘
//! ```
//!
//! Every batch says up to which offset the log was flushed when the batch was written, and a segment
//! gets its name only after everything before it was flushed. Both are proofs: below the last one,
//! what cannot be read is damage; above it, it is an append that never returned.
//!
//! One write is in flight at a time, so only the last batch or marker may be unflushed.
//!
//! # Invariants
//!
//! - When damage is found, nothing is changed.
//! - The last batch or marker is written and flushed again before anything is served, even after a
//!   clean end. The page cache may show pages that never reached the disk.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;

use daemon::faults::{self, Mutant};
use proto::ids::Offset;

use crate::{LogError, LogId};

use super::REMEDY;
use super::files::{Fatal, Folder, LogFile, io_error};
use super::format::{self, ALIGNMENT, HEADER_LEN, Header, Meta};
use super::segment::{self, Reader};

#[cfg(feature = "faults")]
mod mutants;

/// How much is compared with zeros, or zeroed, at once.
const BLOCK_LEN: usize = 4096;

static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];

const _: () = assert!(BLOCK_LEN.is_multiple_of(ALIGNMENT), "no header begins in two blocks");

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
    Ok(Some(Recovered { segments: segments.into(), ..scan.repair(fatal)? }))
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

/// What is known of the log up to some place.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    pub(super) folder: &'a dyn Folder,
    id: LogId,
    pub(super) next: u64,
    pub(super) proven: u64,
    timestamp_ms: u64,
    pub(super) records: u64,
    /// The last segment.
    tail: Option<Tail>,
}

#[derive(Debug)]
struct Tail {
    name: String,
    reader: Reader,
    /// Where its last batch or marker begins.
    last_batch: u64,
    /// Where that ends.
    end: u64,
    /// Where what is not zero ends.
    dirty_end: u64,
}

/// What is behind the last whole batch of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rest {
    /// At most an append that never returned: from `dirty_end` on there are only zeros.
    Unfinished { dirty_end: u64 },
    /// A batch at `at` that was written after one that is not whole had been flushed.
    Lost { at: u64, proof: Header },
}

impl<'a> Scan<'a> {
    pub(super) fn new(folder: &'a dyn Folder, id: LogId, base: u64) -> Self {
        Self { folder, id, next: base, proven: 0, timestamp_ms: 0, records: 0, tail: None }
    }

    /// Reads the segment that begins with `base`; `following` is the base of the one after it.
    fn segment(&mut self, base: u64, following: Option<u64>) -> Result<(), LogError> {
        let name = segment::name(base);
        let failed = |source| io_error("read", self.folder.describe(&name), source);
        let mut reader = self.folder.open(&name).and_then(Reader::new).map_err(failed)?;
        // Its name is a proof.
        self.proven = self.proven.max(base - 1);
        let (last_batch, end) = self.batches(&mut reader, 0, &mut |_, _| {}).map_err(failed)?;
        match following {
            // Where it ends does not matter if nothing is missing before the next one.
            Some(following) if following == self.next => Ok(()),
            Some(_) if !faults::planted(Mutant::TruncateMidLog) => Err(self.damaged(&name, end)),
            _ => {
                let rest = self.look_on(&mut reader, end).map_err(failed)?;
                let Rest::Unfinished { dirty_end } = rest else {
                    return Err(self.damaged(&name, end));
                };
                self.tail = Some(Tail { name, reader, last_batch, end, dirty_end });
                Ok(())
            }
        }
    }

    /// Follows the batches of a segment from `begin` on as far as they are whole, and shows them to
    /// `each`. Returns where the last one begins and ends.
    pub(super) fn batches(
        &mut self,
        reader: &mut Reader,
        begin: u64,
        each: &mut dyn FnMut(&Header, &[u8]),
    ) -> io::Result<(u64, u64)> {
        let (mut last_batch, mut at) = (begin, begin);
        while let Some((header, bytes)) = reader.batch(at, self.id)? {
            let Ok(valid) = format::for_each_record::<Infallible>(&header, bytes, |_| Ok(()));
            if !valid || header.base != self.next || header.durable_upto >= self.next {
                break;
            }
            each(&header, bytes);
            self.proven = self.proven.max(header.durable_upto);
            self.next = header.next();
            self.records += u64::from(header.count);
            self.timestamp_ms = self.timestamp_ms.max(header.timestamp_ms);
            last_batch = at;
            at += header.batch_len() as u64;
        }
        Ok((last_batch, at))
    }

    /// Looks behind `end` for batches that prove that there was one at `end`.
    pub(super) fn look_on(&self, reader: &mut Reader, end: u64) -> io::Result<Rest> {
        let mut dirty_end = end;
        let mut block = end;
        while block < reader.size() {
            let window = reader.window(block, BLOCK_LEN)?;
            let len = window.len();
            if let Some(last) = last_byte_set(window) {
                dirty_end = block + last as u64 + 1;
                for at in (block..block + len as u64).step_by(ALIGNMENT) {
                    let header = Header::parse(reader.window(at, HEADER_LEN)?, self.id);
                    if let Some(proof) = header.filter(|it| self.proves_loss(it, at > end)) {
                        return Ok(Rest::Lost { at, proof });
                    }
                }
            }
            block += len as u64;
        }
        Ok(Rest::Unfinished { dirty_end })
    }

    fn proves_loss(&self, header: &Header, is_later: bool) -> bool {
        if faults::planted(Mutant::TruncateMidLog) {
            return false;
        }
        header.durable_upto >= self.next || (is_later && header.base >= self.next)
    }

    fn damaged(&self, name: &str, position: u64) -> LogError {
        super::damaged(self.folder.describe(name), position, self.next)
    }

    /// Writes the last batch again, cuts what is torn, and flushes both.
    fn repair(self, fatal: Fatal) -> Result<Recovered, LogError> {
        let mut tail = self.tail.expect("the last segment is always scanned");
        let (begin, end, dirty_end) = (tail.last_batch, tail.end, tail.dirty_end);
        let name = self.folder.describe(&tail.name);
        let batch_len = usize::try_from(end - begin).expect("the length of a batch is limited");
        let batch = tail.reader.window(begin, batch_len);
        let batch = batch.map_err(|source| io_error("read", &name, source))?.to_vec();
        let file = tail.reader.into_file();
        file.write_all_at(&batch, begin)
            .and_then(|()| zero(&*file, end, dirty_end))
            .and_then(|()| file.sync())
            .and_then(|()| self.folder.sync())
            .unwrap_or_else(|error| fatal(&name, &error));
        Ok(Recovered {
            segments: VecDeque::new(),
            file,
            position: end,
            next: self.next,
            proven: self.proven,
            timestamp_ms: self.timestamp_ms,
            truncated_bytes: dirty_end - end,
            scanned_records: self.records,
        })
    }
}

/// Returns the place of the last byte that is not zero.
fn last_byte_set(window: &[u8]) -> Option<usize> {
    // One comparison of memory: nearly all blocks are zero.
    if ZEROS.starts_with(window) {
        return None;
    }
    window.iter().rposition(|byte| *byte != 0)
}

/// Writes zeros from `from` up to `end`.
fn zero(file: &dyn LogFile, from: u64, end: u64) -> io::Result<()> {
    let mut at = from;
    while at < end {
        let len = usize::try_from(end - at).map_or(BLOCK_LEN, |left| left.min(BLOCK_LEN));
        file.write_all_at(&ZEROS[..len], at)?;
        at += len as u64;
    }
    Ok(())
}
