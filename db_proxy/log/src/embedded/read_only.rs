//! A log that another process may have open, as it was found at one moment.
//!
//! # Invariants
//!
//! - A [`ReadOnlyLog`] takes no lock and changes nothing, so it may be made beside a process that has
//!   the log, and it never keeps one from starting.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use proto::ids::Offset;

use crate::{LogError, LogId, LogReader, LogRecord};

use super::files::{Folder, ReadOnlyFolder, io_error};
use super::format::Meta;
use super::meta::{META, damaged_meta, read_meta};
use super::reading::Held;
use super::segment;
use super::survey::{self, Survey};

/// A log as it was found at one moment, to be looked at only.
#[derive(Debug)]
pub struct ReadOnlyLog {
    folder: ReadOnlyFolder,
    meta: Meta,
    segments: VecDeque<u64>,
    next: u64,
}

impl ReadOnlyLog {
    /// Looks at the log in `dir`, whether or not a process has it, and calls `each` with every
    /// record that is whole, in order. `None` if there is no log.
    pub fn look(
        dir: &Path,
        each: &mut dyn FnMut(LogRecord),
    ) -> Result<Option<(Self, Survey)>, LogError> {
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
        Ok(Some((Self { folder, meta, segments, next }, survey)))
    }

    /// The size that every segment has.
    pub fn segment_bytes(&self) -> u64 {
        self.meta.segment_bytes
    }

    fn held(&self) -> Held<'_> {
        let Self { folder, meta, segments, next } = self;
        Held { folder, id: meta.id, segments, next: *next }
    }
}

impl LogReader for ReadOnlyLog {
    fn id(&self) -> LogId {
        self.meta.id
    }

    fn name(&self) -> String {
        format!("the log in {}", self.folder.describe(""))
    }

    fn range(&self) -> (Offset, Offset) {
        self.held().range()
    }

    fn read(
        &self,
        from: Offset,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        let read = self.held().read(from, each);
        let Err(LogError::Io { source, .. }) = &read else { return read };
        // The process that has the log may have trimmed it since the look.
        let bases = self.folder.names().map(|names| segment::bases(&names)).unwrap_or_default();
        match bases.first() {
            Some(&first) if first > from.0 && source.kind() == io::ErrorKind::NotFound => {
                Err(LogError::NotHere { asked: from.0, first, next: self.next })
            }
            _ => read,
        }
    }
}
