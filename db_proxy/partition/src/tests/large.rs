//! How long an owner takes to open a partition whose log has a gigabyte. Run in release mode:
//!
//! ```text
//! cargo test --release -p partition large -- --ignored --nocapture
//! ```

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fold::admission;
use fold::conversation::{Conversation, RECENT_KEPT};
use fold::effects::{FOLD_VERSION, Fold};
use prost::Message as _;
use proto::ids::{ClientMsgId, ConversationId, Offset, UserId};
use proto::log::{self, record};
use record_log::embedded::{EmbeddedLog, Options};
use record_log::{Log as _, LogError, LogReader as _};
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{ConversationStore, StoredConversation};
use tokio::runtime::Handle;

use crate::open;

/// A record of about a kibibyte, so many that they are a gibibyte.
const RECORDS: u64 = 1 << 20;
const BODY_LEN: usize = 960;

/// Conversations that take turns.
const CONVERSATIONS: u64 = 10_000;

/// What the store may be behind at most, with the usual settings.
const UNSTORED_BYTES_MAX: usize = 256 << 20;

/// The promise for a restart, up to the first acknowledgement.
const LIMIT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes four gibibytes; a figure of release mode"]
async fn a_gigabyte_is_opened_in_time() {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp");
    std::fs::create_dir_all(&target).unwrap();
    let folder = tempfile::TempDir::new_in(target).unwrap();
    let runtime = Handle::current();
    let measured = tokio::task::spawn_blocking(move || {
        let at = folder.path().to_owned();
        write_log(&at);
        let stored = fold_into_store(&at, Until::Behind(UNSTORED_BYTES_MAX), &runtime);
        parts(&at);
        let copy = at.join("copy");
        std::fs::create_dir_all(copy.join("db")).unwrap();
        crate::test::copy_dir(&at.join("db"), &copy.join("db"));
        let far = time_open(&copy, stored, &runtime);
        std::fs::remove_dir_all(&copy).unwrap();
        let stored = fold_into_store(&at, Until::Offset(RECORDS - 1_000), &runtime);
        (far, time_open(&at, stored, &runtime))
    });
    let (far, near) = measured.await.unwrap();
    assert!(near < LIMIT, "{near:?} with nearly everything stored");
    assert!(far < LIMIT, "{far:?} with as little stored as may be");
}

fn options(at: &Path) -> Options {
    Options::new(at.join("db/log"))
}

fn store(at: &Path) -> SqliteStore {
    SqliteStore::open(&at.join("db/store.sqlite"), SqliteOptions::default()).unwrap()
}

fn write_log(at: &Path) {
    std::fs::create_dir(at.join("db")).unwrap();
    let mut log = EmbeddedLog::open(options(at), Offset(0)).unwrap().log;
    let mut number = 0;
    while number < RECORDS {
        let batch: Vec<Bytes> = (number..RECORDS.min(number + 500)).map(payload).collect();
        match log.append(&batch, 1_800_000_000_000 + number) {
            Ok(_appended) => number += batch.len() as u64,
            Err(LogError::Full(_)) => std::thread::yield_now(), // The next segment is being made.
            Err(error) => panic!("{error}"),
        }
    }
}

fn payload(number: u64) -> Bytes {
    let pair = u32::try_from(number % CONVERSATIONS).unwrap() * 2;
    let (one, other) = (UserId(pair + 1), UserId(pair + 2));
    let change = record::Change::Message(log::Message {
        conversation: ConversationId::single(one, other).unwrap().number(),
        sender: one.0,
        client_msg_id: Bytes::copy_from_slice(&ClientMsgId(u128::from(number).to_be_bytes()).0),
        fingerprint: None,
        r#type: 1,
        body: Bytes::from(vec![7; BODY_LEN]),
        ..Default::default()
    });
    admission::record(change, 1).encode_to_vec().into()
}

/// How far the store is brought.
#[derive(Clone, Copy)]
enum Until {
    Offset(u64),
    /// So many bytes are left.
    Behind(usize),
}

fn fold_into_store(at: &Path, until: Until, runtime: &Handle) -> Offset {
    let log = EmbeddedLog::open(options(at), Offset(RECORDS)).unwrap().log;
    let store = store(at);
    let progress = runtime.block_on(store.claim("test".to_owned(), log.id())).unwrap();
    let one = 160 + BODY_LEN;
    let until = match until {
        Until::Offset(until) => until,
        Until::Behind(bytes) => RECORDS - (bytes / one) as u64,
    };
    let mut fold = Fold::new(FOLD_VERSION, progress.applied, progress.applied_crc);
    let mut stored = progress.applied;
    let read = log.read(stored.next(), &mut |record| {
        let decoded = log::Record::decode(record.payload.clone()).unwrap();
        let id = Fold::needs(&decoded).unwrap();
        fold.conversations.entry(id).or_insert_with(|| {
            let known = runtime.block_on(store.conversation(id, RECENT_KEPT)).unwrap();
            let known = if stored.0 == 0 { StoredConversation::default() } else { known };
            Conversation::from_stored(id, known)
        });
        fold.fold(&record).unwrap();
        let is_end = record.offset.0 == until;
        if is_end || record.offset.0.is_multiple_of(20_000) {
            let batch = fold.take_batch();
            runtime.block_on(store.commit(progress.epoch, stored, batch)).unwrap();
            stored = record.offset;
            fold.conversations.values_mut().for_each(|c| c.forget_stored(stored));
        }
        if is_end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    read.unwrap();
    assert_eq!(stored.0, until);
    stored
}

/// How long something took: by the clock, and of that on a processor, which is what it would take on
/// a machine that has nothing else to do and the files in memory.
struct Took {
    began: Instant,
    worked_ns: u64,
}

impl Took {
    fn start() -> Self {
        Self { began: Instant::now(), worked_ns: worked_ns() }
    }

    fn show(&self, what: &str) -> Duration {
        let (took, worked) = (self.began.elapsed(), worked_ns() - self.worked_ns);
        let worked = Duration::from_nanos(worked);
        println!("{what:<60} {took:>8.2?}, of that at work {worked:>8.2?}");
        took
    }
}

/// What this thread has had of a processor.
fn worked_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Where the time goes.
fn parts(at: &Path) {
    let took = Took::start();
    let log = EmbeddedLog::open(options(at), Offset(RECORDS)).unwrap().log;
    took.show("open the log, scanning its last segment");
    let took = Took::start();
    let mut bytes = 0;
    log.read(Offset(1), &mut |record| {
        bytes += record.payload.len();
        ControlFlow::Continue(())
    })
    .unwrap();
    took.show(&format!("read {} MiB of records", bytes >> 20));
    let took = Took::start();
    let mut fold = Fold::new(FOLD_VERSION, Offset(RECORDS), 0);
    fold.published.reach_back(Offset(0));
    log.read(Offset(1), &mut |record| {
        fold.remember(&record);
        ControlFlow::Continue(())
    })
    .unwrap();
    took.show("read and remember them");
}

fn time_open(at: &Path, stored: Offset, runtime: &Handle) -> Duration {
    let took = Took::start();
    let log = EmbeddedLog::prepare(options(at)).unwrap();
    let store = store(at);
    let progress = runtime.block_on(store.claim("owner".to_owned(), log.id())).unwrap();
    let opened = open::open(Box::new(log), Arc::new(store), progress, "owner", runtime).unwrap();
    let took = took.show(&format!("open the partition with {} to fold", RECORDS - stored.0));
    let covers_from = opened.state.lock().fold.published.covers_from();
    println!("followers are told of what came after {covers_from:?}");
    took
}
