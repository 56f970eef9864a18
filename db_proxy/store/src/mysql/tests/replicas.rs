//! What is read from replicas, and what a replica that is behind, away or a wrong one does: nothing to
//! any answer.

use std::ops::RangeInclusive;
use std::time::Instant;

use super::*;

/// Every check again behind a replica that never gets a message.
mod behind {
    crate::conformance::suite!(super::fresh_behind);
}

/// Those about pages again with a replica that is never behind.
mod level {
    crate::conformance::suite! { super::fresh_level; history:
        a_page_is_newest_first_and_within_its_range,
        messages_are_found_by_their_places,
        a_conversation_is_read_whole,
    }
}

/// What messages say in a replica, in tests that tell where one came from.
const MARKED: &[u8] = b"from the replica";

async fn fresh_behind() -> Fresh {
    let fresh = fresh().await;
    let copy = copy_of(&fresh.options).await;
    with_replica(fresh, copy).await
}

async fn fresh_level() -> Fresh {
    let fresh = fresh().await;
    let itself = fresh.options.shards[0].clone();
    with_replica(fresh, itself).await
}

#[tokio::test]
async fn a_page_that_the_replica_has_comes_from_there_and_the_rest_from_the_primary() {
    let (fresh, _copy) = thirty_of_fifty().await;
    for (range, count, marked) in [
        (1..=30, 100, 30),
        (1..=30, 10, 10),
        (21..=40, 100, 10),
        (1..=50, 25, 5),
        (31..=50, 100, 0),
        (30..=31, 100, 1),
        // Beyond the head, where only the primary knows how far it is.
        (26..=90, 100, 0),
        (1..=90, 70, 0),
    ] {
        let said = format!("{count} of {range:?}");
        assert_eq!(assert_page(&fresh, range, count).await, marked, "{said}");
    }
    let metrics = &fresh.options.replica_metrics;
    assert_eq!(metrics.away.get(), 0);
    // 30, 10, 10 of 20, 5 of 25, none of 20, 1 of 2. The last two were read anew.
    assert_eq!((metrics.reads.get(), metrics.misses.get()), (56, 51));
}

#[tokio::test]
async fn messages_that_the_replica_lacks_are_found_by_their_places() {
    let (fresh, _copy) = thirty_of_fifty().await;
    let nowhere = ConversationId::single(UserId(8), UserId(9)).unwrap();
    let mut places: Vec<_> = [3, 30, 31, 50, 51].map(|number| (two(), MsgId(number))).to_vec();
    places.push((nowhere, MsgId(1)));
    let mut found = fresh.messages_at(places).await.unwrap();
    found.sort_unstable_by_key(|row| row.msg_id);
    let found: Vec<_> = found.iter().map(|row| (row.msg_id.0, row.body == MARKED)).collect();
    assert_eq!(found, [(3, true), (30, true), (31, false), (50, false)]);
    let metrics = &fresh.options.replica_metrics;
    assert_eq!((metrics.reads.get(), metrics.misses.get()), (2, 2));
}

#[tokio::test]
async fn holes_in_a_replica_are_filled() {
    let (fresh, copy) = thirty_of_fifty().await;
    let delete = "DELETE FROM message WHERE msg_id IN (1, 9, 10, 17)";
    sql(&copy, delete).await;
    for (range, marked) in [(1..=30, 13), (5..=20, 7), (18..=30, 13), (10..=12, 2), (9..=9, 0)] {
        let said = format!("{range:?}");
        assert_eq!(assert_page(&fresh, range, 100).await, marked, "{said}");
    }
}

#[tokio::test]
async fn whatever_changes_is_read_from_the_primary() {
    let (fresh, copy) = thirty_of_fifty().await;
    for table in ["conversation", "progress", "mark", "member", "user", "department"] {
        sql(&copy, &format!("DELETE FROM `{table}`")).await;
    }
    sql(&copy, "UPDATE message SET sender = 2, client_msg_id = REPEAT('x', 16)").await;

    let first = batch(1, 10).messages.remove(0);
    let found = fresh.find_message(UserId(1), first.client_msg_id).await.unwrap();
    assert_eq!(found.map(|found| found.row), Some(first));
    assert_eq!(fresh.count_own(two(), UserId(1), MsgId(1), MsgId(30)).await.unwrap(), 30);
    assert_eq!(fresh.conversations_of(UserId(1)).await.unwrap().len(), 1);
    assert_eq!(fresh.departments_since(Since::default(), 10).await.unwrap().0.len(), 1);
    assert_dense(&fresh, 5).await;
    let recent = fresh.conversation(two(), 50).await.unwrap().recent;
    assert!(recent.iter().all(|row| row.body != MARKED));
}

