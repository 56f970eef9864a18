//! From the settings to what is served from: the log, the store, the cache.
//!
//! # Invariants
//!
//! - A data folder belongs to one kind of store for ever: a log whose first records only the other one
//!   has would be read as if they had never been.
//! - A store that cannot be reached yet is waited for; one that cannot be used ends the start.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon::{BoxError, Metrics, Shutdown, StartRefused};
use tokio::runtime::Handle;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::cache::redis::{CacheError, RedisCache};
use crate::cache::{Cache, MemoryCache};
use crate::config::{CacheConfig, Config};
use crate::log::Unopened;
use crate::log::embedded::{EmbeddedLog, Options, Prepared};
use crate::metrics::CacheMetrics;
use crate::partition::open::{self, OpenError, OpenPartition};
use crate::store::mysql::MySqlStore;
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{Progress, Store, StoreError};

/// Between two tries to reach a store that is away.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The embedded store, in the data folder.
pub(crate) const SQLITE: &str = "store.sqlite";

/// Says which kind of store a data folder belongs to.
const KIND: &str = "store.kind";

/// Brings the databases to the version of this program, as a user who may define data.
pub async fn migrate(config: Config) -> Result<(), BoxError> {
    let migrated = if let Some(options) = config.store.mysql() {
        MySqlStore::migrate(&options).await
    } else {
        // The lock is the log's: nobody migrates under a db_proxy that runs.
        let prepared = prepare(&config).map_err(OpenError::boxed)?;
        let done = SqliteStore::migrate(&config.data_dir.join(SQLITE));
        drop(prepared);
        done
    };
    migrated.map_err(|error| OpenError::from(error).boxed())
}

/// Opens log and store and takes the partition. Waits for a store that cannot be reached.
pub(crate) async fn open_partition(
    config: &Config,
    owner: &str,
) -> Result<OpenPartition, BoxError> {
    let for_log = config.clone();
    let prepared = tokio::task::spawn_blocking(move || prepare(&for_log)).await?;
    // The store is touched only once the folder is ours.
    let log = prepared.map_err(OpenError::boxed)?;
    let store = store(config).await?;
    let progress = claim(&store, owner, &log).await?;
    remember_kind(config).map_err(OpenError::boxed)?;
    let (owner, runtime) = (owner.to_owned(), Handle::current());
    let opening = tokio::task::spawn_blocking(move || {
        open::open(Box::new(log), store, progress, &owner, &runtime)
    });
    opening.await?.map_err(OpenError::boxed)
}

/// The cache that the settings name.
pub(crate) async fn cache(
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

/// Takes the data folder, which must be one of the store that the settings name.
fn prepare(config: &Config) -> Result<Prepared, OpenError> {
    let mut options = Options::new(config.data_dir.join("log"));
    options.segment_bytes = config.log.segment_mib << 20;
    options.spare_segments = config.log.spare_segments;
    options.keep_bytes = config.log.keep_mib << 20;
    let failed = |error| OpenError::Failed(format!("{}: {error}", config.data_dir.display()));
    fs::create_dir_all(&config.data_dir).map_err(failed)?;
    let prepared = EmbeddedLog::prepare(options)?;
    check_kind(&config.data_dir, kind(config))?;
    Ok(prepared)
}

fn kind(config: &Config) -> &'static str {
    if config.store.mysql.is_empty() { "sqlite" } else { "mysql" }
}

/// Once the store has taken the log, the folder is its.
fn remember_kind(config: &Config) -> Result<(), OpenError> {
    let file = config.data_dir.join(KIND);
    if file.exists() {
        return Ok(());
    }
    put(&file, &format!("{}\n", kind(config)))
        .map_err(|error| OpenError::Failed(format!("{}: {error}", file.display())))
}

/// Makes a file that is whole or not there, whenever the power is cut.
fn put(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut opened = File::create(&new)?;
    opened.write_all(text.as_bytes())?;
    opened.sync_all()?;
    fs::rename(&new, file)?;
    file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
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
        "sqlite" => "the embedded store",
        "mysql" => "a store on MySQL or MariaDB",
        _ => "a store of another version of this program",
    };
    match known {
        Some(known) if known != asked => Err(OpenError::Refused(format!(
            "{} belongs to {}, and the settings ask for {}: name another data_dir for that, or set \
             [store] back",
            folder.display(),
            of(&known),
            of(asked),
        ))),
        _ => Ok(()),
    }
}

async fn store(config: &Config) -> Result<Arc<dyn Store>, BoxError> {
    let Some(options) = config.store.mysql() else {
        let path = config.data_dir.join(SQLITE);
        let opening = move || SqliteStore::open(&path, SqliteOptions::default());
        let opened = tokio::task::spawn_blocking(opening).await?;
        return Ok(Arc::new(opened.map_err(|error| OpenError::from(error).boxed())?));
    };
    let store = until_reached(|| MySqlStore::open(options.clone())).await?;
    Ok(Arc::new(store))
}

/// Each try raises the epoch, even one whose answer was lost; that does no harm.
async fn claim(
    store: &Arc<dyn Store>,
    owner: &str,
    log: &impl Unopened,
) -> Result<Progress, BoxError> {
    until_reached(|| store.claim(owner.to_owned(), log.id())).await
}

/// Tries until the store answers, with one line when it begins to wait and one when that is over.
async fn until_reached<T, F>(mut call: impl FnMut() -> F) -> Result<T, BoxError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut waited = false;
    loop {
        match call().await {
            Ok(done) => {
                if waited {
                    info!("the store is there");
                }
                return Ok(done);
            }
            Err(StoreError::Unavailable(why)) => {
                if !waited {
                    warn!(why, "waiting for the store");
                }
                waited = true;
                sleep(AGAIN_AFTER).await;
            }
            Err(error) => return Err(OpenError::from(error).boxed()),
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
