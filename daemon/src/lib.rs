//! What every daemon does the same way: from `main` to the exit code, settings, logging, metrics,
//! stopping, accepting connections, TLS, and the links between daemons.
//!
//! Nothing here knows of users, messages or storage: whatever only one daemon needs stays there.
//!
//! ```text
//! run ──► config, logging, admin, ready      one process, from main to exit code
//!  │
//!  ├────► process_limits ◄── accept, metrics what the kernel lets it have
//!  │
//!  ├────► follow                             what follows the settings when they are read again
//!  │        ▼
//!  └────► shutdown ◄── accept ──► places     tasks, and how they end; which clients are let in
//!             ▲          ▲
//!             │          └── http ◄── admin   ports that answer HTTP
//!             ├─────── link ──► tls, backoff authenticated framed connections between daemons
//!             └─────── http_client ──► tls   requests to other systems, signed by webhook_signature
//! ```
//!
//! Read `run` first: it is the life of a process.

pub mod accept;
pub mod admin;
pub mod backoff;
pub mod breaker;
pub mod clock;
pub mod config;
pub mod faults;
pub mod files;
pub mod folder_lock;
pub mod follow;
pub mod http;
pub mod http_client;
pub mod link;
pub mod logging;
pub mod metrics;
pub mod network;
pub mod places;
pub mod process_limits;
pub mod proxy_protocol;
pub mod random;
pub mod rates;
pub mod ready;
pub mod run;
pub mod shutdown;
pub mod ticks;
pub mod tls;
pub mod webhook_signature;

pub use accept::{Acceptor, Doors, Guest};
pub use config::{ClusterConfig, ConfigError, ListenTlsConfig, ProcessConfig, Secret, Settings};
pub use link::{
    CallError, Identity, Link, LinkError, LinkFrame, LinkHandler, LinkKey, LinkOptions, LinkTable,
    Peer, Role,
};
pub use logging::LogFormat;
pub use metrics::Metrics;
pub use network::Network;
pub use ready::Readiness;
pub use run::{BoxError, Context, Running, Serving, StartRefused, run};
pub use shutdown::{DrainTimedOut, Shutdown};
