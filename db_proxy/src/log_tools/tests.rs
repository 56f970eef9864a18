//! Looking into logs of a real db_proxy, and into some that have met with an accident.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use fold::admission::{self, Change, Message};
use partition::test::{Proxy, Setup, message, single};
use proto::ids::{ClientMsgId, Offset, UserId};
use proto::log::{self, Record};
use record_log::embedded::{EmbeddedLog, Options, ReadOnlyLog};
use record_log::{Log as _, LogId, LogReader as _, LogRecord};
use store::ConversationStore;
use store::sqlite::{SqliteOptions, SqliteStore};
use tempfile::TempDir;

use super::records::Check;
use super::*;
use crate::site::SQLITE;

const WRITTEN: &str = "nobody else's business";

const EVERYTHING: Shown = Shown { from: Some(Offset(1)), count: Some(1_000), partition: None };

const SEGMENT: &str = "00000000000000000001.segment";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_appended_is_shown_without_what_was_written() {
    let proxy = Proxy::start().await;
    let send = Message { body: Bytes::from_static(WRITTEN.as_bytes()), ..message(single(1, 2), 1) };
    proxy.send(send.clone()).await;
    let group = proxy.make_group(7, &[3, 4]).await;
    proxy.change_members(7, &[5], &[]).await;
    proxy.change(Change::Shield { conversation: group, user: UserId(4), on: true }).await;
    let setup = proxy.stop().await;

    let (health, text) = inspected(&config(setup.dir.path()), EVERYTHING);
    assert_eq!(health, Health::Fine);
    let line = |change: &str| {
        let found = text.lines().find(|line| line.contains(&format!(" {change} ")));
        found.unwrap_or_else(|| panic!("no {change}: {text}"))
    };
    let sent = line("message");
    let client_msg_id = send.identity.client_msg_id.to_string();
    assert!(sent.contains("single:1-2") && sent.contains(&client_msg_id), "{sent}");
    assert!(sent.ends_with(&format!(" {}", WRITTEN.len())), "{sent}");
    assert!(line("group_created").contains("group:7  "), "{text}");
    for change in ["members_changed", "shield", "epoch", "fold_version"] {
        line(change);
    }
    assert!(text.contains("epoch     1, owner owner"), "{text}");
    assert!(text.contains("0 behind the log"), "{text}");
    for secret in [WRITTEN, "group 7", "u1"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }

    let (health, text) = verified(&config(setup.dir.path()));
    assert_eq!(health, Health::Fine, "{text}");
    assert!(text.contains("the same record as in the log") && text.contains("all is well"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_as_many_records_as_asked_for_are_listed() {
    let proxy = Proxy::start().await;
    for _ in 0..5 {
        proxy.send(message(single(1, 2), 1)).await;
    }
    let setup = proxy.stop().await;
    let config = config(setup.dir.path());
    let listed = |from: Option<u64>, count| {
        let shown = Shown { from: from.map(Offset), count, partition: None };
        let (_, text) = inspected(&config, shown);
        let lines = text.lines().skip_while(|line| !line.starts_with("offset")).skip(1);
        lines.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect::<Vec<u64>>()
    };
    assert_eq!(listed(Some(3), Some(2)), [3, 4]);
    assert_eq!(listed(None, Some(3)), [5, 6, 7]);
    assert_eq!(listed(Some(6), None), [6, 7]);
    assert_eq!(listed(None, None), [0; 0]);

    let shown = Shown { from: Some(Offset(9)), ..Shown::default() };
    let refused = inspect(&config, shown, &mut Vec::new()).unwrap_err();
    assert!(refused.to_string().contains("offset 9 is not in the log"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_beside_a_db_proxy_that_runs_changes_no_file() {
    let proxy = Proxy::start().await;
    for _ in 0..20 {
        proxy.send(message(single(1, 2), 1)).await;
    }
    let setup = proxy.kill().await;
    // What a db_proxy holds while it runs, but without its threads that write now and then.
    let open = EmbeddedLog::open(options(setup.dir.path()), Offset(0)).unwrap();
    let store = SqliteStore::open(&setup.store_path(), SqliteOptions::default()).unwrap();
    store.claim("another".to_owned(), open.log.id()).await.unwrap();

    let before = files(setup.dir.path());
    let (health, text) = inspected(&config(setup.dir.path()), EVERYTHING);
    assert_eq!(health, Health::Fine, "{text}");
    assert!(text.contains("epoch     2, owner another"), "{text}");
    let (health, text) = verified(&config(setup.dir.path()));
    assert_eq!(health, Health::Fine, "{text}");
    let mut after = files(setup.dir.path());
    // Within one process, SQLite has one index for all its connections, which notes which of them read.
    let index = format!("{}-shm", setup.store_path().display());
    after.insert(index.clone(), before[&index].clone());
    check_same(&before, &after);
    drop((open, store));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_what_a_stopped_or_killed_db_proxy_left_changes_no_file() {
    for killed in [false, true] {
        let setup = Setup { store_writer: true, ..Setup::new() };
        let proxy = setup.start().await;
        for _ in 0..20 {
            proxy.send(message(single(1, 2), 1)).await;
        }
        proxy.stored().await;
        let setup = if killed {
            let copy = proxy.setup.copy();
            let index = |setup: &Setup| setup.dir.path().join("store.sqlite-shm");
            fs::copy(index(&proxy.setup), index(&copy)).unwrap();
            proxy.kill().await;
            copy
        } else {
            proxy.stop().await
        };
        let before = files(setup.dir.path());
        let (health, text) = verified(&config(setup.dir.path()));
        assert_eq!(health, Health::Fine, "{text}");
        assert!(text.contains("the same record as in the log"), "{text}");
        check_same(&before, &files(setup.dir.path()));
    }
}

#[test]
fn a_flipped_bit_in_a_proven_record_is_found_with_its_place() {
    let (dir, ends) = written(3);
    flip(dir.path(), ends[0] + 70);
    let (health, text) = verified(&config(dir.path()));
    assert_eq!(health, Health::Damaged);
    let place = format!("{SEGMENT}, byte {}: ", ends[0]);
    assert!(text.contains(&place), "{text}");
    assert!(text.contains("offsets 2 to 2 are lost"), "{text}");
    assert!(text.contains("records     2 from 1 on, the next is 4"), "{text}");

    let (health, text) = inspected(&config(dir.path()), EVERYTHING);
    assert_eq!(health, Health::Damaged);
    assert!(text.contains(&place), "{text}");
}

#[test]
fn a_torn_tail_is_not_damage() {
    let (dir, ends) = written(3);
    // Without the mark that proves it, the last record is one that was never answered.
    let file = fs::OpenOptions::new().write(true).open(dir.path().join("log").join(SEGMENT));
    std::os::unix::fs::FileExt::write_all_at(&file.unwrap(), &[0; 56], ends[2]).unwrap();
    flip(dir.path(), ends[1] + 70);
    let (health, text) = verified(&config(dir.path()));
    assert_eq!(health, Health::Fine, "{text}");
    assert!(text.contains("bytes behind the last record: being appended"), "{text}");
    assert!(text.ends_with("the log is well\n"), "{text}");
    assert!(text.contains("records     2 from 1 on, the next is 3"), "{text}");
}

#[tokio::test]
async fn a_store_that_is_not_this_logs_is_not_well() {
    let (dir, _) = written(3);
    let store = SqliteStore::open(&dir.path().join(SQLITE), SqliteOptions::default()).unwrap();
    store.claim("owner".to_owned(), LogId([7; 16])).await.unwrap();
    let (health, text) = verified(&config(dir.path()));
    assert_eq!(health, Health::Damaged);
    assert!(text.contains("it belongs to log 0707"), "{text}");
}

#[test]
fn a_store_that_is_damaged_is_not_well() {
    let (dir, _) = written(1);
    fs::write(dir.path().join(SQLITE), [7; 4096]).unwrap();
    let (health, text) = verified(&config(dir.path()));
    assert_eq!(health, Health::Damaged, "{text}");
    assert!(text.contains("store       WRONG: "), "{text}");
}

#[test]
fn times_that_fall_zombies_and_unreadable_records_are_told() {
    let mut check = Check::new(Offset(2));
    let record = |offset, timestamp_ms, epoch| LogRecord {
        offset: Offset(offset),
        timestamp_ms,
        crc: 7,
        payload: payload(epoch),
    };
    check.record(&record(1, 10, 3));
    check.record(&record(2, 10, 2));
    check.record(&LogRecord { payload: Bytes::from_static(b"\xff"), ..record(3, 11, 3) });
    assert!(check.is_fine());
    check.record(&record(4, 10, 3));
    assert!(!check.is_fine());
    assert_eq!(check.crc_of_applied, Some(7));
    let mut text = Vec::new();
    check.print(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for told in ["falls at offset 4", "epochs      3 to 3", "zombies     1 ", "unreadable  1 "] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

#[test]
fn where_there_is_no_log_nothing_is_made() {
    let dir = TempDir::new().unwrap();
    let refused = verify(&config(dir.path()), Shown::default(), &mut Vec::new()).unwrap_err();
    assert!(refused.downcast_ref::<daemon::StartRefused>().is_some(), "{refused}");
    assert!(refused.to_string().contains("data_dir"), "{refused}");
    assert!(files(dir.path()).is_empty());
}

fn config(dir: &Path) -> Config {
    Config { data_dir: dir.to_owned(), ..Config::default() }
}

fn options(dir: &Path) -> Options {
    Options { segment_bytes: 2 << 20, spare_segments: 1, ..Options::new(dir.join("log")) }
}

fn inspected(config: &Config, shown: Shown) -> (Health, String) {
    let mut out = Vec::new();
    let health = inspect(config, shown, &mut out).unwrap();
    (health, String::from_utf8(out).unwrap())
}

fn verified(config: &Config) -> (Health, String) {
    let mut out = Vec::new();
    let health = verify(config, Shown::default(), &mut out).unwrap();
    (health, String::from_utf8(out).unwrap())
}

/// A log of so many batches of one message each, closed properly, and where each batch ends.
fn written(count: u64) -> (TempDir, Vec<u64>) {
    let dir = TempDir::new().unwrap();
    let mut log = EmbeddedLog::open(options(dir.path()), Offset(0)).unwrap().log;
    let mut ends = Vec::new();
    for now_ms in 0..count {
        log.append(&[payload(1)], now_ms).unwrap();
        let (_, survey) = ReadOnlyLog::look(&dir.path().join("log"), &mut |_| {}).unwrap().unwrap();
        ends.push(survey.segments[0].used);
    }
    drop(log);
    (dir, ends)
}

fn payload(epoch: u64) -> Bytes {
    let message = log::Message {
        conversation: single(1, 2).number(),
        sender: 1,
        client_msg_id: ClientMsgId([9; 16]).0.to_vec().into(),
        fingerprint: None,
        r#type: 1,
        body: Bytes::from_static(WRITTEN.as_bytes()),
        ..Default::default()
    };
    let change = log::record::Change::Message(message);
    let record: Record = admission::record(change, epoch);
    prost::Message::encode_to_vec(&record).into()
}

fn flip(dir: &Path, at: u64) {
    let path = dir.join("log").join(SEGMENT);
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Every file and its content, but for the spares, which a thread makes ahead of need.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else if path.extension().is_none_or(|kind| kind != "spare" && kind != "making") {
            found.insert(name, fs::read(path).unwrap());
        }
    }
    found
}

fn check_same(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>) {
    assert!(before.keys().eq(after.keys()), "{:?} {:?}", before.keys(), after.keys());
    for (name, content) in before {
        assert!(after[name] == *content, "{name} has changed");
    }
}
