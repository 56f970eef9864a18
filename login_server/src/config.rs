//! The settings of a login server.

use std::net::SocketAddr;

use daemon::config::check_http;
use daemon::{ClusterConfig, ConfigError, ListenTlsConfig, Network, ProcessConfig, Settings};
use serde::Deserialize;

/// The settings of one login server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients ask without TLS. Only on the machine itself, unless `allow_plain` is set.
    pub http_addr: Option<SocketAddr>,
    /// Lets `http_addr` be reached from other machines. An attacker in between can then send clients to
    /// a false gateway. Old clients know only plain HTTP.
    #[serde(default)]
    pub allow_plain: bool,
    /// Where clients ask with TLS.
    pub tls: Option<ListenTlsConfig>,
    /// Where gateways connect.
    pub link_addr: SocketAddr,
    /// Connections of clients held at once, on each of the two ports. Beyond that number, the one that
    /// has sent nothing for longest makes way. Each costs up to 24 KiB.
    #[serde(default = "default_connections_max")]
    pub connections_max: usize,
    /// The same from one address (IPv6: one /64) other than loopback; 0 is no limit.
    #[serde(default = "default_connections_per_ip_max")]
    pub connections_per_ip_max: usize,
    /// TCP balancers in front of both ports, as addresses and networks: what comes from them begins with
    /// a PROXY header (version 1 or 2), which says where the client is.
    #[serde(default)]
    pub proxies: Vec<Network>,
    /// The URL of the picture store, with a slash at its end. Taken up by a reload.
    #[serde(default)]
    pub msfs_prior: String,
    /// Another one; the same if empty. Taken up by a reload.
    #[serde(default)]
    pub msfs_backup: String,
    /// The URL of the list that clients show as "discovery". Taken up by a reload.
    #[serde(default)]
    pub discovery: String,
    /// What has nothing to do with the daemon's work.
    #[serde(default)]
    pub process: ProcessConfig,
    /// How the daemons of the cluster know each other.
    #[serde(default)]
    pub cluster: ClusterConfig,
}

fn default_connections_max() -> usize {
    4096
}

fn default_connections_per_ip_max() -> usize {
    1024
}

impl Settings for Config {
    const NAME: &'static str = "login_server";

    fn check(&self) -> Result<(), ConfigError> {
        check_http(self.http_addr, self.tls.as_ref(), self.allow_plain)?;
        if !(1..=1_000_000).contains(&self.connections_max) {
            return Err(ConfigError::new("connections_max", "must be 1 to 1000000"));
        }
        // Clients put a file's name behind it as it is.
        for (key, url) in [("msfs_prior", &self.msfs_prior), ("msfs_backup", &self.msfs_backup)] {
            let fits = url.is_empty() || is_url(url) && url.ends_with('/');
            if !fits {
                return Err(ConfigError::new(
                    key,
                    "must be a URL (http or https) that ends with /",
                ));
            }
        }
        if !self.discovery.is_empty() && !is_url(&self.discovery) {
            return Err(ConfigError::new("discovery", "must be a URL (http or https)"));
        }
        self.cluster.check()
    }

    fn process(&self) -> &ProcessConfig {
        &self.process
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

#[cfg(test)]
mod tests {
    use daemon::config::parse;

    use super::*;

    const CLUSTER: &str = "[cluster]\nkey = 'sixteen bytes, at least'\n";

    fn refused(top: &str) -> String {
        let text = format!("link_addr = '127.0.0.1:8100'\n{top}\n{CLUSTER}");
        parse::<Config>(&text).expect_err("settings that are wrong").to_string()
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        assert!(refused("").contains("`http_addr`"));
        assert!(refused("http_addr = '0.0.0.0:8080'").contains("`allow_plain`"));
        let with = |line: &str| refused(&format!("http_addr = '127.0.0.1:8080'\n{line}"));
        assert!(with("connections_max = 0").contains("`connections_max`"));
        assert!(with("msfs_prior = 'http://pictures'").contains("`msfs_prior`"));
        assert!(with("msfs_backup = 'pictures/'").contains("`msfs_backup`"));
        assert!(with("discovery = 'somewhere'").contains("`discovery`"));
        assert!(with("proxies = ['balancer']").contains("must be an address or a network"));
        assert!(with("unknown = 1").contains("unknown"));
    }

    #[test]
    fn plain_http_beyond_this_machine_must_be_asked_for() {
        let text = format!(
            "link_addr = '127.0.0.1:8100'\nhttp_addr = '0.0.0.0:8080'\nallow_plain = true\n{CLUSTER}"
        );
        let config: Config = parse(&text).unwrap();
        assert_eq!(config.connections_max, 4096);
    }
}
