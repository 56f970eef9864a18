//! What a restart keeps, and what it refuses to start with.

use std::ops::ControlFlow;

use fold::admission::{self, Change, Message};
use fold::window::{Connection, Frame, Identity};
use prost::Message as _;
use proto::ids::{MsgId, Offset};
use proto::log::{FoldVersion, record};
use record_log::embedded::{EmbeddedLog, Options};
use record_log::{Log, LogReader};
use store::ConversationStore;
use store::sqlite::{SqliteOptions, SqliteStore};

use crate::Outcome;
use crate::state::Behind;
use crate::test::gated::Gate;
use crate::test::{Proxy, Setup, copy_dir, group, message, out_of_the_log, resent, single};

/// Messages to two users and to a group, with their numbers.
async fn talk(proxy: &Proxy, count: u32) -> Vec<(Message, u32)> {
    let mut sent = Vec::new();
    for number in 0..count {
        for conversation in [single(1, 2), group(1)] {
            let send = message(conversation, 1 + number % 2);
            let msg_id = proxy.send(send.clone()).await;
            sent.push((send, msg_id));
        }
    }
    sent
}

/// Everything is answered with the number it had, first and second try alike, and is in its place.
async fn all_kept(proxy: &Proxy, sent: &[(Message, u32)]) {
    for (send, msg_id) in sent {
        assert_eq!(proxy.send(resent(send)).await, *msg_id);
        let stored = proxy.state().with(send.conversation, |conversation| {
            let (messages, _first) = conversation.recent_range(MsgId(*msg_id), MsgId(*msg_id));
            messages.first().map(|message| message.body.clone())
        });
        let in_memory = stored.await.unwrap();
        let of = (send.conversation, MsgId(*msg_id));
        let body = match in_memory {
            Some(body) => body,
            None => proxy.store.messages_at(vec![of]).await.unwrap()[0].body.clone(),
        };
        assert_eq!(body, send.body, "{of:?}");
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_if_the_store_has_nothing() {
    let setup = Setup { store_writer: false, ..Setup::new() };
    let mut sent = Vec::new();
    for round in 0..3 {
        let proxy = setup.start().await;
        if round == 0 {
            proxy.make_group(1, &[1, 2]).await;
        }
        sent.extend(talk(&proxy, 30).await);
        all_kept(&proxy, &sent).await;
        proxy.kill().await;
    }
    let proxy = Setup { store_writer: true, ..setup }.start().await;
    all_kept(&proxy, &sent).await;
    proxy.stored().await;
    let last = sent.last().unwrap();
    assert_eq!(proxy.send(message(group(1), 1)).await, last.1 + 1);
    let setup = proxy.stop().await;
    let proxy = setup.start().await;
    all_kept(&proxy, &sent).await;
    proxy.stop().await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_wherever_the_store_stopped() {
    let mut setup = Setup::new();
    let mut sent = Vec::new();
    for round in 0..6 {
        let proxy = setup.start().await;
        if round == 0 {
            proxy.make_group(1, &[1, 2]).await;
        }
        sent.extend(talk(&proxy, 7).await);
        proxy.stored().await;
        proxy.store.commits.send_replace(Gate::Closed);
        sent.extend(talk(&proxy, 7).await);
        all_kept(&proxy, &sent).await;
        // A folder copied under a running process is what a kill leaves.
        setup = if round % 2 == 0 { proxy.kill().await } else { copied(proxy).await };
    }
    let proxy = setup.start().await;
    all_kept(&proxy, &sent).await;
    assert_eq!(proxy.send(message(single(1, 2), 1)).await, 6 * 14 + 1);
    proxy.stop().await;
}

async fn copied(proxy: Proxy) -> Setup {
    let copy = proxy.setup.copy();
    proxy.kill().await;
    copy
}

#[tokio::test]
async fn marks_and_members_come_back_from_the_log() {
    let setup = Setup { store_writer: false, ..Setup::new() };
    let proxy = setup.start().await;
    proxy.make_group(1, &[1, 2]).await;
    talk(&proxy, 10).await;
    proxy.change_members(1, &[3], &[2]).await;
    talk_in_group(&proxy).await;
    let (conversation, user) = (group(1), proto::ids::UserId(3));
    proxy.change(Change::Shield { conversation, user, on: true }).await;
    let before = look(&proxy).await;
    proxy.kill().await;
    let proxy = setup.start().await;
    assert_eq!(look(&proxy).await, before);
    proxy.kill().await;
}

async fn talk_in_group(proxy: &Proxy) {
    for sender in [1, 3, 3, 1, 1] {
        proxy.send(message(group(1), sender)).await;
    }
}

async fn look(proxy: &Proxy) -> String {
    let look = proxy.state().with(group(1), |conversation| {
        let mut marks: Vec<_> = conversation.marks.iter().collect();
        marks.sort_unstable_by_key(|(user, _mark)| **user);
        let mut members: Vec<_> = conversation.members.iter().collect();
        members.sort_unstable_by_key(|(user, _member)| **user);
        format!("{:?} {members:?} {marks:?}", conversation.row())
    });
    look.await.unwrap()
}

/// An owner that was killed between taking over and its first record must not count as one whose
/// predecessor has been replaced.
#[tokio::test]
async fn regression_a_failed_start_does_not_lose_what_the_owner_before_it_had_acknowledged() {
    let setup = Setup { store_writer: false, ..Setup::new() };
    let proxy = setup.start().await;
    proxy.make_group(1, &[1, 2]).await;
    let sent = talk(&proxy, 10).await;
    proxy.kill().await;
    for _ in 0..3 {
        let log = EmbeddedLog::open(options(&setup), Offset(0)).unwrap().log;
        let store = SqliteStore::open(&setup.store_path(), SqliteOptions::default()).unwrap();
        store.claim("owner".to_owned(), log.id()).await.unwrap();
    }
    let proxy = setup.start().await;
    all_kept(&proxy, &sent).await;
    proxy.kill().await;
}

#[tokio::test]
async fn a_stored_message_is_found_in_the_store_if_the_log_has_it_no_more() {
    let early = message(single(1, 2), 1);
    let (setup, filler) = out_of_the_log(&early).await;
    let proxy = setup.start().await;
    assert_eq!(proxy.send(resent(&early)).await, 1);
    assert_eq!(proxy.send(resent(&filler)).await, 9, "this one is still in the log");
    assert_eq!(proxy.send(message(single(1, 2), 1)).await, 10);
    proxy.stop().await;
}

#[tokio::test]
async fn an_old_clients_second_try_is_recognised_after_a_restart() {
    for store_writer in [true, false] {
        let setup = Setup { store_writer, ..Setup::new() };
        let proxy = setup.start().await;
        let minted_twice = |session| {
            let send = message(single(1, 2), 1);
            let frame = Frame {
                fingerprint: 77,
                connection: Some(Connection { gateway_boot: 6, session }),
                repeats_after: Some(Offset(0)),
            };
            Message { identity: Identity { frame, ..send.identity }, ..send }
        };
        assert_eq!(proxy.send(minted_twice(1)).await, 1);
        if store_writer {
            proxy.stored().await;
        }
        proxy.kill().await;
        let proxy = setup.start().await;
        assert_eq!(proxy.send(minted_twice(2)).await, 1, "the store has it: {store_writer}");
        assert_eq!(proxy.send(message(single(1, 2), 1)).await, 2);
        proxy.kill().await;
    }
}

#[tokio::test]
async fn a_stop_stores_everything_and_turns_away_what_comes_later() {
    let proxy = Proxy::start().await;
    proxy.make_group(1, &[1, 2]).await;
    talk(&proxy, 50).await;
    let (state, partition) = (proxy.state().clone(), proxy.partition.clone());
    partition.stop().await;
    let late = Change::Send(message(single(1, 2), 1));
    assert_eq!(proxy.change(late).await, Outcome::Moved, "the next owner may be asked");
    partition.stop().await;
    let Proxy { store_writer, .. } = &proxy;
    assert!(store_writer.is_some());
    let shutdown = proxy.shutdown.clone();
    {
        let mut proxy = proxy;
        proxy.store_writer.take().unwrap().finish().await;
        assert_eq!(state.lock().behind(), Behind { bytes: 0, records: 0 });
        drop((state, partition));
        proxy.kill().await;
    }
    assert!(shutdown.is_begun());
}

#[tokio::test]
async fn a_log_of_another_store_is_refused() {
    let (one, other) = (Setup::new(), Setup::new());
    for setup in [&one, &other] {
        let proxy = setup.start().await;
        proxy.send(message(single(1, 2), 1)).await;
        proxy.stop().await;
    }
    std::fs::remove_dir_all(one.log_dir()).unwrap();
    std::fs::create_dir(one.log_dir()).unwrap();
    copy_dir(&other.log_dir(), &one.log_dir());
    let why = one.refusal().await;
    assert!(why.contains("belongs to log"), "{why}");
    std::fs::remove_dir_all(one.log_dir()).unwrap();
    let why = one.refusal().await;
    assert!(why.contains("belongs to log"), "a new log: {why}");
}

#[tokio::test]
async fn an_older_copy_of_the_log_is_refused() {
    let setup = Setup::new();
    let proxy = setup.start().await;
    proxy.send(message(single(1, 2), 1)).await;
    proxy.stop().await;
    let older = setup.copy();
    let proxy = setup.start().await;
    for _ in 0..5 {
        proxy.send(message(single(1, 2), 1)).await;
    }
    proxy.stop().await;
    std::fs::remove_file(older.store_path()).unwrap();
    for name in ["store.sqlite", "store.sqlite-wal"] {
        let from = setup.store_path().with_file_name(name);
        if from.exists() {
            std::fs::copy(from, older.store_path().with_file_name(name)).unwrap();
        }
    }
    let why = older.refusal().await;
    assert!(why.contains("old copy of the log"), "{why}");
    assert!(why.contains("ends at offset 3") && why.contains("Bring back"), "{why}");
}

/// What was acknowledged is not served in part, whether the store has it or not.
#[tokio::test]
async fn a_damaged_log_is_refused_with_the_place_and_what_can_be_done() {
    for store_writer in [true, false] {
        let setup = Setup { store_writer, ..Setup::new() };
        let proxy = setup.start().await;
        for _ in 0..20 {
            proxy.send(message(single(1, 2), 1)).await;
        }
        if store_writer {
            proxy.stored().await;
        }
        let setup = proxy.kill().await;
        let segment = setup.log_dir().join("00000000000000000001.segment");
        let mut bytes = std::fs::read(&segment).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        // Long enough to hit more than the padding between two batches.
        bytes[used / 2..used / 2 + 600].iter_mut().for_each(|byte| *byte ^= 0x40);
        std::fs::write(&segment, &bytes).unwrap();
        let why = setup.refusal().await;
        assert!(why.contains("segment is damaged at byte") && why.contains("offset"), "{why}");
        assert!(why.contains("Restore the file from a backup"), "{why}");
        assert_eq!(std::fs::read(&segment).unwrap(), bytes, "nothing was changed");
    }
}

/// Two histories that parted after a copy: the same log id, but other records.
#[tokio::test]
async fn a_log_that_went_another_way_is_refused() {
    let setup = Setup::new();
    setup.start().await.stop().await;
    let other = setup.copy();
    for setup in [&setup, &other] {
        let proxy = setup.start().await;
        for _ in 0..3 {
            proxy.send(message(single(1, 2), 1)).await;
        }
        proxy.stop().await;
    }
    std::fs::remove_dir_all(setup.log_dir()).unwrap();
    std::fs::create_dir(setup.log_dir()).unwrap();
    copy_dir(&other.log_dir(), &setup.log_dir());
    let why = setup.refusal().await;
    assert!(why.contains("is not the one that was stored"), "{why}");
}

#[tokio::test]
async fn a_log_of_newer_rules_is_refused() {
    let setup = Setup { store_writer: false, ..Setup::new() };
    setup.start().await.kill().await;
    {
        let mut log = EmbeddedLog::open(options(&setup), Offset(0)).unwrap().log;
        let newer = record::Change::FoldVersion(FoldVersion { version: 99 });
        let payload = admission::record(newer, 1).encode_to_vec().into();
        log.append(&[payload], 0).unwrap();
    }
    let why = setup.refusal().await;
    assert!(why.contains("fold version 99"), "{why}");
}

pub(crate) fn options(setup: &Setup) -> Options {
    let mut options = Options::new(setup.log_dir());
    options.segment_bytes = setup.segment_bytes;
    options.spare_segments = 1;
    options
}

#[tokio::test]
async fn an_owner_repeats_its_epoch_every_so_many_records() {
    const EVERY: u64 = 10;
    let setup = Setup { epoch_every: EVERY, ..Setup::new() };
    let proxy = setup.start().await;
    proxy.make_group(1, &[1, 2]).await;
    let sent = talk(&proxy, 30).await;
    let epoch = proxy.epoch;
    proxy.kill().await;

    let log = EmbeddedLog::open(options(&setup), Offset(0)).unwrap().log;
    let mut told_at = Vec::new();
    let mut last = Offset(0);
    log.read(Offset(1), &mut |record| {
        let decoded = proto::log::Record::decode(record.payload.clone()).unwrap();
        if let Some(record::Change::Epoch(told)) = decoded.change {
            assert_eq!(told.epoch, epoch);
            told_at.push(record.offset.0);
        }
        last = record.offset;
        ControlFlow::Continue(())
    })
    .unwrap();
    told_at.push(last.0);
    assert!(told_at.len() > 5, "{told_at:?}");
    assert!(told_at.windows(2).all(|two| two[1] - two[0] <= EVERY), "{told_at:?}");
    drop(log);
    all_kept(&setup.start().await, &sent).await;
}
