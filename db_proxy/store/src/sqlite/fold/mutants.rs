//! How mutants part progress from its rows. Compiled with the feature `faults` only.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use daemon::faults::{self, Mutant};
use rusqlite::Transaction;

use crate::{Batch, StoreError};

/// Every so many batches with messages "cannot be written"; the first of them soon, for a process
/// that does not live long.
const FAILS_EVERY: u64 = 50;
const FIRST_AFTER: u64 = 10;

/// Between progress and its rows.
const APART_BY: Duration = Duration::from_millis(50);

/// Called when the transaction has moved progress and nothing else. Whether the rows are to be left
/// out.
pub(super) fn after_progress(
    transaction: &Transaction<'_>,
    batch: &Batch,
) -> Result<bool, StoreError> {
    static BATCHES: AtomicU64 = AtomicU64::new(FAILS_EVERY - FIRST_AFTER);
    if faults::planted(Mutant::OffsetApartFromRows) {
        transaction.execute_batch("COMMIT")?;
        faults::pause(APART_BY);
        transaction.execute_batch("BEGIN IMMEDIATE")?;
    }
    Ok(faults::planted(Mutant::IgnoreInsertError)
        && !batch.messages.is_empty()
        && faults::nth(&BATCHES, FAILS_EVERY))
}
