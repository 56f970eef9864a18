//! A folder in memory that loses what was not flushed, runs full, and breaks when told to.
//!
//! A disk takes sectors, not writes: of what was written and not flushed, a power cut may keep any
//! sectors and lose the others. A name that was made and not flushed may be kept or lost. After a
//! failed flush, as on Linux, the content still reads as written but no later flush writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::files::{Folder, LogFile};

/// What a disk writes at once.
pub(super) const SECTOR_LEN: usize = 512;

/// The folder; a clone is the same folder.
#[derive(Debug, Clone, Default)]
pub(super) struct MemoryFolder {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Clone, Default)]
struct Disk {
    names: BTreeMap<String, usize>,
    flushed_names: BTreeMap<String, usize>,
    files: Vec<Content>,
    /// How many more bytes files may grow by.
    room: Option<u64>,
    /// After how many more changes one fails.
    fails_in: Option<u32>,
    /// How many changes and flushes there were.
    changes: u64,
}

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    /// What is on the disk for sure.
    flushed: Vec<u8>,
    /// What the next flush writes.
    unflushed_sectors: BTreeSet<usize>,
    /// What a failed flush may or may not have written.
    doubtful_sectors: BTreeSet<usize>,
}

#[derive(Debug)]
struct MemoryFile {
    disk: Arc<Mutex<Disk>>,
    index: usize,
}

impl MemoryFolder {
    /// Lets files grow by this much in all; `None`: without a bound.
    pub(super) fn set_room(&self, room: Option<u64>) {
        self.disk.lock().room = room;
    }

    /// Lets the change after `more` others fail, once.
    pub(super) fn fail_after(&self, more: u32) {
        self.disk.lock().fails_in = Some(more);
    }

    /// The folder as the next process finds it when only this one ended.
    pub(super) fn after_kill(&self) -> Self {
        let disk = Disk { room: None, fails_in: None, ..self.disk.lock().clone() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// The folder as it is found when the power was cut: `keeps` says for each sector that was not
    /// flushed, and once for all names that were not, whether it got to the disk.
    pub(super) fn after_power_cut(&self, mut keeps: impl FnMut() -> bool) -> Self {
        let disk = self.disk.lock();
        let files = disk.files.iter().map(|content| content.after_power_cut(&mut keeps)).collect();
        let names = if keeps() { disk.names.clone() } else { disk.flushed_names.clone() };
        let disk = Disk { flushed_names: names.clone(), names, files, ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// Changes the content of a file as damage on a disk does.
    pub(super) fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk.lock();
        let index = disk.names[name];
        let content = &mut disk.files[index];
        change(&mut content.bytes);
        *content = Content::flushed(content.bytes.clone());
    }

    /// Makes a file with this content, which is on the disk for sure.
    pub(super) fn put(&self, name: &str, content: Vec<u8>) {
        let mut disk = self.disk.lock();
        let index = disk.files.len();
        disk.files.push(Content::flushed(content));
        disk.names.insert(name.to_owned(), index);
        disk.flushed_names.insert(name.to_owned(), index);
    }

    /// How many changes and flushes there were, failed ones among them.
    pub(super) fn changes(&self) -> u64 {
        self.disk.lock().changes
    }

    /// Every file's name and content.
    pub(super) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let disk = self.disk.lock();
        disk.names
            .iter()
            .map(|(name, index)| (name.clone(), disk.files[*index].bytes.clone()))
            .collect()
    }
}

impl Content {
    fn flushed(bytes: Vec<u8>) -> Self {
        Self { flushed: bytes.clone(), bytes, ..Self::default() }
    }

    fn after_power_cut(&self, keeps: &mut impl FnMut() -> bool) -> Self {
        let mut cut = self.clone();
        for &sector in self.unflushed_sectors.union(&self.doubtful_sectors) {
            if keeps() {
                cut.flush_sector(sector);
            }
        }
        Self::flushed(cut.flushed)
    }

    fn flush_sector(&mut self, sector: usize) {
        let begin = sector * SECTOR_LEN;
        let end = self.bytes.len().min(begin + SECTOR_LEN);
        self.flushed.resize(self.flushed.len().max(end), 0);
        self.flushed[begin..end].copy_from_slice(&self.bytes[begin..end]);
    }

    fn flush(&mut self) {
        for sector in std::mem::take(&mut self.unflushed_sectors) {
            self.doubtful_sectors.remove(&sector);
            self.flush_sector(sector);
        }
    }

    fn write(&mut self, bytes: &[u8], at: usize) {
        let end = at + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[at..end].copy_from_slice(bytes);
        self.unflushed_sectors.extend(at / SECTOR_LEN..end.div_ceil(SECTOR_LEN));
    }
}

impl Disk {
    /// Counts a change, and says if it is the one to fail.
    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        match &mut self.fails_in {
            Some(0) => {
                self.fails_in = None;
                Err(io::Error::other("injected"))
            }
            Some(more) => {
                *more -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn index(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Folder for MemoryFolder {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.disk.lock().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let index = self.disk.lock().index(name)?;
        Ok(Box::new(MemoryFile { disk: Arc::clone(&self.disk), index }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let mut disk = self.disk.lock();
        disk.change()?;
        let index = disk.files.len();
        disk.files.push(Content::default());
        disk.names.insert(name.to_owned(), index);
        drop(disk);
        self.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change()?;
        let index = disk.index(from)?;
        disk.names.remove(from);
        disk.names.insert(to.to_owned(), index);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change()?;
        disk.names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change()?;
        disk.flushed_names = disk.names.clone();
        Ok(())
    }

    fn describe(&self, name: &str) -> String {
        format!("memory/{name}")
    }
}

impl MemoryFile {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock()
    }
}

impl LogFile for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk().files[self.index].bytes.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let begin = usize::try_from(at).expect("a place in memory");
        let disk = self.disk();
        let found = disk.files[self.index].bytes.get(begin..begin + buffer.len());
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let at = usize::try_from(at).expect("a place in memory");
        let mut disk = self.disk();
        let failed = disk.change();
        let (room, content) = (disk.room, &disk.files[self.index]);
        let growth = (at + bytes.len()).saturating_sub(content.bytes.len()) as u64;
        if failed.is_err() || room.is_some_and(|room| growth > room) {
            // A failed write may have written any part: here it is the first half at most.
            let content = &mut disk.files[self.index];
            let len = content.bytes.len().saturating_sub(at).min(bytes.len() / 2);
            content.write(&bytes[..len], at);
            return failed.and(Err(io::ErrorKind::StorageFull.into()));
        }
        disk.room = room.map(|room| room - growth);
        disk.files[self.index].write(bytes, at);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk();
        let failed = disk.change();
        let content = &mut disk.files[self.index];
        if failed.is_err() {
            let lost = std::mem::take(&mut content.unflushed_sectors);
            content.doubtful_sectors.extend(lost);
        } else {
            content.flush();
        }
        failed
    }
}
