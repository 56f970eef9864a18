//! The checks of every store, and those of a store in a file: versions, kills, flushes, no room.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::{GroupRow, MemberRow, Store, conformance};

mod looking;
mod tables;
mod trouble;
mod versions;

conformance::suite!(fresh);

#[tokio::test]
async fn what_was_committed_survives_a_kill() {
    let fresh = fresh().await;
    let progress = fresh.store.claim("owner".to_owned(), LOG).await.unwrap();
    fresh.store.commit(progress.epoch, Offset(0), batch(1, 100)).await.unwrap();
    let id = fresh.store.add_users(vec![user("alice")], false).await.unwrap()[0];

    // What a killed process leaves: the files as they are, without the shared memory.
    let left = TempDir::new().unwrap();
    for file in ["store.db", "store.db-wal"] {
        fs::copy(fresh.folder.path().join(file), left.path().join(file)).unwrap();
    }
    let reopened = open(&left.path().join("store.db"));

    let next = reopened.claim("owner".to_owned(), LOG).await.unwrap();
    assert_eq!(next.applied, Offset(1));
    assert_eq!(next.epoch, progress.epoch + 1);
    assert_eq!(reopened.conversation(two(), 1_000).await.unwrap().recent.len(), 100);
    assert_eq!(reopened.users(vec![id]).await.unwrap()[0].name, "alice");
    assert_eq!(reopened.allocate_group(None).await.unwrap(), GroupId(1));
}

/// The main file alone is what a power cut leaves in the worst case: commits of batches do not
/// flush the write-ahead file.
#[tokio::test]
async fn what_is_called_flushed_is_in_the_main_file() {
    let fresh = fresh().await;
    let epoch = fresh.store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    fresh.store.commit(epoch, Offset(0), batch(1, 100)).await.unwrap();
    fresh.store.commit(epoch, Offset(1), batch(2, 100)).await.unwrap();
    assert_eq!(fresh.store.flushed_progress().await.unwrap(), Offset(2));
    fresh.store.commit(epoch, Offset(2), batch(3, 1)).await.unwrap();

    let left = TempDir::new().unwrap();
    fs::copy(fresh.path(), left.path().join("store.db")).unwrap();
    let reopened = open(&left.path().join("store.db"));

    let next = reopened.claim("owner".to_owned(), LOG).await.unwrap();
    assert_eq!(next.applied, Offset(2));
    assert_eq!(reopened.conversation(two(), 1_000).await.unwrap().recent.len(), 200);
}

#[tokio::test]
async fn while_a_reader_is_in_the_way_the_last_known_flush_is_told() {
    let fresh = fresh().await;
    let epoch = fresh.store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    fresh.store.commit(epoch, Offset(0), batch(1, 1)).await.unwrap();
    assert_eq!(fresh.store.flushed_progress().await.unwrap(), Offset(1));

    let reader = Connection::open(fresh.path()).unwrap();
    reader.execute_batch("BEGIN; SELECT COUNT(*) FROM message;").unwrap();
    fresh.store.commit(epoch, Offset(1), batch(2, 1)).await.unwrap();
    assert_eq!(fresh.store.flushed_progress().await.unwrap(), Offset(1));

    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(fresh.store.flushed_progress().await.unwrap(), Offset(2));
}

#[tokio::test]
async fn a_full_disk_asks_to_try_again_and_the_same_batch_is_taken_later() {
    let fresh = fresh().await;
    let epoch = fresh.store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    fresh.store.commit(epoch, Offset(0), batch(1, 10)).await.unwrap();

    fresh.allow_pages(1).await; // Taken as "no more than there are".
    for _ in 0..3 {
        assert_unavailable(&fresh.store.commit(epoch, Offset(1), batch(2, 1_000)).await);
        assert_eq!(fresh.store.conversation(two(), 9_999).await.unwrap().recent.len(), 10);
    }

    fresh.allow_pages(1_000_000).await;
    fresh.store.commit(epoch, Offset(1), batch(2, 1_000)).await.unwrap();
    assert_eq!(fresh.store.conversation(two(), 9_999).await.unwrap().recent.len(), 1_010);
    assert_eq!(fresh.store.flushed_progress().await.unwrap(), Offset(2));
}

