//! Going over the batches of a log, as far as they are whole.
//!
//! Every batch says up to which offset the log was flushed when the batch was written, and a segment
//! gets its name only after everything before it was flushed. Both are proofs: below the last one,
//! what cannot be read is damage; above it, it is an append that never returned.

use std::convert::Infallible;
use std::io;

use daemon::faults::{self, Mutant};

use crate::{LogError, LogId};

use super::damage;
use super::files::{Folder, io_error};
use super::format::{self, ALIGNMENT, HEADER_LEN, Header};
use super::segment::{self, Reader};
use super::zeros::{BLOCK_LEN, last_byte_set};

/// What is known of the log up to some place.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    pub(super) folder: &'a dyn Folder,
    id: LogId,
    pub(super) next: u64,
    pub(super) proven: u64,
    pub(super) timestamp_ms: u64,
    pub(super) records: u64,
    /// The last segment.
    pub(super) tail: Option<Tail>,
}

/// The last segment, and how far it is written.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) name: String,
    pub(super) reader: Reader,
    /// Where its last batch or marker begins.
    pub(super) last_batch: u64,
    /// Where that ends.
    pub(super) end: u64,
    /// Where what is not zero ends.
    pub(super) dirty_end: u64,
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
    pub(super) fn segment(&mut self, base: u64, following: Option<u64>) -> Result<(), LogError> {
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
        damage::damaged(self.folder.describe(name), position, self.next)
    }
}
