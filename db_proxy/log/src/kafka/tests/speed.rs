//! How fast appends and replays are, beside the embedded log.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use backends::Kafka;
use bytes::Bytes;
use daemon::clock::unix_ms;
use proto::ids::Offset;
use tempfile::TempDir;

use super::{fresh, topic};
use crate::conformance::{Place as _, append};
use crate::embedded::{EmbeddedLog, Options};
use crate::{Log, LogRecord};

const FOR: Duration = Duration::from_secs(3);

/// Appends batches of `size` for a while. Returns records a second, and what an append takes: half of
/// them less, and 99 of 100 less.
fn measure(log: &mut dyn Log, size: usize) -> (f64, [Duration; 2]) {
    let payloads = vec![Bytes::from(vec![b'x'; 256]); size];
    for _warm in 0..20 {
        append(log, &payloads, unix_ms());
    }
    let began = Instant::now();
    let mut took = Vec::new();
    while began.elapsed() < FOR {
        let sent = Instant::now();
        append(log, &payloads, unix_ms());
        took.push(sent.elapsed());
    }
    let count = u32::try_from(took.len() * size).unwrap();
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    took.sort_unstable();
    (rate, [took[took.len() / 2], took[took.len() * 99 / 100]])
}

#[test]
#[ignore = "measures, for minutes; meant for a release build"]
fn appends_beside_the_embedded_log() {
    let folder = TempDir::new().unwrap();
    let mut embedded = EmbeddedLog::open(Options::new(folder.path()), Offset(0)).unwrap().log;
    let place = fresh();
    let mut kafka = place.open();
    println!("batch | embedded records/s, p50, p99 | Kafka records/s, p50, p99");
    for size in [1, 16, 256] {
        let (rate, [p50, p99]) = measure(&mut embedded, size);
        let (kafka_rate, [kafka_p50, kafka_p99]) = measure(&mut *kafka, size);
        println!(
            "{size:5} | {rate:9.0} {p50:8.2?} {p99:8.2?} | {kafka_rate:9.0} {kafka_p50:8.2?} {kafka_p99:8.2?}"
        );
    }
}

#[test]
#[ignore = "measures, for a minute; meant for a release build"]
fn a_million_records_are_read_in_seconds() {
    let place = topic(Kafka::shared(), 1);
    let mut log = place.open();
    let payloads = vec![Bytes::from(vec![b'x'; 256]); 4_000];
    for _batch in 0..250 {
        append(&mut *log, &payloads, unix_ms());
    }
    drop(log);
    let began = Instant::now();
    let log = place.open();
    let opened = began.elapsed();
    let mut count = 0_u64;
    let mut each = |record: LogRecord| {
        count += 1;
        assert_eq!(record.offset.0, count);
        ControlFlow::Continue(())
    };
    log.read(Offset(1), &mut each).unwrap();
    println!("opened in {opened:.2?}, {count} records read after {:.2?}", began.elapsed());
    assert_eq!(count, 1_000_000);
}
