//! Reading the records of a log: of the one that is ours, or of one that may be somebody else's.
//!
//! # Invariants
//!
//! - A [`ReadOnlyLog`] takes no lock and changes nothing, so it may be made beside a process that has
//!   the log, and it never keeps one from starting.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use proto::ids::Offset;

use crate::{Landed, Log, LogError, LogId, LogRecord, check_here};

use super::files::{Folder, ReadOnlyFolder, io_error};
use super::format::{self, Meta};
use super::segment::{self, Reader};
use super::survey::{self, Survey};
use super::{EmbeddedLog, META, damaged, damaged_meta, read_meta};

/// Records that are known to be in a folder.
#[derive(Debug)]
pub(super) struct Held<'a> {
    pub(super) folder: &'a dyn Folder,
    pub(super) id: LogId,
    /// The bases of all segments, in order.
    pub(super) segments: &'a VecDeque<u64>,
    /// The offset after the last record.
    pub(super) next: u64,
}

impl Held<'_> {
    /// The first offset, and the one after the last.
    pub(super) fn range(&self) -> (Offset, Offset) {
        let first = self.segments.front().copied().unwrap_or(self.next);
        (Offset(first), Offset(self.next))
    }

    /// Calls `each` with every record from `from` on.
    pub(super) fn read(
        &self,
        from: Offset,
        each: &mut dyn FnMut(LogRecord) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        check_here(from, self.range())?;
        let segments = self.segments;
        let begin = segments.partition_point(|base| *base <= from.0).saturating_sub(1);
        for (at, &base) in segments.iter().enumerate().skip(begin) {
            let end = segments.get(at + 1).copied().unwrap_or(self.next);
            self.segment(base..end, from, each)?;
        }
        Ok(())
    }

    /// Calls `each` with the records of one segment, those from `from` on.
    fn segment(
        &self,
        offsets: Range<u64>,
        from: Offset,
        each: &mut dyn FnMut(LogRecord) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let folder = self.folder;
        let name = segment::name(offsets.start);
        let failed = |source| io_error("read", folder.describe(&name), source);
        let mut reader = folder.open(&name).and_then(Reader::new).map_err(failed)?;
        let (mut at, mut next) = (0, offsets.start);
        while next < offsets.end {
            let batch = reader.batch(at, self.id).map_err(failed)?;
            let Some((header, bytes)) = batch.filter(|(header, _)| header.base == next) else {
                return Err(damaged(folder.describe(&name), at, next));
            };
            let is_whole = format::for_each_record(&header, bytes, |record| {
                next = record.offset + 1;
                if record.offset < from.0 { Ok(()) } else { each(record.into()) }
            })?;
            if !is_whole {
                return Err(damaged(folder.describe(&name), at, next));
            }
            at += header.batch_len() as u64;
        }
        Ok(())
    }
}

/// A log as it was found at one moment, to be looked at only.
#[derive(Debug)]
pub struct ReadOnlyLog {
    folder: ReadOnlyFolder,
    meta: Meta,
    segments: VecDeque<u64>,
    next: u64,
}

impl EmbeddedLog {
    /// Looks at the log in `dir`, whether or not a process has it, and calls `each` with every
    /// record that is whole, in order. `None` if there is no log.
    pub fn look(
        dir: &Path,
        each: &mut dyn FnMut(LogRecord),
    ) -> Result<Option<(ReadOnlyLog, Survey)>, LogError> {
        let folder = ReadOnlyFolder(dir.to_owned());
        let names = match folder.names() {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error("list", dir.display(), source)),
        };
        if !names.iter().any(|name| name == META) {
            let is_empty = segment::bases(&names).is_empty();
            return if is_empty { Ok(None) } else { Err(damaged_meta(&folder, "is missing")) };
        }
        let meta = read_meta(&folder)?;
        let survey = survey::survey(&folder, meta, each)?;
        let segments = survey.segments.iter().map(|segment| segment.first.0).collect();
        let next = survey.next.0;
        Ok(Some((ReadOnlyLog { folder, meta, segments, next }, survey)))
    }
}

impl ReadOnlyLog {
    /// The size that every segment has.
    pub fn segment_bytes(&self) -> u64 {
        self.meta.segment_bytes
    }

    fn held(&self) -> Held<'_> {
        let Self { folder, meta, segments, next } = self;
        Held { folder, id: meta.id, segments, next: *next }
    }
}

/// Reading is all it can do.
impl Log for ReadOnlyLog {
    fn id(&self) -> LogId {
        self.meta.id
    }

    fn name(&self) -> String {
        format!("the log in {}", self.folder.describe(""))
    }

    fn range(&self) -> (Offset, Offset) {
        self.held().range()
    }

    fn append(&mut self, _payloads: &[Bytes], _now_ms: u64) -> Result<Vec<Landed>, LogError> {
        Err(LogError::Lost("it was opened to be looked at".to_owned()))
    }

    fn read(
        &self,
        from: Offset,
        each: &mut dyn FnMut(LogRecord) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let read = self.held().read(from, each);
        let Err(LogError::Io { source, .. }) = &read else { return read };
        // Somebody else may have trimmed it since the look.
        let bases = self.folder.names().map(|names| segment::bases(&names)).unwrap_or_default();
        match bases.first() {
            Some(&first) if first > from.0 && source.kind() == io::ErrorKind::NotFound => {
                Err(LogError::NotHere { asked: from.0, first, next: self.next })
            }
            _ => read,
        }
    }

    fn idle(&mut self) -> Result<Vec<LogRecord>, LogError> {
        Ok(Vec::new())
    }

    fn trim(&mut self, _up_to: Offset) {}
}
