//! The files of segments: their names, and reading batches from one.

use std::io;

use crate::LogId;

use super::files::LogFile;
use super::format::{HEADER_LEN, Header};

/// How much is read at once, so that a start reads the disk at its full speed.
const READ_AHEAD: usize = 1 << 20;

const SUFFIX: &str = ".segment";

/// Returns the name of the segment whose first record has offset `base`.
pub(super) fn name(base: u64) -> String {
    format!("{base:020}{SUFFIX}")
}

/// Returns the bases of the segments among `names`, in order.
pub(super) fn bases(names: &[String]) -> Vec<u64> {
    let mut bases: Vec<u64> = names
        .iter()
        .filter_map(|file| {
            let base = file.strip_suffix(SUFFIX)?.parse().ok()?;
            (base > 0 && *file == name(base)).then_some(base)
        })
        .collect();
    bases.sort_unstable();
    bases
}

/// Reads one segment from front to back in large pieces.
#[derive(Debug)]
pub(super) struct Reader {
    file: Box<dyn LogFile>,
    size: u64,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    start: u64,
}

impl Reader {
    /// Reads `file` from now on.
    pub(super) fn new(file: Box<dyn LogFile>) -> io::Result<Self> {
        let size = file.size()?;
        Ok(Self { file, size, buffer: Vec::new(), start: 0 })
    }

    /// The file's length.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Gives the file back.
    pub(super) fn into_file(self) -> Box<dyn LogFile> {
        self.file
    }

    /// Reads from the file again, whatever was read before.
    pub(super) fn forget(&mut self) {
        self.buffer.clear();
    }

    /// Returns the `len` bytes at `at`; fewer only where the file ends.
    pub(super) fn window(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = len.min(left);
        if self.buffered(at, len).is_none() {
            self.buffer.resize(len.max(READ_AHEAD).min(left), 0);
            self.start = at;
            if let Err(error) = self.file.read_exact_at(&mut self.buffer, at) {
                self.buffer.clear();
                return Err(error);
            }
        }
        Ok(self.buffered(at, len).unwrap_or_default())
    }

    fn buffered(&self, at: u64, len: usize) -> Option<&[u8]> {
        let begin = usize::try_from(at.checked_sub(self.start)?).ok()?;
        self.buffer.get(begin..begin.checked_add(len)?)
    }

    /// Returns the batch at `at`, with all its bytes, if there is a header of log `id` there whose
    /// batch fits the file. The records are not checked.
    pub(super) fn batch(&mut self, at: u64, id: LogId) -> io::Result<Option<(Header, &[u8])>> {
        let Some(header) = Header::parse(self.window(at, HEADER_LEN)?, id) else {
            return Ok(None);
        };
        let bytes = self.window(at, header.batch_len())?;
        Ok((bytes.len() == header.batch_len()).then_some((header, bytes)))
    }
}
