//! The gateway: the daemon that clients connect to.
//!
//! A client holds one TCP connection to one gateway. The gateway checks who the client is, passes
//! its requests on, and delivers what others send it. It stores nothing: a message is handed to
//! storage, and its sender is told "stored" only after storage has said so.
//!
//! # What is where
//!
//! | Folder | In it |
//! |---|---|
//! | [`client`] | one client's connection, from accept to close |
//! | [`sessions`] | the clients that are logged in here |
//! | [`commands`] | what a client may ask, how much of it, and what it is answered |
//! | [`submission`] | a message on its way from its sender to storage |
//! | [`delivery`] | messages on their way from the log to the sessions here |
//! | [`updates`] | read marks, presence, signatures and pictures |
//! | [`cluster`] | the links to other daemons |
//!
//! # How the modules know each other
//!
//! ```text
//! listener ──► connection ──► client_commands ──┬──► routing, message_rules      what a client may do
//!                                               ├──► terms                       what storage is asked
//!                                               ├──► allowances, costs, limits   and how much of it
//!                                               └──► login, answers ──┐
//!                                                                     ▼
//! links ──────► ownership ───────────────────────────────────────► gateway ──► marks, news
//! what others   what follows when                                     │
//! say           a partition moves                                     ▼
//!                                                            delivery, presence   what clients hear
//!                                                                     │           of others
//!                                                                     ▼
//! outbox ◄── session ◄── registry ◄──────────────────────────────── parts ──► hub, unanswered, db_client
//! ```
//!
//! Arrows lead one way: no module knows one that knows it, directly or through others. What needs
//! several parts is given [`Parts`](parts::Parts); what needs delivery, presence, marks or news as well
//! is given the [`Gateway`](gateway::Gateway).
//!
//! Start reading at [`client::connection`], then [`commands::client_commands`]; for the way back at
//! [`delivery`]; for clusters of several db_proxies at `cluster::ownership`.
//!
//! # Invariants
//!
//! - Nothing is written to disk.
//! - "Stored" is written to a client only after storage has said so.
//! - Who a client is, is what its login said, never what its frames say.
//! - Nothing but login, heartbeat and hello is served before the login is accepted, and the first
//!   push comes after its answer.
//! - A client that does not read loses its connection. It costs no other client anything.

mod client;
mod cluster;
mod commands;
mod config;
mod delivery;
mod drain;
mod gateway;
mod metrics;
mod parts;
mod sessions;
mod start;
mod submission;
mod timers;
mod updates;

#[cfg(test)]
mod tests;

pub use config::{Config, LimitsConfig};
pub use start::serve;
