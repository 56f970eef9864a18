//! The embedded log: one partition's records in files of this machine.
//!
//! ```text
//! log/
//!   log.meta                        the log's id and the size of its segments; never changes
//!   00000000000000000001.segment    named by its first record's offset
//!   00000000000000018342.segment
//!   00000000000000000007.spare      zeroed all over, for when the last segment is full
//! ```
//!
//! A segment has its full size from the beginning, so that a full disk is met when a segment is
//! made, never in the middle of an append, and so that a flush has no metadata to write. Records go
//! in batches, one write and one flush each; every batch says up to where the log was known to be
//! flushed. The bytes are described in `embedded/format.rs`, the opening in `embedded/recovery.rs`.
//!
//! # Invariants
//!
//! - One process at a time has the folder.
//! - Nothing is written to a folder of a newer version, and nothing to a damaged one.
//! - A failed write or flush ends the process; it is never tried twice.
//! - A segment is never written to after a later one exists.
//! - Damage below the last proof on disk is found at opening or at reading, and is an error there.
//!   Above it, only what no append has returned for is cut off.
//!
//! # When it is full
//!
//! `append` returns [`LogError::Full`] and has changed nothing. Spares are tried again all the time,
//! so it works again as soon as there is room.

mod damage;
mod files;
mod format;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(test), expect(dead_code, reason = "fuzz targets cut no power and fill no disk"))]
mod memory;
mod meta;
mod read_only;
mod reading;
mod recovery;
mod scan;
mod segment;
mod spare;
mod survey;
mod tail;
#[cfg(test)]
mod tests;
mod writer;
mod zeros;

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use proto::ids::Offset;
use proto::record::fingerprint;

use crate::{Appended, Log, LogError, LogId, LogReader, LogRecord, Tails, Unopened};
use files::{DiskFolder, Fatal, Folder, io_error};
use format::{Meta, Record};
use meta::{META, damaged_meta, make_meta, read_meta};
use reading::Held;
use recovery::Recovered;
use spare::{Maker, Spares};
use tail::EmbeddedTails;
use writer::{BatchPlace, Writer};

pub use read_only::ReadOnlyLog;
pub use survey::{Damage, SegmentSeen, Survey};

/// The largest payload of one record.
pub const MAX_PAYLOAD_BYTES: usize = format::MAX_PAYLOAD_LEN;

/// How many segments one call deletes at most: each takes the disk 10 ms, and appends wait. The rest
/// is for the calls that follow.
const DELETED_AT_ONCE: usize = 2;

/// Where a log is, and how much room it takes.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder, which is made if it does not exist.
    pub dir: PathBuf,
    /// The size of a segment. Fixed when the log is made; after that it has no effect.
    pub segment_bytes: u64,
    /// How many empty segments are kept ready.
    pub spare_segments: usize,
    /// Trimmed segments are kept up to this size; one is kept always.
    pub keep_bytes: u64,
}

impl Options {
    /// The usual sizes.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), segment_bytes: 64 << 20, spare_segments: 2, keep_bytes: 1 << 30 }
    }
}

/// A folder that is ours, with a log in it whose records have not been looked at.
///
/// The log's id is known before the store is asked how far it has applied this log.
#[derive(Debug)]
pub struct Prepared {
    options: Options,
    folder: Arc<dyn Folder>,
    meta: Meta,
    fatal: Fatal,
    spares: MakeSpares,
}

/// When spares are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MakeSpares {
    /// By a thread, ahead of need.
    Ahead,
    /// By the append that needs one.
    #[cfg(test)]
    OnDemand,
}

/// An opened log, and what was found.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: EmbeddedLog,
    /// Whether it had been closed properly, so that nothing had to be repaired.
    pub clean: bool,
    /// How many bytes of an unfinished append were cut off.
    pub truncated_bytes: u64,
    /// How many records were checked.
    pub scanned_records: u64,
}

