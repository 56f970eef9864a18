//! Reading a partition while its owner appends to it: a consumer of its own.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use proto::ids::Offset;

use super::numbers::Numbers;
use super::options::Options;
use super::reader::Reader;
use crate::{LogError, LogRecord, Tail, Tails};

/// Makes readers of one partition.
pub(super) struct KafkaTails {
    options: Arc<Options>,
    partition: u32,
    numbers: Arc<Numbers>,
}

impl KafkaTails {
    /// The tails of a partition. The caller keeps `numbers` up to date.
    pub(super) fn new(options: Arc<Options>, partition: u32, numbers: Arc<Numbers>) -> Self {
        Self { options, partition, numbers }
    }
}

impl Tails for KafkaTails {
    fn first(&self) -> Result<Offset, LogError> {
        Ok(self.numbers.first())
    }

    fn tail(&self, from: Offset) -> Result<Box<dyn Tail>, LogError> {
        let reader = Reader::new(&self.options, self.partition, Arc::clone(&self.numbers))?;
        let (first, next) = reader.range(Offset(from.0.saturating_sub(1)))?;
        if from < first {
            return Err(LogError::NotHere { asked: from.0, first: first.0, next: next.0 });
        }
        Ok(Box::new(KafkaTail { reader, next: from, patience: self.options.patience }))
    }
}

impl fmt::Debug for KafkaTails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaTails").field("partition", &self.partition).finish_non_exhaustive()
    }
}

/// A place in a partition.
struct KafkaTail {
    reader: Reader,
    /// The record that is read next.
    next: Offset,
    patience: Duration,
}

impl Tail for KafkaTail {
    fn read(
        &mut self,
        upto: Offset,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        let Self { reader, next, patience } = self;
        let range = (*next, upto.next());
        let read = reader.read(range, *patience, &mut |record| {
            *next = record.offset.next();
            each(record)
        });
        let Err(error) = read else { return Ok(()) };
        // Retention may have deleted it.
        let (first, end) = reader.range(upto)?;
        if *next < first {
            return Err(LogError::NotHere { asked: next.0, first: first.0, next: end.0 });
        }
        Err(error)
    }
}
