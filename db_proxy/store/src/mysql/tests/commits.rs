//! What can come between a batch and its commit.

use std::sync::atomic::{AtomicU32, Ordering};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::proxy::{Fault, Proxy};
use super::*;

/// How often each cut is tried.
const ROUNDS: u32 = 100;

#[tokio::test]
async fn a_commit_that_is_cut_off_is_done_exactly_once() {
    let fresh = fresh().await;
    let proxy = Proxy::to(MariaDb::shared().port()).await;
    let store = MySqlStore::open(through(&fresh.options, proxy.port)).await.unwrap();
    let epoch = store.claim("owner".to_owned(), LOG).await.unwrap().epoch;

    for record in 1..=2 * ROUNDS {
        proxy.plan(if record % 2 == 0 { Fault::CutBefore } else { Fault::CutAfter });
        commit_records(&store, epoch, record..=record).await;
    }

    assert_eq!(proxy.done(), 2 * ROUNDS);
    assert_dense(&fresh, 2 * ROUNDS).await;
    // What is written for certain is not taken for what is in doubt.
    let again = store.commit(epoch, Offset(u64::from(2 * ROUNDS) - 1), batch(2 * ROUNDS, 10)).await;
    assert_fenced(&again);
}

/// The caller knows only that it had no answer, and writes the same again.
#[tokio::test]
async fn a_commit_that_was_given_up_is_found_done_when_it_is_written_again() {
    let fresh = fresh().await;
    let proxy = Proxy::to(MariaDb::shared().port()).await;
    let limits = MySqlLimits { write: Duration::from_millis(500), ..MySqlLimits::default() };
    let options = MySqlOptions { limits, ..through(&fresh.options, proxy.port) };
    let store = MySqlStore::open(options).await.unwrap();
    let epoch = store.claim("owner".to_owned(), LOG).await.unwrap().epoch;

    proxy.plan(Fault::Silence);
    assert_unavailable(&store.commit(epoch, Offset(0), batch(1, 10)).await);
    commit_like_the_worker(&store, epoch, 1).await;
    proxy.fault().await;

    // Dropped in the middle: no caller waits for the answer.
    proxy.plan(Fault::Silence);
    tokio::select! {
        done = store.commit(epoch, Offset(1), batch(2, 10)) => panic!("{done:?}"),
        () = proxy.fault() => {}
    }
    commit_like_the_worker(&store, epoch, 2).await;

    commit_like_the_worker(&store, epoch, 3).await;
    assert_eq!(proxy.done(), 2);
    assert_dense(&fresh, 3).await;
}

#[tokio::test]
async fn a_batch_in_doubt_is_not_taken_for_that_of_the_next_owner() {
    let fresh = fresh().await;
    let proxy = Proxy::to(MariaDb::shared().port()).await;
    let limits = MySqlLimits { write: Duration::from_millis(500), ..MySqlLimits::default() };
    let options = MySqlOptions { limits, ..through(&fresh.options, proxy.port) };
    let store = MySqlStore::open(options).await.unwrap();
    let epoch = store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    proxy.plan(Fault::Silence);
    assert_unavailable(&store.commit(epoch, Offset(0), batch(1, 10)).await);

    fresh.claim("next".to_owned(), LOG).await.unwrap();
    assert_fenced(&store.commit(epoch, Offset(0), batch(1, 10)).await);
}

