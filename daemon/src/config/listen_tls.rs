//! Where clients connect with TLS: the table `[tls]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;

/// The table `[tls]` of a daemon that clients connect to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenTlsConfig {
    /// Where clients connect with TLS.
    pub listen: SocketAddr,
    /// The certificate and its chain, in PEM.
    pub cert: PathBuf,
    /// The certificate's key, in PEM.
    pub key: PathBuf,
}

/// Checks where a daemon listens for HTTP: somewhere, and without TLS only on this machine, unless that was asked
/// for. The settings are called `http_addr`, `tls` and `allow_plain`.
pub fn check_http(
    http_addr: Option<SocketAddr>,
    tls: Option<&ListenTlsConfig>,
    allow_plain: bool,
) -> Result<(), ConfigError> {
    let Some(addr) = http_addr else {
        let problem = "must be set (or the table tls)";
        return if tls.is_none() { Err(ConfigError::new("http_addr", problem)) } else { Ok(()) };
    };
    if !addr.ip().is_loopback() && !allow_plain {
        let problem = "must be true if http_addr can be reached from other machines";
        return Err(ConfigError::new("allow_plain", problem));
    }
    Ok(())
}
