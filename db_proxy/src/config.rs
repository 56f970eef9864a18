//! The settings of a db_proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "mysql")]
use cache::redis::RedisOptions;
use daemon::{ClusterConfig, ConfigError, ProcessConfig, Secret, Settings};
use logins::login::guesses::GuessLimits;
use logins::tokens::text::Keys;
use partition::Limits;
use serde::Deserialize;
#[cfg(feature = "mysql")]
use store::mysql::MySqlOptions;

/// The most partitions that a cluster may have: each that is owned takes threads and memory of the Kafka
/// library.
pub const PARTITIONS_MAX: u32 = 256;

/// The longest that a resume token may be good for, in days.
const TOKEN_DAYS_MAX: u32 = 30;

/// What an operator may write.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where gateways and administrators connect.
    pub link_addr: SocketAddr,
    /// The folder of log and store. Made if it does not exist; used by one process at a time.
    pub data_dir: PathBuf,
    /// What this daemon does. Without `message` it owns no partition, and needs neither log nor folder.
    pub roles: Vec<DbRole>,
    /// Where the route_servers are: `ip:port`, or `name:port` resolved again every 10 s.
    pub route_servers: Vec<String>,
    /// Bounds.
    pub limits: LimitsConfig,
    /// Passwords, and how fast they may be guessed.
    pub logins: LoginsConfig,
    /// The log in `data_dir`, if it is not in Kafka.
    pub log: LogConfig,
    /// The log in Kafka.
    pub kafka: KafkaConfig,
    /// Where everything is stored for good.
    pub store: StoreConfig,
    /// What makes things faster.
    pub cache: CacheConfig,
    /// Logging, metrics, drain.
    pub process: ProcessConfig,
    /// This daemon's place in the cluster.
    pub cluster: ClusterConfig,
}

/// What a db_proxy can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DbRole {
    /// Checks logins, and answers what belongs to users rather than conversations.
    Login,
    /// Owns partitions: everything about conversations.
    Message,
}

/// The table `[kafka]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// The brokers to begin with, as `host:port` with commas between. Empty: the log is in `data_dir`,
    /// and this db_proxy is the only one.
    pub bootstrap: String,
    /// The topic, made by `db_proxy create-topic`.
    pub topic: String,
    /// How many partitions it has, for ever: that says where each conversation is.
    pub partitions: u32,
    /// The consumer group of all db_proxies of this cluster.
    pub group: String,
    /// Takes a topic that cannot keep the promise. For development.
    pub allow_unsafe_topic: bool,
    /// More settings of the Kafka library, above all those for TLS and a login: `"security.protocol"`,
    /// `"ssl.ca.location"`, `"sasl.mechanism"`, `"sasl.username"`, `"sasl.password"`.
    pub settings: BTreeMap<String, Secret>,
}

/// The table `[limits]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_field_names, reason = "a bound says so")]
pub struct LimitsConfig {
    /// Changes that wait for the log. If there are more, the sender is told to try again.
    pub queue_max: usize,
    /// Changes that wait for a look into the store, and adds of members that are held.
    pub waiting_max: usize,
    /// Mebibytes that the store may be behind the log before senders are told to try again.
    pub unstored_mib_max: usize,
    /// Conversations kept in memory, of each partition.
    pub conversations_max: usize,
    /// Questions about conversations that are answered at the same time. Beyond: not now.
    pub requests_max: usize,
    /// The same for logins and questions about users.
    pub logins_max: usize,
    /// Groups that one user may make, those not counted that were deleted.
    pub groups_made_max: u32,
    /// Groups that one user may be in. A user who is in more stays in them, and is added to no other.
    pub groups_joined_max: u32,
    /// Password hashes that are computed at the same time, each for some tens of milliseconds of a core.
    /// 0: half as many as there are cores.
    pub hashes_max: usize,
}

/// The table `[logins]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoginsConfig {
    /// Wrong passwords of a name from one network (/24, /64) before it has to wait there: 1 s, then twice
    /// as long after each further one.
    pub free_failures: u32,
    /// The longest such wait, in seconds.
    pub delay_max_s: u64,
    /// Wrong passwords of a network in an hour before it has to wait, in the same way.
    pub network_failures: u32,
    /// Wrong passwords in an hour that every network has for itself.
    pub network_per_hour: u32,
    /// Wrong passwords in an hour that all networks have together beyond those.
    pub all_per_hour: u32,
    /// Wrong passwords of one name in an hour, from everywhere together.
    pub name_per_hour: u32,
    /// A file with a secret that is hashed into every password, so that the store alone is not enough to
    /// guess them. Only its owner may read it.
    pub pepper_file: Option<PathBuf>,
    /// Days that a resume token is good for if it is not used.
    pub token_days: u32,
    /// A file with the keys that resume tokens are signed with, so that they are believed while the store
    /// is away. Only its owner may read it.
    pub token_keys_file: Option<PathBuf>,
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
    /// A replica of each of `mysql`, in the same order, that history may be read from; "" where there is
    /// none. None at all: everything is read from `mysql`.
    pub mysql_replicas: Vec<Secret>,
    /// A database of its own for users, departments and device tokens; in the first of `mysql` if not
    /// set.
    pub mysql_logins: Option<Secret>,
    /// Authorities, in PEM: every connection is TLS, and the servers' certificates are theirs.
    pub mysql_ca: Option<PathBuf>,
    /// Reads of one database at the same time, each on a connection of its own; and as many of its
    /// replica.
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
            roles: vec![DbRole::Login, DbRole::Message],
            route_servers: Vec::new(),
            limits: LimitsConfig::default(),
            logins: LoginsConfig::default(),
            log: LogConfig::default(),
            kafka: KafkaConfig::default(),
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
            requests_max: 1_024,
            logins_max: 1_024,
            groups_made_max: 1_000,
            groups_joined_max: 2_000,
            hashes_max: 0,
        }
    }
}

