//! Looking into the log of a db_proxy, whether it runs or not: `db_proxy log inspect` and `log verify`.
//! Of a log in files here, of a topic in `inspecting/kafka.rs`.
//!
//! # Invariants
//!
//! - Nothing is changed, no lock is taken, and a db_proxy may start, run and stop meanwhile.
//! - What people have written, their names and their groups' names are never shown: who may look
//!   into the log may not therefore read along.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use daemon::BoxError;
use jiff::Timestamp;
use partition::open::OpenError;
use proto::ids::Offset;
use record_log::embedded::{EmbeddedLog, ReadOnlyLog, Survey};
use record_log::{Log, LogError, LogId, LogRecord};
use store::StoreError;
use store::sqlite::{Claimed, SqliteStore};

use crate::config::Config;
use crate::wiring::SQLITE;
use records::{Check, Line};

#[cfg_attr(not(feature = "kafka"), path = "inspecting/without_kafka.rs")]
mod kafka;
mod records;
#[cfg(test)]
mod tests;

/// So many records are listed if nobody says how many.
const COUNT: u64 = 20;

/// Which records are listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    /// The first of them. `None`: the last ones, if any.
    pub from: Option<Offset>,
    /// How many. `None`: some, if `from` is given.
    pub count: Option<u64>,
    /// Of which partition of a topic. `None`: of each.
    pub partition: Option<u32>,
}

impl Shown {
    /// Whether any records are listed.
    fn lists(self) -> bool {
        self.from.is_some() || self.count.is_some()
    }
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// All is as it should be.
    Fine,
    /// Something that was promised to be there is not, or log and store do not belong together.
    Damaged,
}

/// Prints what there is: the log, its segments, how far the store is, and the records asked for.
pub fn inspect(config: &Config, shown: Shown, out: &mut dyn Write) -> Result<Health, BoxError> {
    if config.kafka.is_used() {
        return kafka::inspect(config, shown, out);
    }
    let stored = Stored::look(config);
    let (log, survey) = match look(config, &mut |_record| {}) {
        Ok(found) => found,
        Err(Unusable::Damaged(what)) => return tell_damage(out, &what),
        Err(Unusable::Other(error)) => return Err(error.boxed()),
    };
    print_log(out, config, &log, &survey)?;
    let next = log.range().1;
    match &stored {
        Stored::Claimed(path, claimed) => {
            let progress = &claimed.progress;
            let behind = (next.0 - 1).saturating_sub(progress.applied.0);
            writeln!(out, "store       SQLite in {}", path.display())?;
            writeln!(out, "  epoch     {}, owner {}", progress.epoch, claimed.owner)?;
            writeln!(out, "  applied   up to {}, {behind} behind the log", progress.applied.0)?;
        }
        other => writeln!(out, "store       {}", other.absence())?,
    }
    print_damage(out, &survey)?;
    if shown.lists() {
        writeln!(out)?;
        list(&log, shown, out)?;
    }
    Ok(if survey.damage.is_empty() { Health::Fine } else { Health::Damaged })
}

/// Reads everything, and prints whether it is as it should be.
pub fn verify(config: &Config, shown: Shown, out: &mut dyn Write) -> Result<Health, BoxError> {
    if config.kafka.is_used() {
        return kafka::verify(config, shown, out);
    }
    // Before the log is looked at: what a running db_proxy stores meanwhile may be newer than that.
    let stored = Stored::look(config);
    let applied = match &stored {
        Stored::Claimed(_, claimed) => claimed.progress.applied,
        _ => Offset(0),
    };
    let mut check = Check::new(applied);
    let (log, survey) = match look(config, &mut |record| check.record(&record)) {
        Ok(found) => found,
        Err(Unusable::Damaged(what)) => return tell_damage(out, &what),
        Err(Unusable::Other(error)) => return Err(error.boxed()),
    };
    print_log(out, config, &log, &survey)?;
    check.print(out)?;
    let pairing = match &stored {
        Stored::Claimed(_, claimed) => {
            pairing(&log, &check, claimed, || Stored::look(config).claimed())
        }
        Stored::Wrong(why) => Err(why.clone()),
        other => Ok(other.absence()),
    };
    match &pairing {
        Ok(fine) => writeln!(out, "store       {fine}")?,
        Err(wrong) => writeln!(out, "store       WRONG: {wrong}")?,
    }
    print_damage(out, &survey)?;
    if survey.damage.is_empty() && check.is_fine() && pairing.is_ok() {
        let is_paired = matches!(stored, Stored::Claimed(..));
        writeln!(out, "{}", if is_paired { "all is well" } else { "the log is well" })?;
        return Ok(Health::Fine);
    }
    writeln!(out, "NOT WELL: see above. Nothing was changed")?;
    Ok(Health::Damaged)
}

