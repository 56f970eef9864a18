//! A folder that is ours: an advisory lock on the folder itself. It leaves no trace, and goes with the
//! process.

use std::fs::{File, TryLockError};
use std::ops::Deref;
use std::path::Path;

/// A folder that is locked as long as this value lives.
#[derive(Debug)]
pub struct FolderLock(File);

impl FolderLock {
    /// Locks a folder for this process alone. Fails if another holder has locked it in either way.
    pub fn exclusive(dir: &Path) -> Result<Self, TryLockError> {
        Self::of(dir, File::try_lock)
    }

    /// Locks a folder together with others that do so too. Fails if one has locked it for itself alone.
    pub fn shared(dir: &Path) -> Result<Self, TryLockError> {
        Self::of(dir, File::try_lock_shared)
    }

    fn of(dir: &Path, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Self, TryLockError> {
        let folder = File::open(dir).map_err(TryLockError::Error)?;
        lock(&folder)?;
        Ok(Self(folder))
    }
}

/// The folder, for flushing it.
impl Deref for FolderLock {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for FolderLock {
    /// Not left to the closing of the file: a program that is being started at this moment has a copy of
    /// it, which would keep the lock.
    fn drop(&mut self) {
        // What could fail ends with the process.
        self.0.unlock().ok();
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_folder_is_free_once_its_lock_is_dropped_even_if_a_copy_of_the_file_is_open() {
        let folder = TempDir::new().expect("make a folder");
        let lock = FolderLock::exclusive(folder.path()).unwrap();
        let copy = lock.try_clone().unwrap();
        let taken = FolderLock::shared(folder.path());
        assert!(matches!(taken, Err(TryLockError::WouldBlock)), "{taken:?}");
        drop(lock);
        let readers = [(); 2].map(|()| FolderLock::shared(folder.path()).unwrap());
        let taken = FolderLock::exclusive(folder.path());
        assert!(matches!(taken, Err(TryLockError::WouldBlock)), "{taken:?}");
        drop(readers);
        FolderLock::exclusive(folder.path()).unwrap();
        drop(copy);
    }
}