impl Default for LoginsConfig {
    fn default() -> Self {
        let GuessLimits {
            free_failures,
            delay_max,
            network_failures,
            network_per_hour,
            all_per_hour,
            name_per_hour,
        } = GuessLimits::default();
        Self {
            free_failures,
            delay_max_s: delay_max.as_secs(),
            network_failures,
            network_per_hour,
            all_per_hour,
            name_per_hour,
            pepper_file: None,
            token_days: TOKEN_DAYS_MAX,
            token_keys_file: None,
        }
    }
}

impl LoginsConfig {
    /// How much may be guessed.
    pub(crate) fn guesses(&self) -> GuessLimits {
        GuessLimits {
            free_failures: self.free_failures,
            delay_max: Duration::from_secs(self.delay_max_s),
            network_failures: self.network_failures,
            network_per_hour: self.network_per_hour,
            all_per_hour: self.all_per_hour,
            name_per_hour: self.name_per_hour,
        }
    }

    /// The pepper, read from its file.
    pub(crate) fn pepper(&self) -> Result<Option<Secret>, ConfigError> {
        let read = |file: &PathBuf| daemon::config::read_secret("logins.pepper_file", file);
        self.pepper_file.as_ref().map(read).transpose()
    }

    /// The keys of tokens, read from their file; none if there is no file.
    pub(crate) fn token_keys(&self) -> Result<Keys, ConfigError> {
        let named = "logins.token_keys_file";
        let Some(file) = &self.token_keys_file else { return Ok(Keys::default()) };
        let text = daemon::config::read_secret(named, file)?;
        Keys::read(text.expose())
            .map_err(|problem| ConfigError::new(named, format!("{}: {problem}", file.display())))
    }

