//! What every log must do, wherever it is kept.
//!
//! Each check gets a place for a log that does not exist yet. [`suite`] makes one test of each for one
//! kind of log.

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use daemon::clock::unix_ms;
use proto::ids::Offset;
use proto::record::fingerprint;
use tempfile::TempDir;

use super::embedded::{EmbeddedLog, MAX_PAYLOAD_BYTES, Options};
use super::{Log, LogError, LogRecord, Tail, Unopened};

/// Where one log is, which can be opened again and again.
pub(super) trait Place: Debug {
    fn find(&self) -> Box<dyn Unopened>;

    fn open_after(&self, applied: u64) -> Box<dyn Log> {
        self.find().open(Offset(applied)).unwrap()
    }

    fn open(&self) -> Box<dyn Log> {
        self.open_after(0)
    }
}

/// Makes a test of each check. `$fresh` is a function that returns a new [`Place`].
macro_rules! suite {
    ($fresh:path) => {
        crate::conformance::suite! { $fresh;
            a_new_log_is_empty,
            offsets_rise_by_one_from_one,
            timestamps_never_fall,
            an_append_returns_its_payloads_in_order,
            an_empty_payload_is_a_record,
            the_largest_payload_is_a_record,
            many_payloads_keep_their_order,
            what_was_appended_is_read_back_equal,
            what_was_appended_is_there_after_opening_again,
            appends_go_on_after_opening_again,
            reading_begins_where_it_is_told,
            reading_outside_the_log_is_an_error,
            reading_stops_when_it_is_broken_off,
            reading_again_leaves_no_trace,
            without_another_writer_idle_finds_no_records,
            what_is_not_trimmed_stays,
            a_log_keeps_its_id,
            a_tail_reads_on_with_what_is_appended,
            a_tail_goes_on_behind_the_record_at_which_it_broke_off,
            a_tail_ends_where_it_is_told,
        }
    };
    ($fresh:path; $($check:ident,)*) => {
        $(
            #[test]
            fn $check() {
                crate::conformance::$check(&$fresh());
            }
        )*
    };
}
pub(super) use suite;

/// The wall clock: some logs delete what is dated years back.
pub(super) static NOW_MS: LazyLock<u64> = LazyLock::new(unix_ms);

mod embedded {
    use super::*;

    #[derive(Debug)]
    struct Folder(TempDir);

    impl Place for Folder {
        fn find(&self) -> Box<dyn Unopened> {
            Box::new(EmbeddedLog::prepare(options(self.0.path())).unwrap())
        }
    }

    fn options(dir: &Path) -> Options {
        Options { segment_bytes: 4 << 20, spare_segments: 1, ..Options::new(dir) }
    }

    fn fresh() -> Folder {
        Folder(TempDir::new().unwrap())
    }

    suite!(fresh);
}

/// Payloads that differ from each other.
fn payloads(name: &str, count: usize) -> Vec<Bytes> {
    (0..count).map(|number| Bytes::from(format!("{name} {number}"))).collect()
}

/// Appends, and returns the records, all of which must be the payloads' own.
pub(super) fn append(log: &mut dyn Log, payloads: &[Bytes], now_ms: u64) -> Vec<LogRecord> {
    let appended = log.append(payloads, now_ms).unwrap();
    let own: Vec<_> = appended.iter().map(|appended| appended.of).collect();
    assert_eq!(own, (0..payloads.len()).map(Some).collect::<Vec<_>>());
    appended.into_iter().map(|appended| appended.record).collect()
}

/// Everything from `from` on.
pub(super) fn read(log: &dyn Log, from: u64) -> Vec<LogRecord> {
    let mut records = Vec::new();
    let read = log.read(Offset(from), &mut |record| {
        records.push(record);
        ControlFlow::Continue(())
    });
    read.unwrap();
    records
}

fn offsets(records: &[LogRecord]) -> Vec<u64> {
    records.iter().map(|record| record.offset.0).collect()
}

fn contents(records: &[LogRecord]) -> Vec<Bytes> {
    records.iter().map(|record| record.payload.clone()).collect()
}

pub(super) fn a_new_log_is_empty(place: &dyn Place) {
    let log = place.open();
    assert_eq!(log.range(), (Offset(1), Offset(1)));
    assert_eq!(read(&*log, 1), []);
}

pub(super) fn offsets_rise_by_one_from_one(place: &dyn Place) {
    let mut log = place.open();
    let mut found = Vec::new();
    for count in [1, 3, 1, 7] {
        found.extend(offsets(&append(&mut *log, &payloads("x", count), *NOW_MS)));
    }
    assert_eq!(found, (1..=12).collect::<Vec<_>>());
    assert_eq!(log.range(), (Offset(1), Offset(13)));
}

