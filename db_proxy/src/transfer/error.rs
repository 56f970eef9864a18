//! Why something was not moved.

use std::path::Path;

use partition::open::OpenError;
use record_log::LogError;
use store::StoreError;

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

/// An error of the disk.
pub(super) fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> MoveError {
    let name = path.display().to_string();
    move |error| MoveError::Failed(format!("{name}: {error}"))
}