    /// How long a token is good for.
    pub(crate) fn token_life(&self) -> Duration {
        Duration::from_hours(24 * u64::from(self.token_days))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let most = 1_000_000;
        for (key, value, least) in [
            ("logins.free_failures", self.free_failures, 1),
            ("logins.network_failures", self.network_failures, 1),
            ("logins.network_per_hour", self.network_per_hour, 2),
            ("logins.all_per_hour", self.all_per_hour, 2),
            ("logins.name_per_hour", self.name_per_hour, 2),
        ] {
            range(key, value as usize, least, most)?;
        }
        let delay = usize::try_from(self.delay_max_s).unwrap_or(usize::MAX);
        range("logins.delay_max_s", delay, 1, 3_600)?;
        range("logins.token_days", self.token_days as usize, 1, TOKEN_DAYS_MAX as usize)
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap: String::new(),
            topic: "talkhub".to_owned(),
            partitions: 8,
            group: "talkhub".to_owned(),
            allow_unsafe_topic: false,
            settings: BTreeMap::new(),
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
            mysql_replicas: Vec::new(),
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

impl Config {
    /// Whether this daemon does that.
    pub(crate) fn has(&self, role: DbRole) -> bool {
        self.roles.contains(&role)
    }

    /// How many partitions the cluster has.
    #[cfg(feature = "mysql")]
    pub(crate) fn partitions(&self) -> u32 {
        if self.kafka.is_used() { self.kafka.partitions } else { 1 }
    }

    /// How the database servers are used; `None` if the store is the embedded one.
    #[cfg(feature = "mysql")]
    pub(crate) fn mysql(&self) -> Option<MySqlOptions> {
        let mut options = self.store.mysql()?;
        options.partitions = self.partitions();
        Some(options)
    }
}

impl KafkaConfig {
    /// Whether the log is in Kafka.
    pub(crate) fn is_used(&self) -> bool {
        !self.bootstrap.is_empty()
    }

    /// How it is used.
    #[cfg(feature = "kafka")]
    pub(crate) fn options(&self) -> record_log::kafka::Options {
        let (bootstrap, topic) = (self.bootstrap.clone(), self.topic.clone());
        let settings = self.settings.iter();
        record_log::kafka::Options {
            group: self.group.clone(),
            allow_unsafe_topic: self.allow_unsafe_topic,
            settings: settings
                .map(|(key, value)| (key.clone(), value.expose().to_owned()))
                .collect(),
            ..record_log::kafka::Options::new(bootstrap, topic, self.partitions)
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        range("kafka.partitions", self.partitions as usize, 1, PARTITIONS_MAX as usize)?;
        for (key, value) in [("kafka.topic", &self.topic), ("kafka.group", &self.group)] {
            if value.is_empty() {
                return Err(ConfigError::new(key, "must not be empty"));
            }
        }
        Ok(())
    }
}

impl StoreConfig {
    #[cfg(feature = "mysql")]
    fn mysql(&self) -> Option<MySqlOptions> {
        let (first, others) = self.mysql.split_first()?;
        let mut options = MySqlOptions::new(first.expose().to_owned());
        options.shards.extend(others.iter().map(|url| url.expose().to_owned()));
        options.replicas = self.mysql_replicas.iter().map(|url| url.expose().to_owned()).collect();
        options.users = self.mysql_logins.as_ref().map(|url| url.expose().to_owned());
        options.authorities.clone_from(&self.mysql_ca);
        options.readers = self.mysql_readers;
        options.writers = self.mysql_writers;
        Some(options)
    }

    fn check(&self) -> Result<(), ConfigError> {
        range("store.mysql_readers", self.mysql_readers, 1, 1_000)?;
        range("store.mysql_writers", self.mysql_writers, 1, 1_000)?;
        let (databases, replicas) = (self.mysql.len(), self.mysql_replicas.len());
        for (key, is_set) in [
            ("store.mysql_ca", self.mysql_ca.is_some()),
            ("store.mysql_logins", self.mysql_logins.is_some()),
            ("store.mysql_replicas", replicas > 0),
        ] {
            if databases == 0 && is_set {
                return Err(ConfigError::new(key, "needs store.mysql beside it"));
            }
        }
        if replicas != 0 && replicas != databases {
            let must =
                format!("must be {databases}, one for each of store.mysql, or \"\" for none");
            return Err(ConfigError::new("store.mysql_replicas", must));
        }
        Ok(())
    }
}

impl CacheConfig {
    /// How Redis is used; `None` if it is not.
    #[cfg(feature = "mysql")]
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
            // Each also takes the place of a question that could be answered meanwhile.
            held_max: (self.waiting_max / 2).min(self.requests_max / 4),
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
        range("limits.requests_max", limits.requests_max, 1, 65_536)?;
        range("limits.logins_max", limits.logins_max, 1, 65_536)?;
        let groups = [
            ("limits.groups_made_max", limits.groups_made_max),
            ("limits.groups_joined_max", limits.groups_joined_max),
        ];
        for (name, max) in groups {
            range(name, usize::try_from(max).unwrap_or(usize::MAX), 1, 100_000)?;
        }
        range("limits.hashes_max", limits.hashes_max, 0, 1_024)?;
        range("log.segment_mib", usize::try_from(self.log.segment_mib).unwrap_or(0), 32, 4_096)?;
        range("log.spare_segments", self.log.spare_segments, 1, 16)?;
        if self.data_dir.as_os_str().is_empty() {
            return Err(ConfigError::new("data_dir", "must be a folder"));
        }
        self.logins.check()?;
        self.store.check()?;
        self.cache.check()?;
        self.kafka.check()?;
        if self.roles.is_empty() {
            return Err(ConfigError::new("roles", "must name one at least: login, message"));
        }
        if self.store.mysql.is_empty() {
            if self.kafka.is_used() {
                let problem = "needs store.mysql beside it: several db_proxies share one store";
                return Err(ConfigError::new("kafka.bootstrap", problem));
            }
            if !(self.has(DbRole::Login) && self.has(DbRole::Message)) {
                let problem = "must be login and message, unless store.mysql is set: an embedded \
                               store has one db_proxy";
                return Err(ConfigError::new("roles", problem));
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_good_for_a_day_to_a_month() {
        for (days, is_fine) in [(0, false), (1, true), (30, true), (31, false)] {
            let mut config = Config::default();
            config.cluster.key = Some(Secret::new("0123456789abcdef"));
            config.logins.token_days = days;
            assert_eq!(config.check().is_ok(), is_fine, "{days}");
        }
    }

    #[test]
    fn there_is_no_replica_or_one_for_each_database() {
        let config = |databases: usize, replicas: &[&str]| {
            let mut config = Config::default();
            config.cluster.key = Some(Secret::new("0123456789abcdef"));
            let url = || Secret::new("mysql://user:password@host/database");
            config.store.mysql.resize_with(databases, url);
            config.store.mysql_replicas.extend(replicas.iter().map(|url| Secret::new(*url)));
            config
        };
        for (databases, replicas) in [(0, &[][..]), (2, &[]), (1, &["a"]), (2, &["", "b"])] {
            let config = config(databases, replicas);
            config.check().unwrap();
            #[cfg(feature = "mysql")]
            assert_eq!(config.mysql().map_or(0, |options| options.replicas.len()), replicas.len());
        }
        for (databases, replicas) in [(0, &["a"][..]), (2, &["a"]), (1, &["", "b"])] {
            let said = config(databases, replicas).check().unwrap_err().to_string();
            assert!(said.contains("store.mysql_replicas") && !said.contains('\n'), "{said}");
        }
    }
}