#[tokio::test]
async fn a_lock_of_another_program_asks_to_try_again() {
    let fresh = fresh().await;
    let epoch = fresh.store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    fresh.batch_pragma("busy_timeout", 0).await;

    let other = Connection::open(fresh.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_unavailable(&fresh.store.commit(epoch, Offset(0), batch(1, 1)).await);
    assert_eq!(fresh.store.conversation(two(), 10).await.unwrap().recent, []);

    other.execute_batch("ROLLBACK").unwrap();
    fresh.store.commit(epoch, Offset(0), batch(1, 1)).await.unwrap();
}

#[tokio::test]
async fn a_number_given_twice_is_told_and_nothing_is_written() {
    let fresh = fresh().await;
    let epoch = fresh.store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    fresh.store.commit(epoch, Offset(0), batch(1, 5)).await.unwrap();

    let mut again = batch(2, 5);
    again.messages[3].msg_id = MsgId(10_002);
    let error = fresh.store.commit(epoch, Offset(1), again).await.unwrap_err();

    let StoreError::Refused(text) = error else { panic!("{error}") };
    assert!(text.contains("message 10002 of single:1-2"), "{text}");
    assert_eq!(fresh.store.conversation(two(), 100).await.unwrap().recent.len(), 5);
    fresh.store.commit(epoch, Offset(1), batch(2, 5)).await.unwrap();
}

#[tokio::test]
async fn a_file_of_the_first_version_is_brought_up_to_date_and_its_groups_are_not_deleted() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.db");
    let older = Connection::open(&path).unwrap();
    older.execute_batch(include_str!("migrations/0001_first.sql")).unwrap();
    older
        .execute_batch("INSERT INTO conversation VALUES (7, NULL, 0, 1, 0, 'seven', '', 1, 2, 4)")
        .unwrap();
    older.pragma_update(None, "user_version", 1).unwrap();
    drop(older);

    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    let groups = store.groups(0, 10).await.unwrap();
    let [(row, 0)] = &groups[..] else { panic!("{groups:?}") };
    let group = row.group.as_ref().unwrap();
    assert_eq!((group.name.as_str(), group.version, group.deleted), ("seven", 4, false));
}

#[tokio::test]
async fn a_newer_version_is_refused_and_stays_as_it_is() {
    let fresh = fresh().await;
    let path = fresh.path();
    let folder = fresh.close();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&path).unwrap();

    let error = SqliteStore::open(&path, SqliteOptions::default()).unwrap_err();
    let StoreError::Refused(text) = error else { panic!("{error}") };
    assert!(text.contains("version 99") && text.contains("store.db"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), before);
    drop(folder);
}

#[test]
fn what_is_not_ours_is_refused_and_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let database = folder.path().join("other.db");
    Connection::open(&database).unwrap().execute_batch("CREATE TABLE photo (id)").unwrap();
    let text = folder.path().join("notes.txt");
    fs::write(&text, "what I did on my holidays, ".repeat(100)).unwrap();

    for path in [database, text] {
        let before = fs::read(&path).unwrap();
        let error = SqliteStore::open(&path, SqliteOptions::default()).unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{}: {error}", path.display());
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let path = PathBuf::from("/nowhere/at/all/store.db");
    let error = SqliteStore::open(&path, SqliteOptions::default()).unwrap_err();
    let StoreError::Unavailable(text) = error else { panic!("{error}") };
    assert!(text.contains("/nowhere/at/all/store.db"), "{text}");
}

#[tokio::test]
async fn opening_twice_migrates_once() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.db");
    SqliteStore::migrate(&path).unwrap();
    SqliteStore::migrate(&path).unwrap();
    let (departments, _) = open(&path).departments_since(Since::default(), 10).await.unwrap();
    assert_eq!(departments.len(), 1);
}

/// It holds password hashes.
#[tokio::test]
async fn only_its_owner_may_read_the_files() {
    let fresh = fresh().await;
    fresh.store.add_users(vec![user("alice")], false).await.unwrap();
    for file in fs::read_dir(fresh.folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.path().display());
    }
}

