//! What the log's own modules find at `crate::log`.

pub mod embedded;

pub use db_proxy::log::{LogError, LogId};
