//! Reading a log beside its owner: over segments, over trims, and what has not been written whole yet.

use super::*;
use crate::conformance::{NOW_MS, tailed};

fn log_of(folder: &MemoryFolder) -> EmbeddedLog {
    open_with(folder, 0, MakeSpares::OnDemand).unwrap().log
}

/// Appends records that fill a good part of a segment.
fn append(log: &mut EmbeddedLog) -> u64 {
    let payload = Bytes::from(vec![7; 3000]);
    log.append(&[payload.clone(), payload], *NOW_MS).unwrap();
    log.range().1.0 - 1
}

fn offsets(records: &[LogRecord]) -> Vec<u64> {
    records.iter().map(|record| record.offset.0).collect()
}

#[test]
fn a_tail_goes_from_segment_to_segment() {
    let mut log = log_of(&MemoryFolder::default());
    let mut tail = log.tails().tail(Offset(1)).unwrap();
    let mut seen = Vec::new();
    for round in 0..7 {
        let last = append(&mut log);
        if round % 2 == 0 {
            seen.extend(offsets(&tailed(&mut *tail, last, usize::MAX)));
        }
    }
    assert_eq!(seen, (1..=14).collect::<Vec<_>>());
    assert!(log.writer.segments.len() >= 6, "{:?}", log.writer.segments);
    let mut from_the_middle = log.tails().tail(Offset(6)).unwrap();
    assert_eq!(
        offsets(&tailed(&mut *from_the_middle, 14, usize::MAX)),
        (6..=14).collect::<Vec<_>>()
    );
}

#[test]
fn a_tail_that_is_behind_what_was_trimmed_is_told_where_the_log_begins() {
    let mut log = log_of(&MemoryFolder::default());
    append(&mut log);
    let tails = log.tails();
    let mut slow = tails.tail(Offset(1)).unwrap();
    assert_eq!(tailed(&mut *slow, 1, usize::MAX).len(), 1);
    for _round in 0..6 {
        append(&mut log);
    }
    let last = log.range().1.0 - 1;
    for _call in 0..6 {
        log.trim(Offset(last));
    }
    let (first, next) = log.range();
    assert!(first > Offset(3), "{first:?}");
    assert_eq!(tails.first().unwrap(), first);
    // What it has open it reads to the end.
    assert_eq!(offsets(&tailed(&mut *slow, 2, usize::MAX)), [2]);
    let read = slow.read(Offset(last), &mut |record| panic!("it is trimmed: {record:?}"));
    let Err(LogError::NotHere { asked: 3, first: told, .. }) = read else { panic!("{read:?}") };
    assert_eq!(told, first.0);
    let from = tails.tail(Offset(2)).err().expect("it is trimmed");
    assert!(
        matches!(from, LogError::NotHere { asked: 2, first: told, .. } if told == first.0),
        "{from}"
    );
    let mut again = tails.tail(first).unwrap();
    assert_eq!(tailed(&mut *again, last, usize::MAX).len() as u64, next.0 - first.0);
}

#[test]
fn a_record_that_is_damaged_is_named_and_not_skipped() {
    let folder = MemoryFolder::default();
    let mut log = log_of(&folder);
    let last = append(&mut log);
    let name = segment::name(1);
    let file = folder.open(&name).unwrap();
    file.write_all_at(&[9], 4000).unwrap();
    let mut tail = log.tails().tail(Offset(1)).unwrap();
    let mut seen = Vec::new();
    let read = tail.read(Offset(last), &mut |record| {
        seen.push(record.offset.0);
        ControlFlow::Continue(())
    });
    let Err(LogError::Damaged(why)) = read else { panic!("{read:?}") };
    assert!(why.contains("offset 2"), "{why}");
    assert_eq!(seen, [1]);
    kill(log);
}

#[test]
fn a_closed_log_has_no_tails() {
    let log = log_of(&MemoryFolder::default());
    let tails = log.tails();
    drop(log);
    assert!(matches!(tails.tail(Offset(1)), Err(LogError::Lost(_))));
    assert!(matches!(tails.first(), Err(LogError::Lost(_))));
}
