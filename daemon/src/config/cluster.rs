//! The tables `[cluster]` and `[cluster.tls]`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::ConfigError;
use super::secret::{Secret, check_key, read_secret};
use crate::link::{Identity, LinkKey, LinkTls, Role};

/// Bytes of the key with which clients encrypt texts (AES-256).
const TEXT_KEY_LEN: usize = 32;

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
    /// A file that holds the key with which the clients of this site encrypt texts (32 ASCII characters) and
    /// that only its owner can read. Without it, the key of the original clients.
    pub text_key_file: Option<PathBuf>,
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

/// Reads the key with which clients encrypt texts from a file that only its owner may read; `named` is the
/// setting that names the file.
pub fn read_text_key(named: &str, file: &Path) -> Result<[u8; TEXT_KEY_LEN], ConfigError> {
    let key = read_secret(named, file)?;
    let key = key.expose();
    let bytes = key.as_bytes().as_array().filter(|_| key.is_ascii()).copied();
    bytes.ok_or_else(|| ConfigError::new(named, "must hold a key of 32 ASCII characters"))
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

    /// The key with which the clients of this site encrypt texts; `None` if it is that of the original clients.
    pub fn text_key(&self) -> Result<Option<[u8; TEXT_KEY_LEN]>, ConfigError> {
        let read = |file: &PathBuf| read_text_key("cluster.text_key_file", file);
        self.text_key_file.as_ref().map(read).transpose()
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
