//! The few things the log asks of a file system, so that tests can put one in between that breaks.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use daemon::folder_lock::FolderLock;

use crate::LogError;

/// Called when a write or a flush has failed, and never returns: it is unknown what reached the
/// disk, and a second flush may report success for data that is lost.
pub(super) type Fatal = fn(&str, &io::Error) -> !;

/// The folder of one log.
pub(super) trait Folder: fmt::Debug + Send + Sync {
    /// The names in it.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a file that exists.
    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>>;

    /// Makes a file, or empties the one that exists.
    fn create(&self, name: &str) -> io::Result<Box<dyn LogFile>>;

    /// Gives a file another name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Flushes the names.
    fn sync(&self) -> io::Result<()>;

    /// What to call a file in a message.
    fn describe(&self, name: &str) -> String;
}

/// One file of the log.
pub(super) trait LogFile: fmt::Debug + Send + Sync {
    /// Its length.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` from position `at`.
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes all `bytes` from position `at`. An interrupted write is continued.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Flushes the content. An interrupted flush is continued.
    fn sync(&self) -> io::Result<()>;
}

/// A real folder, locked as long as this value lives.
#[derive(Debug)]
pub(super) struct DiskFolder {
    dir: PathBuf,
    /// Kept for the lock, and so that flushing needs no new descriptor.
    handle: FolderLock,
}

impl DiskFolder {
    /// Locks the folder, which is made if it does not exist.
    pub(super) fn lock(dir: &Path) -> Result<Self, LogError> {
        create_dir(dir).map_err(|source| io_error("make the folder", dir.display(), source))?;
        match FolderLock::exclusive(dir) {
            Ok(handle) => Ok(Self { dir: dir.to_owned(), handle }),
            Err(TryLockError::WouldBlock) => Err(LogError::InUse(dir.display().to_string())),
            Err(TryLockError::Error(source)) => {
                Err(io_error("open and lock the folder", dir.display(), source))
            }
        }
    }
}

impl Folder for DiskFolder {
    fn names(&self) -> io::Result<Vec<String>> {
        names(&self.dir)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.dir.join(name))?;
        Ok(Box::new(file))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let mut options = OpenOptions::new();
        // The files hold people's messages: only the user that the process runs as may read them.
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Box::new(options.open(self.dir.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn describe(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

/// A real folder that another process may have locked: it is not locked here, and nothing can be
/// changed.
#[derive(Debug)]
pub(super) struct ReadOnlyFolder(pub(super) PathBuf);

impl Folder for ReadOnlyFolder {
    fn names(&self) -> io::Result<Vec<String>> {
        names(&self.0)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(File::open(self.0.join(name))?))
    }

    fn create(&self, _name: &str) -> io::Result<Box<dyn LogFile>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn describe(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl LogFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        // A name that is not UTF-8 is not that of a file of the log.
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Ends the process.
pub(super) fn abort(what: &str, error: &io::Error) -> ! {
    tracing::error!(what, %error, "the log cannot be written: aborting");
    std::process::abort()
}

/// The error of an operation that changed nothing that matters. A full disk has its own.
pub(super) fn io_error(what: &str, name: impl fmt::Display, source: io::Error) -> LogError {
    let what = format!("cannot {what} {name}");
    if is_full(&source) { LogError::Full(what) } else { LogError::Io { what, source } }
}

/// Whether an error means that there is no room, which may pass.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a folder and those above it that are missing, and flushes the names of all that were made.
fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    create_dir(parent)?;
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        made => made?,
    }
    File::open(parent)?.sync_all()
}
