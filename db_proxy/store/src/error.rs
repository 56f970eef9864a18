//! Why the store did not do what was asked, and what every call of it returns.

use futures_util::future::BoxFuture;

/// Why the store did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or has no room: try again later. Nothing was written.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Another owner took over, or the batch does not continue the last one: stop.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The data belongs to another log, or to a newer version: refuse to serve.
    #[error("{0}")]
    Refused(String),
    /// The name or number asked for is taken.
    #[error("{0} is taken")]
    Taken(String),
    /// There is no such thing.
    #[error("{0} does not exist")]
    Missing(String),
}

/// What every call returns.
pub type Stored<'a, T> = BoxFuture<'a, Result<T, StoreError>>;
