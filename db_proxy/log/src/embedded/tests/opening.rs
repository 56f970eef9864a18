//! Which process may open a log, what a full disk and a broken one do, and how time goes on.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn a_log_on_a_disk_is_there_again_after_it_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let options = on_disk(&dir.path().join("not/yet/there"));
    let mut dice = Dice(1);
    let mut log = EmbeddedLog::open(options.clone(), Offset(0)).unwrap().log;
    let id = log.id();
    for now_ms in 0..40 {
        append_when_there_is_room(&mut log, &dice.payloads(3, 900), now_ms);
    }
    let written = records(&log);
    drop(log);

    let prepared = EmbeddedLog::prepare(options).unwrap();
    assert_eq!(prepared.id(), id);
    let opened = prepared.open(Offset(50)).unwrap();
    assert!(opened.clean);
    assert!((1..120).contains(&opened.scanned_records), "{}", opened.scanned_records);
    assert_eq!(opened.log.range(), (Offset(1), Offset(121)));
    assert_eq!(records(&opened.log), written);
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(on_disk(dir.path()), Offset(0)).unwrap().log;
    let second = EmbeddedLog::open(on_disk(dir.path()), Offset(0));
    assert!(matches!(second, Err(LogError::InUse(_))), "{second:?}");
    drop(log);
    EmbeddedLog::open(on_disk(dir.path()), Offset(0)).unwrap();
}

