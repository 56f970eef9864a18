//! What the settings of every daemon have.

use serde::de::DeserializeOwned;

use super::error::ConfigError;
use super::process::ProcessConfig;

/// The settings of one kind of daemon.
pub trait Settings: DeserializeOwned + Clone + Send + Sync + 'static {
    /// The daemon's name, as in `msg_server`: names its file, its logs and its metrics.
    const NAME: &'static str;

    /// Checks what the types cannot. An error names the key, with its tables, and what is allowed.
    fn check(&self) -> Result<(), ConfigError>;

    /// The table `[process]`.
    fn process(&self) -> &ProcessConfig;
}
