//! Opens the site that the settings name: the log, the store, the cache.
//!
//! # Invariants
//!
//! - A data folder belongs to one kind of store for ever: a log whose first records only the other one
//!   has would be read as if they had never been.
//! - A store that cannot be reached yet is waited for; one that cannot be used ends the start.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cache::{Cache, MemoryCache};
use daemon::{BoxError, Metrics, Shutdown, StartRefused, files};
use partition::open::{self, OpenError, OpenPartition};
use record_log::embedded::{EmbeddedLog, Options, Prepared};
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{Store, StoreError};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::config::{CacheConfig, Config, DbRole};

/// Between two tries to reach a store that is away.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The embedded store, in the data folder.
pub(crate) const SQLITE: &str = "store.sqlite";

/// Says which kind of store a data folder belongs to.
const KIND: &str = "store.kind";

/// The log and the stores that a db_proxy serves from.
pub(crate) struct Site {
    /// Where each partition is stored.
    pub(crate) stores: Vec<Arc<dyn Store>>,
    pub(crate) logs: Logs,
}

/// Where the partitions' logs are.
pub(crate) enum Logs {
    /// In the data folder, of which this process is the only user: one partition.
    Embedded(Box<Prepared>),
    /// In Kafka, shared with other db_proxies.
    #[cfg(feature = "kafka")]
    Kafka(record_log::kafka::KafkaTopic),
    /// No partition is owned here.
    Nowhere,
}

/// Brings the databases to the version of this program, as a user who may define data.
pub async fn migrate(config: Config) -> Result<(), BoxError> {
    if !config.store.mysql.is_empty() {
        return servers::migrate(&config).await;
    }
    // The lock is the log's: no migration runs beside a db_proxy.
    let prepared = prepare(&config).map_err(OpenError::boxed)?;
    let migrated = SqliteStore::migrate(&config.data_dir.join(SQLITE));
    drop(prepared);
    migrated.map_err(|error| OpenError::from(error).boxed())
}

/// Finds log and store. Waits for servers that cannot be reached.
pub(crate) async fn find(config: &Config, metrics: &Metrics) -> Result<Site, BoxError> {
    let logs = if !config.has(DbRole::Message) {
        Logs::Nowhere
    } else if config.kafka.is_used() {
        in_folder(config, take_folder).await?;
        kafka(config).await?
    } else {
        // The store is touched only once the folder is ours.
        Logs::Embedded(Box::new(in_folder(config, prepare).await?))
    };
    let stores = stores(config, metrics).await?;
    Ok(Site { stores, logs })
}

/// Takes the only partition of an embedded log.
pub(crate) async fn open_partition(
    config: &Config,
    log: Prepared,
    store: Arc<dyn Store>,
    owner: &str,
) -> Result<OpenPartition, BoxError> {
    // Each try raises the epoch, even one whose answer was lost; that does no harm.
    let claim = || async { Ok(store.claim(owner.to_owned(), log.id()).await?) };
    let progress = until_reached("the store", claim).await?;
    remember_kind(config).map_err(OpenError::boxed)?;
    open::open_claimed(Box::new(log), store, progress, owner).await.map_err(OpenError::boxed)
}

#[cfg(feature = "kafka")]
async fn kafka(config: &Config) -> Result<Logs, BoxError> {
    use record_log::kafka::KafkaTopic;

    let connect = || async {
        let options = config.kafka.options();
        Ok(tokio::task::spawn_blocking(move || KafkaTopic::connect(options)).await??)
    };
    let topic = until_reached("Kafka", connect).await?;
    remember_kind(config).map_err(OpenError::boxed)?;
    Ok(Logs::Kafka(topic))
}

#[cfg(not(feature = "kafka"))]
fn kafka(_config: &Config) -> impl Future<Output = Result<Logs, BoxError>> {
    let why = "kafka.bootstrap is set, and this db_proxy was built without Kafka: build it with \
               `--features kafka`";
    std::future::ready(Err(Box::new(StartRefused(why.to_owned())) as BoxError))
}

/// Makes the topic that the settings name.
#[cfg(feature = "kafka")]
pub(crate) async fn create_topic(
    config: Config,
    new: record_log::kafka::NewTopic,
) -> Result<(), BoxError> {
    use record_log::kafka::{ConnectError, ensure_topic};

    let options = config.kafka.options();
    match tokio::task::spawn_blocking(move || ensure_topic(&options, new)).await? {
        Ok(is_new) => {
            let topic = &config.kafka.topic;
            info!(topic, is_new, "the topic is there");
            Ok(())
        }
        Err(ConnectError::Refused(why)) => Err(Box::new(StartRefused(why))),
        Err(ConnectError::Away(why)) => Err(why.into()),
    }
}

