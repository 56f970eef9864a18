//! The corpus of the targets that read a log's files, and random bytes.

use proptest::prelude::*;

use super::*;

#[test]
fn the_corpus_of_the_reader_target_holds_and_is_no_waste_of_time() {
    let dir = tempfile::tempdir().unwrap();
    let seen: Vec<Seen> = corpus().iter().map(|data| log_files(dir.path(), data)).collect();
    let opened = |seen: &&Seen| matches!(seen, Seen::Opened { records } if *records > 2);
    assert!(seen.iter().filter(opened).count() >= 5, "{seen:?}");
    assert!(seen.iter().filter(|seen| **seen == Seen::Refused).count() >= 4, "{seen:?}");
}

#[test]
fn a_corpus_with_wrong_bytes_holds() {
    let dir = tempfile::tempdir().unwrap();
    let readers = corpus();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    let which = any::<prop::sample::Index>();
    proptest!(config(), |(which in which, changes in changes)| {
        let mut data = which.get(&readers).clone();
        for (place, byte) in &changes {
            let place = place.index(data.len());
            data[place] = *byte;
        }
        log_files(dir.path(), &data);
        log_reader(&data);
    });
}

#[test]
fn arbitrary_bytes_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = prop::collection::vec(any::<u8>(), 0..600);
    proptest!(config(), |(data in data)| {
        log_files(dir.path(), &data);
        log_reader(&data);
    });
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() }
}

/// To be run by hand when the bytes of the log change: it makes the corpus anew.
#[test]
#[ignore = "writes into the source tree"]
fn the_corpus_is_written() {
    for (name, data) in reader_corpus() {
        fs::write(corpus_dir().join(name), data).unwrap();
    }
}

fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/log_reader")
}

fn corpus() -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(corpus_dir()).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Logs written by the log itself, cut into segments between batches.
fn reader_corpus() -> Vec<(&'static str, Vec<u8>)> {
    let one = |plan, scan_from, content: &[u8]| several(plan, scan_from, &[(0, content)]);
    let closed = written(true);
    let killed = written(false);
    let batches = batches(&closed);
    let mut flipped = closed.clone();
    flipped[batches[1].0 + 70] ^= 4;
    let mut hole = closed.clone();
    hole[batches[1].0..batches[2].0].fill(0);
    let torn = &killed[..killed.len() - 20];
    let (first, second) = closed.split_at(batches[1].0);
    let (second, third) = second.split_at(batches[2].0 - batches[1].0);
    let per = |at: usize| u8::try_from(batches[at].1).unwrap();
    vec![
        ("nothing", one(0, 0, b"")),
        ("closed", one(8, 0, &closed)),
        ("closed_sealed", one(4 | 8, 0, &closed)),
        ("killed", one(8, 0, &killed)),
        ("killed_sealed", one(4 | 8, 1, &killed)),
        ("torn", one(8, 0, torn)),
        ("flipped", one(8, 0, &flipped)),
        ("hole", one(8, 0, &hole)),
        ("hole_sealed", one(4, 0, &hole)),
        ("long", one(4 | 8 | 16, 0, &closed)),
        ("far_behind", one(16, 0, &[&closed[..], &[0; 4200], &closed[batches[1].0..]].concat())),
        ("two_segments", several(1 | 8, 0, &[(0, first), (per(0), &closed[batches[1].0..])])),
        ("scan_from", several(1 | 4 | 8, 4, &[(0, first), (per(0), &closed[batches[1].0..])])),
        ("three", several(2 | 4, 0, &[(0, first), (per(0), second), (per(1), third)])),
        ("one_is_missing", several(1 | 4, 0, &[(0, first), (per(0) + per(1), third)])),
        ("empty_last", several(1 | 8, 0, &[(0, first), (per(0), b"")])),
        ("behind_the_store", one(4, 200, &closed)),
        ("log_of_another_id", one(0, 0, &closed.iter().map(|b| b ^ 1).collect::<Vec<_>>())),
    ]
}

fn several(plan: u8, scan_from: u8, segments: &[(u8, &[u8])]) -> Vec<u8> {
    let mut data = vec![plan, scan_from];
    for (at, (delta, content)) in segments.iter().enumerate() {
        data.extend((at > 0).then_some(*delta));
        data.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        data.extend(*content);
    }
    data
}

/// The bytes of a segment with some batches of two sizes, and a proof behind the second.
fn written(closed: bool) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(META), meta_bytes(SEGMENT_LEN)).unwrap();
    let mut log = EmbeddedLog::open(options(dir.path(), SEGMENT_LEN), Offset(0)).unwrap().log;
    for (now_ms, count) in [(5, 2), (6, 1), (7, 3)] {
        let payloads: Vec<Bytes> = (0..count).map(|len| vec![b'p'; len * 7].into()).collect();
        log.append(&payloads, now_ms).unwrap();
        if count == 1 {
            log.idle().unwrap();
        }
    }
    let bytes = || fs::read(dir.path().join(segment::name(1))).unwrap();
    let killed = bytes();
    drop(log);
    let mut bytes = if closed { bytes() } else { killed };
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    bytes
}

/// Where each batch of a segment begins, and how many records it has.
fn batches(segment: &[u8]) -> Vec<(usize, u32)> {
    let number = |at: usize| u32::from_be_bytes(*segment[at..].first_chunk().unwrap());
    let mut batches = Vec::new();
    let mut at = 0;
    while at + HEADER_LEN <= segment.len() {
        batches.push((at, number(at + 48)));
        at += HEADER_LEN + (number(at + 52) as usize).next_multiple_of(8);
    }
    batches
}
