//! From the embedded store to files.

use std::path::Path;

use data_encoding::HEXLOWER;
use record_log::embedded::{EmbeddedLog, Options, Prepared, ReadOnlyLog};
use record_log::{LogError, LogId, LogReader};
use ring::rand::{SecureRandom, SystemRandom};
use store::Claimed;
use store::sqlite::{SqliteStore, Tables};
use store::table::{self, Field, MESSAGE, Row, Sum, TABLES, Table};

use super::error::MoveError;
use super::folder::{Begun, Export, FILE_BYTES, Making, Source};
use super::progress::{Moved, Phase, Step, Watch, tell};
use crate::site::SQLITE;

/// Progress is told after so many rows.
const TOLD_EVERY: u64 = 4_096;

/// What to do with a log that has more than the store.
const STOP_IT: &str = "start db_proxy once and stop it with SIGTERM: it stores what is in its log as \
                       it stops";

/// Writes the site of the embedded db_proxy whose folder `data_dir` is to files in `to`, or what is
/// missing there of it. Blocks on the disk.
pub fn export(data_dir: &Path, to: &Path, watch: Watch<'_>) -> Result<Moved, MoveError> {
    // Held until the end: no db_proxy writes meanwhile.
    let (_ours, claimed) = take(data_dir)?;
    let source = Source {
        log: HEXLOWER.encode(&claimed.log.0),
        epoch: claimed.progress.epoch,
        applied: claimed.progress.applied.0,
        applied_crc: claimed.progress.applied_crc,
        fold_version: claimed.progress.fold_version,
    };
    match Making::begin(to, &source, &new_id()?)? {
        Begun::Already(export) => Ok(moved(&export, true)),
        Begun::Making(making) => {
            let tables = Tables::open(&data_dir.join(SQLITE))?;
            let total = total(&tables)?;
            let mut writer = Writer::new(making, &tables, total, watch);
            for table in &TABLES {
                writer.write(table)?;
            }
            Ok(moved(&writer.making.end()?, false))
        }
    }
}

pub(super) fn moved(export: &Export, already: bool) -> Moved {
    Moved {
        tables: export.sums().iter().map(|(table, sum)| (table.name, sum.rows)).collect(),
        bytes: export.parts().iter().map(|part| part.bytes).sum(),
        already,
    }
}

/// 128 random bits: no other export has the same.
pub(super) fn new_id() -> Result<String, MoveError> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| MoveError::Failed("the system gives no random numbers".to_owned()))?;
    Ok(HEXLOWER.encode(&bytes))
}

/// Takes the folder of a db_proxy that is stopped and whose store has everything.
fn take(data_dir: &Path) -> Result<(Prepared, Claimed), MoveError> {
    let (store, log) = (data_dir.join(SQLITE), data_dir.join("log"));
    let name = data_dir.display();
    if !store.is_file() || !log.is_dir() {
        return Err(MoveError::Refused(format!(
            "there is no embedded site in {name}: name the data_dir of its db_proxy"
        )));
    }
    let ours = EmbeddedLog::prepare(Options::new(&log)).map_err(|error| match error {
        LogError::InUse(_) => MoveError::Refused(format!(
            "a db_proxy runs on {name}: stop the site first, with SIGTERM"
        )),
        other => other.into(),
    })?;
    let claimed = SqliteStore::look(&store).map_err(|error| {
        let why = error.to_string();
        MoveError::Refused(format!("the store in {name} was not closed ({why}): {STOP_IT}"))
    })?;
    let Some(claimed) = claimed else {
        return Err(MoveError::Refused(format!("there is nothing in the store in {name} yet")));
    };
    compare(&log, ours.id(), &claimed)?;
    Ok((ours, claimed))
}

/// The log must be the store's, and must end with what the store has.
fn compare(log: &Path, id: LogId, claimed: &Claimed) -> Result<(), MoveError> {
    let progress = &claimed.progress;
    let mut crc = None;
    let found = ReadOnlyLog::look(log, &mut |record| {
        if record.offset == progress.applied {
            crc = Some(record.crc);
        }
    })?;
    let name = log.display();
    let refused = |why: String| Err(MoveError::Refused(why));
    let Some((read, survey)) = found else { return refused(format!("{name} has no log")) };
    if let Some(damage) = survey.damage.first() {
        return refused(format!(
            "{name} is damaged: {}, byte {}: {}; `db_proxy log verify` says more",
            damage.file, damage.position, damage.what
        ));
    }
    if claimed.log != id || crc.is_some_and(|crc| crc != progress.applied_crc) {
        return refused(format!(
            "the store beside {name} was filled from another log: put the two that belong together in \
             place"
        ));
    }
    let last = read.range().1.0 - 1;
    if last > progress.applied.0 {
        let behind = last - progress.applied.0;
        return refused(format!("{name} has {behind} records that the store lacks: {STOP_IT}"));
    }
    if last < progress.applied.0 {
        return refused(format!(
            "{name} ends at {last}, but the store has {}: an older copy of the log? Put the newest \
             copy in place",
            progress.applied.0
        ));
    }
    Ok(())
}