/// Lets another consumer of the topic go on from an offset, and prints where that is.
pub fn replay(
    config: &Config,
    (consumer, from): (&str, Offset),
    partition: Option<u32>,
    out: &mut dyn Write,
) -> Result<Health, BoxError> {
    if config.kafka.is_used() {
        return kafka::replay(config, (consumer, from), partition, out);
    }
    let why = "a log in files has no consumers besides the fold, which goes by what the store says";
    Err(OpenError::Refused(why.to_owned()).boxed())
}

/// Prints one line for each record that is to be shown.
pub fn list(log: &dyn Log, shown: Shown, out: &mut dyn Write) -> Result<(), BoxError> {
    let (first, next) = log.range();
    let count = shown.count.unwrap_or(COUNT);
    let last = || Offset(next.0.saturating_sub(count).max(first.0));
    let from = shown.from.unwrap_or_else(last);
    let mut left = count;
    let mut failed = None;
    writeln!(out, "{}", Line::HEADINGS)?;
    let stop = || LogError::Full(String::new());
    let read = log.read(from, &mut |record| {
        if left == 0 {
            return Err(stop());
        }
        left -= 1;
        writeln!(out, "{}", Line(&record)).map_err(|error| {
            failed = Some(error);
            stop()
        })
    });
    match (failed, read) {
        (Some(error), _) => Err(error.into()),
        // The only place where this comes from is above.
        (None, Ok(()) | Err(LogError::Full(_))) => Ok(()),
        (None, Err(LogError::Damaged(what))) => Ok(writeln!(out, "{what}")?),
        (None, Err(error @ LogError::NotHere { .. })) => {
            Err(OpenError::Refused(error.to_string()).boxed())
        }
        (None, Err(error)) => Err(OpenError::from(error).boxed()),
    }
}

/// Why there is nothing to look at.
enum Unusable {
    Damaged(String),
    Other(OpenError),
}

fn look(
    config: &Config,
    each: &mut dyn FnMut(LogRecord),
) -> Result<(ReadOnlyLog, Survey), Unusable> {
    let folder = folder(config);
    match EmbeddedLog::look(&folder, each) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(Unusable::Other(OpenError::Refused(format!(
            "there is no log in {}: is data_dir the one of the db_proxy that is meant?",
            folder.display()
        )))),
        Err(LogError::Damaged(what)) => Err(Unusable::Damaged(what)),
        Err(error) => Err(Unusable::Other(error.into())),
    }
}

fn folder(config: &Config) -> PathBuf {
    config.data_dir.join("log")
}

/// What is known of the store.
enum Stored {
    Claimed(PathBuf, Claimed),
    Nothing(PathBuf),
    Elsewhere,
    /// It cannot be read now.
    Unreadable(String),
    /// It is damaged, or not one of this program.
    Wrong(String),
}

