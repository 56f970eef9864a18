//! A look into a store that another process may have.

use super::*;
use crate::Claimed;

#[tokio::test]
async fn what_was_never_taken_has_no_owner() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.db");
    assert_eq!(SqliteStore::look(&path).unwrap(), None, "there is nothing");
    assert_eq!(names(folder.path()), [""; 0], "and nothing was made");
    fs::write(&path, "").unwrap();
    assert_eq!(SqliteStore::look(&path).unwrap(), None, "there is an empty file");

    let fresh = fresh().await;
    assert_eq!(SqliteStore::look(&fresh.path()).unwrap(), None, "nobody has taken it");
}

#[tokio::test]
async fn the_owner_of_a_store_in_use_is_told_with_what_it_has_just_written() {
    let fresh = fresh().await;
    let epoch = fresh.store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    let last = Batch { applied_crc: 7, fold_version: 3, ..batch(1, 1) };
    fresh.store.commit(epoch, Offset(0), last).await.unwrap();

    let progress = Progress { epoch, applied: Offset(1), applied_crc: 7, fold_version: 3 };
    let expected = Claimed { log: LOG, owner: "owner".to_owned(), progress };
    assert_eq!(SqliteStore::look(&fresh.path()).unwrap(), Some(expected.clone()));

    // Once it is closed there is no file beside it, and none is made.
    let path = fresh.path();
    let folder = fresh.close();
    assert_eq!(names(folder.path()), ["store.db"]);
    assert_eq!(SqliteStore::look(&path).unwrap(), Some(expected));
    assert_eq!(names(folder.path()), ["store.db"]);
}

#[tokio::test]
async fn what_only_the_next_start_can_read_is_not_read_without_it() {
    let fresh = fresh().await;
    fresh.store.claim("owner".to_owned(), LOG).await.unwrap();
    let left = TempDir::new().unwrap();
    for file in ["store.db", "store.db-wal"] {
        fs::copy(fresh.folder.path().join(file), left.path().join(file)).unwrap();
    }
    let path = left.path().join("store.db");
    let error = SqliteStore::look(&path).unwrap_err();
    let StoreError::Unavailable(text) = error else { panic!("{error}") };
    assert!(text.contains("store.db-wal is there without"), "{text}");
    assert_eq!(names(left.path()), ["store.db", "store.db-wal"]);

    // A write-ahead file without content lacks nothing.
    fs::write(left.path().join("store.db-wal"), "").unwrap();
    SqliteStore::look(&path).unwrap();
}

#[tokio::test]
async fn a_newer_store_is_not_looked_into() {
    let fresh = fresh().await;
    let path = fresh.path();
    let _folder = fresh.close();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = SqliteStore::look(&path).unwrap_err();
    let StoreError::Refused(text) = error else { panic!("{error}") };
    assert!(text.contains("version 99"), "{text}");
}

#[tokio::test]
async fn a_path_that_looks_like_a_uri_is_a_path() {
    let folder = TempDir::new().unwrap();
    for name in ["50%?mode=memory#.db", "file:store.db?mode=ro", "a b"] {
        let path = folder.path().join(name);
        let store = open(&path);
        store.claim("owner".to_owned(), LOG).await.unwrap();
        let found = SqliteStore::look(&path).unwrap();
        assert_eq!(found.map(|claimed| claimed.log), Some(LOG), "{name}");
        assert!(path.exists(), "{name}");
    }
}

/// The files in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
