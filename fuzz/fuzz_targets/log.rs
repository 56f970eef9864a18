//! What the log's own modules find at `crate::log`.

pub mod embedded;
#[path = "../../db_proxy/src/log/head.rs"]
#[expect(dead_code, reason = "only what recovery needs is of interest")]
pub mod head;

pub use db_proxy::log::{LogError, LogId};
