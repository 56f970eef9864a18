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

mod deserializer;
mod load;
mod tree;

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroize;

use crate::link::{Identity, LinkKey, LinkTls, Role};

pub use load::{Loaded, Source, Start, load, parse};

/// The shortest key that links accept: 16 random bytes are beyond guessing, a word is not.
const KEY_LEN_MIN: usize = 16;

/// The settings of one kind of daemon.
pub trait Settings: DeserializeOwned + Clone + Send + Sync + 'static {
    /// The daemon's name, as in `msg_server`: names its file, its logs and its metrics.
    const NAME: &'static str;

    /// Checks what the types cannot. An error names the key, with its tables, and what is allowed.
    fn check(&self) -> Result<(), ConfigError>;

    /// The table `[process]`.
    fn process(&self) -> &ProcessConfig;
}

/// What is wrong with the settings: restarting will not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// File and line, variable or flag.
    place: Option<String>,
    key: Option<String>,
    problem: String,
}

impl ConfigError {
    /// `key` is written as in the file, after its tables, as in `process.log_level`; `allowed` says
    /// what it may be.
    pub fn new(key: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { place: None, key: Some(key.into()), problem: allowed.into() }
    }

    /// Something that is wrong with the settings as a whole, or with how they were given.
    pub(crate) fn general(place: Option<String>, problem: impl Into<String>) -> Self {
        Self { place, key: None, problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "key `{key}`: ")?;
        }
        // One line, whatever the problem was made of.
        let mut lines = self.problem.lines().map(str::trim).filter(|line| !line.is_empty());
        f.write_str(lines.next().unwrap_or("is wrong"))?;
        lines.try_for_each(|line| write!(f, "; {line}"))
    }
}

/// A string that is never shown: a key, a password, a URL with a password in it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret that did not come from the settings.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// The table `[process]`: what has nothing to do with the daemon's work.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessConfig {
    /// A level, or directives as in `info,daemon::link=debug`.
    pub log_level: String,
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; nowhere if not set. Anybody who
    /// reaches the address can read them.
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
        crate::logging::check(&self.log_level)
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
            (None, Some(file)) => read_key(file)?,
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
    pub fn daemon_name(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        match fs::read_to_string("/proc/sys/kernel/hostname") {
            Ok(name) if !name.trim().is_empty() => name.trim().to_owned(),
            _ => "localhost".to_owned(),
        }
    }
}

fn check_key(named: &str, key: &Secret) -> Result<(), ConfigError> {
    if key.expose().len() < KEY_LEN_MIN {
        return Err(ConfigError::new(named, format!("must be at least {KEY_LEN_MIN} bytes long")));
    }
    Ok(())
}

fn read_key(file: &Path) -> Result<Secret, ConfigError> {
    read_secret("cluster.key_file", file)
}

/// Reads a secret from a file that nobody but its owner may read; `named` is the setting that names it.
/// Refused if it is shorter than a cluster's key may be.
pub fn read_secret(named: &str, file: &Path) -> Result<Secret, ConfigError> {
    let refuse =
        |problem: String| ConfigError::new(named, format!("{}: {problem}", file.display()));

    let mode = fs::metadata(file).map_err(|error| refuse(error.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(refuse(format!(
            "must be for its owner only (mode 0600), is {:04o}",
            mode & 0o7777
        )));
    }
    let mut text = fs::read_to_string(file).map_err(|error| refuse(error.to_string()))?;
    let key = Secret::new(text.trim());
    text.zeroize();
    check_key(named, &key)?;
    Ok(key)
}
