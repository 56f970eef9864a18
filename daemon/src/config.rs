//! A daemon's settings: where they come from, and the tables that every daemon has.
//!
//! Settings are a TOML file, then the environment, then `--set` flags, each on top of the one
//! before. What is unknown is refused, and what is wrong is named with its place, in one line:
//!
//! ```text
//! msg_server: /etc/talkhub/msg_server.toml:12: key `clients_max`: must be at least 1
//! ```
//!
//! In the environment, the key `log_level` of the table `process` is `TALKHUB_PROCESS__LOG_LEVEL`;
//! an empty value counts as not set, and a list may be written `["a", "b"]` or `a,b`.
//!
//! # Invariants
//!
//! - No error and no `Debug` output shows a [`Secret`]; errors never repeat a value.
//! - Settings that reach a daemon have passed [`Settings::check`].

mod cluster;
mod deserializer;
mod error;
mod flags;
mod listen_tls;
mod load;
mod process;
mod secret;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
mod tree;

pub use cluster::{ClusterConfig, ClusterTlsConfig, read_text_key};
pub use error::ConfigError;
pub use flags::{Flags, NoCommand};
pub use listen_tls::{ListenTlsConfig, check_http};
pub use load::{Loaded, Source, parse};
pub use process::ProcessConfig;
pub use secret::{Secret, read_secret};
pub use settings::Settings;
