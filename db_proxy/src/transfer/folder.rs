//! A site in files, between two kinds of store.
//!
//! ```text
//! manifest.jsonl        which site it is; a line for each file; at the end, the sums of all tables
//! user-000001.rows      rows of one table, in the order of its primary key
//! message-000001.rows   of about 32 MiB each, the last one of a table less
//! message-000002.rows
//! ```
//!
//! The manifest only grows: a line is added once its file is on disk. Its last line says that nothing
//! is missing, and has the SHA-256 of all lines before it. A file begins with a line of its own, then
//! come rows as [`table`] writes them.
//!
//! # Invariants
//!
//! - A file that the manifest names is whole and on disk under its name.
//! - One export at a time writes to a folder, and no import reads from it meanwhile.
//! - Everything is readable by its owner only.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use daemon::files;
use daemon::folder_lock::FolderLock;
use data_encoding::HEXLOWER;
use ring::digest::{self, SHA256};
use serde::{Deserialize, Serialize};
use store::table::{self, Row, Sum, Table};

use super::error::{MoveError, disk};

/// The format of this version.
const FORMAT: u32 = 2;

const MANIFEST: &str = "manifest.jsonl";

/// What a file of rows begins with.
const MAGIC: &[u8] = b"TalkHub rows 1\n";

/// A file that is as long as this is closed.
pub(super) const FILE_BYTES: usize = 32 << 20;

/// A file is read as a whole, so a longer one is none of ours.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The state of the site that is exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    /// Its log's id.
    pub(super) log: String,
    /// The epoch of its last owner: it rises with each start.
    pub(super) epoch: u64,
    /// The last record that is stored.
    pub(super) applied: u64,
    /// That record's fingerprint.
    pub(super) applied_crc: u32,
    /// The fold's rules after it.
    pub(super) fold_version: u32,
}

/// One file of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// Its name.
    pub(super) file: String,
    /// Whose rows.
    pub(super) table: String,
    /// How many.
    pub(super) rows: u64,
    /// The file's length.
    pub(super) bytes: u64,
    /// The file's SHA-256.
    pub(super) sha256: String,
    /// The sum of its rows.
    sum: String,
    /// The primary key of its last row.
    last: String,
}

impl Part {
    /// The sum of its rows.
    pub(super) fn sum(&self) -> Option<Sum> {
        Some(Sum { rows: self.rows, sum: u128::from_str_radix(&self.sum, 16).ok()? })
    }

    /// The primary key of its last row.
    pub(super) fn last(&self, table: &Table) -> Option<Row> {
        table::decode(&mut HEXLOWER.decode(self.last.as_bytes()).ok()?.into(), table.keys)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ManifestLine {
    Export(Header),
    Rows(Part),
    End(End),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    /// A number that no other export has.
    id: String,
    source: Source,
}

/// Read before anything else, whatever the rest looks like.
#[derive(Debug, Deserialize)]
struct Versioned {
    export: Version,
}

#[derive(Debug, Deserialize)]
struct Version {
    format: u32,
}

/// The first line as it is written.
#[derive(Debug, Serialize)]
struct First<'a> {
    export: FirstOf<'a>,
}

#[derive(Debug, Serialize)]
struct FirstOf<'a> {
    format: u32,
    id: &'a str,
    source: &'a Source,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct End {
    tables: Vec<TableSum>,
    sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TableSum {
    table: String,
    rows: u64,
    sum: String,
}

/// What a manifest says.
struct Manifest {
    header: Header,
    parts: Vec<Part>,
    end: Option<End>,
    /// The length of the lines that are whole, in bytes.
    length: u64,
}

/// An export that is being made.
#[derive(Debug)]
pub(super) struct Making {
    dir: PathBuf,
    manifest: File,
    parts: Vec<Part>,
    lock: FolderLock,
}

/// What there was in the folder that an export is to be written to.
#[derive(Debug)]
pub(super) enum Begun {
    /// Everything of this site.
    Already(Export),
    /// Nothing, or a part.
    Making(Making),
}

impl Making {
    /// Begins an export of `source` in `dir`, or goes on with one.
    pub(super) fn begin(dir: &Path, source: &Source, id: &str) -> Result<Begun, MoveError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(disk(dir))?;
        let lock = lock(dir, true)?;
        let path = dir.join(MANIFEST);
        let found = if path.exists() { read_manifest(dir)? } else { None };
        if let Some(found) = &found
            && found.header.source != *source
        {
            return Err(MoveError::Refused(format!(
                "{} has an export of another site, or of this one before db_proxy was started again: \
                 name another folder, or delete this one",
                dir.display()
            )));
        }
        if let Some(Manifest { header, parts, end: Some(end), .. }) = found {
            return Ok(Begun::Already(Export::new(dir, header, parts, &end, lock)?));
        }
        let (parts, length) = match found {
            Some(found) => (found.parts, found.length),
            None => (Vec::new(), 0),
        };
        if length == 0 && !is_empty(dir)? {
            return Err(MoveError::Refused(format!(
                "{} is not empty, and no export: name another folder",
                dir.display()
            )));
        }
        for part in &parts {
            check_length(dir, part)?;
        }
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        let manifest = options.open(&path).map_err(disk(&path))?;
        // A line that was cut short.
        manifest.set_len(length).map_err(disk(&path))?;
        let mut making = Self { dir: dir.to_owned(), manifest, parts, lock };
        if length == 0 {
            making.add(&First { export: FirstOf { format: FORMAT, id, source } })?;
        }
        Ok(Begun::Making(making))
    }

