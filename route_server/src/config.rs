//! The settings of a replica.

use std::net::SocketAddr;

use daemon::{ClusterConfig, ConfigError, ProcessConfig, Settings};
use serde::Deserialize;

/// The settings of one replica.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where gateways and db_proxies connect.
    pub link_addr: SocketAddr,
    /// What has nothing to do with the daemon's work.
    #[serde(default)]
    pub process: ProcessConfig,
    /// How the daemons of the cluster know each other.
    #[serde(default)]
    pub cluster: ClusterConfig,
}

impl Settings for Config {
    const NAME: &'static str = "route_server";

    fn check(&self) -> Result<(), ConfigError> {
        self.cluster.check()
    }

    fn process(&self) -> &ProcessConfig {
        &self.process
    }
}
