//! Writing whole tables into databases that are not in use yet, and reading them back.
//!
//! # Invariants
//!
//! - From the first row to the last check every database says of itself that an import into it is not
//!   finished (`IMPORTING` in `schema`): no store is opened on it. A process that has opened one
//!   before finds every partition taken.
//! - Each transaction begins by looking that its import is still the one under way. So one that
//!   was believed to be dead writes nothing once another has taken over, or has finished.
//! - A row may be written twice, and is then there once.

mod marks;
mod rows;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use proto::cluster::partition_of;

use self::marks::Told;
use super::options::{MySqlLimits, MySqlOptions};
use super::site::{Database, Databases};
use crate::StoreError;
use crate::table::{Field, Place, Row, Sum, Table};

/// A statement takes as long as it takes.
const STEP_MAX: Duration = Duration::from_mins(5);
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Databases on their way to be those of a site.
#[derive(Debug)]
pub struct Target {
    databases: Databases,
    partitions: u32,
    /// The export that is imported: the digits of 16 bytes.
    export: String,
    /// What every database says while this import is under way.
    mark: Arc<str>,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// This many files are done.
    After(usize),
    /// It was finished before.
    Finished,
}

/// Rows of one table for one database.
#[derive(Debug)]
pub struct Batch {
    table: &'static Table,
    database: usize,
    rows: Vec<Row>,
    bytes: usize,
}

impl Target {
    /// Opens the databases, which must have all tables. `export` and `run` are digits of 16 bytes each.
    pub async fn open(options: &MySqlOptions, export: &str, run: &str) -> Result<Self, StoreError> {
        let limits = MySqlLimits {
            connect: CONNECT_MAX,
            read: STEP_MAX,
            write: STEP_MAX,
            ..MySqlLimits::default()
        };
        let options = MySqlOptions { limits, ..options.clone() };
        let (short, _rest) = run.split_at_checked(8).unwrap_or((run, ""));
        Ok(Self {
            databases: Databases::open_unfinished(&options).await?,
            partitions: options.partitions,
            export: export.to_owned(),
            mark: format!("{export}.{short}").into(),
        })
    }

    /// Takes the databases for this import. They must be empty, or be left by an earlier try.
    pub async fn begin(&self) -> Result<Begun, StoreError> {
        let mut told = Vec::new();
        for (_number, database) in self.all() {
            let found = database.writes.run(|link| marks::told_by(link).boxed()).await?;
            told.push((database, found));
        }
        let is_under_way = told.iter().any(|(_, told)| matches!(told, Told::Importing(_)));
        for (database, told) in &told {
            let name = database.writes.name();
            match told {
                Told::Importing(mark) if !mark.starts_with(&self.export) => {
                    return Err(StoreError::Refused(format!(
                        "{name}: an import of another export is not finished: finish that one, or name \
                         an empty database"
                    )));
                }
                Told::Imported(export) if *export != self.export => {
                    return Err(not_empty(name, "another export was imported into it"));
                }
                Told::Nothing => self.check_empty(database).await?,
                Told::Importing(_) | Told::Imported(_) => {}
            }
        }
        if !is_under_way && told.iter().all(|(_, told)| matches!(told, Told::Imported(_))) {
            return Ok(Begun::Finished);
        }
        for (number, database) in self.all() {
            self.take(number, database).await?;
        }
        let done = self.first().writes.run(|link| marks::files_done(link).boxed()).await?;
        Ok(Begun::After(done))
    }

    /// Whether this export was imported, and nothing has happened since.
    pub async fn check_finished(&self) -> Result<(), StoreError> {
        for (number, database) in self.all() {
            let name = database.writes.name();
            let is_shard = number < self.databases.shards.len();
            let looking = database.writes.run(move |link| {
                async move {
                    let served = is_shard && marks::exists(link, "progress").await?;
                    Ok((marks::told_by(link).await?, served))
                }
                .boxed()
            });
            let (told, served) = looking.await?;
            let why = match told {
                Told::Importing(_) => "the import into it is not finished: run it again",
                Told::Imported(export) if export == self.export && !served => continue,
                Told::Imported(export) if export == self.export => {
                    "a db_proxy has used it since: what is in it now is not what was exported"
                }
                Told::Nothing | Told::Imported(_) => "this export was not imported into it",
            };
            return Err(StoreError::Refused(format!("{name}: {why}")));
        }
        Ok(())
    }

    /// Sorts rows by the databases they belong to. What belongs to none is left out.
    pub fn batches(
        &self,
        table: &'static Table,
        rows: impl IntoIterator<Item = Row>,
        bytes_max: usize,
    ) -> impl Iterator<Item = Batch> {
        let mut rows = rows.into_iter();
        let count = self.databases.shards.len() + 1;
        let new = move |database| Batch { table, database, rows: Vec::new(), bytes: 0 };
        let mut filling: Vec<Batch> = (0..count).map(new).collect();
        std::iter::from_fn(move || {
            for row in rows.by_ref() {
                let Some(database) = self.place(table, &row) else { continue };
                let Some(batch) = filling.get_mut(database) else { continue };
                batch.bytes += rows::weight(&row);
                batch.rows.push(row);
                if batch.bytes >= bytes_max {
                    return Some(std::mem::replace(batch, new(database)));
                }
            }
            let rest = filling.iter_mut().find(|batch| !batch.rows.is_empty())?;
            let empty = new(rest.database);
            Some(std::mem::replace(rest, empty))
        })
    }

