//! Moving a site from the embedded store to databases on servers: `talkhub admin export` and `import`.
//!
//! ```text
//! store.sqlite ──► export ──► folder: manifest, files of rows ──► import ──► MySQL
//!                                                                    └──► read back, compared
//! ```
//!
//! The site stands still meanwhile. An export is rows, table by table, in files of bounded size, each
//! with its number of rows and its SHA-256; see `transfer/folder.rs` for the format. Both directions may
//! be interrupted at any moment and go on where they were.
//!
//! # Places in the log
//!
//! What is moved keeps its numbers, ids and times, but not its places in the log: in the new site every
//! partition has a new log, which begins at 1. Everything that is imported has the place 0, *before the
//! log*. So it is stored as far as any owner can see, it is never what a gateway has missed, and the
//! first message that comes to an imported conversation says of itself that nothing was published there
//! before it. Gateways must be started anew: what they know of the old log means nothing in the new one.
//!
//! # Invariants
//!
//! - Nothing is exported from a store that lacks something its log has, and nothing while a db_proxy may
//!   write to it.
//! - Nothing is imported into databases that hold anything else, and no db_proxy can use them before
//!   everything is there.
//! - An import has succeeded only if what was read back from the databases has the number of rows and the
//!   checksum of every table that the export has written down.
//! - Memory is bounded by a file's size, whatever a table's.

mod error;
mod export;
mod folder;
#[cfg(feature = "mysql")]
mod import;
mod progress;

#[cfg(test)]
#[cfg(feature = "mysql")]
mod tests;

pub use error::MoveError;
pub use export::export;
#[cfg(feature = "mysql")]
pub use import::{import, verify};
pub use progress::{Moved, Phase, Step, Watch};
