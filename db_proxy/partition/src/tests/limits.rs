//! What happens when something is full, and that it passes.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use bytes::Bytes;
use fold::admission::Change;
use proto::cluster::wire::Reason;
use proto::ids::{GroupId, UserId};
use store::StoreError;
use tokio::time::timeout;

use super::sending::Outcomes;
use crate::test::gated::Gate;
use crate::test::{PATIENCE, Proxy, Setup, USERS, message, resent, saying, single};
use crate::{Ended, Limits, Outcome};

fn limited(change: impl FnOnce(&mut Limits)) -> Setup {
    let mut setup = Setup::new();
    change(&mut setup.limits);
    setup
}

#[tokio::test]
async fn a_full_queue_turns_away_at_once() {
    let proxy = limited(|limits| limits.queue_max = 10).start().await;
    proxy.send(message(single(1, 2), 1)).await;
    let outcomes = Outcomes::default();
    let inner = proxy.state().lock();
    for number in 0..30 {
        outcomes.submit(&proxy, number, Change::Send(message(single(1, 2), 1)));
    }
    // The thread holds one, the queue ten.
    assert!(outcomes.count() >= 19, "{} were told", outcomes.count());
    assert!(outcomes.all(|outcome| *outcome == Outcome::Retry));
    drop(inner);
    outcomes.wait_for(30).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_thread_that_hangs_shows_no_sign_of_life_until_it_goes_on_or_has_ended() {
    let limit = Duration::from_millis(500);
    // The store worker would wait for the state too, and this test with it.
    let setup = Setup { stalled_after: limit, store_writer: false, ..Setup::new() };
    let proxy = setup.start().await;
    let until = async |stalled: &[&str]| {
        let is_so = async {
            while proxy.readiness.stalled() != stalled {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, is_so).await.expect("it shows");
    };
    let state = proxy.state().clone();
    let (release, released) = sync_channel::<()>(0);
    let holder = std::thread::spawn(move || {
        let _inner = state.lock();
        released.recv().expect("the test says when");
    });
    until(&["partition"]).await;
    release.send(()).unwrap();
    holder.join().unwrap();
    until(&[]).await;
    let readiness = proxy.readiness.clone();
    proxy.stop().await;
    tokio::time::sleep(2 * limit).await;
    assert!(readiness.stalled().is_empty(), "it has ended");
}

#[tokio::test]
async fn a_full_waiting_room_turns_away_at_once() {
    let proxy = limited(|limits| limits.waiting_max = 5).start().await;
    proxy.store.reads.send_replace(Gate::Closed);
    let outcomes = Outcomes::default();
    // Two conversations, then many others.
    for number in 0..3 {
        outcomes.submit(&proxy, number, Change::Send(message(single(1, 2), 1)));
        outcomes.submit(&proxy, 10 + number, Change::Send(message(single(3, 4), 3)));
    }
    for peer in 5..=USERS {
        outcomes.submit(&proxy, 100 + peer, Change::Send(message(single(1, peer), 1)));
    }
    let turned_away = 1 + usize::try_from(USERS - 4).unwrap();
    outcomes.wait_for(turned_away).await;
    assert!(outcomes.all(|outcome| *outcome == Outcome::Retry));
    proxy.store.reads.send_replace(Gate::Open);
    outcomes.wait_for(turned_away + 5).await;
    let mut sent = outcomes.sent();
    sent.sort_unstable();
    assert_eq!(sent, [(0, 1), (1, 2), (2, 3), (10, 1), (11, 2)]);
    assert_eq!(proxy.send(message(single(1, 9), 1)).await, 1, "there is room again");
    proxy.stop().await;
}

#[tokio::test]
async fn a_store_that_is_far_behind_turns_away_until_it_has_caught_up() {
    let proxy = limited(|limits| limits.unstored_bytes_max = 20_000).start().await;
    proxy.send(message(single(1, 2), 1)).await;
    proxy.store.commits.send_replace(Gate::Closed);
    let mut accepted = 0;
    let refused = loop {
        let send = saying(single(1, 2), 1, Bytes::from(vec![1; 1_000]));
        match proxy.change(Change::Send(send.clone())).await {
            Outcome::Sent { .. } => accepted += 1,
            Outcome::Retry => break send,
            other => panic!("{other:?}"),
        }
    };
    assert!((15..25).contains(&accepted), "what is being written counts too: {accepted}");
    proxy.store.commits.send_replace(Gate::Open);
    proxy.stored().await;
    assert_eq!(proxy.send(resent(&refused)).await, accepted + 2);
    proxy.stop().await;
}

#[tokio::test]
async fn a_store_that_is_away_stops_neither_sends_nor_reads_of_what_is_in_memory() {
    let proxy = Proxy::start().await;
    proxy.send(message(single(1, 2), 1)).await;
    proxy.stored().await;
    proxy.store.commits.send_replace(Gate::Away);
    proxy.store.reads.send_replace(Gate::Away);
    for expected in 2..50 {
        assert_eq!(proxy.send(message(single(1, 2), 1)).await, expected);
    }
    let cold = Change::Send(message(single(3, 4), 3));
    assert_eq!(proxy.change(cold).await, Outcome::Retry);
    assert!(proxy.state().conversations_of(UserId(1)).await.is_err(), "never an incomplete list");
    proxy.store.commits.send_replace(Gate::Open);
    proxy.store.reads.send_replace(Gate::Open);
    proxy.stored().await;
    assert_eq!(proxy.send(message(single(3, 4), 3)).await, 1);
    proxy.stop().await;
}

#[tokio::test]
async fn a_full_log_turns_away_until_there_is_room() {
    let setup = Setup { segment_bytes: 64 << 10, ..Setup::new() };
    let proxy = setup.start().await;
    proxy.send(message(single(1, 2), 1)).await;
    // No further spare can be made where folders have the names of its files.
    let obstacles: Vec<_> = (1..200)
        .map(|number| setup.log_dir().join(format!("{number:020}.making")))
        .filter(|path| std::fs::create_dir(path).is_ok())
        .collect();
    let mut sent = Vec::new();
    let refused = loop {
        let send = saying(single(1, 2), 1, Bytes::from(vec![1; 10_000]));
        match proxy.change(Change::Send(send.clone())).await {
            Outcome::Sent { msg_id, .. } => sent.push((send, msg_id.0)),
            Outcome::Retry => break send,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(proxy.metrics.log_full.get(), 1);
    assert_eq!(proxy.change(Change::Send(resent(&refused))).await, Outcome::Retry);
    for (send, msg_id) in &sent {
        assert_eq!(proxy.send(resent(send)).await, *msg_id, "what is known is answered");
    }
    for obstacle in obstacles {
        std::fs::remove_dir(obstacle).unwrap();
    }
    let number = loop {
        match proxy.change(Change::Send(resent(&refused))).await {
            Outcome::Sent { msg_id, .. } => break msg_id.0,
            Outcome::Retry => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(number, sent.last().unwrap().1 + 1);
    assert_eq!(proxy.metrics.log_full.get(), 0);
    proxy.stop().await;
}

#[tokio::test]
async fn a_change_that_no_record_can_hold_is_refused() {
    let proxy = Proxy::start().await;
    proxy.make_group(1, &[1]).await;
    let add = (1_000_000..1_300_000).map(UserId).collect();
    let group = GroupId(1);
    let change = Change::Members { group, actor: None, add, remove: Vec::new() };
    assert_eq!(proxy.change(change).await, Outcome::Refused(Reason::TooLarge));
    assert_eq!(proxy.send(message(crate::test::group(1), 1)).await, 1);
    proxy.stop().await;
}

#[tokio::test]
async fn many_large_changes_that_waited_are_appended_in_pieces() {
    let proxy = Setup { segment_bytes: 32 << 20, ..Setup::new() }.start().await;
    proxy.store.reads.send_replace(Gate::Closed);
    let outcomes = Outcomes::default();
    let body = Bytes::from(vec![1; 400_000]);
    for number in 0..60 {
        let send = saying(single(1, 2), 1, body.clone());
        outcomes.submit(&proxy, number, Change::Send(send));
    }
    proxy.store.reads.send_replace(Gate::Open);
    outcomes.wait_for(60).await;
    assert_eq!(outcomes.sent(), (0..60).map(|number| (number, number + 1)).collect::<Vec<_>>());
    proxy.stop().await;
}

#[tokio::test]
async fn a_partition_that_another_owner_has_taken_in_the_store_is_given_up() {
    let proxy = Proxy::start().await;
    proxy.send(message(single(1, 2), 1)).await;
    proxy.stored().await;
    let log = {
        use store::ConversationStore as _;
        let connection = rusqlite::Connection::open(proxy.setup.store_path()).unwrap();
        let log: [u8; 16] =
            connection.query_row("SELECT log_id FROM progress", [], |row| row.get(0)).unwrap();
        proxy.store.claim("other".to_owned(), record_log::LogId(log)).await.unwrap()
    };
    assert!(log.epoch > proxy.epoch);
    let read = proxy.state().load(single(3, 4)).await;
    assert!(matches!(read, Err(StoreError::Fenced(_))), "it may be newer than what is known here");
    proxy.send(message(single(1, 2), 1)).await;
    proxy.shutdown.begun().await;
    assert_eq!(proxy.partition.ending().why(), Some(Ended::Fenced));
    proxy.kill().await;
}

/// Once, the log was trimmed only when the store had caught up, which under load it never does.
#[tokio::test]
async fn regression_the_log_is_trimmed_under_load_too() {
    let mut setup = Setup::new();
    setup.trim_every = Duration::ZERO;
    let proxy = setup.start().await;
    let mut flushes = proxy.store.flushes.subscribe();
    let talking = async {
        loop {
            proxy.send(message(single(1, 2), 1)).await;
        }
    };
    let trimmed = async {
        let start = *flushes.borrow_and_update();
        drop(flushes.wait_for(|flushes| *flushes >= start + 5).await.unwrap());
    };
    tokio::select! {
        () = talking => {}
        trimmed = timeout(PATIENCE, trimmed) => trimmed.expect("it is trimmed"),
    }
    proxy.stop().await;
}
