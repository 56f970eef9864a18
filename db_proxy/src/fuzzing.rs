//! What must hold for every input there is, as functions that panic when it does not.
//!
//! The fuzz targets call these with inputs that they make up; the tests call them with the corpus
//! and with random bytes. They are nothing for a running program.
//!
//! The long form, from the folder above `fuzz/`, is one command per target:
//!
//! ```text
//! cargo +nightly fuzz run client_frame -- -runs=10000000     what clients send (`proto::fuzzing`)
//! cargo +nightly fuzz run link_frame -- -runs=10000000       what daemons send to each other
//! cargo +nightly fuzz run log_record -- -runs=10000000       what the fold takes
//! cargo +nightly fuzz run log_reader -- -runs=10000000       scanning and repair, in memory
//! cargo +nightly fuzz run log_files -- -runs=100000          the whole log, in real files
//! ```
//!
//! Our own code has no unsafe blocks: with `-s none`, which leaves out the address sanitizer, the same
//! assertions are tried many times as fast.
//!
//! A checksum cannot be guessed, so an input may ask for its checksums to be made right ([`Image`]):
//! what lies behind them is reached then.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use prost::Message as _;
use proto::ids::{ConversationId, MsgId, Offset};
use proto::log::Record;

use crate::conversation::Conversation;
use crate::fold::{Effect, FOLD_VERSION, Fold};
use crate::log::embedded::{EmbeddedLog, Options};
use crate::log::{Landed, Log, LogError, LogRecord};
use crate::store::{Batch, StoredConversation};

/// The length of a segment of an [`Image`]: so small that many can be looked at.
const SEGMENT_LEN: usize = 1024;

/// The same when it is more than is looked at at once behind the last batch.
const LONG_SEGMENT_LEN: usize = 6144;

/// The id of every [`Image`].
pub const LOG_ID: [u8; 16] = *b"a log made up...";

/// The lengths and places of `log/embedded/format.rs`.
const HEADER_LEN: usize = 56;
const RECORD_OVERHEAD: usize = 25;

/// `data` are records of a partition's log, each behind one byte that is its length. Whatever they
/// are, the fold takes them, comes to the same whenever it does, and keeps what it promises.
pub fn log_record(data: &[u8]) {
    let log = records_of(data);
    let (effects, batch) = fold(&log);
    let (again, batch_again) = fold(&log);
    assert_eq!(effects, again, "the fold depends on something else than the log");
    assert_eq!(format!("{batch:?}"), format!("{batch_again:?}"), "the batch does too");

    let mut heads: HashMap<ConversationId, MsgId> = HashMap::new();
    for message in &batch.messages {
        let head = heads.entry(message.conversation).or_insert(MsgId(0));
        assert_eq!(message.msg_id, head.next(), "numbers have no hole");
        *head = message.msg_id;
    }
    let mut stored = Fold::new(FOLD_VERSION, Offset(0), 0);
    for record in &log {
        stored.remember(record);
    }
}

/// Folds a log up to the first record that this build must not fold.
fn fold(log: &[LogRecord]) -> (Vec<Effect>, Batch) {
    let mut fold = Fold::new(FOLD_VERSION, Offset(0), 0);
    let mut effects = Vec::new();
    for record in log {
        if let Ok(decoded) = Record::decode(record.payload.clone())
            && let Some(id) = Fold::needs(&decoded)
        {
            let load = || Conversation::from_stored(id, StoredConversation::default());
            fold.conversations.entry(id).or_insert_with(load);
        }
        match fold.fold(record) {
            Ok(effect) => effects.push(effect),
            Err(_unknown_version) => break,
        }
    }
    for conversation in fold.conversations.values() {
        check_conversation(conversation);
    }
    (effects, fold.take_batch())
}

fn check_conversation(conversation: &Conversation) {
    let head = conversation.head;
    assert_eq!(conversation.recent.len(), head.0 as usize, "nothing was stored, so all is recent");
    let numbers = conversation.recent.iter().map(|message| message.msg_id.0);
    assert!(numbers.eq(1..=head.0), "recent messages have no hole");
    for &user in conversation.marks.keys().chain(conversation.members.keys()) {
        assert!(conversation.unread(user) <= head.0, "nobody has more unread than there is");
        let seen = conversation.seen_by(user);
        if conversation.has_member(user) {
            assert_eq!(seen.unread(), conversation.unread(user));
        }
    }
}