pub(super) fn timestamps_never_fall(place: &dyn Place) {
    let mut log = place.open();
    let one = payloads("x", 1);
    let mut times = Vec::new();
    for now_ms in [*NOW_MS, *NOW_MS - 5_000, *NOW_MS + 1, *NOW_MS] {
        times.extend(append(&mut *log, &one, now_ms).iter().map(|record| record.timestamp_ms));
    }
    assert_eq!(times, [*NOW_MS, *NOW_MS, *NOW_MS + 1, *NOW_MS + 1]);
    for _opened in 0..2 {
        drop(log);
        log = place.open();
        let after = append(&mut *log, &one, *NOW_MS - 60_000);
        assert_eq!(after[0].timestamp_ms, *NOW_MS + 1);
    }
    drop(log);
    let mut log = place.open();
    assert_eq!(read(&*log, 1).len(), 6);
    let after = append(&mut *log, &one, *NOW_MS - 60_000);
    assert_eq!(after[0].timestamp_ms, *NOW_MS + 1);
}

pub(super) fn an_append_returns_its_payloads_in_order(place: &dyn Place) {
    let mut log = place.open();
    let sent = payloads("message", 20);
    let records = append(&mut *log, &sent, *NOW_MS);
    assert_eq!(contents(&records), sent);
    for record in records {
        let expected = fingerprint(record.offset, record.timestamp_ms, &record.payload);
        assert_eq!(record.crc, expected);
    }
}

pub(super) fn an_empty_payload_is_a_record(place: &dyn Place) {
    let mut log = place.open();
    let sent = [Bytes::new(), Bytes::from_static(b"x"), Bytes::new()];
    assert_eq!(contents(&append(&mut *log, &sent, *NOW_MS)), sent);
    assert_eq!(contents(&read(&*log, 1)), sent);
}

pub(super) fn the_largest_payload_is_a_record(place: &dyn Place) {
    let mut log = place.open();
    let large: Vec<u8> = (0..=u8::MAX).cycle().take(MAX_PAYLOAD_BYTES).collect();
    let sent = [Bytes::from_static(b"before"), Bytes::from(large), Bytes::from_static(b"after")];
    let records = append(&mut *log, &sent, *NOW_MS);
    assert!(contents(&records) == sent, "the payloads come back as they were");
    assert!(read(&*log, 1) == records, "the payloads are read as they were");
}

pub(super) fn many_payloads_keep_their_order(place: &dyn Place) {
    let mut log = place.open();
    let mut sent = Vec::new();
    for round in 0..4 {
        let some = payloads(&format!("round {round}, payload"), 2_000);
        append(&mut *log, &some, *NOW_MS + round);
        sent.extend(some);
    }
    let records = read(&*log, 1);
    assert!(contents(&records) == sent, "all are read, in the order of the appends");
    assert_eq!(offsets(&records), (1..=8_000).collect::<Vec<_>>());
}

pub(super) fn what_was_appended_is_read_back_equal(place: &dyn Place) {
    let mut log = place.open();
    let mut appended = append(&mut *log, &payloads("first", 5), *NOW_MS);
    appended.extend(append(&mut *log, &payloads("second", 3), *NOW_MS + 7));
    assert_eq!(read(&*log, 1), appended);
}

pub(super) fn what_was_appended_is_there_after_opening_again(place: &dyn Place) {
    let mut log = place.open();
    let appended = append(&mut *log, &payloads("kept", 9), *NOW_MS);
    drop(log);
    for (applied, stored) in [(0, 0), (4, 4), (9, 9)] {
        let log = place.open_after(applied);
        assert_eq!(log.range().1, Offset(10));
        assert_eq!(read(&*log, applied + 1), appended[stored..]);
    }
}

pub(super) fn appends_go_on_after_opening_again(place: &dyn Place) {
    let mut appended = Vec::new();
    for round in 0..3 {
        let mut log = place.open_after(appended.len() as u64);
        let records = append(&mut *log, &payloads(&format!("round {round}"), 4), *NOW_MS + round);
        appended.extend(records);
    }
    assert_eq!(read(&*place.open(), 1), appended);
    assert_eq!(offsets(&appended), (1..=12).collect::<Vec<_>>());
}

pub(super) fn reading_begins_where_it_is_told(place: &dyn Place) {
    let mut log = place.open();
    let appended = append(&mut *log, &payloads("x", 10), *NOW_MS);
    for (from, before) in [(10, 9), (1, 0), (7, 6), (2, 1)] {
        assert_eq!(read(&*log, from), appended[before..]);
    }
    assert_eq!(read(&*log, 11), []);
}

pub(super) fn reading_outside_the_log_is_an_error(place: &dyn Place) {
    let mut log = place.open();
    append(&mut *log, &payloads("x", 3), *NOW_MS);
    for outside in [0, 5, u64::MAX] {
        let read = log.read(Offset(outside), &mut |record| panic!("there is no {record:?}"));
        let Err(LogError::NotHere { asked, first, next }) = read else {
            panic!("{outside} is not there: {read:?}")
        };
        assert_eq!((asked, first, next), (outside, 1, 4));
    }
}

