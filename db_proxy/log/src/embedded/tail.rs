//! Reading the log while its owner appends to it.
//!
//! # Invariants
//!
//! - Only what the caller knows to be durable is read: behind it a batch may be half written.
//! - A segment that is deleted while it is read is read to its end.

use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};

use proto::ids::Offset;

use crate::{LogError, LogId, LogRecord, Tail, Tails};

use super::damage::damaged;
use super::files::{Folder, io_error};
use super::format::{self, Header};
use super::segment::{self, Reader};

/// Makes readers of one folder. It does not keep the folder locked.
#[derive(Debug)]
pub(super) struct EmbeddedTails {
    folder: Weak<dyn Folder>,
    id: LogId,
}

impl EmbeddedTails {
    /// Makes readers of the log `id` in `folder`.
    pub(super) fn new(folder: &Arc<dyn Folder>, id: LogId) -> Self {
        Self { folder: Arc::downgrade(folder), id }
    }

    fn folder(&self) -> Result<Arc<dyn Folder>, LogError> {
        self.folder.upgrade().ok_or_else(|| LogError::Lost("it is closed".to_owned()))
    }
}

impl Tails for EmbeddedTails {
    fn first(&self) -> Result<Offset, LogError> {
        let first = bases(&*self.folder()?)?.first().copied();
        Ok(Offset(first.unwrap_or(1)))
    }

    fn tail(&self, from: Offset) -> Result<Box<dyn Tail>, LogError> {
        let mut tail =
            EmbeddedTail { folder: self.folder()?, id: self.id, next: from.0, segment: None };
        tail.open()?;
        Ok(Box::new(tail))
    }
}

/// A place in the log.
struct EmbeddedTail {
    folder: Arc<dyn Folder>,
    id: LogId,
    /// The offset of the record that is read next.
    next: u64,
    /// Where it is, or where it will be.
    segment: Option<Segment>,
}

/// A segment that is being read.
struct Segment {
    base: u64,
    reader: Reader,
    /// The batch that has the next record begins here, or before a batch that does.
    position: u64,
}

/// How reading a batch ended.
enum Read {
    /// Everything in it was read, or it was skipped.
    Whole,
    /// No more is wanted.
    BrokeOff,
    /// There is no whole batch.
    Nothing,
}

/// No more records are wanted.
struct NoMore;

impl EmbeddedTail {
    /// Opens the segment that has the next record, unless it is open.
    fn open(&mut self) -> Result<&mut Segment, LogError> {
        let segment = match self.segment.take() {
            Some(segment) => segment,
            None => self.find()?,
        };
        Ok(self.segment.insert(segment))
    }

    fn find(&self) -> Result<Segment, LogError> {
        let bases = bases(&*self.folder)?;
        let at = bases.partition_point(|base| *base <= self.next);
        let Some(&base) = at.checked_sub(1).and_then(|at| bases.get(at)) else {
            return Err(self.trimmed(bases.first().copied()));
        };
        let name = segment::name(base);
        let reader = self.folder.open(&name).and_then(Reader::new).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                // It was deleted after the folder had been listed.
                return self.trimmed(bases.get(at).copied());
            }
            io_error("read", self.folder.describe(&name), source)
        })?;
        Ok(Segment { base, reader, position: 0 })
    }

    fn trimmed(&self, first: Option<u64>) -> LogError {
        let first = first.unwrap_or(self.next);
        LogError::NotHere { asked: self.next, first, next: first.max(self.next) }
    }

    /// Reads the batch that is next in the segment, as far as `upto`.
    fn batch(
        &mut self,
        upto: u64,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<Read, LogError> {
        let id = self.id;
        let mut next = self.next;
        let segment = self.open()?;
        let base = segment.base;
        let read = segment.next_batch(id, &mut next, upto, each);
        self.next = next;
        read.map_err(|source| io_error("read", self.folder.describe(&segment::name(base)), source))
    }

    /// The segment has no more: goes on in the next one, which begins with the next record.
    fn next_segment(&mut self) -> Result<(), LogError> {
        let Some(Segment { base, position, .. }) = self.segment.take() else { return Ok(()) };
        let bases = bases(&*self.folder)?;
        if bases.contains(&self.next) && base != self.next {
            return Ok(());
        }
        if let Some(first) = bases.first().copied().filter(|first| *first > self.next) {
            return Err(self.trimmed(Some(first)));
        }
        Err(damaged(self.folder.describe(&segment::name(base)), position, self.next))
    }
}

impl Segment {
    /// Reads one batch. What was read ahead may be older than the batch: then it is read once more.
    fn next_batch(
        &mut self,
        id: LogId,
        next: &mut u64,
        upto: u64,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> io::Result<Read> {
        let read = self.try_batch(id, next, upto, each)?;
        if !matches!(read, Read::Nothing) {
            return Ok(read);
        }
        self.reader.forget();
        self.try_batch(id, next, upto, each)
    }

    fn try_batch(
        &mut self,
        id: LogId,
        next: &mut u64,
        upto: u64,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> io::Result<Read> {
        let fits = |header: &Header| header.base <= *next;
        let batch = self.reader.batch(self.position, id)?.filter(|(header, _bytes)| fits(header));
        let Some((header, bytes)) = batch else { return Ok(Read::Nothing) };
        if header.next() > *next {
            let is_whole = format::for_each_record(&header, bytes, |record| {
                if record.offset < *next {
                    return Ok(());
                }
                if record.offset > upto {
                    return Err(NoMore);
                }
                *next = record.offset + 1;
                if each(record.into()).is_break() { Err(NoMore) } else { Ok(()) }
            });
            match is_whole {
                Ok(true) => {}
                Ok(false) => return Ok(Read::Nothing),
                Err(NoMore) => return Ok(Read::BrokeOff),
            }
        }
        self.position += header.batch_len() as u64;
        Ok(Read::Whole)
    }
}

impl Tail for EmbeddedTail {
    fn read(
        &mut self,
        upto: Offset,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        while self.next <= upto.0 {
            match self.batch(upto.0, each)? {
                Read::Whole => {}
                Read::BrokeOff => break,
                Read::Nothing => self.next_segment()?,
            }
        }
        Ok(())
    }
}

fn bases(folder: &dyn Folder) -> Result<Vec<u64>, LogError> {
    let names = folder.names();
    let names = names.map_err(|source| io_error("list", folder.describe(""), source))?;
    Ok(segment::bases(&names))
}
