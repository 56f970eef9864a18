//! The connections of a pool: how many there are, which of them are used again, and how often a call
//! is tried.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use futures_util::poll;
use mysql_async::ServerError;
use tokio::sync::Notify;

use super::*;
use crate::mysql::address::Address;
use crate::mysql::failure::Failure;
use crate::mysql::link::Link;
use crate::mysql::pool::{Bounds, Pool};
use crate::mysql::row::{self, Columns};

/// Longer than anything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

async fn pool(bounds: Bounds) -> (Pool, Fresh) {
    let fresh = fresh().await;
    (Pool::new(Address::parse(&fresh.options.shards[0], None).unwrap(), bounds), fresh)
}

fn bounds(connections: usize) -> Bounds {
    Bounds { connections, wait: PATIENCE, step: PATIENCE, whole: None }
}

async fn number(link: &mut Link, query: &str) -> Result<u64, Failure> {
    Ok(row::one(link.row(query, Vec::new()).await?, Columns::next)?.unwrap())
}

/// Which connection a call gets.
async fn connection(pool: &Pool) -> u64 {
    let asking = pool.run(|link| number(link, "SELECT CONNECTION_ID()").boxed());
    asking.await.unwrap()
}

async fn counted(pool: &Pool, table: &'static str) -> u64 {
    let query = format!("SELECT COUNT(*) FROM {table}");
    let asking = pool.run(|link| {
        let query = query.clone();
        async move { number(link, &query).await }.boxed()
    });
    asking.await.unwrap()
}

fn server(code: u16) -> Failure {
    let (message, state) = ("the test says so".to_owned(), "HY000".to_owned());
    mysql_async::Error::Server(ServerError { code, message, state }).into()
}

/// How often a call is tried that fails so at its first tries, and what comes of it.
async fn tries(pool: &Pool, code: u16, fails: u32) -> (u32, Result<(), StoreError>) {
    let tried = AtomicU32::new(0);
    let done = pool.run(|_link| {
        let fails = tried.fetch_add(1, Ordering::Relaxed) < fails;
        async move { if fails { Err(server(code)) } else { Ok(()) } }.boxed()
    });
    let done = done.await;
    (tried.load(Ordering::Relaxed), done)
}

#[tokio::test]
async fn a_call_that_another_was_in_the_way_of_is_tried_five_times() {
    let (pool, _fresh) = pool(bounds(1)).await;
    for code in [1213, 1205] {
        let (tried, done) = tries(&pool, code, 4).await;
        assert!(tried == 5 && done.is_ok(), "{code}: {tried} {done:?}");
        let (tried, done) = tries(&pool, code, 9).await;
        assert_eq!(tried, 5, "{code}");
        assert_unavailable(&done);
    }
}