/// The cache that the settings name.
pub(crate) async fn cache(
    config: &CacheConfig,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Result<Arc<dyn Cache>, BoxError> {
    match config.redis {
        Some(_) => servers::cache(config, metrics, shutdown).await,
        None => Ok(Arc::new(MemoryCache::default())),
    }
}

/// Does something to the data folder, off the async workers.
async fn in_folder<T: Send + 'static>(
    config: &Config,
    work: impl FnOnce(&Config) -> Result<T, OpenError> + Send + 'static,
) -> Result<T, BoxError> {
    let config = config.clone();
    let done = tokio::task::spawn_blocking(move || work(&config)).await?;
    done.map_err(OpenError::boxed)
}

/// Makes the data folder, which must not be one of a log in files.
fn take_folder(config: &Config) -> Result<(), OpenError> {
    make_folder(config)?;
    check_kind(&config.data_dir, kind(config))
}

fn make_folder(config: &Config) -> Result<(), OpenError> {
    let failed = |error| OpenError::Failed(format!("{}: {error}", config.data_dir.display()));
    fs::create_dir_all(&config.data_dir).map_err(failed)
}

/// Takes the data folder, which must be one of the store that the settings name.
fn prepare(config: &Config) -> Result<Prepared, OpenError> {
    let mut options = Options::new(config.data_dir.join("log"));
    options.segment_bytes = config.log.segment_mib << 20;
    options.spare_segments = config.log.spare_segments;
    options.keep_bytes = config.log.keep_mib << 20;
    make_folder(config)?;
    let prepared = EmbeddedLog::prepare(options)?;
    check_kind(&config.data_dir, kind(config))?;
    Ok(prepared)
}

fn kind(config: &Config) -> &'static str {
    match (config.kafka.is_used(), config.store.mysql.is_empty()) {
        (true, _) => "kafka",
        (false, false) => "mysql",
        (false, true) => "sqlite",
    }
}

/// Once the store has taken the log, the folder is its.
fn remember_kind(config: &Config) -> Result<(), OpenError> {
    let file = config.data_dir.join(KIND);
    if file.exists() {
        return Ok(());
    }
    files::replace(&file, format!("{}\n", kind(config)).as_bytes())
        .map_err(|error| OpenError::Failed(format!("{}: {error}", file.display())))
}

fn check_kind(folder: &Path, asked: &str) -> Result<(), OpenError> {
    let file = folder.join(KIND);
    let failed = |error| OpenError::Failed(format!("{}: {error}", file.display()));
    let known = match fs::read_to_string(&file) {
        Ok(kind) => Some(kind.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            folder.join(SQLITE).exists().then(|| "sqlite".to_owned())
        }
        Err(error) => return Err(failed(error)),
    };
    let of = |kind: &str| match kind {
        "sqlite" => "the embedded log and store",
        "mysql" => "an embedded log and a store on MySQL or MariaDB",
        "kafka" => "a log in Kafka",
        _ => "a store of another version of this program",
    };
    match known {
        Some(known) if known != asked => Err(OpenError::Refused(format!(
            "{} belongs to {}, and the settings ask for {}: name another data_dir for that, or set \
             [store] and [kafka] back; `talkhub admin export` and `import` move what is there",
            folder.display(),
            of(&known),
            of(asked),
        ))),
        _ => Ok(()),
    }
}

async fn stores(config: &Config, metrics: &Metrics) -> Result<Vec<Arc<dyn Store>>, BoxError> {
    if !config.store.mysql.is_empty() {
        return servers::stores(config, metrics).await;
    }
    let path = config.data_dir.join(SQLITE);
    let opening = move || SqliteStore::open(&path, SqliteOptions::default());
    let opened = tokio::task::spawn_blocking(opening).await?;
    Ok(vec![Arc::new(opened.map_err(|error| OpenError::from(error).boxed())?)])
}

/// The servers that a site may store and cache in.
#[cfg(feature = "mysql")]
mod servers {
    use cache::CacheMetrics;
    use cache::redis::{CacheError, RedisCache};
    use store::ReplicaMetrics;
    use store::mysql::MySqlStore;

    use super::{
        Arc, BoxError, Cache, CacheConfig, Config, MemoryCache, Metrics, OpenError, Shutdown,
        StartRefused, Store, until_reached,
    };

    pub(super) async fn migrate(config: &Config) -> Result<(), BoxError> {
        let Some(options) = config.mysql() else { return Ok(()) };
        MySqlStore::migrate(&options).await.map_err(|error| OpenError::from(error).boxed())
    }

