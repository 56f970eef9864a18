//! Looking at a log while another process appends to it and trims it, step by step.

use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::embedded::files::LogFile;
use crate::embedded::survey::{self, Survey};

/// A step in the folder, passed on just before the caller gets the answer.
enum Step<'a> {
    /// Its names were listed, and may be changed.
    Listed(&'a mut Vec<String>),
    /// A file is to be opened.
    Opening(&'a str),
}

/// A folder that something else is done to at every step.
struct Busy<D> {
    folder: MemoryFolder,
    meanwhile: Mutex<D>,
}

impl<D> fmt::Debug for Busy<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.folder.fmt(f)
    }
}

impl<D: FnMut(Step<'_>) + Send> Folder for Busy<D> {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = self.folder.names()?;
        (self.meanwhile.lock())(Step::Listed(&mut names));
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        (self.meanwhile.lock())(Step::Opening(name));
        self.folder.open(name)
    }

    fn create(&self, _name: &str) -> io::Result<Box<dyn LogFile>> {
        unreachable!("a look changes nothing")
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        unreachable!("a look changes nothing")
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        unreachable!("a look changes nothing")
    }

    fn sync(&self) -> io::Result<()> {
        unreachable!("a look changes nothing")
    }

    fn describe(&self, name: &str) -> String {
        self.folder.describe(name)
    }
}

/// Looks at a log while `meanwhile` is done.
fn look(
    folder: &MemoryFolder,
    meanwhile: impl FnMut(Step<'_>) + Send,
) -> Result<(Survey, Vec<LogRecord>), LogError> {
    let meta = read_meta(folder)?;
    let busy = Busy { folder: folder.clone(), meanwhile: Mutex::new(meanwhile) };
    let mut seen = Vec::new();
    let survey = survey::survey(&busy, meta, &mut |record| seen.push(record))?;
    Ok((survey, seen))
}

/// Appends until there are so many more segments.
fn grow(log: &mut EmbeddedLog, segments: usize) {
    let mut dice = Dice(3);
    let wanted = log.writer.segments.len() + segments;
    while log.writer.segments.len() < wanted {
        log.append(&dice.payloads(3, 500), 0).unwrap();
    }
}

/// Trims all segments but the last one, and the one before it, which is always kept.
fn trim(log: &mut EmbeddedLog) {
    while log.writer.segments.len() > 2 {
        let (_, next) = log.range();
        log.trim(Offset(next.0 - 1));
    }
}

fn log_of(segments: usize) -> (MemoryFolder, EmbeddedLog) {
    let folder = MemoryFolder::default();
    let mut log = open(&folder, 0).unwrap().log;
    grow(&mut log, segments - 1);
    (folder, log)
}

fn firsts(survey: &Survey) -> Vec<u64> {
    survey.segments.iter().map(|segment| segment.first.0).collect()
}

fn bases(log: &EmbeddedLog) -> Vec<u64> {
    log.writer.segments.iter().copied().collect()
}

#[test]
fn a_look_whose_newest_segment_was_trimmed_finds_those_that_came_after_it() {
    let (folder, mut log) = log_of(3);
    let before = log.range().1;
    let mut moves = 2;
    let (survey, seen) = look(&folder, |step| {
        if matches!(step, Step::Listed(_)) && moves > 0 {
            moves -= 1;
            grow(&mut log, 2);
            trim(&mut log);
        }
    })
    .unwrap();
    assert_eq!(survey.damage, []);
    assert!(survey.next > before, "what was seen is there");
    assert_eq!(survey.next, log.range().1);
    assert_eq!(firsts(&survey), bases(&log));
    assert_eq!(seen, records(&log));
}

#[test]
fn the_newest_segment_is_read_to_its_end_when_it_is_trimmed_during_the_look() {
    let (folder, mut log) = log_of(3);
    let (before, newest) = (log.range().1, *log.writer.segments.back().unwrap());
    let second = segment::name(log.writer.segments[1]);
    let mut is_done = false;
    let (survey, _seen) = look(&folder, |step| {
        if matches!(step, Step::Opening(name) if name == second) && !is_done {
            is_done = true;
            grow(&mut log, 2);
            trim(&mut log);
        }
    })
    .unwrap();
    assert_eq!(survey.damage, []);
    assert!(survey.next >= before, "what was seen is there");
    assert_eq!(firsts(&survey), [newest]);
    assert_eq!(survey.records, survey.next.0 - newest);
}

#[test]
fn a_segment_that_a_listing_has_missed_is_no_damage() {
    let (folder, log) = log_of(5);
    let missed = [1, 2].map(|at| segment::name(log.writer.segments[at]));
    let (survey, seen) = look(&folder, |step| {
        if let Step::Listed(names) = step {
            names.retain(|name| !missed.contains(name));
        }
    })
    .unwrap();
    assert_eq!(survey.damage, []);
    assert_eq!(firsts(&survey), bases(&log));
    assert_eq!(seen, records(&log));
}

#[test]
fn a_segment_that_was_missed_and_trimmed_with_the_one_before_it_is_no_damage() {
    let (folder, mut log) = log_of(4);
    let missed = segment::name(log.writer.segments[1]);
    let (survey, _seen) = look(&folder, |step| match step {
        Step::Listed(names) => names.retain(|name| *name != missed),
        Step::Opening(name) if name == missed => trim(&mut log),
        Step::Opening(_) => {}
    })
    .unwrap();
    assert_eq!(survey.damage, []);
    assert_eq!(firsts(&survey), bases(&log));
    assert_eq!(survey.next, log.range().1);
    assert_eq!(survey.records, records(&log).len() as u64);
}

#[test]
fn a_name_whose_file_is_never_there_is_told() {
    let (folder, _log) = log_of(2);
    let bogus = segment::name(1_000_000);
    let mut listings = 0;
    let error = look(&folder, |step| {
        if let Step::Listed(names) = step {
            listings += 1;
            names.push(bogus.clone());
        }
    })
    .unwrap_err();
    assert!(error.to_string().contains(&bogus), "{error}");
    assert_eq!(listings, survey::LISTINGS_MAX);
}

#[test]
fn what_was_trimmed_after_a_look_is_no_longer_here() {
    let dir = TempDir::new().unwrap();
    let options = Options { dir: dir.path().to_owned(), ..options() };
    let folder = Arc::new(DiskFolder::lock(dir.path()).unwrap());
    let prepared = Prepared::new(options, folder, abort_in_test, MakeSpares::OnDemand).unwrap();
    let mut log = prepared.open(Offset(0)).unwrap().log;
    grow(&mut log, 2);
    let (seen, _) = ReadOnlyLog::look(dir.path(), &mut |_| {}).unwrap().unwrap();
    trim(&mut log);
    let error = seen.read(Offset(1), &mut |_| ControlFlow::Continue(())).unwrap_err();
    let (first, next) = log.range();
    let expected = LogError::NotHere { asked: 1, first: first.0, next: next.0 };
    assert_eq!(error.to_string(), expected.to_string());
    seen.read(first, &mut |_| ControlFlow::Continue(())).unwrap();
}
