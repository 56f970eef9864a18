//! Webhooks: other systems are told of what happens, by HTTP requests that are signed (Standard Webhooks
//! 1.0.0).
//!
//! Each webhook is a consumer of the log under a name of its own. If there are several api_servers, each
//! partition serves one of them, and another one when that is gone.
//!
//! ```text
//! fleet ──► worker ──► lanes      which event is next: those of one conversation one after the other
//!             │  ├───► pace       how many at once, and when none
//!             │  ├───► event      from records of the log to bodies
//!             │  └───► attempt ──► schedule   what an answer means, and when to try again
//!             └──────► reports    what a db_proxy must know: events given up, endpoints that are gone
//! ```
//!
//! # Invariants
//!
//! - At least once: a batch of records is handled when each event of it was answered with 2xx, or was given up
//!   and is listed by a db_proxy.
//! - The events of one conversation are sent in the order of its log: the next one when the one before was
//!   answered or given up.
//! - An event has the same id and the same body on every try, from every api_server. (A gap has the same id, and says
//!   when this api_server noticed it.)
//! - An endpoint that does not answer holds up nothing but its own place in the log.
//!
//! # What bounds it
//!
//! A site has at most 32 webhooks. Of each partition a webhook holds the events of at most
//! [`proto::cluster::RECORDS_UNHANDLED_MAX`] batches of 512 records and about 256 KiB, or of more that are small
//! ([`proto::cluster::SMALL_RECORDS_UNHANDLED_MAX`]). When one event of them waits, the others go on, and then everything
//! behind them waits for it: until it is delivered, or given up by [`schedule`]. Requests at once: [`pace::AT_ONCE_MAX`] for each webhook.

mod attempt;
mod endpoint;
mod event;
mod fleet;
mod lanes;
mod metrics;
mod pace;
mod reports;
mod schedule;
mod worker;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use event::{GapData, GroupData, MembersData, MessageData};
pub(crate) use fleet::Fleet;
pub use fleet::WebhooksConfig;
