//! The tables `[cluster]` and `[cluster.tls]`.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

use super::error::ConfigError;
use super::secret::{Secret, check_key, read_secret};
use crate::link::{Identity, LinkKey, LinkTls, Role};

/// The table `[cluster]`: how this daemon proves to the others that it is one of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// The key that all daemons of the cluster share. Better kept in `key_file`.
    pub key: Option<Secret>,
    /// A file that holds the key and that only its owner can read.
    pub key_file: Option<PathBuf>,
    /// This daemon's name: no other daemon of the same role has it. The host's name if empty.
    pub name: String,
    /// Certificates for the links; without them links are authenticated but not encrypted.
    pub tls: Option<ClusterTlsConfig>,
}

/// The table `[cluster.tls]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterTlsConfig {
    /// This daemon's certificate and its chain, in PEM. It must be valid for the DNS name
    /// `<role>.talkhub`, such as `msg_server.talkhub`, for servers and for clients.
    pub cert: PathBuf,
    /// The certificate's key, in PEM.
    pub key: PathBuf,
    /// The authority that has signed the certificates of all daemons of the cluster, in PEM.
    pub ca: PathBuf,
}

impl ClusterConfig {
    /// Checks everything but the files themselves, which are read by [`Self::link_identity`].
    pub fn check(&self) -> Result<(), ConfigError> {
        match (&self.key, &self.key_file) {
            (Some(_), Some(_)) => {
                Err(ConfigError::new("cluster.key", "must not be set beside cluster.key_file"))
            }
            (None, None) => {
                Err(ConfigError::new("cluster.key_file", "must be set (or cluster.key)"))
            }
            (Some(key), None) => check_key("cluster.key", key),
            (None, Some(_)) => Ok(()),
        }
    }

    /// What this daemon shows to the others on its links. `boot` is a number of this start alone,
    /// such as [`Context::boot`](crate::Context).
    pub fn link_identity(&self, role: Role, boot: u64) -> Result<Identity, ConfigError> {
        self.check()?;
        let key = match (&self.key, &self.key_file) {
            (Some(key), _) => key.clone(),
            (None, Some(file)) => read_secret("cluster.key_file", file)?,
            (None, None) => unreachable!("check has refused settings without a key"),
        };
        let tls = match &self.tls {
            Some(tls) => Some(LinkTls::load(&tls.cert, &tls.key, &tls.ca)?),
            None => None,
        };
        let key = LinkKey::new(key.expose().as_bytes());
        Ok(Identity { role, name: self.daemon_name(), boot, key, tls })
    }

    /// The name in the settings, or the host's.
    fn daemon_name(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        match fs::read_to_string("/proc/sys/kernel/hostname") {
            Ok(name) if !name.trim().is_empty() => name.trim().to_owned(),
            _ => "localhost".to_owned(),
        }
    }
}