/// A log in files of this machine.
///
/// Dropping it writes the proof of what is flushed, as [`Log::idle`] does.
pub struct EmbeddedLog {
    writer: Writer,
    keep_bytes: u64,
}

impl EmbeddedLog {
    /// Opens the log in `options.dir`, or makes one. Every record from the segment that holds
    /// `scan_from` on is checked: that is the last record known to be stored, 0 for none.
    pub fn open(options: Options, scan_from: Offset) -> Result<Opened, LogError> {
        Self::prepare(options)?.open(scan_from)
    }

    /// Takes the folder and finds out which log it holds, or gives it a new one. To be followed by
    /// [`Prepared::open`].
    pub fn prepare(options: Options) -> Result<Prepared, LogError> {
        let folder = Arc::new(DiskFolder::lock(&options.dir)?);
        Prepared::new(options, folder, files::abort, MakeSpares::Ahead)
    }
}

impl Prepared {
    fn new(
        options: Options,
        folder: Arc<dyn Folder>,
        fatal: Fatal,
        spares: MakeSpares,
    ) -> Result<Self, LogError> {
        let names =
            folder.names().map_err(|source| io_error("list", folder.describe(""), source))?;
        let meta = if names.iter().any(|name| name == META) {
            read_meta(&*folder)?
        } else if segment::bases(&names).is_empty() {
            make_meta(&*folder, options.segment_bytes)?
        } else {
            return Err(damaged_meta(&*folder, "is missing"));
        };
        if meta.segment_bytes != options.segment_bytes {
            tracing::warn!(
                in_use = meta.segment_bytes,
                configured = options.segment_bytes,
                "the size of log segments is fixed when the log is made"
            );
        }
        Ok(Self { options, folder, meta, fatal, spares })
    }

    /// Which log this is.
    pub fn id(&self) -> LogId {
        self.meta.id
    }

    /// Checks the log from the segment that holds `scan_from` on, repairs its tail, and makes it
    /// ready for appends.
    pub fn open(self, scan_from: Offset) -> Result<Opened, LogError> {
        let Self { options, folder, meta, fatal, spares } = self;
        let found = recovery::recover(&*folder, meta, scan_from, fatal)?;

        let names =
            folder.names().map_err(|source| io_error("list", folder.describe(""), source))?;
        let mut maker = Maker::new(Arc::clone(&folder), meta.segment_bytes);
        let ready = maker
            .adopt(&names)
            .map_err(|source| io_error("take over the spares in", folder.describe(""), source))?;
        let found = match found {
            Some(found) => found,
            None => first_segment(&*folder, &mut maker)?,
        };
        let spares = match spares {
            MakeSpares::Ahead => Spares::keep(maker, ready, options.spare_segments)?,
            #[cfg(test)]
            MakeSpares::OnDemand => Spares::on_demand(maker, ready),
        };
        let clean = found.truncated_bytes == 0 && found.proven + 1 == found.next;
        let (truncated_bytes, scanned_records) = (found.truncated_bytes, found.scanned_records);
        let mut writer = Writer {
            id: meta.id,
            folder,
            segment_bytes: meta.segment_bytes,
            segments: found.segments,
            file: found.file,
            position: found.position,
            next: found.next,
            proven: found.proven,
            timestamp_ms: found.timestamp_ms,
            buffer: Vec::new(),
            spares,
            fatal,
            is_broken: false,
        };
        writer.settle();
        tracing::info!(next = writer.next, clean, truncated_bytes, scanned_records, "log opened");
        // At least one segment: a gateway that is seconds behind when a process dies is told by the
        // next one what it missed, out of the records that are there.
        let keep_bytes = options.keep_bytes.max(meta.segment_bytes);
        let log = EmbeddedLog { writer, keep_bytes };
        Ok(Opened { log, clean, truncated_bytes, scanned_records })
    }
}