#[test]
fn a_newer_version_is_refused_and_not_touched() {
    let folder = MemoryFolder::default();
    drop(open(&folder, 0).unwrap());
    folder.edit(META, |bytes| {
        bytes[11] = 2;
        bytes.splice(36.., [7; 100]);
        let crc = crc32fast::hash(bytes);
        bytes.extend(crc.to_be_bytes());
    });

    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in folder.contents() {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let refused = EmbeddedLog::open(on_disk(dir.path()), Offset(0));
    let Err(LogError::NewerVersion(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains(META), "{text}");
    assert_eq!(contents(dir.path()), folder.contents());
}

#[test]
fn a_damaged_or_missing_id_is_refused() {
    let written = MemoryFolder::default();
    drop(open(&written, 0).unwrap());
    let len = written.contents()[META].len();
    for cut in 0..len {
        let image = written.after_kill();
        image.edit(META, |bytes| bytes.truncate(cut));
        assert!(matches!(open(&image, 0), Err(LogError::Damaged(_))), "cut at {cut}");
    }
    for bit in 0..len * 8 {
        let image = written.after_kill();
        image.edit(META, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        assert!(matches!(open(&image, 0), Err(LogError::Damaged(_))), "bit {bit}");
    }
    written.remove(META).unwrap();
    assert!(matches!(open(&written, 0), Err(LogError::Damaged(_))));
}

#[test]
fn a_log_that_is_behind_its_store_is_refused() {
    let folder = MemoryFolder::default();
    assert!(matches!(open(&folder, 5), Err(LogError::Damaged(_))), "an empty folder");
    let mut log = open(&folder, 0).unwrap().log;
    log.append(&Dice(1).payloads(4, 10), 0).unwrap();
    drop(log);
    let before = folder.contents();
    assert!(matches!(open(&folder, 5), Err(LogError::Damaged(_))));
    assert_eq!(folder.contents(), before);
    assert_eq!(open(&folder, 4).unwrap().log.range(), (Offset(1), Offset(5)));
}

#[test]
fn nothing_is_appended_to_a_full_disk_and_everything_again_when_there_is_room() {
    let folder = MemoryFolder::default();
    let mut log = open_with(&folder, 0, MakeSpares::Ahead).unwrap().log;
    let payloads = Dice(1).payloads(4, 900);
    append_when_there_is_room(&mut log, &payloads, 0);
    // The spares that exist are used up, then appends are refused, however often they are tried.
    folder.set_room(Some(100));
    let mut now_ms = 1;
    while log.append(&payloads, now_ms).is_ok() {
        now_ms += 1;
    }
    let held = records(&log);
    for _ in 0..3 {
        let refused = log.append(&payloads, now_ms);
        assert!(matches!(refused, Err(LogError::Full(_))), "{refused:?}");
    }
    assert_eq!(records(&log), held);

    folder.set_room(None);
    let appended = append_when_there_is_room(&mut log, &payloads, now_ms);
    assert_eq!(appended[0].record.offset, held.last().unwrap().offset.next());
    assert_eq!(records(&log)[..held.len()], held);
}

#[test]
fn a_first_start_on_a_full_disk_says_so_and_a_later_one_works() {
    let folder = MemoryFolder::default();
    folder.set_room(Some(5_000));
    assert!(matches!(open(&folder, 0), Err(LogError::Full(_))));
    folder.set_room(None);
    assert!(open(&folder, 0).unwrap().clean);
}

#[test]
fn after_a_failed_write_or_flush_nothing_is_acknowledged() {
    for changes in 0..2 {
        let folder = MemoryFolder::default();
        let mut log = open(&folder, 0).unwrap().log;
        log.append(&Dice(1).payloads(2, 50), 0).unwrap();
        let before = records(&log);
        folder.fail_after(changes);
        assert!(unless_aborted(|| log.append(&Dice(2).payloads(2, 50), 0)).is_none());
        // The end of the process does not write either, not even a proof.
        let written = folder.contents();
        drop(log);
        assert_eq!(folder.contents(), written);

        let image = folder.after_power_cut(|| false);
        assert_eq!(records(&open(&image, 0).unwrap().log), before);
    }
}

#[test]
fn offsets_and_times_rise_when_the_clock_goes_back() {
    let folder = MemoryFolder::default();
    let mut last = (Offset(0), 0);
    for round in 0..5_u64 {
        let mut log = open(&folder, 0).unwrap().log;
        for now_ms in [1_000 * round, 5, 0, 3_000] {
            let appended = log.append(&[Bytes::from_static(b"x")], now_ms).unwrap();
            let LogRecord { offset, timestamp_ms, .. } = appended[0].record;
            assert_eq!(offset, last.0.next());
            assert!(timestamp_ms >= last.1.max(now_ms));
            last = (offset, timestamp_ms);
        }
    }
    assert_eq!(last.1, 4_000);
}

/// The only segment left may be one that a process ended in before its first batch.
#[test]
fn the_time_is_kept_when_all_records_are_trimmed() {
    let folder = MemoryFolder::default();
    let mut log = open(&folder, 0).unwrap().log;
    let payloads = [Bytes::from(vec![1; 5_000])];
    log.append(&payloads, 7_000).unwrap();
    // Four changes make the spare and two put it in place; the one after them is the write.
    folder.fail_after(6);
    assert!(unless_aborted(|| log.append(&payloads, 7_001)).is_none());
    drop(log);

    let folder = folder.after_power_cut(|| false);
    let mut log = open(&folder, 1).unwrap().log;
    assert_eq!(log.writer.segments, [1, 2]);
    log.keep_bytes = 0;
    log.trim(Offset(1));
    assert_eq!(log.range(), (Offset(2), Offset(2)));
    kill(log);
    let mut log = open(&folder, 1).unwrap().log;
    assert_eq!(log.append(&payloads, 0).unwrap()[0].record.timestamp_ms, 7_000);
}

#[test]
fn only_what_was_written_can_be_read() {
    let folder = MemoryFolder::default();
    let mut log = open(&folder, 0).unwrap().log;
    for now_ms in 0..40 {
        log.append(&Dice(now_ms).payloads(2, 900), now_ms).unwrap();
    }
    log.keep_bytes = 0;
    log.trim(Offset(30));
    let (first, next) = log.range();
    assert!(first > Offset(1) && first <= Offset(31), "{first:?}");
    let mut ignore = |_| ControlFlow::Continue(());
    for asked in [Offset(first.0 - 1), next.next()] {
        assert!(matches!(log.read(asked, &mut ignore), Err(LogError::NotHere { .. })));
    }
    for asked in first.0..=next.0 {
        let mut offsets = Vec::new();
        log.read(Offset(asked), &mut |record| {
            offsets.push(record.offset.0);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(offsets, (asked..next.0).collect::<Vec<_>>());
    }
    let mut seen = 0;
    let stopped = log.read(first, &mut |_| {
        seen += 1;
        ControlFlow::Break(())
    });
    stopped.unwrap();
    assert_eq!(seen, 1);
}

#[test]
fn trimmed_segments_are_kept_up_to_the_configured_size() {
    let folder = MemoryFolder::default();
    let mut log = open(&folder, 0).unwrap().log;
    log.keep_bytes = 2 * SEGMENT_BYTES;
    for now_ms in 0..60 {
        log.append(&Dice(now_ms).payloads(2, 900), now_ms).unwrap();
    }
    let segments = log.writer.segments.len();
    assert!(segments > 4, "{segments}");
    trim_all(&mut log);
    assert_eq!(log.writer.segments.len(), 3, "the last one and two more");
    log.keep_bytes = 0;
    trim_all(&mut log);
    assert_eq!(log.writer.segments.len(), 1);
    assert_eq!(folder.contents().keys().filter(|name| name.ends_with(".segment")).count(), 1);
}

#[test]
fn the_newest_full_segment_is_kept_always() {
    let folder = MemoryFolder::default();
    let mut log = open(&folder, 0).unwrap().log;
    for now_ms in 0..60 {
        log.append(&Dice(now_ms).payloads(2, 900), now_ms).unwrap();
    }
    trim_all(&mut log);
    assert_eq!(log.writer.segments.len(), 2);
}

#[test]
fn a_quiet_log_proves_its_last_batch_once() {
    let folder = MemoryFolder::default();
    let mut log = open(&folder, 0).unwrap().log;
    log.append(&Dice(1).payloads(1, 50), 0).unwrap();
    let unproven = folder.contents();
    log.idle().unwrap();
    let proven = folder.contents();
    assert_ne!(proven, unproven);
    log.idle().unwrap();
    assert_eq!(folder.contents(), proven);
    kill(log);
    assert!(open(&folder, 0).unwrap().clean);
}

#[test]
fn what_an_unfinished_start_left_is_cleared_away() {
    let folder = MemoryFolder::default();
    let mut log = open(&folder, 0).unwrap().log;
    log.append(&Dice(1).payloads(1, 50), 0).unwrap();
    drop(log);
    folder.create("00000000000000000009.making").unwrap();
    folder.create("00000000000000000008.spare").unwrap();
    folder.create("somebody.else").unwrap();
    drop(open(&folder, 0).unwrap());
    let names: Vec<String> = folder.contents().into_keys().collect();
    assert_eq!(names, ["00000000000000000001.segment", META, "somebody.else"]);
}

/// One call deletes only a few segments.
fn trim_all(log: &mut EmbeddedLog) {
    for _ in 0..log.writer.segments.len() {
        log.trim(Offset(u64::MAX));
    }
}

fn on_disk(dir: &Path) -> Options {
    Options { segment_bytes: SEGMENT_BYTES, ..Options::new(dir) }
}

fn contents(dir: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

/// Appends as the owner does: what is refused for want of room is tried again.
fn append_when_there_is_room(
    log: &mut EmbeddedLog,
    payloads: &[Bytes],
    now_ms: u64,
) -> Vec<Appended> {
    let started = Instant::now();
    loop {
        match log.append(payloads, now_ms) {
            Ok(appended) => return appended,
            Err(LogError::Full(_)) if started.elapsed() < Duration::from_secs(10) => {
                std::thread::yield_now();
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}
