//! The log's own modules for scanning and repair, over files in memory.
//!
//! They are private where they belong, so they are compiled once more here.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use db_proxy::fuzzing::{Image, LOG_ID};
use proto::ids::Offset;

use crate::log::{LogError, LogId};

#[path = "../../../db_proxy/src/log/embedded/files.rs"]
#[expect(dead_code, reason = "only what recovery needs is of interest")]
mod files;
#[path = "../../../db_proxy/src/log/embedded/format.rs"]
#[expect(dead_code, reason = "only what recovery needs is of interest")]
mod format;
#[path = "../../../db_proxy/src/log/embedded/recovery.rs"]
#[expect(dead_code, unexpected_cfgs, reason = "only what recovery needs is of interest")]
mod recovery;
#[path = "../../../db_proxy/src/log/embedded/segment.rs"]
#[expect(dead_code, reason = "only what recovery needs is of interest")]
mod segment;

use files::{Folder, LogFile};
use format::Meta;
use recovery::Recovered;
use segment::Reader;

/// Stands in for the log's own, which `recovery` ends its messages with.
const REMEDY: &str = "Nothing was changed.";

/// Stands in for the log's own, which `recovery` calls.
fn damaged(name: impl std::fmt::Display, position: u64, offset: u64) -> LogError {
    LogError::Damaged(format!("{name} is damaged at byte {position}, offset {offset}. {REMEDY}"))
}

/// Recovers the log that `data` stand for.
pub fn check(data: &[u8]) {
    let image = Image::parse(data);
    let (segment_len, scan_from) = (image.segment_len, image.scan_from);
    let folder = Memory::default();
    for (base, content) in image.segments {
        folder.files().insert(segment::name(base), Arc::new(Mutex::new(content)));
    }
    let before = folder.contents();
    let first = match recover(&folder, segment_len, scan_from) {
        Ok(recovered) => recovered,
        Err(text) => {
            assert!(text.contains("memory/") && text.contains("offset"), "{text}");
            let writes = folder.writes.load(Ordering::Relaxed);
            assert_eq!(writes, 0, "what is damaged is not written to");
            assert!(folder.contents() == before);
            return;
        }
    };
    check_readable(&folder, &first, scan_from);

    // Nothing but the tail was cut, and there is nothing more to repair.
    let mut expected = before;
    let last = segment::name(*first.segments.back().expect("there are segments"));
    let tail = expected.get_mut(&last).expect("it is one of them");
    tail[usize::try_from(first.position).expect("it is in memory")..].fill(0);
    assert!(folder.contents() == expected, "only the tail may be cut");
    let second = recover(&folder, segment_len, scan_from).expect("it was just recovered");
    assert_eq!(second.truncated_bytes, 0);
    assert_eq!(
        (second.segments, second.position, second.next, second.proven, second.timestamp_ms),
        (first.segments, first.position, first.next, first.proven, first.timestamp_ms),
    );
    assert!(folder.contents() == expected, "the second time nothing is cut");
}

fn recover(folder: &Memory, segment_len: usize, scan_from: u64) -> Result<Recovered, String> {
    let meta = Meta { id: LogId(LOG_ID), segment_bytes: segment_len as u64 };
    let abort = |what: &str, error: &io::Error| -> ! { panic!("{what}: {error}") };
    match recovery::recover(folder, meta, Offset(scan_from), abort) {
        Ok(recovered) => Ok(recovered.expect("there are segments")),
        Err(LogError::Damaged(text)) => Err(text),
        Err(other) => panic!("{other:?}"),
    }
}

/// Every record from the segment that holds `scan_from` on can be read, as the log reads them.
fn check_readable(folder: &Memory, recovered: &Recovered, scan_from: u64) {
    let segments: Vec<u64> = recovered.segments.iter().copied().collect();
    let begin = segments.partition_point(|base| *base <= scan_from).saturating_sub(1);
    let mut records = 0;
    for (at, &base) in segments.iter().enumerate().skip(begin) {
        let behind = segments.get(at + 1).copied().unwrap_or(recovered.next);
        let mut reader = Reader::new(folder.open(&segment::name(base)).expect("it is there"))
            .expect("memory can be read");
        let (mut position, mut next) = (0, base);
        while next < behind {
            let batch = reader.batch(position, LogId(LOG_ID)).expect("memory can be read");
            let (header, bytes) = batch.expect("there is a batch");
            assert_eq!(header.base, next);
            let valid = format::for_each_record(&header, bytes, |record| {
                assert_eq!(record.offset, next);
                (next, records) = (next + 1, records + 1);
                Ok::<_, std::convert::Infallible>(())
            });
            assert_eq!(valid, Ok(true));
            position += header.batch_len() as u64;
        }
        assert_eq!(next, behind);
    }
    assert_eq!(records, recovered.scanned_records);
}

type Content = Arc<Mutex<Vec<u8>>>;

/// A folder in memory.
#[derive(Debug, Default)]
struct Memory {
    files: Mutex<BTreeMap<String, Content>>,
    writes: Arc<AtomicUsize>,
}

impl Memory {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Content>> {
        self.files.lock().expect("one thread")
    }

    fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let copy = |content: &Content| content.lock().expect("one thread").clone();
        self.files().iter().map(|(name, content)| (name.clone(), copy(content))).collect()
    }
}

impl Folder for Memory {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let content = self.files().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile { content, writes: Arc::clone(&self.writes) }))
    }

    fn create(&self, _name: &str) -> io::Result<Box<dyn LogFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn describe(&self, name: &str) -> String {
        format!("memory/{name}")
    }
}

#[derive(Debug)]
struct MemoryFile {
    content: Content,
    writes: Arc<AtomicUsize>,
}

impl LogFile for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.content.lock().expect("one thread").len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let at = usize::try_from(at).expect("it is in memory");
        let content = self.content.lock().expect("one thread");
        let found = content.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let at = usize::try_from(at).expect("it is in memory");
        let mut content = self.content.lock().expect("one thread");
        let place = content.get_mut(at..at + bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
