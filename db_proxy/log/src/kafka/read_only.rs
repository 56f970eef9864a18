//! A partition as it is now, read beside its owner: nothing is changed, and no group is joined.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use proto::ids::Offset;

use super::reader::Reader;
use super::topic::PartitionLog;
use crate::{LogError, LogId, LogReader, LogRecord, check_here};

/// A partition up to where it was when it was looked at.
pub struct KafkaView {
    id: LogId,
    name: String,
    reader: Reader,
    first: Offset,
    next: Offset,
    patience: Duration,
}

impl PartitionLog {
    /// Looks at a partition.
    pub fn look(self) -> Result<KafkaView, LogError> {
        let Self { options, partition, id, numbers } = self;
        let name = format!("partition {partition} of the topic {}", options.topic);
        let reader = Reader::new(&options, partition, Arc::clone(&numbers))?;
        let (first, next) = reader.range(Offset(0))?;
        Ok(KafkaView { id, name, reader, first, next, patience: options.patience })
    }
}

impl LogReader for KafkaView {
    fn id(&self) -> LogId {
        self.id
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn range(&self) -> (Offset, Offset) {
        (self.first, self.next)
    }

    fn read(
        &self,
        from: Offset,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        check_here(from, self.range())?;
        self.reader.read((from, self.next), self.patience, each)
    }
}

impl fmt::Debug for KafkaView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaView")
            .field("name", &self.name)
            .field("range", &self.range())
            .finish_non_exhaustive()
    }
}
