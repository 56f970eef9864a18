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
pub mod admission;
pub mod cache;
pub mod changes;
pub mod commands;
mod config;
pub mod conversation;
pub mod fold;
mod folder_lock;
pub mod following;
pub mod fuzzing;
pub mod inspecting;
pub mod kicks;
pub mod log;
pub mod login;
pub mod metrics;
pub mod moving;
pub mod names;
mod owning;
pub mod partition;
pub mod partitions;
pub mod passwords;
pub mod publish;
pub mod pulse;
pub mod queries;
mod repeats;
pub mod requests;
mod serve;
#[cfg(feature = "kafka")]
mod sharing;
pub mod state;
pub mod store;
pub mod storing;
#[cfg(test)]
mod testing;
pub mod tokens;
pub mod window;
mod wiring;
mod witness;

pub use config::{
    CacheConfig, Config, DbRole, KafkaConfig, LimitsConfig, LogConfig, PARTITIONS_MAX, StoreConfig,
};
pub use serve::run;
pub use wiring::migrate;