fn total(tables: &Tables) -> Result<u64, MoveError> {
    TABLES.iter().try_fold(0, |total, table| {
        // Counting messages takes as long as reading them.
        let rows = if table.name == MESSAGE { tables.messages()? } else { tables.count(table)? };
        Ok(total + rows)
    })
}

/// Rows on their way into files.
struct Writer<'a> {
    making: Making,
    tables: &'a Tables,
    watch: Watch<'a>,
    done: u64,
    total: u64,
    /// Rows of the next file, as they are written down.
    rows: Vec<u8>,
    sum: Sum,
    /// The last of them, and its key.
    row: Vec<u8>,
    key: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(making: Making, tables: &'a Tables, total: u64, watch: Watch<'a>) -> Self {
        Self {
            making,
            tables,
            watch,
            done: 0,
            total,
            rows: Vec::new(),
            sum: Sum::default(),
            row: Vec::new(),
            key: Vec::new(),
        }
    }

    /// Writes what is missing of a table.
    fn write(&mut self, table: &'static Table) -> Result<(), MoveError> {
        let parts = self.making.parts();
        let last = match parts.iter().rfind(|part| part.table == table.name) {
            Some(part) => Some(part.last(table).ok_or_else(|| {
                MoveError::Refused(format!(
                    "the manifest is damaged at {}: export to another folder",
                    part.file
                ))
            })?),
            None => None,
        };
        self.done += self.written(table);
        let tables = self.tables;
        let mut dense = (table.name == MESSAGE).then(|| Dense::after(tables, last.as_deref()));
        tables.rows(table, last.as_deref(), &mut |row| {
            if let Some(dense) = &mut dense {
                dense.next(&row)?;
            }
            self.take(table, &row)
        })?;
        if let Some(dense) = dense {
            dense.end()?;
            let (expected, found) = (tables.messages()?, self.written(table) + self.sum.rows);
            if expected != found {
                return Err(MoveError::Refused(format!(
                    "the store is damaged: it has {found} messages instead of {expected}"
                )));
            }
        }
        self.close(table)
    }

    fn written(&self, table: &Table) -> u64 {
        let parts = self.making.parts().iter();
        parts.filter(|part| part.table == table.name).map(|part| part.rows).sum()
    }

    fn take(&mut self, table: &'static Table, row: &[Field]) -> Result<(), MoveError> {
        self.row.clear();
        table::encode(row, &mut self.row);
        self.rows.extend_from_slice(&self.row);
        self.sum.add(&self.row);
        self.key.clear();
        table::encode(row.split_at(table.keys).0, &mut self.key);
        self.done += 1;
        if self.done.is_multiple_of(TOLD_EVERY) {
            self.tell(table)?;
        }
        if self.rows.len() >= FILE_BYTES {
            self.close(table)?;
        }
        Ok(())
    }

    fn close(&mut self, table: &'static Table) -> Result<(), MoveError> {
        if self.sum.rows > 0 {
            self.making.put(table, &self.rows, self.sum, &self.key)?;
            self.rows.clear();
            self.sum = Sum::default();
        }
        self.tell(table)
    }

    fn tell(&self, table: &'static Table) -> Result<(), MoveError> {
        let Self { done, total, .. } = *self;
        // What is damaged may have more rows than it says of itself.
        let total = total.max(done);
        tell(self.watch, Step { phase: Phase::Exporting, table: table.name, done, total })
    }
}

/// Checks that the messages of each conversation are 1, 2, 3 … up to its head.
struct Dense<'a> {
    tables: &'a Tables,
    /// The last message: its conversation and its number.
    last: Option<(u64, u64)>,
}

impl<'a> Dense<'a> {
    fn after(tables: &'a Tables, last: Option<&[Field]>) -> Self {
        Self { tables, last: last.and_then(place) }
    }

    fn next(&mut self, row: &Row) -> Result<(), MoveError> {
        let Some((conversation, number)) = place(row) else {
            return Err(MoveError::Refused("the store is damaged: a message's place".to_owned()));
        };
        let expected = match self.last {
            Some((before, last)) if before == conversation => last + 1,
            _ => {
                self.end()?;
                1
            }
        };
        if number != expected {
            return Err(lacks(conversation, expected));
        }
        self.last = Some((conversation, number));
        Ok(())
    }

    /// The last conversation has no more messages.
    fn end(&self) -> Result<(), MoveError> {
        let Some((conversation, last)) = self.last else { return Ok(()) };
        match self.tables.head(conversation)? {
            Some(head) if head == last => Ok(()),
            _ => Err(lacks(conversation, last + 1)),
        }
    }
}

fn place(fields: &[Field]) -> Option<(u64, u64)> {
    match fields {
        [Field::Number(conversation), Field::Number(number), ..] => Some((*conversation, *number)),
        _ => None,
    }
}

fn lacks(conversation: u64, number: u64) -> MoveError {
    MoveError::Refused(format!(
        "the store is damaged: conversation {conversation} lacks message {number}, or its head is \
         wrong"
    ))
}
