//! The durable queue in front of storage: one partition's records, in order.
//!
//! What was appended is on disk when [`Log::append`] returns; what is on disk is folded
//! (`fold`), answered and published, and only later stored. The log is the truth between
//! the acknowledgement and the store.
//!
//! # Invariants
//!
//! - Offsets rise by one from record to record for the life of the log, from 1.
//! - Timestamps never fall from record to record of one owner.
//! - `append` returns only after its records, and every record before them, are durable.
//! - Only the owner of the partition appends. A replaced owner that has not noticed yet may append too:
//!   every reader gets its records, and the fold ignores them.
//! - A record is never changed.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use proto::ids::Offset;

#[cfg(test)]
mod conformance;
pub mod embedded;
#[cfg(feature = "kafka")]
pub mod kafka;

pub use proto::record::{LogId, LogRecord};

/// A record that has come into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The record, as every reader will get it.
    pub record: LogRecord,
    /// Which of the payloads of this append it is, counted from 0. `None`: another owner
    /// appended it, or an earlier append did, whose result was unknown.
    pub of: Option<usize>,
}

/// Why a log cannot be opened, read or appended to.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No room for more now (disk full, no spare segment). Nothing was written; try again later.
    #[error("the log has no room: {0}")]
    Full(String),
    /// Another process has this log open.
    #[error("{0} is in use by another process")]
    InUse(String),
    /// The folder was written by a newer version. Nothing was touched.
    #[error("{0}")]
    NewerVersion(String),
    /// Acknowledged data is damaged or gone. The text names where, the offset and what can be done.
    #[error("{0}")]
    Damaged(String),
    /// The offset asked for has been trimmed away or was never written.
    #[error("offset {asked} is not in the log, which holds {first}..{next}")]
    NotHere {
        /// The offset asked for.
        asked: u64,
        /// The first offset held.
        first: u64,
        /// The offset that the next append will get.
        next: u64,
    },
    /// The result of an append is unknown, or another owner has begun. This owner must take the
    /// partition again before it appends anything else.
    #[error("the log is lost to this owner: {0}")]
    Lost(String),
    /// The files cannot be read.
    #[error("{what}")]
    Io {
        /// What was being done, with the file's name.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Records can be read from the `first` that is held up to `next`, where there is none yet.
fn check_here(asked: Offset, (first, next): (Offset, Offset)) -> Result<(), LogError> {
    if (first..=next).contains(&asked) {
        return Ok(());
    }
    Err(LogError::NotHere { asked: asked.0, first: first.0, next: next.0 })
}

/// A log before it is opened: none of its records has been read. Its id is known before the store is
/// asked how much of it is applied.
pub trait Unopened: Send {
    /// Which log this is.
    fn id(&self) -> LogId;

    /// Makes the log ready for appends. Every record after `applied`, the last that the store has (0
    /// for none), is checked by then or when it is read.
    fn open(self: Box<Self>, applied: Offset) -> Result<Box<dyn Log>, LogError>;
}

/// What a partition's log holds. Used by one thread; every call may block on the disk or the network.
pub trait LogReader: Send {
    /// Which log this is.
    fn id(&self) -> LogId;

    /// Which log this is, for a person, as in "the log in /var/lib/talkhub/log".
    fn name(&self) -> String;

    /// The first offset that can be read, and the one the next append will get.
    fn range(&self) -> (Offset, Offset);

    /// Calls `each` with every record from `from` on, in order, until it breaks off: up to those that
    /// the next append or [`Log::idle`] returns.
    fn read(
        &self,
        from: Offset,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<(), LogError>;
}

/// A partition's log, for its owner.
pub trait Log: LogReader {
    /// Appends `payloads` and returns every record that the log has had since the last append, in
    /// order, at least up to the last of these: the payloads themselves, in their order, and what others
    /// appended meanwhile. All of them are durable then. `now_ms` is the wall clock; a clock that
    /// went back is ignored.
    ///
    /// # Errors
    ///
    /// [`LogError::Full`]: nothing was appended, and it may be tried again. [`LogError::Lost`]: some of
    /// the payloads may be in the log or come into it later, and nothing more is appended by this
    /// value. A log in files returns only the first: a failed write or flush aborts the process, since
    /// it is unknown what reached the disk.
    ///
    /// # Panics
    ///
    /// A log in files, if a payload is longer than [`embedded::MAX_PAYLOAD_BYTES`], or all of them make
    /// a batch of more than 16 MiB.
    fn append(&mut self, payloads: &[Bytes], now_ms: u64) -> Result<Vec<Appended>, LogError>;

    /// Notes that nothing was appended for a while. Returns what others appended meanwhile; a log in
    /// files, which has no other writers, uses the time to write proof of what is durable.
    ///
    /// # Errors
    ///
    /// [`LogError::Lost`]: as of [`Self::append`].
    fn idle(&mut self) -> Result<Vec<LogRecord>, LogError>;

    /// Gives up records up to and including `up_to`, which the store has for good. Space is freed
    /// in whole segments; what fits the configured size is kept, and always the newest full one.
    fn trim(&mut self, up_to: Offset);

    /// Where other threads read this log while it is appended to.
    fn tails(&self) -> Arc<dyn Tails>;
}

/// Makes readers of a log that has an owner, for other threads than the owner's. The readers cannot be
/// used after the owner has closed the log.
pub trait Tails: fmt::Debug + Send + Sync {
    /// The first offset that can be read, as far as is known without a question that blocks for long.
    fn first(&self) -> Result<Offset, LogError>;

    /// A reader whose first record is the one at `from`. May block on the disk or the network.
    ///
    /// # Errors
    ///
    /// [`LogError::NotHere`]: that record is trimmed away. [`LogError::Lost`]: the log is closed.
    fn tail(&self, from: Offset) -> Result<Box<dyn Tail>, LogError>;
}

/// Reads a partition's log in order, beside its owner. Every call may block on the disk or the network.
pub trait Tail: Send {
    /// Calls `each` with every record from where the last call ended up to and including `upto`, until it
    /// breaks off; the record at which it breaks off is read. `upto` must be durable: the owner says what
    /// is.
    ///
    /// # Errors
    ///
    /// [`LogError::NotHere`]: the next record was trimmed away meanwhile. After any error the reader is of
    /// no use.
    fn read(
        &mut self,
        upto: Offset,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<(), LogError>;
}
