//! Files of older versions, and how every connection to a current one is set up.

use super::*;

/// What leads to each version.
const SCRIPTS: [&str; 7] = [
    include_str!("../migrations/0001_first.sql"),
    include_str!("../migrations/0002_deleted_groups.sql"),
    include_str!("../migrations/0003_tokens.sql"),
    include_str!("../migrations/0004_consumers.sql"),
    include_str!("../migrations/0005_api_keys.sql"),
    include_str!("../migrations/0006_webhooks.sql"),
    include_str!("../migrations/0007_changed_messages.sql"),
];

/// Something in every table of the first version.
const ROWS: &str = "
    INSERT INTO progress VALUES (0, 4, 'old', X'07070707070707070707070707070707', 9, 8, 2);
    INSERT INTO conversation (id, higher_user, head, last_offset, last_message_ms, group_name,
        group_avatar, group_creator, group_kind, group_version)
        VALUES (4294967298, 2, 1, 9, 5, NULL, NULL, NULL, NULL, NULL),
               (7, NULL, 0, 8, 0, 'seven', 'a.png', 1, 2, 4);
    INSERT INTO message VALUES (4294967298, 1, 1, X'01010101010101010101010101010101', 9, 5, 1, X'68');
    INSERT INTO member VALUES (7, 1, 1, NULL);
    INSERT INTO mark VALUES (4294967298, 2, 1, 0, 0, 0, 1);
    INSERT INTO user VALUES (1, 'alice', 'h', 'Alice', 1, '', 1, '', '', 'alice', 0, '', 3, 0),
                            (2, 'bob', 'h', 'Bob', 1, '', 1, '', '', 'bob', 0, '', 3, 0);
    INSERT INTO device_token VALUES (1, 17, 'phone');
    INSERT INTO wanted_group VALUES (6);
    UPDATE counter SET value = 5 WHERE name = 'group';
";

/// A file as the program of this version left it.
fn older(path: &Path, version: usize) -> Connection {
    let connection = Connection::open(path).unwrap();
    for script in &SCRIPTS[..version] {
        connection.execute_batch(script).unwrap();
    }
    connection.execute_batch(ROWS).unwrap();
    connection.pragma_update(None, "user_version", i64::try_from(version).unwrap()).unwrap();
    connection
}

#[tokio::test]
async fn a_file_of_every_older_version_keeps_what_is_in_it_and_takes_what_is_new() {
    for version in 1..=SCRIPTS.len() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("store.db");
        drop(older(&path, version));
        let store = open(&path);

        let progress = store.claim("new".to_owned(), LOG).await.unwrap();
        let expected = Progress { epoch: 5, applied: Offset(9), applied_crc: 8, fold_version: 2 };
        assert_eq!(progress, expected, "{version}");
        let stored = store.conversation(two(), 10).await.unwrap();
        assert_eq!(stored.row.unwrap().head, MsgId(1), "{version}");
        assert_eq!(&stored.recent[0].body[..], b"h", "{version}");
        assert_eq!((stored.marks.len(), stored.peers_exist), (1, true), "{version}");
        let groups = store.groups(0, 10).await.unwrap();
        let [(row, 1)] = &groups[..] else { panic!("{version}: {groups:?}") };
        assert!(!row.group.as_ref().unwrap().deleted, "{version}");
        let alice = store.user_by_name("alice".to_owned()).await.unwrap().unwrap();
        assert_eq!((alice.id, alice.stamp), (UserId(1), 3), "{version}");
        // Neither the 6 that somebody chose nor the 7 that has a conversation.
        assert_eq!(store.allocate_group(None).await.unwrap(), GroupId(8), "{version}");

        assert_eq!(store.newest_revocation().await.unwrap(), 0, "{version}");
        store.change_user(UserId(1), UserChange::Status(3)).await.unwrap();
        assert_eq!(store.newest_revocation().await.unwrap(), 1, "{version}");
        assert_eq!(store.consumers().await.unwrap(), [], "{version}");
        let at = ConsumerCursor { log: LOG, offset: Offset(9), epoch: 5 };
        assert!(store.move_consumer(5, "push".to_owned(), None, at).await.unwrap(), "{version}");
        assert_eq!(store.keys().await.unwrap(), [], "{version}");
        assert_eq!(store.webhooks().await.unwrap(), [], "{version}");
    }
}

#[tokio::test]
async fn a_migration_that_fails_leaves_the_version_before_it_and_goes_on_later() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.db");
    // The second table of the third version is in its way.
    let connection = older(&path, 1);
    connection.execute_batch("CREATE TABLE ticket (id)").unwrap();
    drop(connection);

    let error = SqliteStore::migrate(&path).unwrap_err();
    assert!(error.to_string().contains("ticket"), "{error}");
    let connection = Connection::open(&path).unwrap();
    assert_eq!(schema::version_of(&connection).unwrap(), 2, "the step before is done");
    assert!(!connection.table_exists(None, "token_family").unwrap(), "half of it is not there");

    connection.execute_batch("DROP TABLE ticket").unwrap();
    drop(connection);
    let store = open(&path);
    assert_eq!(store.newest_revocation().await.unwrap(), 0);
    assert_eq!(store.users(vec![UserId(1), UserId(2)]).await.unwrap().len(), 2);
}

/// The file itself says that it is current: the program that changed it was killed.
#[tokio::test]
async fn a_newer_version_that_only_the_write_ahead_file_has_is_refused() {
    let fresh = fresh().await;
    let setting = fresh.store.records.run(|connection| {
        Ok(connection.pragma_update(None, "user_version", schema::VERSION + 1)?)
    });
    setting.await.unwrap();
    let left = TempDir::new().unwrap();
    for file in ["store.db", "store.db-wal"] {
        fs::copy(fresh.folder.path().join(file), left.path().join(file)).unwrap();
    }
    let path = left.path().join("store.db");
    schema::refuse_newer_header(&path).unwrap();
    let before = fs::read(&path).unwrap();
    let error = SqliteStore::open(&path, SqliteOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn every_connection_is_set_up_for_what_it_does() {
    let fresh = fresh().await;
    let SqliteStore { reads, batches, records, .. } = &fresh.store;
    // What a batch says the log still has; everything else is on disk before its call returns.
    for (pool, synchronous) in [(batches, 1), (records, 2)] {
        assert_eq!(pragma(pool, "synchronous").await, synchronous);
        assert_eq!(pragma(pool, "cache_size").await, -16_384);
        assert_eq!(pragma(pool, "wal_autocheckpoint").await, 8_000);
        assert_eq!(pragma(pool, "journal_size_limit").await, 64 << 20);
    }
    for pool in [reads, batches, records] {
        assert_eq!(pragma(pool, "busy_timeout").await, 10_000);
    }
    let writing = reads.run(|connection| Ok(connection.execute("DELETE FROM user", [])?));
    let error = writing.await.unwrap_err();
    assert!(error.to_string().contains("readonly"), "{error}");
}

async fn pragma(pool: &Pool, name: &'static str) -> i64 {
    let asking = pool.run(move |connection| {
        Ok(connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0))?)
    });
    asking.await.unwrap()
}
