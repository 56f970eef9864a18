//! The settings of an API server.

use std::net::SocketAddr;

use daemon::config::check_http;
use daemon::{ClusterConfig, ConfigError, ListenTlsConfig, Network, ProcessConfig, Settings};
use db_client::hooks::{self, HookSettings};
use serde::Deserialize;

use crate::webhooks::WebhooksConfig;

/// The settings of one API server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where programs connect without TLS. Only on the machine itself, unless `allow_plain` is set.
    pub http_addr: Option<SocketAddr>,
    /// Lets `http_addr` be reached from other machines. Everybody on the way then reads the keys.
    #[serde(default)]
    pub allow_plain: bool,
    /// Where programs connect with TLS.
    pub tls: Option<ListenTlsConfig>,
    /// The db_proxies, as `host:port`. Taken up by a reload.
    pub db_proxies: Vec<String>,
    /// Connections held at once, on each of the two ports. Beyond that number, the one that has sent
    /// nothing for longest makes way.
    #[serde(default = "default_connections_max")]
    pub connections_max: usize,
    /// The same from one address (IPv6: one /64) other than loopback; 0 is no limit.
    #[serde(default)]
    pub connections_per_ip_max: usize,
    /// TCP balancers in front of both ports, as addresses and networks: what comes from them begins with
    /// a PROXY header (version 1 or 2), which says where the program is.
    #[serde(default)]
    pub proxies: Vec<Network>,
    /// Requests that are answered at once. Beyond, programs are told to try again.
    #[serde(default = "default_requests_max")]
    pub requests_max: usize,
    /// Requests a second of one key in the long run, and as many at once after a pause.
    #[serde(default = "default_requests_per_s")]
    pub requests_per_s: u32,
    /// What other systems are told by webhooks.
    #[serde(default)]
    pub webhooks: WebhooksConfig,
    /// Programs that are asked about messages before they are admitted. Taken up by a reload.
    #[serde(default)]
    pub hooks: Vec<HookSettings>,
    /// What has nothing to do with the daemon's work.
    #[serde(default)]
    pub process: ProcessConfig,
    /// How the daemons of the cluster know each other.
    #[serde(default)]
    pub cluster: ClusterConfig,
}

fn default_connections_max() -> usize {
    1_024
}

fn default_requests_max() -> usize {
    1_024
}

fn default_requests_per_s() -> u32 {
    1_000
}

impl Settings for Config {
    const NAME: &'static str = "api_server";

    fn check(&self) -> Result<(), ConfigError> {
        check_http(self.http_addr, self.tls.as_ref(), self.allow_plain)?;
        if self.db_proxies.is_empty() {
            return Err(ConfigError::new("db_proxies", "must name at least one"));
        }
        for (key, value) in
            [("connections_max", self.connections_max), ("requests_max", self.requests_max)]
        {
            if !(1..=1_000_000).contains(&value) {
                return Err(ConfigError::new(key, "must be 1 to 1000000"));
            }
        }
        if !(1..=1_000_000).contains(&self.requests_per_s) {
            return Err(ConfigError::new("requests_per_s", "must be 1 to 1000000"));
        }
        hooks::check(&self.hooks)?;
        self.cluster.check()
    }

    fn process(&self) -> &ProcessConfig {
        &self.process
    }
}

#[cfg(test)]
mod tests {
    use daemon::config::parse;

    use super::*;

    const CLUSTER: &str = "[cluster]\nkey = 'sixteen bytes, at least'\n";

    fn refused(top: &str) -> String {
        let text = format!("db_proxies = ['127.0.0.1:8120']\n{top}\n{CLUSTER}");
        parse::<Config>(&text).expect_err("settings that are wrong").to_string()
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        assert!(refused("").contains("`http_addr`"));
        assert!(refused("http_addr = '0.0.0.0:8082'").contains("`allow_plain`"));
        let with = |line: &str| refused(&format!("http_addr = '127.0.0.1:8082'\n{line}"));
        assert!(with("connections_max = 0").contains("`connections_max`"));
        assert!(with("requests_max = 1000001").contains("`requests_max`"));
        assert!(with("requests_per_s = 0").contains("`requests_per_s`"));
        assert!(with("unknown = 1").contains("unknown"));
        let none = format!("http_addr = '127.0.0.1:8082'\ndb_proxies = []\n{CLUSTER}");
        assert!(parse::<Config>(&none).unwrap_err().to_string().contains("`db_proxies`"));
    }
}
