//! An error of the Kafka library as the source of one of the log's.

use std::error::Error;
use std::io;

/// As the source of [`crate::LogError::Io`].
pub(super) fn other(error: impl Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}
