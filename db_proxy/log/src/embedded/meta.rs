//! The file `log.meta`: which log a folder holds, and the size of its segments.

use std::io;

use ring::rand::{SecureRandom, SystemRandom};

use crate::{LogError, LogId};

use super::files::{Folder, io_error};
use super::format::{FoundMeta, Meta};

/// The name of the file.
pub(super) const META: &str = "log.meta";

/// Its name while it is being written.
const UNFINISHED_META: &str = "log.meta.making";

/// As much as is read of `log.meta`, whatever its version.
const META_LEN_MAX: usize = 4096;

/// Reads `log.meta`.
pub(super) fn read_meta(folder: &dyn Folder) -> Result<Meta, LogError> {
    let failed = |source| io_error("read", folder.describe(META), source);
    let file = folder.open(META).map_err(failed)?;
    let size = file.size().map_err(failed)?;
    let mut bytes = vec![0; usize::try_from(size).map_or(META_LEN_MAX, |n| n.min(META_LEN_MAX))];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    match Meta::parse(&bytes) {
        FoundMeta::Known(meta) => Ok(meta),
        FoundMeta::Newer(version) => Err(LogError::NewerVersion(format!(
            "{} was written by a newer version of this program (its format is {version}). Nothing \
             was changed. Start that version again",
            folder.describe(META),
        ))),
        FoundMeta::Damaged => Err(damaged_meta(folder, "is damaged")),
    }
}

/// The error for a `log.meta` that cannot be used.
pub(super) fn damaged_meta(folder: &dyn Folder, how: &str) -> LogError {
    LogError::Damaged(format!(
        "{} {how}. Nothing was changed. Restore it from a backup: it never changes",
        folder.describe(META),
    ))
}

/// Writes `log.meta` for a new log. It has its name only once it is on disk.
pub(super) fn make_meta(folder: &dyn Folder, segment_bytes: u64) -> Result<Meta, LogError> {
    let mut id = [0; 16];
    SystemRandom::new().fill(&mut id).map_err(|_| LogError::Io {
        what: "cannot make an id for the log".to_owned(),
        source: io::Error::other("the system gives no random numbers"),
    })?;
    let meta = Meta { id: LogId(id), segment_bytes };
    let written = folder.create(UNFINISHED_META).and_then(|file| {
        file.write_all_at(&meta.encode(), 0)?;
        file.sync()?;
        folder.rename(UNFINISHED_META, META)?;
        folder.sync()
    });
    written.map_err(|source| io_error("write", folder.describe(META), source))?;
    Ok(meta)
}
