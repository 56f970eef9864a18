//! What an error of SQLite means for the caller.

use rusqlite::{Error, ErrorCode, ffi};

use crate::StoreError;

impl From<Error> for StoreError {
    /// Errors that may pass (no room, disk, lock) say "try again"; those that say something of the
    /// data itself do not.
    ///
    /// # Aborts
    ///
    /// Ends the process if a flush failed: the system may have thrown away what it could not
    /// write, and a second flush would report success all the same.
    fn from(error: Error) -> Self {
        if is_failed_flush(&error) {
            tracing::error!(%error, "a flush of the store failed; what is on disk is unknown");
            std::process::abort();
        }
        if is_damage(&error) {
            return Self::Refused(format!("the store is damaged: {error}"));
        }
        Self::Unavailable(error.to_string())
    }
}

fn is_failed_flush(error: &Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    matches!(code, Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC))
}

fn is_damage(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(error, _) => {
            matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        }
        // A column holds what no version of ours has written, or a row is gone that is always there.
        Error::QueryReturnedNoRows
        | Error::IntegralValueOutOfRange(..)
        | Error::FromSqlConversionFailure(..)
        | Error::InvalidColumnType(..) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_flush_ends_the_process() {
        assert!(is_failed_flush(&failure(ffi::SQLITE_IOERR_FSYNC)));
        assert!(is_failed_flush(&failure(ffi::SQLITE_IOERR_DIR_FSYNC)));
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_BUSY] {
            assert!(!is_failed_flush(&failure(code)), "code {code}");
        }
    }

    #[test]
    fn what_may_pass_asks_to_try_again_and_damage_does_not() {
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_BUSY] {
            let error = StoreError::from(failure(code));
            assert!(matches!(error, StoreError::Unavailable(_)), "code {code}: {error}");
        }
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            let error = StoreError::from(failure(code));
            assert!(matches!(error, StoreError::Refused(_)), "code {code}: {error}");
        }
    }

    fn failure(code: i32) -> Error {
        Error::SqliteFailure(ffi::Error::new(code), None)
    }
}
