//! The settings of a db_proxy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use daemon::{ClusterConfig, ConfigError, ProcessConfig, Secret, Settings};
use serde::Deserialize;

use crate::cache::redis::RedisOptions;
use crate::partition::Limits;
use crate::store::mysql::MySqlOptions;

/// What an operator may write.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where gateways and administrators connect.
    pub link_addr: SocketAddr,
    /// The folder of log and store. Made if it does not exist; used by one process at a time.
    pub data_dir: PathBuf,
    /// Where the route_servers are: `ip:port`, or `name:port` resolved again every 10 s.
    pub route_servers: Vec<String>,
    /// Bounds.
    pub limits: LimitsConfig,
    /// The log in `data_dir`.
    pub log: LogConfig,
    /// Where everything is stored for good.
    pub store: StoreConfig,
    /// What makes things faster.
    pub cache: CacheConfig,
    /// Logging, metrics, drain.
    pub process: ProcessConfig,
    /// This daemon's place in the cluster.
    pub cluster: ClusterConfig,
}

/// The table `[limits]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_field_names, reason = "a bound says so")]
pub struct LimitsConfig {
    /// Changes that wait for the log. Beyond, the sender is told to try again.
    pub queue_max: usize,
    /// Changes that wait for a look into the store.
    pub waiting_max: usize,
    /// Mebibytes that the store may be behind the log before senders are told to try again.
    pub unstored_mib_max: usize,
    /// Conversations kept in memory.
    pub conversations_max: usize,
}

/// The table `[log]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Mebibytes of a segment; fixed when the log is made.
    pub segment_mib: u64,
    /// Empty segments kept ready. A full disk shows when these are used up.
    pub spare_segments: usize,
    /// Mebibytes of stored records that are kept, to recognise resends after a restart.
    pub keep_mib: u64,
}

/// The table `[store]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Databases for conversations, as in `mysql://user:password@host:3306/database`. None: an
    /// embedded store in `data_dir`. With several, partition `p` is in number `p % length`, for ever.
    pub mysql: Vec<Secret>,
    /// A database of its own for users, departments and device tokens; in the first of `mysql` if not
    /// set.
    pub mysql_logins: Option<Secret>,
    /// Authorities, in PEM: every connection is TLS, and the servers' certificates are theirs.
    pub mysql_ca: Option<PathBuf>,
    /// Reads of one database at the same time, each on a connection of its own.
    pub mysql_readers: usize,
    /// Writes of one database at the same time.
    pub mysql_writers: usize,
}

/// The table `[cache]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// `redis://[[user:]password@]host[:port][/db]`, or `rediss://` for TLS. None: the memory of this
    /// process.
    pub redis: Option<Secret>,
    /// What every key begins with. Clusters that share a server have different ones.
    pub redis_prefix: String,
    /// Milliseconds that a request waits for Redis at most, before it goes on without.
    pub redis_deadline_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            link_addr: SocketAddr::from(([127, 0, 0, 1], 8120)),
            data_dir: PathBuf::from("/var/lib/talkhub"),
            route_servers: Vec::new(),
            limits: LimitsConfig::default(),
            log: LogConfig::default(),
            store: StoreConfig::default(),
            cache: CacheConfig::default(),
            process: ProcessConfig::default(),
            cluster: ClusterConfig::default(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            queue_max: 16_384,
            waiting_max: 8_192,
            unstored_mib_max: 256,
            conversations_max: 100_000,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { segment_mib: 64, spare_segments: 2, keep_mib: 1_024 }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            mysql: Vec::new(),
            mysql_logins: None,
            mysql_ca: None,
            mysql_readers: 16,
            mysql_writers: 4,
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { redis: None, redis_prefix: "talkhub".to_owned(), redis_deadline_ms: 4 }
    }
}

impl StoreConfig {
    /// How the servers are used; `None` if the store is the embedded one.
    pub(crate) fn mysql(&self) -> Option<MySqlOptions> {
        let (first, others) = self.mysql.split_first()?;
        let mut options = MySqlOptions::new(first.expose().to_owned());
        options.shards.extend(others.iter().map(|url| url.expose().to_owned()));
        options.users = self.mysql_logins.as_ref().map(|url| url.expose().to_owned());
        options.authorities.clone_from(&self.mysql_ca);
        options.readers = self.mysql_readers;
        options.writers = self.mysql_writers;
        Some(options)
    }

    fn check(&self) -> Result<(), ConfigError> {
        range("store.mysql_readers", self.mysql_readers, 1, 1_000)?;
        range("store.mysql_writers", self.mysql_writers, 1, 1_000)?;
        let alone = self.mysql.is_empty();
        if alone && (self.mysql_logins.is_some() || self.mysql_ca.is_some()) {
            let key = if self.mysql_ca.is_some() { "store.mysql_ca" } else { "store.mysql_logins" };
            return Err(ConfigError::new(key, "needs store.mysql beside it"));
        }
        Ok(())
    }
}

impl CacheConfig {
    /// How Redis is used; `None` if it is not.
    pub(crate) fn redis(&self) -> Option<RedisOptions> {
        let mut options = RedisOptions::new(self.redis.as_ref()?.expose());
        options.prefix.clone_from(&self.redis_prefix);
        options.deadline = Duration::from_millis(self.redis_deadline_ms);
        Some(options)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let deadline = usize::try_from(self.redis_deadline_ms).unwrap_or(usize::MAX);
        range("cache.redis_deadline_ms", deadline, 1, 1_000)
    }
}

impl LimitsConfig {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            queue_max: self.queue_max,
            waiting_max: self.waiting_max,
            unstored_bytes_max: self.unstored_mib_max << 20,
            conversations_max: self.conversations_max,
        }
    }
}

impl Settings for Config {
    const NAME: &'static str = "db_proxy";

    fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        range("limits.queue_max", limits.queue_max, 16, 1 << 20)?;
        range("limits.waiting_max", limits.waiting_max, 16, 1 << 20)?;
        range("limits.unstored_mib_max", limits.unstored_mib_max, 1, 65_536)?;
        range("limits.conversations_max", limits.conversations_max, 100, 100_000_000)?;
        range("log.segment_mib", usize::try_from(self.log.segment_mib).unwrap_or(0), 32, 4_096)?;
        range("log.spare_segments", self.log.spare_segments, 1, 16)?;
        if self.data_dir.as_os_str().is_empty() {
            return Err(ConfigError::new("data_dir", "must be a folder"));
        }
        self.store.check()?;
        self.cache.check()?;
        self.cluster.check()
    }

    fn process(&self) -> &ProcessConfig {
        &self.process
    }
}

fn range(key: &str, value: usize, least: usize, most: usize) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::new(key, format!("must be {least} to {most}")))
}
