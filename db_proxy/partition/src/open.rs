//! How an owner takes its partition: claim it in the store, check that log and store belong
//! together, fold what the store does not have, and begin a new epoch.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use daemon::StartRefused;
use daemon::clock::unix_ms;
use daemon::faults::{self, Mutant};
use fold::admission;
use fold::conversation::Conversation;
use fold::effects::{EPOCH_LEAD, FOLD_VERSION, Fold};
use fold::window::WINDOW_RECORDS;
use prost::Message as _;
use proto::ids::Offset;
use proto::log::{Record, record};
use record_log::{Log, LogError, LogReader, LogRecord, Unopened};
use store::{Progress, Store, StoreError};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tracing::info;

use crate::state::State;

/// An opened partition, folded up to its log's end, in a new epoch.
pub struct OpenPartition {
    /// Its log.
    pub log: Box<dyn Log>,
    /// Its state.
    pub state: State,
    /// The epoch of this ownership.
    pub epoch: u64,
    /// The owner's name.
    pub owner: String,
}

impl fmt::Debug for OpenPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenPartition")
            .field("log", &self.log.name())
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Why a partition cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Trying again will not help: an operator must look.
    #[error("{0}")]
    Refused(String),
    /// The store or the disk cannot be read now.
    #[error("{0}")]
    Failed(String),
}