#[tokio::test]
async fn a_phones_token_belongs_to_its_last_user() {
    let fresh = fresh().await;
    for user in [1, 2] {
        let token = Some("token".to_owned());
        fresh.store.set_device_token(UserId(user), 0x11, token).await.unwrap();
    }
    fresh.store.set_device_token(UserId(3), 0x11, Some("other".to_owned())).await.unwrap();
    fresh.store.set_device_token(UserId(3), 0x11, None).await.unwrap();

    let connection = Connection::open(fresh.path()).unwrap();
    let tokens = "SELECT user_id || ' has ' || token FROM device_token";
    assert_eq!(texts(&connection, tokens), ["2 has token"]);
}

#[tokio::test]
async fn unreadable_records_are_kept_for_inspection() {
    let fresh = fresh().await;
    let epoch = fresh.store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    let unreadable = vec![(Offset(1), Bytes::from_static(b"\0\xffwhat"))];
    let batch = Batch { unreadable, ..batch(1, 0) };
    fresh.store.commit(epoch, Offset(0), batch).await.unwrap();

    let connection = Connection::open(fresh.path()).unwrap();
    let kept: (i64, Vec<u8>) = connection
        .query_row("SELECT log_offset, payload FROM unreadable", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(kept, (1, b"\0\xffwhat".to_vec()));
}

#[tokio::test]
async fn a_connection_comes_back_when_its_user_panics() {
    let fresh = fresh().await;
    let reads = Arc::new(fresh.store.reads);
    for _ in 0..10 {
        let reads = Arc::clone(&reads);
        let waiting = async move { reads.run(|_| -> Result<(), _> { panic!("on purpose") }).await };
        #[expect(clippy::disallowed_methods, reason = "the test itself waits for the task")]
        let panicked = tokio::spawn(waiting).await;
        assert!(panicked.unwrap_err().is_panic());
    }
    reads.run(|_| Ok(())).await.unwrap();
}

/// An empty store, in a folder that goes with it.
struct Fresh {
    store: SqliteStore,
    folder: TempDir,
}

impl Fresh {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    /// Closes the store and leaves its folder.
    fn close(self) -> TempDir {
        self.folder
    }

    async fn allow_pages(&self, count: i64) {
        self.batch_pragma("max_page_count", count).await;
    }

    async fn batch_pragma(&self, name: &'static str, value: i64) {
        let set = self.store.batches.run(move |connection| {
            Ok(connection.pragma_update_and_check(None, name, value, |_| Ok(()))?)
        });
        set.await.unwrap();
    }
}

/// The only column of an answer.
fn texts(connection: &Connection, query: &str) -> Vec<String> {
    let mut statement = connection.prepare(query).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

async fn fresh() -> Fresh {
    let opening = tokio::task::spawn_blocking(|| {
        let folder = TempDir::new().unwrap();
        Fresh { store: open(&folder.path().join("store.db")), folder }
    });
    opening.await.unwrap()
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, SqliteOptions { on_broken_fold: |_| {}, ..Default::default() }).unwrap()
}

const LOG: LogId = LogId([7; 16]);

fn two() -> ConversationId {
    ConversationId::single(UserId(1), UserId(2)).unwrap()
}

/// A batch of one record more, with `count` messages that no batch of another record has.
fn batch(record: u32, count: u32) -> Batch {
    let message = |number: u32| MessageRow {
        conversation: two(),
        msg_id: MsgId(record * 10_000 + number),
        sender: UserId(1),
        client_msg_id: ClientMsgId((u128::from(record) << 64 | u128::from(number)).to_be_bytes()),
        offset: Offset(record.into()),
        timestamp_ms: 1,
        kind: 1,
        body: Bytes::from(vec![7; 256]),
    };
    Batch {
        applied: Offset(record.into()),
        messages: (0..count).map(message).collect(),
        ..Batch::default()
    }
}

fn user(name: &str) -> NewUser {
    NewUser {
        id: None,
        name: name.to_owned(),
        nick: name.to_owned(),
        password_hash: String::new(),
        department: 1,
    }
}

fn assert_unavailable(result: &Result<(), StoreError>) {
    assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
}
