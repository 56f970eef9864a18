//! How a daemon uses the db_proxies: which of them owns what, how to ask it, and how messages reach it once
//! and in order, whatever moves.
//!
//! ```text
//! links ──► claims ──► owners ──► routing, merge       questions, asked again after a move
//!             │
//!             └──────► sends                           messages, handed over again after a move
//! ```
//!
//! - [`client`]: all of it together, for a daemon without clients of its own.
//! - [`claims`]: which link is used for which partition. Pure.
//! - [`partitions`]: how many there are, and the newest epoch known of each.
//! - [`owners`]: questions to the owners, and which answers count.
//! - [`routing`]: whom a client's request is asked of, and whether it may be asked twice. Pure.
//! - [`merge`]: several owners' answers made into one. Pure.
//! - [`sends`]: unanswered messages, in order.

pub mod claims;
pub mod client;
pub mod merge;
pub mod owners;
pub mod partitions;
pub mod routing;
pub mod sends;
#[cfg(test)]
mod test;

pub use claims::{Claims, Move, Owner};
pub use client::{DbClient, NewMessage, SendError, Sent};
pub use owners::{Asked, Asker, Joined, Owners};
pub use partitions::Partitions;
pub use sends::Sends;
