//! Whole clusters, in processes of their own, for tests that see only what a client sees.
//!
//! ```text
//! cluster ──► programs   builds the programs once, and gives each cluster links of its own
//!    │  └───► ports      a range that is not in use
//!    ▼
//! crowd                  many people who talk without a pause
//!    │
//!    ▼
//! api                    a program that uses the HTTP API
//! receiver               an endpoint of webhooks, or a hook, which fails as a test says
//! device                 one client on one connection, as the original ones behave
//! load                   how much a cluster takes, for the program `talkhub-load`
//! history                everything that was said and seen, and whether it fits together
//! random                 choices that can be made again from a seed
//! ```
//!
//! # Invariants
//!
//! - What a test starts ends with it, however it ends.
//! - A test that fails says where its random choices began, and shows the end of the cluster's log.

mod api;
mod cluster;
mod crowd;
mod device;
pub mod fault;
pub mod history;
pub mod load;
mod namespace;
mod ports;
mod probe;
mod programs;
mod random;
mod receiver;
mod site;
mod strace;
mod volume;
mod wire;

use std::time::Duration;

pub use api::{Answer, Program};
pub use cluster::{Cluster, Ended, KafkaLog, Options, run_program, snapshot};
pub use crowd::{Crowd, CrowdOptions, Nemesis, Summary};
pub use device::Device;
pub use namespace::Namespace;
pub use ports::free_base;
pub use probe::Probe;
pub use programs::Programs;
pub use random::Random;
pub use receiver::{Got, Receiver, Reply, verify};
pub use site::{Site, SiteOptions, sum_of, wait_until};
pub use strace::{Strace, most_calls};
pub use volume::Volume;
pub use wire::{Ends, Manner, Wires};

/// Long enough for a loaded machine: a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The password of the demo users.
pub const PASSWORD: &str = "talkhub-demo";
