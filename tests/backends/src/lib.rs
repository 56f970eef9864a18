//! Private, real servers for tests: MariaDB, Redis and Apache Kafka.
//!
//! ```text
//! mariadb   redis   kafka            what the server needs to start, and what tests ask of it
//!    └────────┴───────┼──► process   one child process: killed, paused, resumed, started again
//!                     ├──► folder    where it keeps its files
//!                     ├──► ports     where it listens
//!                     └──► template  what takes long to make, kept for the next start
//! ```
//!
//! `start` gives a test a server of its own, that it may kill; `shared` gives all tests of one
//! process the same one, that no test may harm. Everything here blocks the calling thread.
//!
//! Two more things that tests of several crates need: [`skip`] says that a machine lacks something, and
//! [`program()`] runs one of our programs as if the tests had been told nothing.
//!
//! # Invariants
//!
//! - What a test starts ends with it, however it ends: the kernel kills a server when the process
//!   that started it is gone.
//! - A server listens on 127.0.0.1 only, on a port that no other server here takes while its value
//!   lives, even while it is down.
//! - Files of a server go with its value. Those that a killed test or a shared server left behind go
//!   when another process starts its first server.

mod folder;
mod kafka;
mod mariadb;
mod ports;
mod process;
mod program;
mod redis;
mod skipping;
mod template;

use std::time::Duration;

pub use kafka::{Kafka, PartitionState, Resource, SecuredKafka};
pub use mariadb::MariaDb;
pub use program::program;
pub use redis::Redis;
pub use skipping::skip;

/// Long enough for a loaded machine: a server that needs longer to start or to end has failed.
pub const PATIENCE: Duration = Duration::from_mins(1);
