//! Looking into the log of a db_proxy, whether it runs or not: `db_proxy log inspect`, `log verify` and
//! `log replay`. A log in files is looked into by `log_tools/files.rs`, a topic by
//! `log_tools/kafka.rs`.
//!
//! # Invariants
//!
//! - Nothing is changed, no lock is taken, and a db_proxy may start, run and stop meanwhile.
//! - What people have written, their names and their groups' names are never shown: an operator
//!   who looks into the log does not read messages.

use std::io::Write;

use daemon::BoxError;
use partition::open::OpenError;

use crate::config::Config;
use health::Health;
use records::{Replay, Shown};

mod files;
pub(crate) mod health;
#[cfg_attr(not(feature = "kafka"), path = "log_tools/without_kafka.rs")]
mod kafka;
pub(crate) mod records;
#[cfg(test)]
mod tests;

/// Prints what there is: the log, its segments, how far the store is, and the records asked for.
pub(crate) fn inspect(
    config: &Config,
    shown: Shown,
    out: &mut dyn Write,
) -> Result<Health, BoxError> {
    if config.kafka.is_used() {
        return kafka::inspect(config, shown, out);
    }
    files::inspect(config, shown, out)
}

/// Reads everything, and prints whether it is as it should be.
pub(crate) fn verify(
    config: &Config,
    shown: Shown,
    out: &mut dyn Write,
) -> Result<Health, BoxError> {
    if config.kafka.is_used() {
        return kafka::verify(config, shown, out);
    }
    files::verify(config, out)
}

/// Lets another consumer of the topic go on from an offset, and prints where that is.
pub(crate) fn replay(
    config: &Config,
    replay: Replay<'_>,
    out: &mut dyn Write,
) -> Result<Health, BoxError> {
    if config.kafka.is_used() {
        return kafka::replay(config, replay, out);
    }
    let why = "a log in files has no consumers besides the fold, which goes by what the store says";
    Err(OpenError::Refused(why.to_owned()).boxed())
}
