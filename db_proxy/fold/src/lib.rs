//! From the records of one partition's log to message numbers and all that follows from them.
//!
//! ```text
//! change ──► admission ──► record, appended to the log ──► effects ──► what it came to
//!               reads the state of the partition              changes it
//! ```
//!
//! - [`effects`]: the fold itself. The one place where a message gets its number.
//! - [`window`]: which messages have been seen lately, so that none is counted twice.
//! - [`conversation`]: one conversation's head, members, marks and newest messages.
//! - [`publications`]: which conversations changed lately, for gateways that missed it.
//! - [`admission`]: whether a change may become a record.
//! - [`rows`]: what the state is loaded from, and what is written back.
//!
//! Pure: no clock, no IO, no task. What is computed depends on the records alone, so that every replay
//! and every owner comes to the same.

pub mod admission;
pub mod conversation;
pub mod effects;
pub mod faults;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
pub mod publications;
pub mod rows;
pub mod window;

pub use effects::{Effect, Fold};
