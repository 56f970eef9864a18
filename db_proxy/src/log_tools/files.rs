//! A log in files: its segments, its damage, and how far the store is.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use daemon::BoxError;
use partition::open::OpenError;
use proto::ids::Offset;
use record_log::embedded::{ReadOnlyLog, Survey};
use record_log::{LogError, LogReader as _, LogRecord};
use store::Claimed;
use store::StoreError;
use store::sqlite::SqliteStore;

use super::health::{Health, pairing};
use super::records::{Check, Shown, list};
use crate::config::Config;
use crate::site::SQLITE;

/// Prints what there is: the log, its segments, how far the store is, and the records asked for.
pub(super) fn inspect(
    config: &Config,
    shown: Shown,
    out: &mut dyn Write,
) -> Result<Health, BoxError> {
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
pub(super) fn verify(config: &Config, out: &mut dyn Write) -> Result<Health, BoxError> {
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
    match ReadOnlyLog::look(&folder, each) {
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

fn print_log(
    out: &mut dyn Write,
    config: &Config,
    log: &ReadOnlyLog,
    survey: &Survey,
) -> io::Result<()> {
    let (first, next) = log.range();
    writeln!(out, "log         {}", log.id())?;
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
