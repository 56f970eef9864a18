//! Where clients connect with TLS: the table `[tls]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

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