    pub(super) async fn stores(
        config: &Config,
        metrics: &Metrics,
    ) -> Result<Vec<Arc<dyn Store>>, BoxError> {
        let Some(mut options) = config.mysql() else { return Ok(Vec::new()) };
        options.replica_metrics = ReplicaMetrics::new(metrics);
        let open = || async { Ok(MySqlStore::open(options.clone()).await?) };
        let store = until_reached("the store", open).await?;
        let parts = (0..options.partitions).filter_map(|part| store.for_partition(part));
        Ok(parts.map(|part| Arc::new(part) as Arc<dyn Store>).collect())
    }

    pub(super) async fn cache(
        config: &CacheConfig,
        metrics: &Metrics,
        shutdown: &Shutdown,
    ) -> Result<Arc<dyn Cache>, BoxError> {
        let Some(options) = config.redis() else { return Ok(Arc::new(MemoryCache::default())) };
        match RedisCache::connect(options, CacheMetrics::new(metrics), shutdown).await {
            Ok(cache) => Ok(Arc::new(cache)),
            Err(CacheError::Refused(why)) => Err(Box::new(StartRefused(why))),
        }
    }
}

/// What is said where they are wanted, and this program was built without them.
#[cfg(not(feature = "mysql"))]
mod servers {
    use std::future::ready;

    use super::{
        Arc, BoxError, Cache, CacheConfig, Config, Metrics, Shutdown, StartRefused, Store,
    };

    fn refused<T>(key: &str) -> impl Future<Output = Result<T, BoxError>> {
        let why = format!(
            "{key} is set, and this db_proxy was built without MySQL and Redis: build it with \
             `--features mysql`"
        );
        ready(Err(Box::new(StartRefused(why)) as BoxError))
    }

    pub(super) fn migrate(_config: &Config) -> impl Future<Output = Result<(), BoxError>> {
        refused("store.mysql")
    }

    pub(super) fn stores(
        _config: &Config,
        _metrics: &Metrics,
    ) -> impl Future<Output = Result<Vec<Arc<dyn Store>>, BoxError>> {
        refused("store.mysql")
    }

    pub(super) fn cache(
        _config: &CacheConfig,
        _metrics: &Metrics,
        _shutdown: &Shutdown,
    ) -> impl Future<Output = Result<Arc<dyn Cache>, BoxError>> {
        refused("cache.redis")
    }
}

/// Why a server cannot be used.
enum Unreached {
    /// The server does not answer now. Try again.
    Away(String),
    /// Trying again will not help.
    Final(BoxError),
}

impl From<StoreError> for Unreached {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) => Self::Away(why),
            error => Self::Final(OpenError::from(error).boxed()),
        }
    }
}

#[cfg(feature = "kafka")]
impl From<record_log::kafka::ConnectError> for Unreached {
    fn from(error: record_log::kafka::ConnectError) -> Self {
        use record_log::kafka::ConnectError;
        match error {
            ConnectError::Away(why) => Self::Away(why),
            ConnectError::Refused(why) => Self::Final(Box::new(StartRefused(why))),
        }
    }
}

#[cfg(feature = "kafka")]
impl From<tokio::task::JoinError> for Unreached {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Final(error.into())
    }
}

/// Tries until `server` answers, with one line when it begins to wait and one when that is over.
async fn until_reached<T, F>(server: &str, mut call: impl FnMut() -> F) -> Result<T, BoxError>
where
    F: Future<Output = Result<T, Unreached>>,
{
    let mut waited = false;
    loop {
        match call().await {
            Ok(done) => {
                if waited {
                    info!("{server} is there");
                }
                return Ok(done);
            }
            Err(Unreached::Away(why)) => {
                if !waited {
                    warn!(why, "waiting for {server}");
                }
                waited = true;
                sleep(AGAIN_AFTER).await;
            }
            Err(Unreached::Final(error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use daemon::Secret;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_folder_belongs_to_one_kind_of_store() {
        let folder = TempDir::new().expect("make a folder");
        let mut config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
        config.store.mysql.push(Secret::new("mysql://user:password@127.0.0.1/talkhub"));
        check_kind(folder.path(), "sqlite").expect("it is nobody's yet");
        remember_kind(&config).unwrap();

        check_kind(folder.path(), kind(&config)).unwrap();
        let refused = check_kind(folder.path(), "sqlite").unwrap_err().to_string();
        assert!(refused.contains("MySQL") && refused.contains("data_dir"), "{refused}");
    }

    #[test]
    fn a_folder_with_an_embedded_store_is_known_as_one() {
        let folder = TempDir::new().expect("make a folder");
        fs::write(folder.path().join(SQLITE), "").unwrap();
        assert!(matches!(check_kind(folder.path(), "mysql"), Err(OpenError::Refused(_))));
        check_kind(folder.path(), "sqlite").unwrap();
    }
}