#[tokio::test]
async fn what_else_is_cut_off_at_its_commit_is_done_once() {
    let fresh = fresh().await;
    let proxy = Proxy::to(MariaDb::shared().port()).await;
    let store = MySqlStore::open(through(&fresh.options, proxy.port)).await.unwrap();
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        proxy.plan(fault);
        let name = format!("{fault:?}");
        let made = store.add_users(vec![user(&name), user(&format!("{name}2"))], false).await;
        let made = made.unwrap();
        let found = store.users(made).await.unwrap();
        assert_eq!(
            found.iter().map(|user| &user.name).collect::<Vec<_>>(),
            [&name, &(name.clone() + "2")]
        );

        proxy.plan(fault);
        store.change_user(found[0].id, UserChange::Sign(name.clone())).await.unwrap();
        assert_eq!(store.users(vec![found[0].id]).await.unwrap()[0].sign, name);

        proxy.plan(fault);
        store.set_device_token(found[0].id, 0x11, Some(name)).await.unwrap();
        proxy.plan(fault);
        store.claim("owner".to_owned(), LOG).await.unwrap();
        proxy.plan(fault);
        store.allocate_group(None).await.unwrap();
    }
    assert_eq!(proxy.done(), 10);

    proxy.plan(Fault::CutBefore);
    assert_eq!(store.allocate_group(Some(GroupId(50))).await.unwrap(), GroupId(50));
    proxy.plan(Fault::CutAfter);
    assert_unavailable(&store.allocate_group(Some(GroupId(51))).await);
}

#[tokio::test]
async fn a_zombie_writes_nothing_however_late_it_comes() {
    let fresh = fresh().await;
    let zombie = fresh.claim("zombie".to_owned(), LOG).await.unwrap();
    commit_records(&fresh, zombie.epoch, 1..=2).await;
    let next = MySqlStore::open(fresh.options.clone()).await.unwrap();
    let owner = next.claim("next".to_owned(), LOG).await.unwrap();
    assert_eq!((owner.epoch, owner.applied), (zombie.epoch + 1, Offset(2)));

    assert_fenced(&fresh.commit(zombie.epoch, Offset(2), batch(3, 10)).await);
    commit_records(&next, owner.epoch, 3..=4).await;
    for after in 0..6 {
        let late = batch(after + 1, 10);
        assert_fenced(&fresh.commit(zombie.epoch, Offset(after.into()), late).await);
    }
    assert_dense(&next, 4).await;
}

#[tokio::test]
async fn a_deadlock_is_tried_again() {
    let fresh = fresh().await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    commit_records(&fresh, epoch, 1..=1).await;
    let deadlocks = async || {
        let sql =
            "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'";
        let count = blocking(move || MariaDb::shared().sql(sql)).await;
        count.trim().parse::<u64>().unwrap()
    };
    let before = deadlocks().await;

    // The server gives up the transaction that changed less: this one is the heavier.
    let mut other = Conn::from_url(&fresh.options.shards[0]).await.unwrap();
    other.query_drop("BEGIN").await.unwrap();
    let many = "INSERT INTO unreadable
                WITH RECURSIVE numbers (n) AS
                    (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000)
                SELECT 9, n, '' FROM numbers";
    other.query_drop(many).await.unwrap();
    other.query_drop("UPDATE conversation SET head = head").await.unwrap();

    let committing = fresh.commit(epoch, Offset(1), batch(2, 10));
    let in_the_way = async {
        waits_for_a_lock(&database_of(&fresh.options)).await;
        other.query_drop("UPDATE progress SET owner = owner WHERE part = 0").await.unwrap();
        other.query_drop("ROLLBACK").await.unwrap();
    };
    let (committed, ()) = tokio::join!(committing, in_the_way);
    committed.unwrap();
    assert!(deadlocks().await > before);
    assert_dense(&fresh, 2).await;
}

#[tokio::test]
async fn a_lock_that_is_held_for_a_while_is_waited_for() {
    let fresh = fresh().await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    let mut other = Conn::from_url(&fresh.options.shards[0]).await.unwrap();
    other.query_drop("BEGIN").await.unwrap();
    other.query_drop("UPDATE progress SET owner = 'x'").await.unwrap();

    let committing = fresh.commit(epoch, Offset(0), batch(1, 10));
    let in_the_way = async {
        waits_for_a_lock(&database_of(&fresh.options)).await;
        other.query_drop("ROLLBACK").await.unwrap();
    };
    let (committed, ()) = tokio::join!(committing, in_the_way);
    committed.unwrap();
    assert_dense(&fresh, 1).await;
}

