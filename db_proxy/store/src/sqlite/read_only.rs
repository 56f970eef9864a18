//! Reading `progress` of a store that may be in use by another process.
//!
//! # Invariants
//!
//! - Nothing is changed and no file is made: not even those that SQLite makes beside the store in
//!   order to read it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use proto::record::LogId;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::{SqliteStore, fold, schema};
use crate::{Claimed, StoreError};

impl SqliteStore {
    /// Looks into the store at `path`, whether or not a process has it. `None` if there is no store,
    /// or its partition was never taken. Blocks on the disk.
    pub fn look(path: &Path) -> Result<Option<Claimed>, StoreError> {
        if !path.exists() {
            return Ok(None);
        }
        schema::refuse_newer_header(path)?;
        let connection = open(path)?;
        if !connection.table_exists(None, "progress")? {
            return Ok(None);
        }
        let transaction = connection.unchecked_transaction()?;
        let claimed = transaction
            .query_row("SELECT log_id, owner FROM progress WHERE part = ?1", [fold::PART], |row| {
                Ok((LogId(row.get(0)?), row.get(1)?))
            })
            .optional()?;
        let progress = fold::progress(&transaction)?;
        Ok(claimed.zip(progress).map(|((log, owner), progress)| Claimed { log, owner, progress }))
    }
}

/// What was committed may still be in the write-ahead file. That is read by means of the index beside
/// it, which is only there while a process has the store, or one has been killed.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let has_content = |name: &Path| name.metadata().is_ok_and(|file| file.len() > 0);
    let (journal, index) = (beside(path, "-wal"), beside(path, "-shm"));
    let how = if journal.exists() && index.exists() {
        "mode=ro&readonly_shm=1"
    } else if has_content(&journal) {
        return Err(StoreError::Unavailable(format!(
            "{} is there without {}, which only the next start of db_proxy makes",
            journal.display(),
            index.display(),
        )));
    } else {
        "immutable=1"
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let failed = |error| StoreError::Unavailable(format!("{}: {error}", path.display()));
    let connection = Connection::open_with_flags(uri(path, how), flags).map_err(failed)?;
    connection.busy_timeout(schema::BUSY_LIMIT)?;
    Ok(connection)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The path as a URI, in which some bytes would have a meaning of their own.
fn uri(path: &Path, how: &str) -> String {
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            write!(uri, "%{byte:02X}").expect("a string takes everything");
        }
    }
    uri + "?" + how
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_its_strange_letters() {
        let path = Path::new("/a b/50%?#.sqlite");
        assert_eq!(uri(path, "immutable=1"), "file:/a%20b/50%25%3F%23.sqlite?immutable=1");
    }
}
