//! Consumers of the log: what may be asked, and how they are shown.

use clap::Subcommand;
use proto::cluster::wire::ConsumerLine;

use crate::terminal::printable;

/// What is done with consumers.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Shows all consumers, and how many stored records each has not handled
    List,
    /// Forgets where a consumer was: if it comes back, it begins anew
    Forget {
        /// The consumer's name
        name: String,
    },
}

/// The head of the list.
pub(super) fn head() -> String {
    format!("{:<28} {:>9} {:>16} {:>12}", "name", "partition", "offset", "behind")
}

/// One consumer in one partition.
pub(super) fn line(consumer: &ConsumerLine) -> String {
    let ConsumerLine { name, partition, offset, stored_offset } = consumer;
    let behind = stored_offset.saturating_sub(*offset);
    format!("{:<28} {partition:>9} {offset:>16} {behind:>12}", printable(name))
}
