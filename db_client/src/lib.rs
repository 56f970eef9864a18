//! How a daemon uses the db_proxies: which of them owns what, how to ask it, and how messages reach it once
//! and in order, whatever moves.
//!
//! ```text
//! links ──► claims ──► owners ──► merge       questions, asked again after a move
//!             │
//!             ├──────► sends                  messages, handed over again after a move
//!             └──────► consumer               the log, from where a consumer of that name was
//! ```
//!
//! - [`client`]: all of it together, for a daemon without clients of its own.
//! - [`consumer`]: every record of the log, numbered and in order, for a daemon that follows it.
//! - [`claims`]: which link is used for which partition. Pure.
//! - [`partitions`]: how many there are, and the newest epoch known of each.
//! - [`owners`]: questions to the owners, and which answers count.
//! - [`merge`]: several owners' answers made into one. Pure.
//! - [`sends`]: unanswered messages, in order.
//! - [`hooks`]: programs that are asked about messages before they are handed over.

pub mod claims;
pub mod client;
pub mod consumer;
pub mod hooks;
pub mod merge;
pub mod owners;
pub mod partitions;
pub mod sends;
#[cfg(test)]
mod test;

pub use claims::{Claims, Move, Owner};
pub use client::{DbClient, NewMessage, SendError, Sent};
pub use consumer::{Batch, Consumer, Reading, Record};
pub use owners::{Asked, Asker, Joined, Owners};
pub use partitions::Partitions;
pub use sends::Sends;
