//! How far an export or an import is, and what has been moved in the end.

use std::ops::ControlFlow;

use super::error::MoveError;

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

/// Tells the caller how far it is.
pub(super) fn tell(watch: Watch<'_>, step: Step) -> Result<(), MoveError> {
    match watch(step) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(MoveError::Stopped),
    }
}