#[tokio::test]
async fn a_replica_of_something_else_is_refused_in_one_line() {
    let fresh = fresh().await;
    let stranger = self::fresh().await;
    let copy = copy_of(&fresh.options).await;
    let with = |replicas: &[&str]| MySqlOptions {
        replicas: replicas.iter().map(|url| (*url).to_owned()).collect(),
        ..fresh.options.clone()
    };
    let nowhere = MariaDb::shared().url("nowhere");
    let wrong_password = copy.replace(":secret@", ":wr0ng@");
    for (replicas, said) in [
        (&[&*stranger.options.shards[0]][..], &["site", "replica"][..]),
        (&[&copy, &copy], &["2 MySQL replicas and 1 databases"]),
        (&[&nowhere], &["no such database", "replica"]),
        (&[&wrong_password], &["user with this password"]),
        (&["mysql://u:secret@h"], &["names no database"]),
    ] {
        assert_refused(&with(replicas), said).await;
    }
    for (change, back, said) in [
        (
            "site SET value = 2 WHERE name = 'shard'",
            "site SET value = 1 WHERE name = 'shard'",
            "shard",
        ),
        ("schema_version SET version = 99", "schema_version SET version = 1", "version 99"),
    ] {
        sql(&copy, &format!("UPDATE {change}")).await;
        assert_refused(&with(&[&copy]), &[said]).await;
        sql(&copy, &format!("UPDATE {back}")).await;
    }
    MySqlStore::open(with(&[&copy])).await.unwrap();
}

#[tokio::test]
async fn each_shard_has_a_replica_of_its_own_or_none() {
    let split = fresh_split().await;
    let second = &split.options.shards[1];
    let of_second = MySqlOptions { shards: vec![second.clone()], ..split.options.clone() };
    let copy = copy_of(&of_second).await;
    let with = |replicas: [&str; 2]| MySqlOptions {
        replicas: replicas.map(str::to_owned).to_vec(),
        ..split.options.clone()
    };
    assert_refused(&with([&copy, ""]), &["shard:", "replica"]).await;
    let store = MySqlStore::open(with(["", &copy])).await.unwrap();
    let epoch = store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    commit_records(&store, epoch, 1..=1).await;
    assert_eq!(assert_page(&store, 1..=10, 10).await, 0);
}

#[tokio::test]
async fn no_read_waits_for_a_replica_that_is_away_at_the_start() {
    let (mut fresh, copy) = thirty_of_fifty().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let away = MySqlOptions { shards: vec![copy], ..fresh.options.clone() };
    fresh.options.replicas = through(&away, port).shards;
    fresh.options.replica_metrics = ReplicaMetrics::default();
    let store = MySqlStore::open(fresh.options.clone()).await.unwrap();
    assert_eq!(fresh.options.replica_metrics.away.get(), 1);
    assert_eq!(assert_page(&store, 1..=50, 50).await, 0);
    assert_eq!(fresh.options.replica_metrics.reads.get(), 0);
}

/// It says what it is each time it comes back.
#[tokio::test]
async fn a_replica_is_read_from_once_it_is_the_right_one() {
    let (mut fresh, copy) = thirty_of_fifty().await;
    sql(&copy, "RENAME TABLE schema_version TO not_yet").await;
    fresh.options.limits.replica_rest = Duration::ZERO;
    fresh.options.replica_metrics = ReplicaMetrics::default();
    let metrics = fresh.options.replica_metrics.clone();
    let store = MySqlStore::open(fresh.options.clone()).await.unwrap();
    assert_eq!((metrics.away.get(), assert_page(&store, 1..=30, 30).await), (1, 0));

    sql(&copy, "RENAME TABLE not_yet TO schema_version").await;
    sql(&copy, "UPDATE site SET value = REVERSE(value) WHERE name = 'site'").await;
    assert_eq!((assert_page(&store, 1..=30, 30).await, metrics.away.get()), (0, 1));

    sql(&copy, "UPDATE site SET value = REVERSE(value) WHERE name = 'site'").await;
    sql(&copy, "INSERT INTO site VALUES ('importing', 'something')").await;
    assert_eq!((assert_page(&store, 1..=30, 30).await, metrics.away.get()), (0, 1));

    sql(&copy, "DELETE FROM site WHERE name = 'importing'").await;
    assert_eq!((assert_page(&store, 1..=30, 30).await, metrics.away.get()), (30, 0));
}