    /// Which database a row belongs to: a shard's number, or one more than the last for logins.
    fn place(&self, table: &Table, row: &[Field]) -> Option<usize> {
        let shards = self.databases.shards.len();
        match (table.place, row) {
            (Place::Conversations, [Field::Number(conversation), ..]) => {
                Some(partition_of(*conversation, self.partitions) as usize % shards)
            }
            (Place::Logins, _) => Some(shards),
            (Place::Conversations | Place::Files, _) => None,
        }
    }

    /// Writes rows. Returns how many.
    pub async fn put(&self, batch: Batch) -> Result<u64, StoreError> {
        let Batch { table, database, rows, .. } = batch;
        let count = rows.len() as u64;
        let rows: Arc<[Row]> = rows.into();
        let (mark, partitions) = (Arc::clone(&self.mark), self.partitions);
        let writing = self.database(database).writes.run(move |link| {
            let (rows, mark) = (Arc::clone(&rows), Arc::clone(&mark));
            async move {
                link.begin().await?;
                marks::check_mark(link, &mark).await?;
                rows::put(link, table, &rows, partitions).await?;
                link.commit().await
            }
            .boxed()
        });
        writing.await?;
        Ok(count)
    }

    /// Writes down how many files are done.
    pub async fn note(&self, files: usize) -> Result<(), StoreError> {
        let mark = Arc::clone(&self.mark);
        let noting = self.first().writes.run(move |link| {
            let mark = Arc::clone(&mark);
            async move {
                link.begin().await?;
                marks::check_mark(link, &mark).await?;
                marks::note(link, files).await?;
                link.commit().await
            }
            .boxed()
        });
        noting.await
    }

    /// Reads a table back, and tells of every so many rows. What is not where it belongs is an error.
    pub async fn sum(
        &self,
        table: &'static Table,
        each: &mut (dyn FnMut(u64) -> Result<(), StoreError> + Send),
    ) -> Result<Sum, StoreError> {
        let databases = match table.place {
            Place::Conversations => 0..self.databases.shards.len(),
            Place::Logins => self.databases.shards.len()..self.databases.shards.len() + 1,
            Place::Files => 0..0,
        };
        let mut all = Sum::default();
        for database in databases {
            let place = (database, self.databases.shards.len(), self.partitions);
            let mut after: Option<Arc<[Field]>> = None;
            loop {
                let from = after.clone();
                let reading = self.database(database).reads.run(move |link| {
                    let from = from.clone();
                    async move { rows::page(link, table, from.as_deref(), place).await }.boxed()
                });
                let rows::Page { sum, last } = reading.await?;
                all.join(sum);
                each(sum.rows)?;
                match last {
                    Some(last) => after = Some(last.into()),
                    None => break,
                }
            }
        }
        Ok(all)
    }

    /// Ends the import: the databases may be used from then on.
    pub async fn finish(&self) -> Result<(), StoreError> {
        // The first one, which knows how far it is, is the last to forget it.
        let all: Vec<_> = self.all().collect();
        for (number, database) in all.into_iter().rev() {
            let (mark, export) = (Arc::clone(&self.mark), self.export.clone());
            let is_shard = number < self.databases.shards.len();
            let finishing = database.writes.run(move |link| {
                let (mark, export) = (Arc::clone(&mark), export.clone());
                async move { marks::finish(link, &mark, &export, is_shard).await }.boxed()
            });
            finishing.await?;
        }
        Ok(())
    }

    /// Every database once, with its number.
    fn all(&self) -> impl Iterator<Item = (usize, &Database)> {
        self.databases.all().enumerate()
    }

    fn first(&self) -> &Database {
        self.database(0)
    }

    /// The one of this number; that of logins, if there is none.
    fn database(&self, number: usize) -> &Database {
        let shard = self.databases.shards.get(number);
        shard.or(self.databases.people()).expect("a site has a shard at least")
    }

    /// Refuses a database that has rows already.
    async fn check_empty(&self, database: &Database) -> Result<(), StoreError> {
        let name = database.writes.name();
        let found = database.writes.run(|link| marks::found_in(link).boxed()).await?;
        found.map_or(Ok(()), |found| Err(not_empty(name, &format!("it has rows in {found}"))))
    }

    /// Marks a database as being imported into.
    async fn take(&self, number: usize, database: &Database) -> Result<(), StoreError> {
        let (mark, export) = (Arc::clone(&self.mark), self.export.clone());
        let (partitions, shards) = (self.partitions, self.databases.shards.len());
        // Those of a shard; none of a database of logins.
        let parts: Vec<u32> =
            (0..partitions).filter(|part| *part as usize % shards == number).collect();
        let name: Arc<str> = database.writes.name().into();
        let taking = database.writes.run(move |link| {
            let (mark, export, parts) = (Arc::clone(&mark), export.clone(), parts.clone());
            let name = Arc::clone(&name);
            async move {
                match marks::take(link, &mark, &export, &parts).await {
                    Err(failure) if failure.is_duplicate() => {
                        Err(not_empty(&name, "somebody has just begun to use it").into())
                    }
                    other => other,
                }
            }
            .boxed()
        });
        taking.await
    }
}

fn not_empty(name: &str, why: &str) -> StoreError {
    StoreError::Refused(format!("{name} is not empty: {why}; name an empty database"))
}
