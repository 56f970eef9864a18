//! The table `[process]`.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;
use crate::logging::{self, LogFormat};

/// The table `[process]`: what has nothing to do with the daemon's work.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessConfig {
    /// A level, or directives as in `info,daemon::link=debug`.
    pub log_level: String,
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; nowhere if not set. Everyone who can
    /// reach the address can read them.
    pub metrics_addr: Option<SocketAddr>,
    /// Lets `metrics_addr` be reached from other machines.
    pub allow_remote_metrics: bool,
    /// How long work in flight may take when the daemon stops.
    pub drain_limit_s: u64,
    /// Whether a crash may leave a core file, which holds keys and messages.
    pub core_dumps: bool,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
            metrics_addr: None,
            allow_remote_metrics: false,
            drain_limit_s: 10,
            core_dumps: false,
        }
    }
}

impl ProcessConfig {
    /// How long work in flight may take when the daemon stops.
    pub fn drain_limit(&self) -> Duration {
        Duration::from_secs(self.drain_limit_s)
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        logging::check(&self.log_level)
            .map_err(|problem| ConfigError::new("process.log_level", problem))?;
        if let Some(addr) = self.metrics_addr
            && !addr.ip().to_canonical().is_loopback()
            && !self.allow_remote_metrics
        {
            let allowed = "must be true if process.metrics_addr can be reached from other machines";
            return Err(ConfigError::new("process.allow_remote_metrics", allowed));
        }
        if !(1..=3600).contains(&self.drain_limit_s) {
            return Err(ConfigError::new("process.drain_limit_s", "must be 1 to 3600"));
        }
        Ok(())
    }
}