/// An owner whose machine stops in the middle of a transaction keeps its locks only for so long.
#[tokio::test]
async fn a_claim_gets_past_an_owner_that_stopped_in_a_transaction() {
    let fresh = fresh().await;
    fresh.claim("stopped".to_owned(), LOG).await.unwrap();
    let locked = Arc::new(tokio::sync::Notify::new());
    let stopped = fresh.databases.shards[0].writes.run(|link| {
        let locked = Arc::clone(&locked);
        async move {
            link.begin().await?;
            link.command("UPDATE progress SET owner = 'stopped'").await?;
            locked.notify_one();
            Err::<(), _>(failure::Failure::Slow(std::future::pending().await))
        }
        .boxed()
    });
    let claiming = async {
        locked.notified().await;
        let began = std::time::Instant::now();
        let progress = fresh.claim("next".to_owned(), LOG).await.unwrap();
        (progress.epoch, began.elapsed())
    };
    let (epoch, took) = tokio::select! {
        done = claiming => done,
        never = stopped => panic!("{never:?}"),
    };
    assert_eq!(epoch, 2);
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[tokio::test]
async fn a_number_given_twice_is_reported_and_leaves_nothing() {
    static HEARD: AtomicU32 = AtomicU32::new(0);
    let fresh = fresh().await;
    let on_broken_fold = |_: &str| {
        HEARD.fetch_add(1, Ordering::Relaxed);
    };
    let options = MySqlOptions { on_broken_fold, ..fresh.options.clone() };
    let store = MySqlStore::open(options).await.unwrap();
    let epoch = store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    commit_records(&store, epoch, 1..=1).await;

    let mut again = batch(2, 10);
    again.messages[3].msg_id = MsgId(2);
    let error = store.commit(epoch, Offset(1), again).await.unwrap_err();
    let StoreError::Refused(text) = error else { panic!("{error}") };
    assert!(text.contains("message 2 of single:1-2; record 2"), "{text}");

    let mut twice = batch(2, 10);
    twice.messages[3].msg_id = MsgId(13);
    let error = store.commit(epoch, Offset(1), twice).await.unwrap_err();
    let StoreError::Refused(text) = error else { panic!("{error}") };
    assert!(text.contains("message 13 of single:1-2"), "{text}");

    assert_eq!(HEARD.load(Ordering::Relaxed), 2);
    assert_dense(&store, 1).await;
    commit_records(&store, epoch, 2..=2).await;
}

#[tokio::test]
async fn a_batch_larger_than_a_packet_is_written_in_pieces() {
    let fresh = fresh().await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    let mut large = batch(1, 3_000);
    for message in large.messages.iter_mut().step_by(40) {
        message.body = Bytes::from(vec![0xff; 512 << 10]);
    }
    fresh.commit(epoch, Offset(0), large.clone()).await.unwrap();

    for (from, to) in [(1, 100), (1_401, 1_500), (2_901, 3_000)] {
        let mut page = fresh.messages(two(), MsgId(from), MsgId(to), 1_000).await.unwrap();
        page.reverse();
        assert!(page == large.messages[from as usize - 1..to as usize], "{from} to {to}");
    }
}

/// Writes the same batch until it is written.
async fn commit_like_the_worker(store: &MySqlStore, epoch: u64, record: u32) {
    let after = Offset(u64::from(record) - 1);
    loop {
        match store.commit(epoch, after, batch(record, 10)).await {
            Ok(()) => return,
            Err(StoreError::Unavailable(_)) => {} // On a loaded machine half a second may be short.
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until a statement in this database has waited so long that it waits for a lock.
async fn waits_for_a_lock(database: &str) {
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.innodb_trx
         JOIN information_schema.processlist ON id = trx_mysql_thread_id
         WHERE db = '{database}' AND trx_state = 'LOCK WAIT'"
    );
    loop {
        let sql = sql.clone();
        if blocking(move || MariaDb::shared().sql(&sql)).await.trim() != "0" {
            return;
        }
    }
}
