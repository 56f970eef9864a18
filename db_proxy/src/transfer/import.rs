//! From files to databases on servers, and back to see whether it is the same.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use store::StoreError;
use store::mysql::{Begun, MySqlOptions, MySqlStore, Target};
use store::table::{self, Place, Row, Sum, Table};

use super::error::MoveError;
use super::export::{moved, new_id};
use super::folder::{Export, Part, damaged};
use super::progress::{Moved, Phase, Step, Watch, tell};

/// What is written in one transaction, and how many of them at the same time.
const BATCH_BYTES: usize = 2 << 20;
const WRITERS: usize = 4;

/// Writes the export in `from` to the databases, or what is missing there of it, reads everything back,
/// and lets db_proxies use them. With `migrate` their tables are made first.
pub async fn import(
    from: &Path,
    options: &MySqlOptions,
    migrate: bool,
    watch: Watch<'_>,
) -> Result<Moved, MoveError> {
    let export = open(from).await?;
    if migrate {
        MySqlStore::migrate(options).await?;
    }
    let target = Target::open(options, export.id(), &new_id()?).await?;
    let done = match target.begin().await? {
        Begun::Finished => return Ok(moved(&export, true)),
        Begun::After(done) => done,
    };
    let importing = Importing { export: &export, target: &target, watch };
    importing.write(done).await?;
    importing.check().await?;
    target.finish().await?;
    Ok(moved(&export, false))
}

/// Reads back what was imported from `from`, and compares. No db_proxy must have used the databases.
pub async fn verify(
    from: &Path,
    options: &MySqlOptions,
    watch: Watch<'_>,
) -> Result<Moved, MoveError> {
    let export = open(from).await?;
    let target = Target::open(options, export.id(), &new_id()?).await?;
    target.check_finished().await?;
    Importing { export: &export, target: &target, watch }.check().await?;
    Ok(moved(&export, true))
}

async fn open(from: &Path) -> Result<Export, MoveError> {
    let from = from.to_owned();
    blocking(move || Export::open(&from)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MoveError> + Send + 'static,
) -> Result<T, MoveError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| MoveError::Failed(error.to_string()))?
}

struct Importing<'a> {
    export: &'a Export,
    target: &'a Target,
    watch: Watch<'a>,
}

impl Importing<'_> {
    /// The rows that belong into the databases.
    fn total(&self) -> u64 {
        let sums = self.export.sums().iter();
        sums.filter(|(table, _)| table.place != Place::Files).map(|(_, sum)| sum.rows).sum()
    }

    /// Writes the files after the first `done`.
    async fn write(&self, done: usize) -> Result<(), MoveError> {
        let parts = self.export.parts();
        let before = parts.iter().take(done).map(|part| part.rows).sum();
        let rows = AtomicU64::new(before);
        for (number, part) in parts.iter().enumerate().skip(done) {
            let Some(table) = Table::called(&part.table) else { continue };
            if table.place != Place::Files {
                self.write_part(table, part, &rows).await?;
            }
            self.target.note(number + 1).await?;
        }
        Ok(())
    }

    async fn write_part(
        &self,
        table: &'static Table,
        part: &Part,
        done: &AtomicU64,
    ) -> Result<(), MoveError> {
        let (dir, of) = (self.export.dir().to_owned(), part.clone());
        let written = blocking(move || Export::rows(&dir, &of)).await?;
        let mut rows = Rows { written, table, is_broken: false };
        let total = self.total();
        stream::iter(self.target.batches(table, &mut rows, BATCH_BYTES))
            .map(|batch| async {
                let rows = self.target.put(batch).await?;
                let done = done.fetch_add(rows, Ordering::Relaxed) + rows;
                tell(self.watch, Step { phase: Phase::Importing, table: table.name, done, total })
            })
            .buffer_unordered(WRITERS)
            .try_collect::<()>()
            .await?;
        if rows.is_broken {
            let path = self.export.dir().join(&part.file);
            return Err(damaged(&path, "its rows are not those of its table"));
        }
        Ok(())
    }

    /// Compares what is in the databases with what was exported.
    async fn check(&self) -> Result<(), MoveError> {
        let (mut done, total) = (0, self.total());
        for (table, expected) in self.export.sums() {
            if table.place == Place::Files {
                continue;
            }
            let mut stopped = None;
            let found = self
                .target
                .sum(table, &mut |rows| {
                    done += rows;
                    // Where nothing should be, there may be more.
                    let total = total.max(done);
                    let step = Step { phase: Phase::Checking, table: table.name, done, total };
                    tell(self.watch, step).map_err(|error| {
                        stopped = Some(error);
                        StoreError::Unavailable(String::new())
                    })
                })
                .await;
            if let Some(error) = stopped {
                return Err(error);
            }
            compare(table, *expected, found?)?;
        }
        Ok(())
    }
}

fn compare(table: &Table, expected: Sum, found: Sum) -> Result<(), MoveError> {
    let name = table.name;
    let what = if expected.rows != found.rows {
        format!("{name} has {} rows instead of {}", found.rows, expected.rows)
    } else if expected.sum != found.sum {
        format!("the {} rows of {name} have another checksum than was exported", found.rows)
    } else {
        return Ok(());
    };
    Err(MoveError::Differs(format!(
        "NOT THE SAME: {what}; no db_proxy may use these databases: import again into empty ones"
    )))
}

/// The rows of a file, one by one.
struct Rows {
    written: Bytes,
    table: &'static Table,
    is_broken: bool,
}

impl Iterator for Rows {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        if self.written.is_empty() || self.is_broken {
            return None;
        }
        let row = table::decode(&mut self.written, self.table.columns.len());
        self.is_broken = row.is_none();
        row
    }
}
