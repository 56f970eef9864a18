//! A server that dies, restarts, or stops answering.

use std::time::Instant;

use futures_util::future::join_all;

use super::*;

/// Longer than any limit of a call.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_next_call_works_after_every_connection_was_killed() {
    let fresh = fresh().await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    for record in 1..=5 {
        // Several connections, so that more than one is stale.
        join_all((0..8).map(|_| fresh.conversations_of(UserId(1)))).await;
        kill_connections(&fresh.options).await;
        if record % 2 == 0 {
            fresh.messages(two(), MsgId(1), MsgId(9), 9).await.unwrap();
        }
        commit_records(&fresh, epoch, record..=record).await;
    }
    assert_dense(&fresh, 5).await;
}

#[tokio::test]
async fn calls_work_again_after_the_server_was_killed_and_started() {
    let server = blocking(MariaDb::start).await;
    let (owner, user) = database(&server);
    let fresh = made(options(owner), options(user)).await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    commit_records(&fresh, epoch, 1..=1).await;

    let server = blocking(move || {
        server.kill();
        server
    })
    .await;
    let began = Instant::now();
    assert_unavailable(&fresh.commit(epoch, Offset(1), batch(2, 10)).await);
    assert_unavailable(&fresh.conversation(two(), 10).await);
    assert_unavailable(&fresh.user_by_name("alice".to_owned()).await);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_unavailable(&MySqlStore::open(fresh.options.clone()).await);

    let _server = blocking(move || {
        server.restart();
        server
    })
    .await;
    commit_records(&fresh, epoch, 2..=3).await;
    assert_dense(&fresh, 3).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_costs_each_call_a_bounded_time() {
    let server = Arc::new(blocking(MariaDb::start).await);
    let (owner, user) = database(&server);
    let few = MySqlOptions { readers: 2, ..options(user) };
    let fresh = made(options(owner), few).await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    commit_records(&fresh, epoch, 1..=1).await;

    let pausing = Arc::clone(&server);
    blocking(move || pausing.pause()).await;
    let timed = async |limit: u64, call: Stored<'_, ()>| {
        let began = Instant::now();
        let done = call.await;
        assert_unavailable(&done);
        assert!(began.elapsed() < Duration::from_secs(limit), "{:?}", began.elapsed());
    };
    let nothing = |_| ();
    let reads = (0..20).map(|_| {
        // More than there are connections: the others wait no longer.
        let read = fresh.conversation(two(), 10);
        timed(12, Box::pin(async move { read.await.map(nothing) }))
    });
    let write = fresh.change_user(UserId(1), UserChange::Status(3));
    tokio::join!(
        join_all(reads),
        timed(25, fresh.commit(epoch, Offset(1), batch(2, 10))),
        timed(25, write),
    );
    assert_unavailable(&MySqlStore::open(fresh.options.clone()).await);

    let resuming = Arc::clone(&server);
    blocking(move || resuming.resume()).await;
    // Whatever the server did of it when it woke up, it is there once.
    commit_records(&fresh, epoch, 2..=3).await;
    assert_dense(&fresh, 3).await;
}

#[tokio::test]
async fn a_server_that_is_for_reading_only_is_away_for_writing() {
    let server = blocking(MariaDb::start).await;
    let (owner, user) = database(&server);
    let fresh = made(options(owner), options(user)).await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;

    server.sql("SET GLOBAL read_only = 1");
    assert_unavailable(&fresh.commit(epoch, Offset(0), batch(1, 10)).await);
    fresh.conversation(two(), 10).await.unwrap();
    server.sql("SET GLOBAL read_only = 0");
    commit_records(&fresh, epoch, 1..=1).await;
}

#[tokio::test]
async fn a_server_with_no_connection_left_is_away() {
    let server = blocking(MariaDb::start).await;
    let (owner, user) = database(&server);
    let fresh = made(options(owner), options(user)).await;
    server.sql("SET GLOBAL max_connections = 10");
    let url = &fresh.options.shards[0];
    let mut taken = Vec::new();
    // A connection of another client may end in between.
    let refused = loop {
        while let Ok(conn) = mysql_async::Conn::from_url(url).await {
            taken.push(conn);
        }
        let opened = MySqlStore::open(fresh.options.clone()).await;
        if opened.is_err() {
            break opened;
        }
    };
    assert_unavailable(&refused);
}

/// Kills all connections to a database, as an operator or a server that is stopped does.
async fn kill_connections(options: &MySqlOptions) {
    let database = database_of(options);
    blocking(move || {
        let server = MariaDb::shared();
        let ids = server
            .sql(&format!("SELECT id FROM information_schema.processlist WHERE db = '{database}'"));
        for id in ids.lines() {
            // One may have ended by itself.
            server.try_sql(&format!("KILL {id}")).ok();
        }
    })
    .await;
}
