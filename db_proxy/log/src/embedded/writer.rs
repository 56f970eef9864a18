//! The end of the log: where batches are written.
//!
//! # Invariants
//!
//! - One write and one flush per batch; no call returns in between.
//! - After every batch there is room for a marker, a batch without records that proves it.
//! - After a failed write or flush nothing more is done.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use daemon::faults::{self, Mutant};
use proto::ids::Offset;

use crate::{LogError, LogId};

use super::files::{Fatal, Folder, LogFile, is_full};
use super::format::{self, HEADER_LEN, Header};
use super::segment;
use super::spare::Spares;

/// Where a batch was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchPlace {
    /// The offset of its first record; the others follow without a hole.
    pub(super) first: Offset,
    /// The timestamp of all its records, Unix milliseconds.
    pub(super) timestamp_ms: u64,
}

/// The end of the log.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) id: LogId,
    pub(super) folder: Arc<dyn Folder>,
    pub(super) segment_bytes: u64,
    /// The bases of all segments, in order; batches go to the last one.
    pub(super) segments: VecDeque<u64>,
    pub(super) file: Box<dyn LogFile>,
    /// Where the next batch goes.
    pub(super) position: u64,
    /// The offset of the next record.
    pub(super) next: u64,
    /// The last offset that the files prove to be flushed.
    pub(super) proven: u64,
    pub(super) timestamp_ms: u64,
    /// The batch being written; kept for its memory.
    pub(super) buffer: Vec<u8>,
    pub(super) spares: Spares,
    pub(super) fatal: Fatal,
    /// A write or a flush has failed; only seen by what runs while the process ends.
    pub(super) is_broken: bool,
}

impl Writer {
    /// Writes one batch and flushes it.
    pub(super) fn append(
        &mut self,
        payloads: &[Bytes],
        now_ms: u64,
    ) -> Result<BatchPlace, LogError> {
        let timestamp_ms = self.timestamp_ms.max(now_ms);
        let place = BatchPlace { first: Offset(self.next), timestamp_ms };
        if payloads.is_empty() {
            return Ok(place);
        }
        if self.position + self.room_for(payloads) > self.segment_bytes {
            self.begin_segment()?;
        }
        self.timestamp_ms = timestamp_ms;
        self.write_batch(payloads);
        Ok(place)
    }

    /// The room that a batch needs: itself, and a marker behind it.
    pub(super) fn room_for(&self, payloads: &[Bytes]) -> u64 {
        let needed = (format::batch_len(payloads) + HEADER_LEN) as u64;
        assert!(needed <= self.segment_bytes, "a batch must fit a segment: {needed} bytes");
        needed
    }

    /// Writes a marker if the files do not yet prove that the last batch was flushed.
    pub(super) fn prove(&mut self) {
        if self.proven + 1 < self.next {
            self.write_batch(&[]);
        }
    }

    /// Makes good what recovery left to do: proves the tail that was written again, and puts a
    /// first batch into an empty segment, which keeps the time when the segment before is trimmed.
    pub(super) fn settle(&mut self) {
        if self.position == 0 && self.next > 1 {
            self.write_batch(&[]);
        }
        self.prove();
    }

    fn write_batch(&mut self, payloads: &[Bytes]) {
        let header = Header {
            durable_upto: self.next - 1,
            base: self.next,
            timestamp_ms: self.timestamp_ms,
            count: 0,
            body_len: 0,
        };
        format::encode_batch(&mut self.buffer, self.id, header, payloads);
        let written = self.file.write_all_at(&self.buffer, self.position);
        let unflushed = faults::planted(Mutant::AckBeforeFlush);
        if let Err(error) = written.and_then(|()| if unflushed { Ok(()) } else { self.file.sync() })
        {
            let base = self.segments.back().copied().unwrap_or_default();
            self.fail(&segment::name(base), &error);
        }
        self.position += self.buffer.len() as u64;
        self.proven = header.durable_upto;
        self.next += payloads.len() as u64;
    }

    /// Goes on in a spare. Its name says that everything before it was flushed, and is itself
    /// flushed before a batch is.
    fn begin_segment(&mut self) -> Result<(), LogError> {
        let spare = self.spares.take().map_err(LogError::Full)?;
        let name = segment::name(self.next);
        match self.folder.rename(&spare.name, &name) {
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                self.spares.put_back(spare);
                return Err(LogError::Full(format!("{}: {error}", self.folder.describe(&name))));
            }
            Err(error) => self.fail(&name, &error),
        }
        if let Err(error) = self.folder.sync() {
            self.fail(&name, &error);
        }
        self.file = spare.file;
        self.position = 0;
        self.segments.push_back(self.next);
        Ok(())
    }

    fn fail(&mut self, name: &str, error: &io::Error) -> ! {
        self.is_broken = true;
        (self.fatal)(&self.folder.describe(name), error)
    }
}
