//! How long a large site takes.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use proto::ids::{ClientMsgId, Offset};
use record_log::embedded::{EmbeddedLog, Options};
use record_log::{Log, LogReader};
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{Batch, ConversationRow, ConversationStore, MarkRow, MessageRow, NewUser};
use tokio::runtime::Handle;

use super::*;

const MESSAGES: u32 = 1_000_000;
const USERS: u32 = 2_000;
const TALKS: u32 = 10_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute, and says something only in release"]
async fn a_million_messages_are_moved_and_are_the_same() {
    let (temp, runtime) = (TempDir::new().unwrap(), Handle::current());
    let from = temp.path().join("site");
    let made = from.clone();
    timed("made", blocking(move || make(&made, &runtime))).await;

    let (data, to) = (from.clone(), temp.path().join("export"));
    let exporting = blocking(move || export(&data, &to, &on).unwrap());
    let exported = timed("exported", exporting).await;
    assert_eq!(exported.of("message"), u64::from(MESSAGES));
    let mib = exported.bytes >> 20;
    for (table, rows) in &exported.tables {
        println!("  {rows:>9} {table}");
    }
    println!("  {mib:>9} MiB in files");

    let options = databases(1, false, 4).await;
    let to = temp.path().join("export");
    let checking = parking_lot::Mutex::new(None);
    let began = Instant::now();
    let watch = |step: Step| {
        if step.phase == Phase::Checking {
            checking.lock().get_or_insert_with(Instant::now);
        }
        ControlFlow::Continue(())
    };
    let imported = import(&to, &options, true, &watch).await.unwrap();
    let ended = Instant::now();
    let checked = checking.lock().unwrap();
    say("imported", (checked - began).as_secs_f64(), &imported);
    say("read back and compared", (ended - checked).as_secs_f64(), &imported);
    assert_eq!(imported, exported);
    timed("verified once more", async { verify(&to, &options, &on).await.unwrap() }).await;
    let count = sql(&options, "SELECT COUNT(*), COUNT(DISTINCT conversation) FROM message").await;
    assert_eq!(count, format!("{MESSAGES}\t{TALKS}\n"));
}

async fn timed(what: &str, work: impl Future<Output = Moved>) -> Moved {
    let began = Instant::now();
    let moved = work.await;
    say(what, began.elapsed().as_secs_f64(), &moved);
    moved
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn say(what: &str, seconds: f64, moved: &Moved) {
    let (rows, mib) = (moved.rows() as f64, moved.bytes as f64 / f64::from(1 << 20));
    let (rows_s, mib_s) = (rows / seconds, mib / seconds);
    println!("{what:<24} {rows:>9} rows {seconds:>6.1} s {rows_s:>9.0} rows/s {mib_s:>6.1} MiB/s");
}

/// A stopped site, written straight into its store. Its log has one record.
fn make(dir: &Path, runtime: &Handle) -> Moved {
    fs::create_dir(dir).unwrap();
    let mut log = EmbeddedLog::open(Options::new(dir.join("log")), Offset(0)).unwrap().log;
    let record = log.append(&[Bytes::from_static(b"")], 1).unwrap().remove(0).record;
    let store = SqliteStore::open(&dir.join("store.sqlite"), SqliteOptions::default()).unwrap();
    let user = |id: u32| NewUser {
        password_hash: "$argon2id$v=19$m=19456,t=2,p=1$".repeat(3),
        ..partition::test::user(id, &format!("user{id}"))
    };
    runtime.block_on(async {
        let epoch = store.claim("owner".to_owned(), log.id()).await.unwrap().epoch;
        store.add_users((1..=USERS).map(user).collect(), false).await.unwrap();
        let mut after = Offset(0);
        let each = MESSAGES / TALKS;
        for talks in (0..TALKS).collect::<Vec<_>>().chunks(200) {
            let batch = Batch {
                applied: record.offset,
                applied_crc: record.crc,
                fold_version: 1,
                messages: talks.iter().flat_map(|talk| said(*talk, each)).collect(),
                conversations: talks.iter().map(|talk| conversation(*talk, each)).collect(),
                marks: talks.iter().map(|talk| read(*talk, each)).collect(),
                ..Batch::default()
            };
            store.commit(epoch, after, batch).await.unwrap();
            after = record.offset;
        }
    });
    let tables = vec![("message", MESSAGES.into()), ("user", USERS.into())];
    let bytes = fs::metadata(dir.join("store.sqlite")).unwrap().len();
    Moved { tables, bytes, already: false }
}

/// Two users by turns, and no two talks of the same two.
fn two(talk: u32) -> (UserId, UserId) {
    let low = talk % USERS;
    (UserId(low + 1), UserId((low + 1 + talk / USERS) % USERS + 1))
}

fn talk_of(talk: u32) -> ConversationId {
    let (one, other) = two(talk);
    ConversationId::single(one, other).unwrap()
}

fn said(talk: u32, count: u32) -> impl Iterator<Item = MessageRow> {
    let (one, other) = two(talk);
    (1..=count).map(move |number| MessageRow {
        conversation: talk_of(talk),
        msg_id: MsgId(number),
        sender: if number % 2 == 0 { one } else { other },
        client_msg_id: ClientMsgId(scattered(u64::from(talk) << 32 | u64::from(number))),
        offset: Offset(1),
        timestamp_ms: 1_700_000_000_000 + u64::from(number),
        kind: 1,
        body: Bytes::from(vec![b'a'; 200 + number as usize % 112]),
    })
}

/// As ids of clients are: in no order.
fn scattered(number: u64) -> [u8; 16] {
    let high = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (u128::from(high) << 64 | u128::from(number)).to_be_bytes()
}

fn conversation(talk: u32, head: u32) -> ConversationRow {
    ConversationRow {
        id: talk_of(talk),
        head: MsgId(head),
        last_offset: Offset(1),
        last_message_ms: 1_700_000_000_000 + u64::from(head),
        group: None,
    }
}

fn read(talk: u32, head: u32) -> MarkRow {
    MarkRow {
        conversation: talk_of(talk),
        user: two(talk).0,
        read: MsgId(head / 2),
        own_up_to_read: head / 4,
        own_total: head / 2,
        removed_at: MsgId(0),
        shield: false,
    }
}