impl Unopened for Prepared {
    fn id(&self) -> LogId {
        self.meta.id
    }

    fn open(self: Box<Self>, applied: Offset) -> Result<Box<dyn Log>, LogError> {
        Ok(Box::new(Self::open(*self, applied)?.log))
    }
}

impl LogReader for EmbeddedLog {
    fn id(&self) -> LogId {
        self.writer.id
    }

    fn name(&self) -> String {
        format!("the log in {}", self.writer.folder.describe(""))
    }

    fn range(&self) -> (Offset, Offset) {
        self.held().range()
    }

    fn read(
        &self,
        from: Offset,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        self.held().read(from, each)
    }
}

impl Log for EmbeddedLog {
    fn append(&mut self, payloads: &[Bytes], now_ms: u64) -> Result<Vec<Appended>, LogError> {
        let BatchPlace { first, timestamp_ms } = self.writer.append(payloads, now_ms)?;
        let appended = payloads.iter().zip((first.0..).map(Offset)).enumerate();
        let appended = appended.map(|(of, (payload, offset))| {
            let crc = fingerprint(offset, timestamp_ms, payload);
            let record = LogRecord { offset, timestamp_ms, crc, payload: payload.clone() };
            Appended { record, of: Some(of) }
        });
        Ok(appended.collect())
    }

    fn idle(&mut self) -> Result<Vec<LogRecord>, LogError> {
        self.writer.prove();
        Ok(Vec::new())
    }

    fn trim(&mut self, up_to: Offset) {
        let segments = &mut self.writer.segments;
        // A segment ends where the next one begins, so the last one is never among these.
        let stored = segments.iter().skip(1).take_while(|base| **base - 1 <= up_to.0).count();
        let kept = self.keep_bytes / self.writer.segment_bytes;
        let surplus = stored.saturating_sub(usize::try_from(kept).unwrap_or(usize::MAX));
        for _ in 0..surplus.min(DELETED_AT_ONCE) {
            let Some(&base) = segments.front() else { break };
            let name = segment::name(base);
            // Oldest first and no further than the first failure, so that no hole arises.
            if let Err(error) = self.writer.folder.remove(&name) {
                tracing::warn!(name, %error, "a log segment cannot be deleted; trying again later");
                break;
            }
            segments.pop_front();
        }
    }

    fn tails(&self) -> Arc<dyn Tails> {
        Arc::new(EmbeddedTails::new(&self.writer.folder, self.writer.id))
    }
}

impl EmbeddedLog {
    fn held(&self) -> Held<'_> {
        let Writer { id, folder, segments, next, .. } = &self.writer;
        Held { folder: &**folder, id: *id, segments, next: *next }
    }
}

impl From<Record<'_>> for LogRecord {
    fn from(record: Record<'_>) -> Self {
        Self {
            offset: Offset(record.offset),
            timestamp_ms: record.timestamp_ms,
            crc: record.crc,
            payload: Bytes::copy_from_slice(record.payload),
        }
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        // A thread that panics must not write to the log: its state may be wrong. The next start repairs
        // the tail.
        if !self.writer.is_broken && !std::thread::panicking() {
            self.writer.prove();
        }
    }
}

impl fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLog").field("range", &self.range()).finish_non_exhaustive()
    }
}

/// Makes the first segment of a new log.
fn first_segment(folder: &dyn Folder, maker: &mut Maker) -> Result<Recovered, LogError> {
    let name = segment::name(1);
    let made = maker.make().and_then(|spare| {
        folder.rename(&spare.name, &name)?;
        folder.sync()?;
        Ok(spare.file)
    });
    Ok(Recovered {
        segments: VecDeque::from([1]),
        file: made.map_err(|source| io_error("make", folder.describe(&name), source))?,
        position: 0,
        next: 1,
        proven: 0,
        timestamp_ms: 0,
        truncated_bytes: 0,
        scanned_records: 0,
    })
}
