//! Reading the records that are known to be in the folder of a log.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

use proto::ids::Offset;

use crate::{LogError, LogId, LogRecord, check_here};

use super::damage::damaged;
use super::files::{Folder, io_error};
use super::format;
use super::segment::{self, Reader};

/// No more records are wanted.
struct BrokeOff;

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

    /// Calls `each` with every record from `from` on, until it breaks off.
    pub(super) fn read(
        &self,
        from: Offset,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        check_here(from, self.range())?;
        let segments = self.segments;
        let begin = segments.partition_point(|base| *base <= from.0).saturating_sub(1);
        for (at, &base) in segments.iter().enumerate().skip(begin) {
            let end = segments.get(at + 1).copied().unwrap_or(self.next);
            if self.segment(base..end, from, each)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Calls `each` with the records of one segment, those from `from` on, until it breaks off.
    fn segment(
        &self,
        offsets: Range<u64>,
        from: Offset,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, LogError> {
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
                let is_wanted = record.offset >= from.0;
                if is_wanted && each(record.into()).is_break() { Err(BrokeOff) } else { Ok(()) }
            });
            match is_whole {
                Ok(true) => at += header.batch_len() as u64,
                Ok(false) => return Err(damaged(folder.describe(&name), at, next)),
                Err(BrokeOff) => return Ok(ControlFlow::Break(())),
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