impl OpenError {
    /// As a start-up error with the right exit code.
    pub fn boxed(self) -> daemon::BoxError {
        match self {
            Self::Refused(why) => Box::new(StartRefused(why)),
            Self::Failed(why) => why.into(),
        }
    }
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> Self {
        match &error {
            LogError::InUse(_) | LogError::NewerVersion(_) | LogError::Damaged(_) => {
                Self::Refused(error.to_string())
            }
            LogError::Io { source, .. } => Self::Failed(format!("{error}: {source}")),
            LogError::Full(_) | LogError::Lost(_) | LogError::NotHere { .. } => {
                Self::Failed(error.to_string())
            }
        }
    }
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(why) => Self::Refused(why),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Claims the partition for `owner`, and opens it: see [`open`].
pub async fn take(
    log: Box<dyn Unopened>,
    store: Arc<dyn Store>,
    owner: &str,
) -> Result<OpenPartition, OpenError> {
    let progress = store.claim(owner.to_owned(), log.id()).await?;
    open_claimed(log, store, progress, owner).await
}

/// Opens a partition that `owner` has claimed, off the async workers: see [`open`].
pub async fn open_claimed(
    log: Box<dyn Unopened>,
    store: Arc<dyn Store>,
    progress: Progress,
    owner: &str,
) -> Result<OpenPartition, OpenError> {
    let (owner, runtime) = (owner.to_owned(), Handle::current());
    let opening = spawn_blocking(move || open(log, store, progress, &owner, &runtime));
    opening.await.map_err(|error| OpenError::Failed(error.to_string()))?
}

/// Opens the log and folds it onto the store, in which `owner` has claimed the partition. Blocks on
/// both; call it off the async workers, with a handle to the runtime that the store works on.
pub fn open(
    log: Box<dyn Unopened>,
    store: Arc<dyn Store>,
    progress: Progress,
    owner: &str,
    runtime: &Handle,
) -> Result<OpenPartition, OpenError> {
    #[cfg(feature = "faults")]
    crate::faults::plant_in_fold();
    let mut log = log.open(progress.applied)?;
    check_fingerprint(&*log, &progress)?;

    let mut fold = Fold::new(progress.fold_version, progress.applied, progress.applied_crc);
    let cold = Cold { epoch: progress.epoch, store: &store, runtime };
    let replayed = replay(&mut fold, &*log, &progress, &cold)?;
    begin_epoch(&mut fold, &mut *log, owner, &cold)?;
    let window = fold.window.len();
    info!(epoch = progress.epoch, replayed, window, "the partition is ours");
    let state = State::new(fold, progress.applied, store);
    Ok(OpenPartition { log, state, epoch: progress.epoch, owner: owner.to_owned() })
}

/// The record that was stored last must be in the log as it was then: else this is another log, or
/// an older copy of it.
fn check_fingerprint(log: &dyn LogReader, progress: &Progress) -> Result<(), OpenError> {
    let (first, next) = log.range();
    let name = log.name();
    let applied = progress.applied;
    let behind = || {
        OpenError::Refused(format!(
            "{name} ends at offset {}, but the store has applied up to {}: an older copy of the log? \
             Put the newest copy in place",
            next.0.saturating_sub(1),
            applied.0
        ))
    };
    if next <= applied {
        return Err(behind());
    }
    if applied.next() < first {
        return Err(OpenError::Refused(format!(
            "{name} begins at offset {}, but the store has applied only up to {}: an older copy of the \
             store, or a new one? Put the newest copy in place",
            first.0, applied.0
        )));
    }
    if applied < first {
        return Ok(()); // Trimmed away, as everything that is stored may be.
    }
    let mut found = None;
    let read = log.read(applied, &mut |record| {
        found = Some(record.crc);
        ControlFlow::Break(())
    });
    match (read, found) {
        (_, Some(crc)) if crc == progress.applied_crc => Ok(()),
        (_, Some(_)) => Err(OpenError::Refused(format!(
            "the record at offset {} of {name} is not the one that was stored: another log or another \
             store? Put the two that belong together in place",
            applied.0,
        ))),
        (Err(error), None) => Err(error.into()),
        (Ok(()), None) => Err(behind()),
    }
}

/// Enters what is stored, as far back as the log has it and the window reaches, and folds the rest.
/// Returns how many were folded.
fn replay(
    fold: &mut Fold,
    log: &dyn LogReader,
    progress: &Progress,
    cold: &Cold<'_>,
) -> Result<u64, OpenError> {
    let (first, next) = log.range();
    let from = Offset(progress.applied.next().0.saturating_sub(WINDOW_RECORDS)).max(first);
    let lead = Offset(from.0.saturating_sub(EPOCH_LEAD)).max(first);
    fold.window.reserve(next.0 - from.0);
    fold.published.reach_back(Offset(from.0.saturating_sub(1)));
    let mut replayed = 0;
    let mut failure = None;
    let read = log.read(lead, &mut |record| {
        if record.offset < from {
            fold.hear(&record);
            return ControlFlow::Continue(());
        }
        if record.offset <= progress.applied {
            fold.remember(&record);
            return ControlFlow::Continue(());
        }
        if faults::planted(Mutant::ReplayFromEnd) {
            fold.last = record.offset;
            return ControlFlow::Continue(());
        }
        match cold.fold(fold, &record) {
            Ok(()) => {
                replayed += 1;
                ControlFlow::Continue(())
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    match failure {
        Some(error) => Err(error),
        None => read.map(|()| replayed).map_err(OpenError::from),
    }
}

/// Where conversations are read from that are not in memory.
struct Cold<'a> {
    /// The epoch of the ownership that begins.
    epoch: u64,
    store: &'a Arc<dyn Store>,
    runtime: &'a Handle,
}

impl Cold<'_> {
    /// Folds a record that is neither answered nor published.
    fn fold(&self, fold: &mut Fold, record: &LogRecord) -> Result<(), OpenError> {
        self.load_for(fold, record)?;
        let folded = fold.fold(record);
        folded.map(|_effect| ()).map_err(|error| OpenError::Refused(error.to_string()))
    }

    fn load_for(&self, fold: &mut Fold, record: &LogRecord) -> Result<(), OpenError> {
        let Ok(decoded) = Record::decode(record.payload.clone()) else { return Ok(()) };
        let Some(id) = Fold::needs(&decoded).filter(|id| !fold.conversations.contains_key(id))
        else {
            return Ok(());
        };
        // Without its newest messages: the fold does not look at them, and reading them for thousands
        // of conversations would take most of the time.
        let stored = self.runtime.block_on(self.store.conversation(id, 0))?;
        if stored.epoch != self.epoch {
            return Err(OpenError::Failed("another owner has begun in the store".to_owned()));
        }
        fold.conversations.insert(id, Conversation::from_stored(id, stored));
        Ok(())
    }
}

/// What begins an epoch, and repeats it.
pub(super) fn epoch_record(epoch: u64, owner: &str) -> record::Change {
    record::Change::Epoch(proto::log::Epoch { epoch, owner: owner.to_owned() })
}

/// Appends the record from which on those of older epochs are ignored. What the owner before has
/// appended up to there counts, and is folded too.
fn begin_epoch(
    fold: &mut Fold,
    log: &mut dyn Log,
    owner: &str,
    cold: &Cold<'_>,
) -> Result<(), OpenError> {
    let epoch = cold.epoch;
    let mut changes = vec![epoch_record(epoch, owner)];
    if fold.version < FOLD_VERSION {
        let version = proto::log::FoldVersion { version: FOLD_VERSION };
        changes.push(record::Change::FoldVersion(version));
    }
    let payloads: Vec<Bytes> = changes
        .into_iter()
        .map(|change| admission::record(change, epoch).encode_to_vec().into())
        .collect();
    for landed in log.append(&payloads, unix_ms())? {
        cold.fold(fold, &landed.record)?;
    }
    if fold.epoch > epoch {
        return Err(OpenError::Failed(format!("{}: another owner has begun", log.name())));
    }
    Ok(())
}