fn records_of(mut data: &[u8]) -> Vec<LogRecord> {
    let mut log = Vec::new();
    let mut timestamp_ms = 1_800_000_000_000;
    while let Some((&len, rest)) = data.split_first() {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(len)));
        data = rest;
        // Long enough for some fingerprints to be too old.
        timestamp_ms += u64::from(len) * 100;
        let offset = Offset(log.len() as u64 + 1);
        let payload = Bytes::copy_from_slice(payload);
        let crc = EmbeddedLog::fingerprint(offset, timestamp_ms, &payload);
        log.push(LogRecord { offset, timestamp_ms, crc, payload });
    }
    log
}

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
        Ok(())
    });
    assert!(read.is_ok(), "what was checked cannot be read: {read:?}");
    let offsets = records.iter().map(|record| record.offset.0);
    assert!(offsets.eq(from.0..next.0), "records without a hole from {} to {}", from.0, next.0);
    records
}

/// The log takes more records, and the next process finds all of them.
fn check_going_on(options: Options, mut log: EmbeddedLog) {
    let (first, next) = log.range();
    let (landed, next) = match log.append(&[Bytes::from_static(b"more")], 1) {
        Ok(landed) => (landed, next.next()),
        // The next segment is still being made.
        Err(LogError::Full(_)) => (Vec::new(), next),
        Err(other) => panic!("{other:?}"),
    };
    drop(log);
    let scan_from = next.0 - 1;
    let opened = EmbeddedLog::open(options, Offset(scan_from)).expect("it was just served");
    assert!(opened.clean, "it was closed");
    assert_eq!(opened.log.range(), (first, next));
    if let Some(Landed { record, .. }) = landed.first() {
        let last = served(&opened.log, scan_from).pop().expect("there is a last record");
        assert_eq!(&last, record);
    }
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
pub struct Image {
    /// The size of each segment.
    pub segment_len: usize,
    /// The last record that the store has.
    pub scan_from: u64,
    /// Whether something is appended to it.
    pub goes_on: bool,
    /// The offset with which each segment begins, and its bytes.
    pub segments: Vec<(u64, Vec<u8>)>,
}

impl Image {
    /// The image that `data` stand for.
    pub fn parse(mut data: &[u8]) -> Self {
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
        fs::write(dir.join("log.meta"), meta_bytes(self.segment_len))?;
        for (base, content) in &self.segments {
            File::create(segment(dir, *base))?.write_all(content)?;
        }
        Ok(())
    }

    fn check_untouched(&self, dir: &Path) {
        let read = |path: PathBuf| fs::read(path).expect("a file that was there before");
        assert_eq!(
            read(dir.join("log.meta")),
            meta_bytes(self.segment_len),
            "log.meta was changed"
        );
        for (base, content) in &self.segments {
            assert!(read(segment(dir, *base)) == *content, "segment {base} was changed");
        }
    }
}

fn segment(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.segment"))
}

fn meta_bytes(segment_len: usize) -> Vec<u8> {
    let mut bytes = b"TALKLOG\n".to_vec();
    bytes.extend(1_u32.to_be_bytes());
    bytes.extend(LOG_ID);
    bytes.extend((segment_len as u64).to_be_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    bytes
}

/// Makes id and checksums right of everything that has the place of a batch or a record.
fn seal(segment: &mut [u8]) {
    let mut rest = segment;
    while let Some((header, after)) = rest.split_first_chunk_mut::<HEADER_LEN>() {
        let (front, content) = header.split_at_mut(8);
        content[..16].copy_from_slice(&LOG_ID);
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

/// A number that a test takes from the environment, or what it takes if there is none.
#[cfg(test)]
pub(crate) fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text}")),
        Err(_) => default,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::log::{self, record::Change};

    use super::*;

    #[test]
    fn the_corpus_of_the_record_target_holds() {
        let corpus = corpus("log_record");
        assert!(corpus.len() >= 10, "{} files", corpus.len());
        for data in &corpus {
            log_record(data);
        }
    }

    #[test]
    fn the_corpus_of_the_reader_target_holds_and_is_no_waste_of_time() {
        let dir = tempfile::tempdir().unwrap();
        let seen: Vec<Seen> =
            corpus("log_reader").iter().map(|data| log_files(dir.path(), data)).collect();
        let opened = |seen: &&Seen| matches!(seen, Seen::Opened { records } if *records > 2);
        assert!(seen.iter().filter(opened).count() >= 5, "{seen:?}");
        assert!(seen.iter().filter(|seen| **seen == Seen::Refused).count() >= 4, "{seen:?}");
    }

    #[test]
    fn a_corpus_with_wrong_bytes_holds() {
        let dir = tempfile::tempdir().unwrap();
        let readers = corpus("log_reader");
        let records = corpus("log_record");
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
        let which = any::<prop::sample::Index>();
        proptest!(config(), |(which in which, changes in changes)| {
            let changed = |corpus: &[Vec<u8>]| {
                let mut data = which.get(corpus).clone();
                for (place, byte) in &changes {
                    let place = place.index(data.len());
                    data[place] = *byte;
                }
                data
            };
            log_record(&changed(&records));
            log_files(dir.path(), &changed(&readers));
        });
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = prop::collection::vec(any::<u8>(), 0..600);
        proptest!(config(), |(data in data)| {
            log_record(&data);
            log_files(dir.path(), &data);
        });
    }

    fn config() -> ProptestConfig {
        ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() }
    }

    /// To be run by hand when the bytes of the log change: it makes the corpus anew.
    #[test]
    #[ignore = "writes into the source tree"]
    fn the_corpus_is_written() {
        for (name, data) in record_corpus() {
            fs::write(corpus_dir("log_record").join(name), data).unwrap();
        }
        for (name, data) in reader_corpus() {
            fs::write(corpus_dir("log_reader").join(name), data).unwrap();
        }
    }

    fn corpus_dir(target: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
    }

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(corpus_dir(target)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|file| fs::read(file).unwrap()).collect()
    }

    fn record_corpus() -> Vec<(&'static str, Vec<u8>)> {
        let message = |conversation: u64, id: u8, fingerprint| {
            Change::Message(log::Message {
                conversation,
                sender: 1,
                client_msg_id: Bytes::from(vec![id; 16]),
                fingerprint,
                r#type: 1,
                body: Bytes::from_static(b"body"),
                ..Default::default()
            })
        };
        let (two, group) = (1 << 32 | 2, 7);
        let created = || {
            Change::GroupCreated(log::GroupCreated {
                group: 7,
                creator: 1,
                group_type: 2,
                name: "name".to_owned(),
                avatar: String::new(),
                members: vec![1, 2],
            })
        };
        let changed = |added: &[u32], removed: &[u32]| {
            Change::MembersChanged(log::MembersChanged {
                group: 7,
                actor: 1,
                added: added.to_vec(),
                removed: removed.to_vec(),
                deleted: None,
            })
        };
        let read = |conversation, msg_id| {
            Change::Read(log::Read { conversation, user: 2, msg_id, own_up_to: 0 })
        };
        let removed = || Change::SessionRemoved(log::SessionRemoved { conversation: two, user: 2 });
        let shield = || Change::Shield(log::Shield { conversation: two, user: 2, on: true });
        let epoch = |epoch| Change::Epoch(log::Epoch { epoch, owner: "owner".to_owned() });
        let version = |version| Change::FoldVersion(log::FoldVersion { version });
        let of = |changes: Vec<Change>| file(changes.into_iter().map(|one| (one, 1)).collect());
        let group = |id| message(group, id, None);
        vec![
            ("message", of(vec![message(two, 1, None)])),
            ("messages", of(vec![message(two, 1, None), message(two, 2, None)])),
            ("repeated_id", of(vec![message(two, 1, None), message(two, 1, None)])),
            ("fingerprint", of(vec![message(two, 1, Some(9)), message(two, 2, Some(9))])),
            ("group", of(vec![created(), group(1), group(2)])),
            ("joined", of(vec![created(), group(1), changed(&[3], &[]), group(2)])),
            (
                "left_and_back",
                of(vec![created(), changed(&[], &[2]), group(1), changed(&[2], &[])]),
            ),
            ("read", of(vec![message(two, 1, None), read(two, 1)])),
            ("session_removed", of(vec![message(two, 1, None), removed()])),
            ("shield", of(vec![shield(), message(two, 1, None)])),
            ("epochs", file(vec![(epoch(1), 1), (epoch(2), 2), (message(two, 1, None), 1)])),
            ("version", of(vec![version(1), message(two, 1, None)])),
            ("version_of_the_future", of(vec![message(two, 1, None), version(2)])),
            ("short_id", {
                let mut data = of(vec![message(two, 1, None)]);
                data.truncate(20);
                data
            }),
            ("garbage", b"\x03\xff\xff\xff\x00\x02\xa2\x06".to_vec()),
        ]
    }

    fn file(changes: Vec<(Change, u64)>) -> Vec<u8> {
        let mut data = Vec::new();
        for (change, epoch) in changes {
            let payload = crate::admission::record(change, epoch).encode_to_vec();
            data.push(u8::try_from(payload.len()).unwrap());
            data.extend(payload);
        }
        data
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
            (
                "far_behind",
                one(16, 0, &[&closed[..], &[0; 4200], &closed[batches[1].0..]].concat()),
            ),
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
        fs::write(dir.path().join("log.meta"), meta_bytes(SEGMENT_LEN)).unwrap();
        let mut log = EmbeddedLog::open(options(dir.path(), SEGMENT_LEN), Offset(0)).unwrap().log;
        for (now_ms, count) in [(5, 2), (6, 1), (7, 3)] {
            let payloads: Vec<Bytes> = (0..count).map(|len| vec![b'p'; len * 7].into()).collect();
            log.append(&payloads, now_ms).unwrap();
            if count == 1 {
                log.idle().unwrap();
            }
        }
        let bytes = || fs::read(segment(dir.path(), 1)).unwrap();
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
}