impl Stored {
    fn look(config: &Config) -> Self {
        if !config.store.mysql.is_empty() {
            return Self::Elsewhere;
        }
        let path = config.data_dir.join(SQLITE);
        match SqliteStore::look(&path) {
            Ok(Some(claimed)) => Self::Claimed(path, claimed),
            Ok(None) => Self::Nothing(path),
            Err(error @ StoreError::Refused(_)) => Self::Wrong(error.to_string()),
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }

    fn claimed(self) -> Option<Claimed> {
        match self {
            Self::Claimed(_, claimed) => Some(claimed),
            _ => None,
        }
    }

    /// Why there is nothing to say about its progress.
    fn absence(&self) -> String {
        match self {
            Self::Claimed(path, _) => path.display().to_string(),
            Self::Nothing(path) => format!("SQLite, with nothing in {}", path.display()),
            Self::Elsewhere => "MySQL or MariaDB, which is not asked".to_owned(),
            Self::Unreadable(why) | Self::Wrong(why) => format!("not looked at: {why}"),
        }
    }
}

/// Whether the store has been filled from this log. `now` looks at it again.
fn pairing(
    log: &dyn Log,
    check: &Check,
    claimed: &Claimed,
    now: impl FnOnce() -> Option<Claimed>,
) -> Result<String, String> {
    let (first, next) = log.range();
    let applied = claimed.progress.applied;
    if claimed.log != log.id() {
        return Err(format!("it belongs to log {}", Hex(claimed.log)));
    }
    if applied >= next {
        return Err(format!(
            "it has applied records up to {}, and the log ends before {}",
            applied.0, next.0
        ));
    }
    if applied < first {
        // A db_proxy that runs may have stored, and then trimmed, more than was known at first.
        let applied = now().map_or(applied, |claimed| claimed.progress.applied.max(applied));
        if applied.next() < first {
            return Err(format!(
                "it has applied records up to {}, and the log begins at {}",
                applied.0, first.0
            ));
        }
        return Ok(format!("applied up to {}, which the log has no more", applied.0));
    }
    match check.crc_of_applied {
        Some(crc) if crc == claimed.progress.applied_crc => {
            Ok(format!("applied up to {}, the same record as in the log", applied.0))
        }
        Some(_) => Err(format!("the record it applied at {} is not the one in the log", applied.0)),
        None => Err(format!("the record it applied at {} cannot be read", applied.0)),
    }
}

fn print_log(
    out: &mut dyn Write,
    config: &Config,
    log: &ReadOnlyLog,
    survey: &Survey,
) -> io::Result<()> {
    let (first, next) = log.range();
    writeln!(out, "log         {}", Hex(log.id()))?;
    writeln!(out, "folder      {}", folder(config).display())?;
    let segments = survey.segments.len();
    writeln!(out, "segments    {segments} of {} bytes", log.segment_bytes())?;
    for segment in &survey.segments {
        let (name, from) = (&segment.name, segment.first.0);
        writeln!(out, "  {name}  from {from}, {} bytes used", segment.used)?;
    }
    writeln!(out, "records     {} from {} on, the next is {}", survey.records, first.0, next.0)?;
    writeln!(out, "proven      durable up to {}", survey.proven.0)?;
    if survey.unfinished_bytes > 0 {
        writeln!(
            out,
            "tail        {} bytes behind the last record: being appended, or never acknowledged",
            survey.unfinished_bytes
        )?;
    }
    Ok(())
}

fn print_damage(out: &mut dyn Write, survey: &Survey) -> io::Result<()> {
    for damage in &survey.damage {
        let name = Path::new(&damage.file).display();
        writeln!(out, "DAMAGE      {name}, byte {}: {}", damage.position, damage.what)?;
    }
    if survey.more_damage > 0 {
        writeln!(out, "DAMAGE      {} more places", survey.more_damage)?;
    }
    Ok(())
}

fn tell_damage(out: &mut dyn Write, what: &str) -> Result<Health, BoxError> {
    writeln!(out, "DAMAGE      {what}")?;
    Ok(Health::Damaged)
}

/// Sixteen bytes as digits.
struct Hex(LogId);

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A time of the log, in UTC.
fn utc(timestamp_ms: u64) -> String {
    let time = i64::try_from(timestamp_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{timestamp_ms} ms"), |time| format!("{time:.3}"))
}
