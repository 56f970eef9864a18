//! What must hold for the files of a log, whatever is in them, as functions that panic when it does not.
//!
//! The fuzz targets call these with inputs that they make up; the tests call them with the corpus
//! and with random bytes.
//!
//! A checksum cannot be guessed, so an input may ask for its checksums to be made right (`Image`):
//! what lies behind them is reached then.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use proto::ids::Offset;

use super::files::Folder as _;
use super::format::{HEADER_LEN, Meta, RECORD_OVERHEAD, for_each_record};
use super::memory::MemoryFolder;
use super::meta::META;
use super::recovery::{self, Recovered};
use super::segment::{self, Reader};
use super::{EmbeddedLog, Options};
use crate::{Appended, Log, LogError, LogId, LogReader, LogRecord};

/// The length of a segment of an [`Image`]: so small that many can be looked at.
const SEGMENT_LEN: usize = 1024;

/// The same when it is more than is looked at at once behind the last batch.
const LONG_SEGMENT_LEN: usize = 6144;

/// The id of every [`Image`].
const LOG_ID: LogId = LogId(*b"a log made up...");

/// `data` are the files of a log ([`Image`]): it is opened and served as it was, whole up to some
/// record, or it is refused and left as it is. `dir` is a folder for this purpose alone, best in
/// memory.
pub fn log_files(dir: &Path, data: &[u8]) -> Seen {
    let image = Image::parse(data);
    image.write(dir).expect("the folder can be written");
    match EmbeddedLog::open(options(dir, image.segment_len), Offset(image.scan_from)) {
        Ok(opened) => {
            served(&opened.log, image.scan_from);
            if image.goes_on {
                check_going_on(options(dir, image.segment_len), opened.log);
            }
            Seen::Opened { records: opened.scanned_records }
        }
        Err(LogError::Damaged(text)) => {
            assert!(text.contains(&dir.display().to_string()), "it says where: {text}");
            assert!(text.contains("offset"), "it says which records: {text}");
            image.check_untouched(dir);
            Seen::Refused
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It was opened.
    Opened {
        /// How many records were checked.
        records: u64,
    },
    /// It was refused.
    Refused,
}

fn options(dir: &Path, segment_len: usize) -> Options {
    Options { segment_bytes: segment_len as u64, spare_segments: 1, ..Options::new(dir) }
}

/// What was checked at the opening can be read.
fn served(log: &EmbeddedLog, scan_from: u64) -> Vec<LogRecord> {
    let (first, next) = log.range();
    let from = first.max(Offset(scan_from));
    let mut records = Vec::new();
    let read = log.read(from, &mut |record| {
        records.push(record);
        ControlFlow::Continue(())
    });
    assert!(read.is_ok(), "what was checked cannot be read: {read:?}");
    let offsets = records.iter().map(|record| record.offset.0);
    assert!(offsets.eq(from.0..next.0), "records without a hole from {} to {}", from.0, next.0);
    records
}

/// The log takes more records, and the next process finds all of them.
fn check_going_on(options: Options, mut log: EmbeddedLog) {
    let (first, next) = log.range();
    let (appended, next) = match log.append(&[Bytes::from_static(b"more")], 1) {
        Ok(appended) => (appended, next.next()),
        // The next segment is still being made.
        Err(LogError::Full(_)) => (Vec::new(), next),
        Err(other) => panic!("{other:?}"),
    };
    drop(log);
    let scan_from = next.0 - 1;
    let opened = EmbeddedLog::open(options, Offset(scan_from)).expect("it was just served");
    assert!(opened.clean, "it was closed");
    assert_eq!(opened.log.range(), (first, next));
    if let Some(Appended { record, .. }) = appended.first() {
        let last = served(&opened.log, scan_from).pop().expect("there is a last record");
        assert_eq!(&last, record);
    }
}

/// `data` are the files of a log, in memory: scanning and repair alone. They come to the same when they
/// are done again, cut nothing but the tail, and leave what is damaged as it is.
pub fn log_reader(data: &[u8]) {
    let image = Image::parse(data);
    let (segment_len, scan_from) = (image.segment_len, image.scan_from);
    let folder = MemoryFolder::default();
    for (base, content) in image.segments {
        folder.put(&segment::name(base), content);
    }
    let before = folder.contents();
    let first = match recover(&folder, segment_len, scan_from) {
        Ok(recovered) => recovered.expect("there are segments"),
        Err(LogError::Damaged(text)) => {
            assert!(text.contains("memory/") && text.contains("offset"), "{text}");
            assert_eq!(folder.changes(), 0, "what is damaged is not written to");
            assert!(folder.contents() == before);
            return;
        }
        Err(other) => panic!("{other:?}"),
    };
    check_readable(&folder, &first, scan_from);

    // Nothing but the tail was cut, and there is nothing more to repair.
    let mut expected = before;
    let last = segment::name(*first.segments.back().expect("there are segments"));
    let tail = expected.get_mut(&last).expect("it is one of them");
    tail[usize::try_from(first.position).expect("it is in memory")..].fill(0);
    assert!(folder.contents() == expected, "only the tail may be cut");
    let second = recover(&folder, segment_len, scan_from).expect("it was just recovered");
    let second = second.expect("there are segments");
    assert_eq!(second.truncated_bytes, 0);
    assert_eq!(
        (second.segments, second.position, second.next, second.proven, second.timestamp_ms),
        (first.segments, first.position, first.next, first.proven, first.timestamp_ms),
    );
    assert!(folder.contents() == expected, "the second time nothing is cut");
}

fn abort(what: &str, error: &io::Error) -> ! {
    panic!("{what}: {error}")
}

fn recover(
    folder: &MemoryFolder,
    segment_len: usize,
    scan_from: u64,
) -> Result<Option<Recovered>, LogError> {
    let meta = Meta { id: LOG_ID, segment_bytes: segment_len as u64 };
    recovery::recover(folder, meta, Offset(scan_from), abort)
}

/// Every record from the segment that holds `scan_from` on can be read, as the log reads them.
fn check_readable(folder: &MemoryFolder, recovered: &Recovered, scan_from: u64) {
    let segments: Vec<u64> = recovered.segments.iter().copied().collect();
    let begin = segments.partition_point(|base| *base <= scan_from).saturating_sub(1);
    let mut records = 0;
    for (at, &base) in segments.iter().enumerate().skip(begin) {
        let behind = segments.get(at + 1).copied().unwrap_or(recovered.next);
        let mut reader = Reader::new(folder.open(&segment::name(base)).expect("it is there"))
            .expect("memory can be read");
        let (mut position, mut next) = (0, base);
        while next < behind {
            let batch = reader.batch(position, LOG_ID).expect("memory can be read");
            let (header, bytes) = batch.expect("there is a batch");
            assert_eq!(header.base, next);
            let valid = for_each_record(&header, bytes, |record| {
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

/// The files of a log, made from any bytes:
///
/// ```text
/// plan u8 | scan from u8 | segment | segment | …
///
/// segment    offsets since the one before u8 | length u16 | content, filled up with zeros
/// ```
///
/// The first segment begins with offset 1, and does not say so. Bits of the plan: 0 and 1 how many
/// segments less one, 2 checksums are made right, 3 the log goes on after it was opened, 4 segments are
/// long.
#[derive(Debug)]
struct Image {
    /// The size of each segment.
    segment_len: usize,
    /// The last record that the store has.
    scan_from: u64,
    /// Whether something is appended to it.
    goes_on: bool,
    /// The offset with which each segment begins, and its bytes.
    segments: Vec<(u64, Vec<u8>)>,
}

impl Image {
    /// The image that `data` stand for.
    fn parse(mut data: &[u8]) -> Self {
        let plan = data.try_get_u8().unwrap_or(0);
        let scan_from = u64::from(data.try_get_u8().unwrap_or(0));
        let segment_len = if plan & 16 == 0 { SEGMENT_LEN } else { LONG_SEGMENT_LEN };
        // The log always leaves room for a marker behind its last batch.
        let len_max = segment_len - HEADER_LEN;
        let mut base = 1;
        let mut segments = Vec::new();
        for _ in 0..=(plan & 3) {
            if !segments.is_empty() {
                // Two segments never have one name.
                base += u64::from(data.try_get_u8().unwrap_or(0).max(1));
            }
            let len = usize::from(data.try_get_u16().unwrap_or(0)).min(len_max);
            let len = len.min(data.len());
            let (content, rest) = data.split_at(len);
            data = rest;
            let mut content = content.to_vec();
            if plan & 4 != 0 {
                seal(&mut content);
            }
            content.resize(segment_len, 0);
            segments.push((base, content));
        }
        Self { segment_len, scan_from, goes_on: plan & 8 != 0, segments }
    }

    /// Puts the image in place of the one before.
    fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "segment") {
                fs::remove_file(path)?;
            }
        }
        fs::write(dir.join(META), meta_bytes(self.segment_len))?;
        for (base, content) in &self.segments {
            File::create(dir.join(segment::name(*base)))?.write_all(content)?;
        }
        Ok(())
    }

    fn check_untouched(&self, dir: &Path) {
        let read = |path: PathBuf| fs::read(path).expect("a file that was there before");
        assert_eq!(read(dir.join(META)), meta_bytes(self.segment_len), "log.meta was changed");
        for (base, content) in &self.segments {
            assert!(read(dir.join(segment::name(*base))) == *content, "segment {base} was changed");
        }
    }
}

fn meta_bytes(segment_len: usize) -> Vec<u8> {
    Meta { id: LOG_ID, segment_bytes: segment_len as u64 }.encode()
}

/// Makes id and checksums right of everything that has the place of a batch or a record.
fn seal(segment: &mut [u8]) {
    let mut rest = segment;
    while let Some((header, after)) = rest.split_first_chunk_mut::<HEADER_LEN>() {
        let (front, content) = header.split_at_mut(8);
        content[..16].copy_from_slice(&LOG_ID.0);
        front[..4].copy_from_slice(b"TLB\x01");
        front[4..].copy_from_slice(&crc32fast::hash(content).to_be_bytes());
        let body_len = header.last_chunk::<4>().map_or(0, |len| u32::from_be_bytes(*len) as usize);
        let batch_len = body_len.next_multiple_of(8).min(after.len());
        let (body, behind) = after.split_at_mut(batch_len);
        let body_len = body_len.min(body.len());
        seal_records(&mut body[..body_len]);
        rest = behind;
    }
}

fn seal_records(mut body: &mut [u8]) {
    while body.len() >= RECORD_OVERHEAD {
        let payload_len = body[4..8].first_chunk::<4>().map_or(0, |len| u32::from_be_bytes(*len));
        let len = (RECORD_OVERHEAD + payload_len as usize).min(body.len());
        let (record, behind) = body.split_at_mut(len);
        let crc = crc32fast::hash(&record[4..]);
        record[..4].copy_from_slice(&crc.to_be_bytes());
        body = behind;
    }
}

#[cfg(test)]
mod tests;
