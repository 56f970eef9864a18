//! Storage: a durable log in front of the store, and the owner that folds one into the other.
//!
//! ```text
//! gateways ──► links ──► partition ──► log             one thread: admit, append, fold
//!                │             │ └─────► publisher       through a route_server, or directly
//!                │             └─ state ◄── store_writer  batches, behind the log
//!                │                  └──► followers       to gateways, a second behind
//!                └──► commands, logins, admin ──► store
//! ```
//!
//! What is pure is in the crate `fold`. The rest moves its results around.

mod admin;
pub mod cli;
mod commands;
mod config;
#[cfg(feature = "kafka")]
mod group;
mod links;
mod log_tools;
mod metrics;
mod ownership;
mod partitions;
mod serve;
mod site;
pub mod transfer;

pub use config::{Config, PARTITIONS_MAX};
pub use serve::run;
pub use site::migrate;
