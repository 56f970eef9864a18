//! Storage: a durable log in front of the store, and the owner that folds one into the other.
//!
//! ```text
//! gateways ──► requests ──► partition ──► log          one thread: admit, append, fold
//!                 │             │ └──────► publish      through a route_server, or directly
//!                 │             └─ state ◄── storing    batches, behind the log
//!                 │                  └──► following      to gateways, a second behind
//!                 └──► queries, login, admin ──► store
//! ```
//!
//! Pure: `fold`, `window`, `conversation`, `changes`, `admission`. The rest moves their results around.

pub mod admin;
pub mod commands;
mod config;
pub mod inspecting;
pub mod metrics;
mod owning;
pub mod partitions;
pub mod queries;
pub mod requests;
mod serve;
#[cfg(feature = "kafka")]
mod sharing;
pub mod transfer;
mod wiring;

pub use config::{
    CacheConfig, Config, DbRole, KafkaConfig, LimitsConfig, LogConfig, PARTITIONS_MAX, StoreConfig,
};
pub use serve::run;
pub use wiring::migrate;