pub(super) fn reading_stops_when_it_is_broken_off(place: &dyn Place) {
    let mut log = place.open();
    append(&mut *log, &payloads("x", 10), *NOW_MS);
    let mut seen = 0;
    let stopped = log.read(Offset(2), &mut |record| {
        seen = record.offset.0;
        if seen == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    stopped.unwrap();
    assert_eq!(seen, 4);
    assert_eq!(offsets(&append(&mut *log, &payloads("more", 2), *NOW_MS)), [11, 12]);
    assert_eq!(read(&*log, 1).len(), 12);
}

pub(super) fn reading_again_leaves_no_trace(place: &dyn Place) {
    let mut log = place.open();
    for round in 1..=5 {
        append(&mut *log, &payloads("x", 2), *NOW_MS);
        assert_eq!(offsets(&read(&*log, 1)), (1..=2 * round).collect::<Vec<_>>());
        assert_eq!(log.idle().unwrap(), []);
        assert_eq!(log.range().1, Offset(2 * round + 1));
    }
}

pub(super) fn without_another_writer_idle_finds_no_records(place: &dyn Place) {
    let mut log = place.open();
    assert_eq!(log.idle().unwrap(), []);
    append(&mut *log, &payloads("x", 3), *NOW_MS);
    assert_eq!(log.idle().unwrap(), []);
    drop(log);
    let mut log = place.open();
    assert_eq!(log.idle().unwrap(), []);
    assert_eq!(log.range().1, Offset(4));
}

pub(super) fn what_is_not_trimmed_stays(place: &dyn Place) {
    let mut log = place.open();
    let appended = append(&mut *log, &payloads("x", 10), *NOW_MS);
    log.trim(Offset(6));
    assert!(log.range().0 <= Offset(7));
    assert_eq!(read(&*log, 7), appended[6..]);
    drop(log);
    assert_eq!(read(&*place.open_after(6), 7), appended[6..]);
}

pub(super) fn a_log_keeps_its_id(place: &dyn Place) {
    let found = place.find();
    let id = found.id();
    let log = found.open(Offset(0)).unwrap();
    assert_eq!(log.id(), id);
    drop(log);
    assert_eq!(place.find().id(), id);
}

/// What a tail reads up to an offset, `at_once` records at most.
pub(super) fn tailed(tail: &mut dyn Tail, upto: u64, at_once: usize) -> Vec<LogRecord> {
    let mut records = Vec::new();
    let read = tail.read(Offset(upto), &mut |record| {
        records.push(record);
        if records.len() == at_once { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    read.unwrap();
    records
}

pub(super) fn a_tail_reads_on_with_what_is_appended(place: &dyn Place) {
    let mut log = place.open();
    let mut appended = append(&mut *log, &payloads("before", 5), *NOW_MS);
    let tails = log.tails();
    assert_eq!(tails.first().unwrap(), Offset(1));
    let (mut all, mut later) = (tails.tail(Offset(1)).unwrap(), tails.tail(Offset(4)).unwrap());
    let mut seen = tailed(&mut *all, 5, usize::MAX);
    assert_eq!(tailed(&mut *later, 5, usize::MAX), appended[3..]);
    for round in 0..4 {
        let more = append(&mut *log, &payloads(&format!("round {round}"), 3), *NOW_MS);
        log.idle().unwrap();
        let upto = log.range().1.0 - 1;
        seen.extend(tailed(&mut *all, upto, usize::MAX));
        assert_eq!(tailed(&mut *later, upto, usize::MAX), more);
        appended.extend(more);
    }
    assert_eq!(seen, appended);
}

pub(super) fn a_tail_goes_on_behind_the_record_at_which_it_broke_off(place: &dyn Place) {
    let mut log = place.open();
    let appended = append(&mut *log, &payloads("x", 10), *NOW_MS);
    let mut tail = log.tails().tail(Offset(2)).unwrap();
    let pieces: Vec<_> = (0..4).map(|_piece| tailed(&mut *tail, 10, 3)).collect();
    assert_eq!(pieces.concat(), appended[1..]);
    assert_eq!(pieces[0].len(), 3);
}

pub(super) fn a_tail_ends_where_it_is_told(place: &dyn Place) {
    let mut log = place.open();
    let appended = append(&mut *log, &payloads("x", 10), *NOW_MS);
    let mut tail = log.tails().tail(Offset(1)).unwrap();
    assert_eq!(tailed(&mut *tail, 4, usize::MAX), appended[..4]);
    assert_eq!(tailed(&mut *tail, 4, usize::MAX), []);
    assert_eq!(tailed(&mut *tail, 2, usize::MAX), [], "it does not go back");
    assert_eq!(tailed(&mut *tail, 10, usize::MAX), appended[4..]);
}