#[tokio::test]
async fn a_real_replica_that_lags_dies_or_hangs_changes_no_answer() {
    let (primary, replica) = blocking(|| {
        let primary = MariaDb::start_primary();
        let replica = MariaDb::start_replica(&primary);
        (primary, replica)
    })
    .await;
    let (owner, user) = database(&primary);
    let mut fresh = made(options(owner), options(user)).await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    commit_records(&fresh, epoch, 1..=3).await;
    replica.catch_up(&primary);
    let there = MySqlOptions { shards: fresh.options.shards.clone(), ..fresh.options.clone() };
    fresh.options.replicas = through(&there, replica.port()).shards;
    fresh.options.limits.replica = Duration::from_secs(2);
    fresh.options.limits.replica_rest = Duration::ZERO;
    let metrics = fresh.options.replica_metrics.clone();
    let store = MySqlStore::open(fresh.options.clone()).await.unwrap();

    assert_page(&store, 1..=30, 30).await;
    assert_eq!((metrics.reads.get(), metrics.misses.get()), (30, 0));
    // It lags.
    replica.stop_applying();
    commit_records(&store, epoch, 4..=5).await;
    assert_page(&store, 21..=50, 30).await;
    assert_eq!((metrics.reads.get(), metrics.misses.get()), (40, 20));
    replica.apply();
    replica.catch_up(&primary);
    assert_page(&store, 21..=50, 30).await;
    assert_eq!((metrics.reads.get(), metrics.misses.get()), (70, 20));

    // It dies, and comes back.
    let replica = blocking(move || {
        replica.kill();
        replica
    })
    .await;
    assert_page(&store, 1..=50, 50).await;
    assert_eq!((metrics.away.get(), metrics.reads.get()), (1, 70));
    let replica = blocking(move || {
        replica.restart();
        replica
    })
    .await;
    assert_page(&store, 1..=50, 50).await;
    assert_eq!((metrics.away.get(), metrics.reads.get()), (0, 120));

    // It hangs: one read waits for it, and those after that do not.
    let patient = Duration::from_mins(10);
    fresh.options.limits.replica_rest = patient;
    let store = MySqlStore::open(fresh.options.clone()).await.unwrap();
    replica.pause();
    assert_page(&store, 1..=50, 50).await;
    assert_eq!((metrics.away.get(), metrics.reads.get()), (1, 120));
    let began = Instant::now();
    for _ in 0..20 {
        assert_page(&store, 1..=50, 50).await;
    }
    assert!(began.elapsed() < fresh.options.limits.replica * 5, "{:?}", began.elapsed());
    replica.resume();
}

/// A store with fifty messages, and the database of its replica, which has the first thirty, marked.
async fn thirty_of_fifty() -> (Fresh, String) {
    let fresh = fresh().await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    commit_records(&fresh, epoch, 1..=3).await;
    let copy = copy_of(&fresh.options).await;
    let marked = std::str::from_utf8(MARKED).unwrap();
    sql(&copy, &format!("UPDATE message SET body = '{marked}'")).await;
    commit_records(&fresh, epoch, 4..=5).await;
    (with_replica(fresh, copy.clone()).await, copy)
}

async fn with_replica(fresh: Fresh, replica: String) -> Fresh {
    // On a loaded machine too, what it has comes from it.
    let limits = MySqlLimits { replica: Duration::from_secs(20), ..fresh.options.limits };
    let options = MySqlOptions { replicas: vec![replica], limits, ..fresh.options };
    Fresh { store: MySqlStore::open(options.clone()).await.unwrap(), options }
}

/// A copy of the first database as it is now, for a database user who may only read it.
async fn copy_of(options: &MySqlOptions) -> String {
    let original = database_of(options);
    blocking(move || {
        let server = MariaDb::shared();
        let (_owner, user) = database(server);
        let copy = user.rsplit('/').next().unwrap();
        let tables = server.sql(&format!("SHOW TABLES FROM {original}"));
        let copying = tables.lines().map(|table| {
            format!(
                "CREATE TABLE {copy}.`{table}` LIKE {original}.`{table}`; \
                 INSERT INTO {copy}.`{table}` SELECT * FROM {original}.`{table}`;"
            )
        });
        server.sql(&copying.collect::<String>());
        server.sql(&format!("REVOKE INSERT, UPDATE, DELETE ON {copy}.* FROM {copy}_run@'%'"));
        user
    })
    .await
}

/// Checks that a page has every message that there is, newest first. Returns how many of them came
/// from a replica whose messages are marked.
async fn assert_page(store: &MySqlStore, range: RangeInclusive<u32>, count: usize) -> usize {
    let head = store.conversation(two(), 0).await.unwrap().row.unwrap().head.0;
    let there = range.clone().rev().filter(|number| *number <= head).take(count);
    let page = store.messages(two(), MsgId(*range.start()), MsgId(*range.end()), count);
    let page = page.await.unwrap();
    let numbers: Vec<_> = page.iter().map(|row| row.msg_id.0).collect();
    assert_eq!(numbers, there.collect::<Vec<_>>());
    page.iter().filter(|row| row.body == MARKED).count()
}