    /// The files there are.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Writes one more file. `rows` are its rows as they are written down, `last` the last key.
    pub(super) fn put(
        &mut self,
        table: &Table,
        rows: &[u8],
        sum: Sum,
        last: &[u8],
    ) -> Result<(), MoveError> {
        let before = self.parts.iter().filter(|part| part.table == table.name).count();
        let file = format!("{}-{:06}.rows", table.name, before + 1);
        let content = [MAGIC, rows].concat();
        let part = Part {
            table: table.name.to_owned(),
            rows: sum.rows,
            bytes: content.len() as u64,
            sha256: HEXLOWER.encode(digest::digest(&SHA256, &content).as_ref()),
            sum: format!("{:032x}", sum.sum),
            last: HEXLOWER.encode(last),
            file,
        };
        let path = self.dir.join(&part.file);
        files::replace(&path, &content).map_err(disk(&path))?;
        self.add(&ManifestLine::Rows(part.clone()))?;
        self.parts.push(part);
        Ok(())
    }

    /// Says that nothing is missing.
    pub(super) fn end(mut self) -> Result<Export, MoveError> {
        let path = self.dir.join(MANIFEST);
        let before = fs::read(&path).map_err(disk(&path))?;
        let tables = sums(&self.dir, &self.parts)?.into_iter().map(|(table, sum)| TableSum {
            table: table.name.to_owned(),
            rows: sum.rows,
            sum: format!("{:032x}", sum.sum),
        });
        let end = End {
            tables: tables.collect(),
            sha256: HEXLOWER.encode(digest::digest(&SHA256, &before).as_ref()),
        };
        self.add(&ManifestLine::End(end.clone()))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(disk(&self.dir))?;
        let Self { dir, parts, lock, .. } = self;
        let Some(Manifest { header, .. }) = read_manifest(&dir)? else {
            return Err(damaged(&path, "it was taken away"));
        };
        Export::new(&dir, header, parts, &end, lock)
    }

    fn add(&mut self, line: &impl Serialize) -> Result<(), MoveError> {
        let path = self.dir.join(MANIFEST);
        let mut text = serde_json::to_string(line)
            .map_err(|error| MoveError::Failed(format!("{}: {error}", path.display())))?;
        text.push('\n');
        let written = self.manifest.write_all(text.as_bytes());
        written.and_then(|()| self.manifest.sync_all()).map_err(disk(&path))
    }
}

/// A whole export.
#[derive(Debug)]
pub(super) struct Export {
    dir: PathBuf,
    id: String,
    parts: Vec<Part>,
    sums: Vec<(&'static Table, Sum)>,
    _lock: FolderLock,
}

#[cfg_attr(not(feature = "mysql"), expect(dead_code, reason = "only MySQL is imported into"))]
impl Export {
    /// Opens an export, which must be whole.
    pub(super) fn open(dir: &Path) -> Result<Self, MoveError> {
        if !dir.join(MANIFEST).is_file() {
            return Err(MoveError::Refused(format!(
                "there is no export in {}: name the folder that `talkhub admin export` has written",
                dir.display()
            )));
        }
        let lock = lock(dir, false)?;
        match read_manifest(dir)? {
            Some(Manifest { header, parts, end: Some(end), .. }) => {
                Self::new(dir, header, parts, &end, lock)
            }
            _ => Err(MoveError::Refused(format!(
                "the export in {} is not finished: run `talkhub admin export` again",
                dir.display()
            ))),
        }
    }

    fn new(
        dir: &Path,
        header: Header,
        parts: Vec<Part>,
        end: &End,
        lock: FolderLock,
    ) -> Result<Self, MoveError> {
        let sums = sums(dir, &parts)?;
        let is_said = |(table, sum): &(&'static Table, Sum)| {
            let sum = (sum.rows, format!("{:032x}", sum.sum));
            let said = end.tables.iter().find(|said| said.table == table.name);
            said.is_some_and(|said| (said.rows, said.sum.clone()) == sum)
        };
        if end.tables.len() != sums.len() || !sums.iter().all(is_said) {
            return Err(damaged(&dir.join(MANIFEST), "its sums are not those of its files"));
        }
        Ok(Self { dir: dir.to_owned(), id: header.id, parts, sums, _lock: lock })
    }

