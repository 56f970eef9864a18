//! Looking at a log that is not ours: what is found is what an opening finds, and nothing changes.
//!
//! Nearly all tests of the log come through [`check_agrees`], with every image that they make.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tempfile::TempDir;

use super::*;
use crate::embedded::survey::{self, Survey};

/// What a look at the folder finds, and the records it shows. `None` if there is no log.
pub(super) fn survey(folder: &MemoryFolder) -> Option<(Survey, Vec<LogRecord>)> {
    let names = folder.names().unwrap();
    let meta = names.iter().any(|name| name == META).then(|| read_meta(folder))?.ok()?;
    let mut seen = Vec::new();
    let before = folder.contents();
    let survey = survey::survey(folder, meta, &mut |record| seen.push(record)).unwrap();
    assert_eq!(folder.contents(), before);
    Some((survey, seen))
}

/// An opening that checked everything found the same.
pub(super) fn check_agrees(survey: &Survey, seen: &[LogRecord], opened: &Result<Opened, LogError>) {
    assert_eq!(survey.records, seen.len() as u64);
    assert!(seen.is_sorted_by(|one, other| one.offset < other.offset));
    let from_the_first = survey.segments.first().is_none_or(|segment| segment.first == Offset(1));
    match opened {
        Ok(opened) => {
            assert_eq!(survey.damage, []);
            assert_eq!(survey.next, opened.log.range().1);
            assert_eq!(survey.records, opened.scanned_records);
            assert_eq!(survey.unfinished_bytes, opened.truncated_bytes);
            assert_eq!(records(&opened.log), seen);
        }
        Err(LogError::Damaged(text)) if from_the_first => {
            let damage = survey.damage.first().expect("damage is found by looking, too");
            assert!(text.contains(&damage.file), "{text}: {damage:?}");
        }
        Err(_) => {}
    }
}

#[test]
fn behind_damage_everything_else_is_still_read() {
    let folder = MemoryFolder::default();
    let mut log = open(&folder, 0).unwrap().log;
    let mut dice = Dice(1);
    let mut ends = vec![0];
    while log.writer.segments.len() == 1 {
        log.append(&dice.payloads(3, 100), 0).unwrap();
        ends.push(log.writer.position);
    }
    let all = records(&log);
    drop(log);
    // In the third and in the last batch of the first segment, the latter with nothing behind it.
    let last = ends.len() - 3;
    let places = [ends[2], ends[last]];
    for place in places {
        let place = usize::try_from(place).unwrap() + HEADER_LEN_OF_A_BATCH;
        folder.edit(&segment::name(1), |bytes| bytes[place] ^= 1);
    }

    let (survey, seen) = survey(&folder).unwrap();
    let positions: Vec<u64> = survey.damage.iter().map(|damage| damage.position).collect();
    assert_eq!(positions, places);
    assert!(survey.damage[0].what.contains("offsets 7 to 9"), "{:?}", survey.damage);
    let lost = |record: &&LogRecord| {
        let batch = (record.offset.0 - 1) / 3;
        batch == 2 || batch == last as u64
    };
    let rest: Vec<LogRecord> = all.iter().filter(|it| !lost(it)).cloned().collect();
    assert_eq!(seen, rest);
}

const HEADER_LEN_OF_A_BATCH: usize = format::HEADER_LEN;

#[test]
fn of_very_many_damaged_places_the_first_are_described_and_the_others_counted() {
    let folder = MemoryFolder::default();
    let mut log = open(&folder, 0).unwrap().log;
    let mut ends = Vec::new();
    for _batch in 0..220 {
        log.append(&[Bytes::from_static(b"payload")], 0).unwrap();
        ends.push((*log.writer.segments.back().unwrap(), log.writer.position));
    }
    drop(log);
    // The payload of every other batch: what lies between them proves that they were there.
    for (base, end) in ends.into_iter().step_by(2) {
        let place = usize::try_from(end).unwrap() - 1;
        folder.edit(&segment::name(base), |bytes| bytes[place] ^= 1);
    }
    let (survey, seen) = survey(&folder).unwrap();
    assert_eq!((survey.damage.len(), survey.more_damage), (100, 10));
    assert_eq!(seen.len(), 110);
}

#[test]
fn looking_at_a_log_that_is_appended_to_and_trimmed_never_finds_damage() {
    let dir = TempDir::new().unwrap();
    let options = Options { segment_bytes: 64 << 10, keep_bytes: 0, ..Options::new(dir.path()) };
    let mut log = EmbeddedLog::open(options, Offset(0)).unwrap().log;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice(2);
            for round in 0..600 {
                let count = 1 + dice.roll(5);
                match log.append(&dice.payloads(count, 2_000), round) {
                    Ok(_) | Err(LogError::Full(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                if dice.roll(50) == 0 {
                    let (_, next) = log.range();
                    log.trim(Offset(next.0 - 1));
                }
            }
            done.store(true, Ordering::Release);
        });
        let mut looks = 0;
        let mut last = 0;
        while !done.load(Ordering::Acquire) || looks == 0 {
            let mut offset = None;
            let look = ReadOnlyLog::look(dir.path(), &mut |record| {
                assert!(offset.is_none_or(|offset| record.offset.0 > offset));
                offset = Some(record.offset.0);
            });
            let (_, survey) = look.unwrap().expect("a log");
            assert_eq!(survey.damage, []);
            assert!(survey.next.0 >= last, "what was seen is there");
            last = survey.next.0;
            looks += 1;
        }
    });
}

#[test]
fn a_look_tells_how_the_log_was_made() {
    let dir = TempDir::new().unwrap();
    assert!(ReadOnlyLog::look(dir.path(), &mut |_| {}).unwrap().is_none(), "there is no log yet");
    let options = Options { segment_bytes: SEGMENT_BYTES, ..Options::new(dir.path()) };
    let log = EmbeddedLog::open(options, Offset(0)).unwrap().log;
    let (seen, _) = ReadOnlyLog::look(dir.path(), &mut |_| {}).unwrap().expect("a log");
    assert_eq!((seen.segment_bytes(), seen.id()), (SEGMENT_BYTES, log.id()));
    assert_eq!(seen.range(), log.range());
}
