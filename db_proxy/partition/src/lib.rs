//! The owner of a partition: one thread that admits, appends, folds, answers and publishes.
//!
//! ```text
//! requests ──► admit ──► append + flush ──► fold ──► answer, publish ──► (store worker)
//!                │ a fact is missing                      in log order
//!                └──► looked up elsewhere; the conversation's later requests wait behind it
//! ```
//!
//! Group commit: whatever arrives while one flush runs goes into the next. There is no timer, but for
//! adds of members: of those that come to a group within a second the first is appended at once, and
//! the others are held and appended as one, since all members are told of each record.
//!
//! # Invariants
//!
//! - Nothing is answered or published before its record is durable and folded.
//! - Changes of one conversation are admitted in the order in which they came in.
//! - Replayed records are neither answered nor published.
//!
//! # When it is full
//!
//! A request that finds the queue, the waiting room, the unstored tail or the log full is answered
//! "retry" at once: it was never appended.
//!
//! # When the ownership ends
//!
//! Requests that still wait, and those that come later, are answered "moved": the gateway asks the
//! next owner, as for a repeat.

mod clock;
pub mod consumers;
mod ending;
#[cfg(feature = "faults")]
mod faults;
pub mod followers;
mod handle;
pub mod last_clock;
mod look_up;
pub mod member_changes;
pub mod messages;
pub mod metrics;
pub mod open;
mod owner;
pub mod publisher;
mod queue;
mod repeats;
mod request;
pub mod stall;
pub mod state;
pub mod store_writer;
mod submit_queues;
#[cfg(any(test, feature = "testing"))]
#[expect(
    missing_docs,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::new_without_default,
    reason = "only tests use it, and its names say what it is"
)]
pub mod test;
#[cfg(test)]
mod tests;
mod worker;

pub use ending::{Ended, Ending};
pub use handle::Partition;
pub use owner::{Limits, Owner, STALLED_AFTER};
pub use request::{Outcome, Reply};
pub use worker::held_adds::HOLD;
