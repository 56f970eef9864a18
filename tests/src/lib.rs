//! Whole clusters, in processes of their own, for tests that see only what a client sees.
//!
//! ```text
//! cluster ──► programs   builds the programs once, and gives each cluster links of its own
//!    │  └───► ports      a range that nobody uses
//!    ▼
//! crowd                  many people who talk without a pause
//!    │
//!    ▼
//! device                 one client on one connection, as the original ones behave
//! history                everything that was said and seen, and whether it fits together
//! random                 choices that can be made again from a seed
//! ```
//!
//! # Invariants
//!
//! - What a test starts ends with it, however it ends.
//! - A test that fails says where its random choices began, and shows the end of the cluster's log.

mod cluster;
mod crowd;
mod device;
mod history;
mod ports;
mod programs;
mod random;

use std::time::Duration;

pub use cluster::{Cluster, Ended, Options, run_program, snapshot};
pub use crowd::{Crowd, Summary};
pub use device::Device;
pub use history::{History, Said};
pub use ports::free_base;
pub use programs::Programs;
pub use random::Random;

/// Long enough for a loaded machine: a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The password of the demo users.
pub const PASSWORD: &str = "talkhub-demo";
