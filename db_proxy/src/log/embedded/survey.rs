//! Looking at every segment of a log that may be in use by another process.
//!
//! The same scan as at opening, but it goes on behind damage, and it repairs nothing. The log may be
//! appended to meanwhile: what seems to be missing in front of something newer is looked at again,
//! and is damage only if it is still missing then. One batch is written at a time, each after the
//! one before was flushed; so whoever sees a batch finds everything before it complete.
//!
//! # Invariants
//!
//! - Nothing is changed, and nothing is locked.
//! - What no proof in the files covers is never called damage.

use std::convert::Infallible;
use std::io;

use proto::ids::Offset;

use crate::log::{LogError, LogRecord};

use super::files::{Folder, io_error};
use super::format::{self, Header, Meta};
use super::recovery::{Rest, Scan};
use super::segment::{self, Reader};

/// As many damaged places are described; the others are only counted.
const DAMAGE_MAX: usize = 100;

/// What a log was found to hold.
#[derive(Debug, Default)]
pub struct Survey {
    /// Its segments, in order.
    pub segments: Vec<SegmentSeen>,
    /// The offset after the last record that is whole.
    pub next: Offset,
    /// The last offset that the files prove to be flushed.
    pub proven: Offset,
    /// How many records are whole.
    pub records: u64,
    /// How many bytes follow the last whole batch: an append that is being made, or one that never
    /// returned and is cut off at the next start.
    pub unfinished_bytes: u64,
    /// What was acknowledged and cannot be read.
    pub damage: Vec<Damage>,
    /// How many more damaged places there are.
    pub more_damage: u64,
}

/// One segment.
#[derive(Debug, Clone)]
pub struct SegmentSeen {
    /// The name of its file.
    pub name: String,
    /// Its first offset.
    pub first: Offset,
    /// How many bytes of it have been written.
    pub used: u64,
}

/// A place that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// The byte from which on it is damaged.
    pub position: u64,
    /// What is the matter.
    pub what: String,
}

/// Looks at all segments, and calls `each` with every record that is whole.
pub(super) fn survey(
    folder: &dyn Folder,
    meta: Meta,
    each: &mut dyn FnMut(LogRecord),
) -> Result<Survey, LogError> {
    let segments = segments(folder)?;
    let scan = Scan::new(folder, meta.id, segments.first().copied().unwrap_or(1));
    let mut surveyor = Surveyor { scan, meta, each, survey: Survey::default() };
    for (at, &base) in segments.iter().enumerate() {
        surveyor.segment(base, segments.get(at + 1).copied())?;
    }
    let Surveyor { scan, mut survey, .. } = surveyor;
    survey.next = Offset(scan.next);
    survey.proven = Offset(scan.proven);
    survey.records = scan.records;
    Ok(survey)
}

fn segments(folder: &dyn Folder) -> Result<Vec<u64>, LogError> {
    let names = folder.names().map_err(|source| io_error("list", folder.describe(""), source))?;
    Ok(segment::bases(&names))
}

struct Surveyor<'a> {
    scan: Scan<'a>,
    meta: Meta,
    each: &'a mut dyn FnMut(LogRecord),
    survey: Survey,
}

impl Surveyor<'_> {
    /// Looks at the segment that begins with `base`; `following` is the base of the one after it.
    fn segment(&mut self, base: u64, following: Option<u64>) -> Result<(), LogError> {
        let name = segment::name(base);
        let described = self.scan.folder.describe(&name);
        let Some(mut reader) = self.open(base)? else {
            // Trimmed, as all before it are.
            self.survey.segments.clear();
            self.scan.next = following.unwrap_or(base);
            return Ok(());
        };
        let (size, right) = (reader.size(), self.meta.segment_bytes);
        if size != right {
            self.damaged(&name, size.min(right), format!("is {size} bytes long and not {right}"));
        }
        // Its name is a proof.
        self.scan.proven = self.scan.proven.max(base - 1);
        let used = self.batches(&name, &mut reader, following);
        let used = used.map_err(|source| io_error("read", described, source))?;
        self.survey.segments.push(SegmentSeen { name, first: Offset(base), used });
        if let Some(following) = following {
            self.scan.next = following;
        }
        Ok(())
    }

    /// `None` if the segment was deleted since the folder was listed.
    fn open(&self, base: u64) -> Result<Option<Reader>, LogError> {
        let folder = self.scan.folder;
        let name = segment::name(base);
        match folder.open(&name).and_then(Reader::new) {
            Ok(reader) => Ok(Some(reader)),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && !segments(folder)?.contains(&base) =>
            {
                Ok(None)
            }
            Err(source) => Err(io_error("open", folder.describe(&name), source)),
        }
    }

    /// Goes through a segment, over what is damaged. Returns where its last whole batch ends.
    fn batches(
        &mut self,
        name: &str,
        reader: &mut Reader,
        following: Option<u64>,
    ) -> io::Result<u64> {
        let mut begin = 0;
        loop {
            let end = self.whole_batches(reader, begin)?;
            if following == Some(self.scan.next) {
                return Ok(end);
            }
            let (at, proof) = match self.scan.look_on(reader, end)? {
                Rest::Lost { at, proof } => (at, proof),
                Rest::Unfinished { dirty_end } => {
                    match following {
                        Some(following) => self.lost(name, end, following),
                        None => self.survey.unfinished_bytes = dirty_end - end,
                    }
                    return Ok(end);
                }
            };
            // What was read before may be older than the proof.
            reader.forget();
            let now = self.whole_batches(reader, end)?;
            if now > end && now >= at {
                if following.is_none() {
                    return Ok(now); // What is behind it is younger than this look.
                }
                begin = now;
                continue;
            }
            self.lost(name, now, proof.base);
            let goes_on = at > begin || proof.base > self.scan.next;
            self.scan.next = self.scan.next.max(proof.base);
            if !goes_on {
                return Ok(now);
            }
            begin = at;
        }
    }

    fn whole_batches(&mut self, reader: &mut Reader, begin: u64) -> io::Result<u64> {
        let each = &mut self.each;
        let mut show = |header: &Header, bytes: &[u8]| {
            let Ok(_whole) = format::for_each_record::<Infallible>(header, bytes, |record| {
                each(record.into());
                Ok(())
            });
        };
        self.scan.batches(reader, begin, &mut show).map(|(_last, end)| end)
    }

    /// Notes that the records up to `found`, the first one that is there again, are not.
    fn lost(&mut self, name: &str, position: u64, found: u64) {
        let next = self.scan.next;
        let what = if found > next {
            format!("cannot be read: the records with offsets {next} to {} are lost", found - 1)
        } else {
            format!(
                "cannot be read: a mark that proved the records before offset {found} durable; no \
                 record is lost"
            )
        };
        self.damaged(name, position, what);
    }

    fn damaged(&mut self, name: &str, position: u64, what: String) {
        if self.survey.damage.len() < DAMAGE_MAX {
            let file = self.scan.folder.describe(name);
            self.survey.damage.push(Damage { file, position, what });
        } else {
            self.survey.more_damage += 1;
        }
    }
}
