//! The error for acknowledged data that cannot be read.

use std::fmt;

use crate::LogError;

/// What an operator can do about damage.
pub(super) const REMEDY: &str = "Nothing was changed. Restore the file from a backup; without \
                                 one, the records from there on can only be given up knowingly";

/// The error for acknowledged data that cannot be read.
pub(super) fn damaged(name: impl fmt::Display, position: u64, offset: u64) -> LogError {
    LogError::Damaged(format!(
        "{name} is damaged at byte {position}: the record with offset {offset} was acknowledged and \
         cannot be read. {REMEDY}",
    ))
}
