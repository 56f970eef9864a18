//! The file: how it is opened, and how an older one becomes a current one.
//!
//! # Invariants
//!
//! - A file of a newer version, or of another program, is refused before anything is written.
//! - Each migration is applied wholly or not at all, and is on disk before the next begins.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::StoreError;

/// The version of a current file.
pub(super) const VERSION: i64 = 7;

/// What leads to each version from the one before, in order.
const MIGRATIONS: [(i64, &str); 7] = [
    (1, include_str!("migrations/0001_first.sql")),
    (2, include_str!("migrations/0002_deleted_groups.sql")),
    (3, include_str!("migrations/0003_tokens.sql")),
    (4, include_str!("migrations/0004_consumers.sql")),
    (5, include_str!("migrations/0005_api_keys.sql")),
    (6, include_str!("migrations/0006_webhooks.sql")),
    (VERSION, include_str!("migrations/0007_changed_messages.sql")),
];

/// How long another program (a backup, a shell) may hold the file before a call gives up.
pub(super) const BUSY_LIMIT: Duration = Duration::from_secs(10);

/// More prepared statements than one connection ever uses.
const STATEMENTS_MAX: usize = 64;

/// The commit that fills the write-ahead file with this many pages (32 MiB) moves them into the main
/// file. A page that many commits changed is moved once: at 1,000 pages, SQLite's own choice, small
/// batches cost half as much again.
const CHECKPOINT_PAGES: i64 = 8_000;

/// The write-ahead file is cut back to this after a burst.
const JOURNAL_BYTES_MAX: i64 = 64 << 20;

/// Page cache of the connection that writes batches: the inner pages of its indexes fit.
const WRITER_CACHE_KIB: i64 = 16 << 10;

/// How a database begins: up to the end of the number that we use as version.
const HEADER_LEN: usize = 64;
const MAGIC: &[u8] = b"SQLite format 3\0";

/// When a commit is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// At the next checkpoint: for what the log still has.
    Checkpoint,
    /// Before the commit returns.
    Commit,
}

/// Brings the file to the current version, making it if there is none.
pub(super) fn migrate(path: &Path) -> Result<(), StoreError> {
    refuse_newer(path)?;
    let mut connection = writer(path, Flush::Commit)?;
    for (version, script) in MIGRATIONS {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if version_of(&transaction)? < version {
            transaction.execute_batch(script)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()?;
        }
    }
    Ok(())
}

/// Opens the file for writing.
pub(super) fn writer(path: &Path, flush: Flush) -> Result<Connection, StoreError> {
    create(path)?;
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        let text = format!("{}: no write-ahead log on this file system", path.display());
        return Err(StoreError::Refused(text));
    }
    let synchronous = match flush {
        Flush::Checkpoint => "normal",
        Flush::Commit => "full",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    for (name, value) in
        [("wal_autocheckpoint", CHECKPOINT_PAGES), ("journal_size_limit", JOURNAL_BYTES_MAX)]
    {
        connection.pragma_update_and_check(None, name, value, |_| Ok(()))?;
    }
    Ok(connection)
}

/// Opens the file for reading.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn open(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    // No URI flag: a path that looks like one is still a path.
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))?;
    connection.busy_timeout(BUSY_LIMIT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(connection)
}

/// Makes the file, readable by its owner only: it holds password hashes. SQLite gives the files
/// beside it the same permissions.
fn create(path: &Path) -> Result<(), StoreError> {
    let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    made.map(drop).map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))
}

/// Refuses a file that says of itself that it is newer, without opening it as a database.
pub(super) fn refuse_newer_header(path: &Path) -> Result<(), StoreError> {
    refuse_version(path, version_in_header(path).unwrap_or_default())
}

fn refuse_newer(path: &Path) -> Result<(), StoreError> {
    let length = path.metadata().map_or(0, |file| file.len());
    if length == 0 {
        return Ok(());
    }
    // Even to read, SQLite makes files beside this one; it need not come to that.
    refuse_newer_header(path)?;
    let connection = reader(path)?;
    let version = version_of(&connection)?;
    refuse_version(path, version)?;
    let tables: u32 =
        connection.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if version == 0 && tables != 0 {
        let text = format!("{}: a database, but not one of ours", path.display());
        return Err(StoreError::Refused(text));
    }
    Ok(())
}

fn refuse_version(path: &Path, version: i64) -> Result<(), StoreError> {
    if version <= VERSION {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "{}: the store has version {version}, this program knows up to {VERSION}; \
         start the newer program, or restore a backup that the older one made",
        path.display(),
    )))
}

/// The version as the file itself has it; a write-ahead log beside it may know better. `None` if
/// the file is no database.
fn version_in_header(path: &Path) -> Option<i64> {
    let mut header = [0; HEADER_LEN];
    File::open(path).and_then(|mut file| file.read_exact(&mut header)).ok()?;
    let version = header.last_chunk::<4>().filter(|_number| header.starts_with(MAGIC))?;
    Some(i64::from(i32::from_be_bytes(*version)))
}

/// The version of the file, and of the write-ahead log beside it.
pub(super) fn version_of(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}
