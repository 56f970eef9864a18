//! Moving a site from the embedded store to databases on servers: `talkhub admin export` and `import`.
//!
//! ```text
//! store.sqlite ──► export ──► folder: manifest, files of rows ──► import ──► MySQL
//!                                                                    └──► read back, compared
//! ```
//!
//! The site stands still meanwhile. An export is rows, table by table, in files of bounded size, each
//! with its number of rows and its SHA-256; see `transfer/folder.rs` for the format. Both directions may
//! be interrupted at any moment and go on where they were.
//!
//! # Places in the log
//!
//! What is moved keeps its numbers, ids and times, but not its places in the log: in the new site every
//! partition has a new log, which begins at 1. Everything that is imported has the place 0, *before the
//! log*. So it is stored as far as any owner can see, it is never what a gateway has missed, and the
//! first message that comes to an imported conversation says of itself that nothing was published there
//! before it. Gateways must be started anew: what they know of the old log means nothing in the new one.
//!
//! # Invariants
//!
//! - Nothing is exported from a store that lacks something its log has, and nothing while a db_proxy may
//!   write to it.
//! - Nothing is imported into databases that hold anything else, and no db_proxy can use them before
//!   everything is there.
//! - An import has succeeded only if what was read back from the databases has the number of rows and the
//!   checksum of every table that the export has written down.
//! - Memory is bounded by a file's size, whatever a table's.

mod export;
mod folder;
mod import;

#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::Path;

use partition::open::OpenError;
use record_log::LogError;
use store::StoreError;

pub use export::export;
pub use import::{import, verify};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Rows are written to files.
    Exporting,
    /// Rows of files are written to the databases.
    Importing,
    /// Rows are read back from the databases and compared with what was exported.
    Checking,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What is being done.
    pub phase: Phase,
    /// The table it is at.
    pub table: &'static str,
    /// Rows of all tables that are done.
    pub done: u64,
    /// Rows of all tables.
    pub total: u64,
}

/// Hears how far it is, a few times a second or more, and may end it. Must not block.
pub type Watch<'a> = &'a (dyn Fn(Step) -> ControlFlow<()> + Sync);

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The rows of each table, in the order in which they are moved.
    pub tables: Vec<(&'static str, u64)>,
    /// The bytes of all files.
    pub bytes: u64,
    /// Whether everything had been done before.
    pub already: bool,
}

impl Moved {
    /// The rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|(_table, rows)| rows).sum()
    }

    /// The rows of one table.
    pub fn of(&self, table: &str) -> u64 {
        self.tables.iter().filter(|(name, _rows)| *name == table).map(|(_name, rows)| rows).sum()
    }
}

/// Why something was not moved, in one line.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// It will not work until something is changed.
    #[error("{0}")]
    Refused(String),
    /// It did not work this time; the same again goes on where it was.
    #[error("{0}; the same command again goes on from there")]
    Failed(String),
    /// What was read back is not what was exported.
    #[error("{0}")]
    Differs(String),
    /// The caller has ended it.
    #[error("stopped; the same command again goes on from there")]
    Stopped,
}

impl From<StoreError> for MoveError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(why) => Self::Refused(why),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<LogError> for MoveError {
    fn from(error: LogError) -> Self {
        match OpenError::from(error) {
            OpenError::Refused(why) => Self::Refused(why),
            OpenError::Failed(why) => Self::Failed(why),
        }
    }
}

/// Tells the caller how far it is.
fn tell(watch: Watch<'_>, step: Step) -> Result<(), MoveError> {
    match watch(step) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(MoveError::Stopped),
    }
}

/// An error of the disk.
fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> MoveError {
    let name = path.display().to_string();
    move |error| MoveError::Failed(format!("{name}: {error}"))
}