    /// A number that no other export has.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Its files, in the order in which they were written.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The sum of each table.
    pub(super) fn sums(&self) -> &[(&'static Table, Sum)] {
        &self.sums
    }

    /// The rows of a file as they are written down. Blocks on the disk.
    pub(super) fn rows(dir: &Path, part: &Part) -> Result<Bytes, MoveError> {
        check_length(dir, part)?;
        let path = dir.join(&part.file);
        let mut rows = Bytes::from(fs::read(&path).map_err(disk(&path))?);
        if HEXLOWER.encode(digest::digest(&SHA256, &rows).as_ref()) != part.sha256 {
            return Err(damaged(&path, "its SHA-256 is not the one in the manifest"));
        }
        if !rows.starts_with(MAGIC) {
            return Err(damaged(&path, "it does not begin as files of rows do"));
        }
        rows.advance(MAGIC.len());
        Ok(rows)
    }

    /// Where it is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// What to say of a file that is not what was written.
pub(super) fn damaged(path: &Path, why: &str) -> MoveError {
    let path = path.display();
    MoveError::Refused(format!("{path} is damaged: {why}; restore it, or export again"))
}

fn lock(dir: &Path, to_write: bool) -> Result<FolderLock, MoveError> {
    let locked = if to_write { FolderLock::exclusive(dir) } else { FolderLock::shared(dir) };
    locked.map_err(|error| match error {
        TryLockError::WouldBlock => {
            let dir = dir.display();
            MoveError::Refused(format!("{dir} is in use by another export or import"))
        }
        TryLockError::Error(error) => disk(dir)(error),
    })
}

/// Whether a folder is empty, but for what a first export that was cut short may have left.
fn is_empty(dir: &Path) -> Result<bool, MoveError> {
    let mut names = fs::read_dir(dir).map_err(disk(dir))?;
    Ok(names.all(|entry| entry.is_ok_and(|entry| entry.file_name() == MANIFEST)))
}

fn check_length(dir: &Path, part: &Part) -> Result<(), MoveError> {
    let path = dir.join(&part.file);
    match fs::metadata(&path) {
        Ok(found) if found.len() == part.bytes && part.bytes <= FILE_BYTES_MAX => Ok(()),
        Ok(found) => {
            let why = format!("it has {} bytes instead of {}", found.len(), part.bytes);
            Err(damaged(&path, &why))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Err(damaged(&path, "it is missing")),
        Err(error) => Err(disk(&path)(error)),
    }
}

/// The sum of each table, over its files.
fn sums(dir: &Path, parts: &[Part]) -> Result<Vec<(&'static Table, Sum)>, MoveError> {
    let mut sums: Vec<_> = table::TABLES.iter().map(|table| (table, Sum::default())).collect();
    for part in parts {
        let is_ours = |table: &Table| table.name == part.table && !part.file.contains('/');
        let place = sums.iter_mut().find(|(table, _sum)| is_ours(table));
        let (Some((_table, sum)), Some(more)) = (place, part.sum()) else {
            let why = format!("what it says of {} means nothing", part.file);
            return Err(damaged(&dir.join(MANIFEST), &why));
        };
        sum.join(more);
    }
    Ok(sums)
}

/// Reads the lines that are whole. `None` if not even the first one is.
fn read_manifest(dir: &Path) -> Result<Option<Manifest>, MoveError> {
    let path = dir.join(MANIFEST);
    let mut text = fs::read(&path).map_err(disk(&path))?;
    text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1));
    let (mut header, mut parts, mut end, mut at) = (None, Vec::new(), None, 0);
    for (line, number) in text.split_inclusive(|byte| *byte == b'\n').zip(1..) {
        if number == 1 {
            check_format(&path, line)?;
        }
        match serde_json::from_slice(line) {
            Ok(ManifestLine::Export(first)) if number == 1 => header = Some(first),
            Ok(ManifestLine::Rows(part)) if header.is_some() && end.is_none() => parts.push(part),
            Ok(ManifestLine::End(last)) if header.is_some() && end.is_none() => {
                let (before, _rest) = text.split_at(at);
                if HEXLOWER.encode(digest::digest(&SHA256, before).as_ref()) != last.sha256 {
                    return Err(damaged(&path, "its SHA-256 is not the one in its last line"));
                }
                end = Some(last);
            }
            _ => return Err(damaged(&path, &format!("line {number} means nothing"))),
        }
        at += line.len();
    }
    Ok(header.map(|header| Manifest { header, parts, end, length: at as u64 }))
}

fn check_format(path: &Path, line: &[u8]) -> Result<(), MoveError> {
    match serde_json::from_slice(line) {
        Ok(Versioned { export: Version { format: FORMAT } }) => Ok(()),
        Ok(Versioned { export: Version { format } }) => Err(MoveError::Refused(format!(
            "{} has format {format}, this program reads {FORMAT}: use the version of talkhub that has \
             exported it",
            path.display()
        ))),
        Err(_) => Err(damaged(path, "its first line is not that of an export")),
    }
}
