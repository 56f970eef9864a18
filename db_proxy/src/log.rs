//! The durable queue in front of storage: one partition's records, in order.
//!
//! What was appended is on disk when [`Log::append`] returns; what is on disk is folded
//! ([`crate::fold`]), answered and published, and only later stored. The log is the truth between
//! the acknowledgement and the store.
//!
//! # Invariants
//!
//! - Offsets rise by one from record to record for the life of the log, from 1.
//! - Timestamps never fall from record to record.
//! - `append` returns only after its records, and every record before them, are durable.
//! - A record is never changed.

use bytes::Bytes;
use proto::ids::Offset;

pub mod embedded;

/// Tells one log from another, so that a store is never paired with the wrong one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogId(pub [u8; 16]);

/// One record, as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Its place.
    pub offset: Offset,
    /// Unix milliseconds at the append, never below the record before.
    pub timestamp_ms: u64,
    /// CRC-32 of the record as stored: the fingerprint kept in `progress`.
    pub crc: u32,
    /// What was appended.
    pub payload: Bytes,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The offset of the batch's first record; the others follow without a hole.
    pub first: Offset,
    /// The timestamp all records of the batch carry, Unix milliseconds.
    pub timestamp_ms: u64,
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
    /// Acknowledged data is damaged. The text names file, offset and what can be done.
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
    /// The files cannot be read.
    #[error("{what}")]
    Io {
        /// What was being done, with the file's name.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// A partition's log. Used by one thread; every call may block on the disk.
pub trait Log: Send {
    /// Which log this is.
    fn id(&self) -> LogId;

    /// The first offset that can be read, and the one the next append will get.
    fn range(&self) -> (Offset, Offset);

    /// Appends `payloads` as consecutive records and flushes once. When this returns `Ok`, they are
    /// durable. `now_ms` is the wall clock; a clock that went back is ignored.
    ///
    /// Only [`LogError::Full`] is ever returned: a failed write or flush aborts the process, since
    /// nobody can know what reached the disk.
    fn append(&mut self, payloads: &[Bytes], now_ms: u64) -> Result<Appended, LogError>;

    /// Calls `each` with every record from `from` on, in order. Stops at the first error of either.
    fn read(
        &self,
        from: Offset,
        each: &mut dyn FnMut(LogRecord) -> Result<(), LogError>,
    ) -> Result<(), LogError>;

    /// Notes that nothing was appended for a while, so that proof of what is durable can be written.
    fn idle(&mut self);

    /// Gives up records up to and including `up_to`, which the store has for good. Space is freed
    /// in whole segments; what fits the configured size is kept, and always the newest full one.
    fn trim(&mut self, up_to: Offset);
}