#[tokio::test]
async fn between_tries_there_is_a_pause_that_grows() {
    let (pool, _fresh) = pool(bounds(1)).await;
    let began = Instant::now();
    assert_eq!(tries(&pool, 1213, 4).await.0, 5);
    // 25, 50, 100 and 200 ms.
    assert!(began.elapsed() >= Duration::from_millis(375), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_trying_again_cannot_help_is_tried_once() {
    let (pool, _fresh) = pool(bounds(1)).await;
    for code in [1290, 1040, 1021] {
        let (tried, done) = tries(&pool, code, 9).await;
        assert_eq!(tried, 1, "{code}");
        assert_unavailable(&done);
    }
    for code in [1062, 1146, 1406] {
        let (tried, done) = tries(&pool, code, 9).await;
        assert_eq!(tried, 1, "{code}");
        assert!(matches!(done, Err(StoreError::Refused(_))), "{code}: {done:?}");
    }
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_call_that_ended_well_and_after_an_answer_of_ours() {
    let (pool, _fresh) = pool(bounds(1)).await;
    let first = connection(&pool).await;
    assert_eq!(connection(&pool).await, first);
    let refused = pool.run(|link| {
        async move {
            link.begin().await?;
            link.command("DELETE FROM department").await?;
            Err::<(), _>(StoreError::Missing("what was asked for".to_owned()).into())
        }
        .boxed()
    });
    assert!(matches!(refused.await, Err(StoreError::Missing(_))));
    assert_eq!(connection(&pool).await, first);
    assert_eq!(counted(&pool, "department").await, 1, "its transaction was rolled back");
}

#[tokio::test]
async fn a_connection_whose_call_failed_is_closed() {
    let (pool, _fresh) = pool(bounds(1)).await;
    let first = connection(&pool).await;
    assert_eq!(tries(&pool, 1062, 1).await.0, 1);
    let second = connection(&pool).await;
    assert_ne!(second, first);
    let failed = pool.run(|link| link.command("SELECT what FROM nowhere").boxed());
    assert!(failed.await.is_err());
    assert_ne!(connection(&pool).await, second);
}

/// What it did is rolled back with its connection.
#[tokio::test]
async fn a_call_that_ends_in_the_middle_of_a_transaction_has_done_nothing() {
    let (pool, _fresh) = pool(bounds(1)).await;
    let first = connection(&pool).await;
    let forgot = pool.run(|link| {
        async move {
            link.begin().await?;
            link.command("DELETE FROM department").await
        }
        .boxed()
    });
    forgot.await.unwrap();
    assert_ne!(connection(&pool).await, first);
    assert_eq!(counted(&pool, "department").await, 1);
}

#[tokio::test]
async fn a_connection_whose_caller_stopped_waiting_is_closed() {
    let (pool, _fresh) = pool(bounds(1)).await;
    let first = connection(&pool).await;
    let asked = Arc::new(Notify::new());
    let slow = pool.run(|link| {
        let asked = Arc::clone(&asked);
        async move {
            asked.notify_one();
            link.command("SELECT SLEEP(60)").await
        }
        .boxed()
    });
    tokio::select! {
        biased;
        done = slow => panic!("{done:?}"),
        () = asked.notified() => {}
    }
    let began = Instant::now();
    assert_ne!(connection(&pool).await, first);
    assert!(began.elapsed() < PATIENCE, "its place is free at once");
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_not_waited_for() {
    let short = Duration::from_millis(100);
    for bounds in [Bounds { step: short, ..bounds(1) }, Bounds { whole: Some(short), ..bounds(1) }]
    {
        let (pool, _fresh) = pool(bounds).await;
        let slow = pool.run(|link| link.command("SELECT SLEEP(60)").boxed());
        let error = slow.await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert!(error.to_string().contains("no answer within 100ms"), "{error}");
        assert!(error.to_string().contains(pool.name()), "{error}");
        connection(&pool).await;
    }
}

#[tokio::test]
async fn there_are_no_more_connections_than_are_allowed_and_a_call_waits_only_so_long_for_one() {
    let bounds = Bounds { wait: Duration::from_millis(300), ..bounds(2) };
    let (pool, _fresh) = pool(bounds).await;
    let (taken, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let hold = || {
        pool.run(|_link| {
            let (taken, go_on) = (Arc::clone(&taken), Arc::clone(&go_on));
            async move {
                taken.notify_one();
                go_on.notified().await;
                Ok(())
            }
            .boxed()
        })
    };
    let (mut one, mut other) = (Box::pin(hold()), Box::pin(hold()));
    for _each in 0..2 {
        tokio::select! {
            done = &mut one => panic!("{done:?}"),
            done = &mut other => panic!("{done:?}"),
            () = taken.notified() => {}
        }
    }
    assert!(format!("{pool:?}").contains("free: 0"), "{pool:?}");
    let error = tries(&pool, 0, 0).await.1.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("all connections are taken"), "{error}");
    // One that waits is served as soon as one is free.
    let mut third = Box::pin(tries(&pool, 0, 0));
    assert!(poll!(&mut third).is_pending());
    go_on.notify_one();
    let first_done = async {
        tokio::select! {
            done = one => done,
            done = other => done,
        }
    };
    let (done, (tried, third)) = tokio::join!(first_done, third);
    done.and(third).unwrap();
    assert_eq!(tried, 1);
}

#[tokio::test]
async fn of_too_many_calls_that_wait_the_next_is_turned_away_at_once() {
    const WAITING_MAX: usize = 4_096;
    let (pool, _fresh) = pool(bounds(1)).await;
    let taken = Arc::new(Notify::new());
    let holding = pool.run(|_link| {
        let taken = Arc::clone(&taken);
        async move {
            taken.notify_one();
            std::future::pending::<Result<(), Failure>>().await
        }
        .boxed()
    });
    let mut holding = Box::pin(holding);
    tokio::select! {
        done = &mut holding => panic!("{done:?}"),
        () = taken.notified() => {}
    }
    let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(tries(&pool, 0, 0))).collect();
    for waits in &mut waiting {
        assert!(poll!(waits).is_pending());
    }
    let (tried, done) = tries(&pool, 0, 0).await;
    assert_eq!(tried, 0);
    let text = done.unwrap_err().to_string();
    assert!(text.contains("too many calls wait"), "{text}");
    // One that has stopped waiting leaves its place to another.
    waiting.pop();
    let mut last = Box::pin(tries(&pool, 0, 0));
    assert!(poll!(&mut last).is_pending());
}

#[tokio::test]
async fn every_session_is_the_same_whatever_the_server_is_set_to() {
    let (pool, _fresh) = pool(bounds(1)).await;
    let variables = async |begun: bool| {
        let asking = pool.run(|link| {
            async move {
                if begun {
                    link.begin().await?;
                }
                let query = "SELECT @@sql_mode, @@character_set_client, @@innodb_lock_wait_timeout,
                             @@wait_timeout, @@autocommit, @@tx_isolation";
                let row = link.row(query, Vec::new()).await?;
                let found = row::one(row, |columns| {
                    let texts: [String; 2] = [columns.next()?, columns.next()?];
                    let numbers: [u64; 3] = [columns.next()?, columns.next()?, columns.next()?];
                    Ok((texts, numbers, columns.next::<String>()?))
                });
                link.roll_back().await?;
                found
            }
            .boxed()
        });
        asking.await.unwrap().unwrap()
    };
    for (begun, idle_s) in [(false, 600), (true, 5), (false, 600)] {
        let ([mode, characters], numbers, isolation) = variables(begun).await;
        assert!(mode.contains("STRICT_ALL_TABLES"), "{mode}");
        assert_eq!((characters.as_str(), isolation.as_str()), ("utf8mb4", "READ-COMMITTED"));
        assert_eq!(numbers, [2, idle_s, 1], "{begun}");
    }
}

#[tokio::test]
async fn rows_are_taken_as_they_come_until_one_is_refused() {
    let (pool, _fresh) = pool(bounds(1)).await;
    let first = connection(&pool).await;
    let query = "WITH RECURSIVE numbers (n) AS
                    (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 500)
                 SELECT n FROM numbers";
    for (last, taken) in [(9_999, 500), (3, 3)] {
        let done = pool.attempt(|link| {
            let seen = Arc::new(AtomicU32::new(0));
            let taking = Arc::clone(&seen);
            async move {
                let each = |row| {
                    let number: u32 = Columns::of(row).next()?;
                    taking.fetch_add(1, Ordering::Relaxed);
                    if number < last { Ok(()) } else { Err(Failure::Busy("no room")) }
                };
                let done = link.each_row(query, Vec::new(), each).await;
                Ok((seen.load(Ordering::Relaxed), done.is_ok()))
            }
            .boxed()
        });
        assert_eq!(done.await.unwrap(), (taken, taken == 500), "{last}");
    }
    // What was not taken is not left on the connection.
    assert_eq!(connection(&pool).await, first);
}
