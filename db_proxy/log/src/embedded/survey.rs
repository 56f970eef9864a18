//! Looking at every segment of a log that may be in use by another process.
//!
//! The same scan as at opening, but it goes on behind damage, and it repairs nothing. The log may be
//! appended to meanwhile: what seems to be missing in front of something newer is looked at again,
//! and is damage only if it is still missing then. One batch is written at a time, each after the
//! one before was flushed; so a reader that sees a batch finds everything before it complete.
//!
//! It may be trimmed meanwhile, too, from the oldest segment on and never the newest one. So the
//! newest segment of a listing is opened at once, and if that fails, the log has a newer one: the
//! listing is too old, and is made again. An older segment that is gone was trimmed with all before
//! it.
//!
//! # Invariants
//!
//! - Nothing is changed, and nothing is locked.
//! - What no proof in the files covers is never called damage.
//! - A look that begins after another one has ended finds at least as much at the end of the log.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;

use proto::ids::Offset;

use crate::{LogError, LogRecord};

use super::files::{Folder, io_error};
use super::format::{self, Header, Meta};
use super::scan::{Rest, Scan};
use super::segment::{self, Reader};

/// As many damaged places are described; the others are only counted.
const DAMAGE_MAX: usize = 100;

/// How often the segments are listed at most until the newest one can be opened. In between, each time,
/// a segment was filled and the one listed last was trimmed, which takes far longer than the two steps
/// of this process. After that the look fails.
pub(super) const LISTINGS_MAX: usize = 100;

/// What a log was found to hold.
#[derive(Debug, Default)]
pub struct Survey {
    /// Its segments, in order.
    pub segments: Vec<SegmentSeen>,
    /// The offset after the last record that is whole.
    pub next: Offset,
    /// The last offset that the files prove to be flushed.
    pub proven: Offset,
    /// How many records of these segments are whole.
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
    let Some(Listed { mut bases, newest }) = Listed::now(folder)? else {
        return Ok(Survey { next: Offset(1), ..Survey::default() });
    };
    let mut newest = Some(newest);
    let scan = Scan::new(folder, meta.id, bases.front().copied().unwrap_or(1));
    let mut surveyor = Surveyor { scan, meta, each, survey: Survey::default() };
    while let Some(base) = bases.pop_front() {
        let following = bases.front().copied();
        let reader = if following.is_some() { surveyor.open(base)? } else { newest.take() };
        surveyor.segment(base, following, reader)?;
        let next = surveyor.scan.next;
        if following.is_some_and(|following| (base + 1..following).contains(&next)) {
            bases.push_front(next); // The listing has missed it.
        }
    }
    let Surveyor { scan, mut survey, .. } = surveyor;
    survey.next = Offset(scan.next);
    survey.proven = Offset(scan.proven);
    survey.records = scan.records;
    Ok(survey)
}

/// The segments of a log.
#[derive(Debug)]
struct Listed {
    /// Their bases, in order.
    bases: VecDeque<u64>,
    /// The last one, which can be read whatever becomes of its name.
    newest: Reader,
}

impl Listed {
    /// `None` if there is no segment.
    fn now(folder: &dyn Folder) -> Result<Option<Self>, LogError> {
        let mut left = LISTINGS_MAX;
        loop {
            let bases = VecDeque::from(segments(folder)?);
            let Some(&last) = bases.back() else { return Ok(None) };
            left -= 1;
            let name = segment::name(last);
            match folder.open(&name).and_then(Reader::new) {
                Ok(newest) => return Ok(Some(Self { bases, newest })),
                Err(error) if error.kind() == io::ErrorKind::NotFound && left > 0 => {}
                Err(source) => return Err(io_error("open", folder.describe(&name), source)),
            }
        }
    }
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

/// What is behind a segment that does not end where the next one listed begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// A segment that got its name while the folder was listed, and was missed.
    Unlisted,
    /// Unknown: the segment was trimmed meanwhile, and those behind it may be, too.
    Trimmed,
    /// Nothing.
    Hole,
}

impl Surveyor<'_> {
    /// Looks at the segment that begins with `base`; `following` is the base of the one listed after
    /// it. Without a reader it was trimmed.
    fn segment(
        &mut self,
        base: u64,
        following: Option<u64>,
        reader: Option<Reader>,
    ) -> Result<(), LogError> {
        let mut used = None;
        if let Some(mut reader) = reader {
            let name = segment::name(base);
            let described = self.scan.folder.describe(&name);
            let (size, right) = (reader.size(), self.meta.segment_bytes);
            if size != right {
                let what = format!("is {size} bytes long and not {right}");
                self.damaged(&name, size.min(right), what);
            }
            // Its name is a proof.
            self.scan.proven = self.scan.proven.max(base - 1);
            used = self
                .batches(&mut reader, base, following)
                .map_err(|source| io_error("read", described, source))?;
        }
        if let Some(used) = used {
            let seen = SegmentSeen { name: segment::name(base), first: Offset(base), used };
            self.survey.segments.push(seen);
        } else {
            // Trimmed, as all before it are.
            self.survey.segments.clear();
            self.scan.records = 0;
            self.scan.next = following.unwrap_or(base);
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

    /// Goes through a segment, over what is damaged, and sets `scan.next` to where the next one
    /// begins. Returns where its last whole batch ends; `None` if it was trimmed meanwhile.
    fn batches(
        &mut self,
        reader: &mut Reader,
        base: u64,
        following: Option<u64>,
    ) -> io::Result<Option<u64>> {
        let name = segment::name(base);
        let mut begin = 0;
        loop {
            let end = self.whole_batches(reader, begin)?;
            if following == Some(self.scan.next) {
                return Ok(Some(end));
            }
            let (at, proof) = match (self.scan.look_on(reader, end)?, following) {
                (Rest::Lost { at, proof }, _) => (at, proof),
                (Rest::Unfinished { dirty_end }, None) => {
                    self.survey.unfinished_bytes = dirty_end - end;
                    return Ok(Some(end));
                }
                (Rest::Unfinished { .. }, Some(following)) => {
                    match self.behind(base, following)? {
                        Behind::Unlisted => {}
                        Behind::Trimmed => return Ok(None),
                        Behind::Hole => {
                            self.lost(&name, end, following);
                            self.scan.next = following;
                        }
                    }
                    return Ok(Some(end));
                }
            };
            // What was read before may be older than the proof.
            reader.forget();
            let now = self.whole_batches(reader, end)?;
            if now > end && now >= at {
                if following.is_none() {
                    return Ok(Some(now)); // What is behind it is younger than this look.
                }
                begin = now;
                continue;
            }
            self.lost(&name, now, proof.base);
            let goes_on = at > begin || proof.base > self.scan.next;
            self.scan.next = self.scan.next.max(proof.base);
            if !goes_on {
                self.scan.next = following.unwrap_or(self.scan.next);
                return Ok(Some(now));
            }
            begin = at;
        }
    }

    /// Finds out what is behind the segment that begins with `base` and ends before `following`.
    fn behind(&self, base: u64, following: u64) -> io::Result<Behind> {
        let next = self.scan.next;
        // In this order: what is behind `base` is trimmed after it, and so found missing only with it.
        // A segment in which nothing is whole ends where it begins.
        if (base + 1..following).contains(&next) && self.exists(next)? {
            return Ok(Behind::Unlisted);
        }
        Ok(if self.exists(base)? { Behind::Hole } else { Behind::Trimmed })
    }

    fn exists(&self, base: u64) -> io::Result<bool> {
        match self.scan.folder.open(&segment::name(base)) {
            Ok(_file) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
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
