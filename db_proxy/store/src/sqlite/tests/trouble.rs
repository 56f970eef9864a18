//! Rows that no version has written, a full disk, locks of others, callers that stop waiting.

use std::sync::mpsc;

use futures_util::poll;
use parking_lot::Mutex;

use super::*;

/// Damages a store in one way, reads what is damaged, and expects that the reader hears that trying
/// again does not help.
async fn assert_damaged<T: std::fmt::Debug>(
    damage: &str,
    read: impl AsyncFnOnce(&SqliteStore) -> Result<T, StoreError>,
) {
    let fresh = fresh().await;
    let store = &fresh.store;
    let epoch = store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    let row = ConversationRow {
        id: two(),
        head: MsgId(1),
        last_offset: Offset(1),
        last_message_ms: 1,
        group: None,
    };
    let batch = Batch { conversations: vec![row], ..batch(0, 1) };
    store.commit(epoch, Offset(0), Batch { applied: Offset(1), ..batch }).await.unwrap();
    conformance::filling::fill_logins(store, epoch).await;

    Connection::open(fresh.path()).unwrap().execute_batch(damage).unwrap();
    let read = read(store).await;
    let Err(StoreError::Refused(text)) = read else { panic!("{damage}: {read:?}") };
    assert!(text.contains("damaged"), "{damage}: {text}");
}

#[tokio::test]
async fn a_conversation_that_cannot_be_read_is_damage() {
    let of_two = "UPDATE message SET conversation = (5 << 32) | 5";
    let wrong = ConversationId::from_number(5 << 32 | 6).unwrap();
    assert_damaged("UPDATE message SET client_msg_id = X'0102'", async |store| {
        store.messages(two(), MsgId(0), MsgId::MAX, 9).await
    })
    .await;
    assert_damaged("UPDATE message SET kind = -1", async |store| {
        store.messages_at(vec![(two(), MsgId(0))]).await
    })
    .await;
    assert_damaged(of_two, async |store| {
        store.find_message(UserId(1), batch(0, 1).messages[0].client_msg_id).await
    })
    .await;
    assert_damaged("UPDATE conversation SET id = 2 << 32 | 1, higher_user = 1", async |store| {
        store.conversations_of(UserId(2)).await
    })
    .await;
    assert_damaged("UPDATE conversation SET head = 1 << 32", async |store| {
        store.conversation(two(), 9).await
    })
    .await;
    let mark = "INSERT INTO mark VALUES (21474836486, 5, -2, 0, 0, 0, 0)";
    assert_damaged(mark, async |store| store.conversation(wrong, 9).await).await;
}

#[tokio::test]
async fn a_login_that_cannot_be_read_is_damage() {
    assert_damaged("UPDATE user SET status = -1", async |store| {
        store.user_by_name("u1".to_owned()).await
    })
    .await;
    assert_damaged("UPDATE user SET push_shield = 2, stamp = -1", async |store| {
        store.users_since(Since::default(), 9).await
    })
    .await;
    assert_damaged("UPDATE department SET parent = -1", async |store| {
        store.departments_since(Since::default(), 9).await
    })
    .await;
    assert_damaged("UPDATE token_family SET current = X'01'", async |store| {
        store.family(FamilyId([1; 16])).await
    })
    .await;
    assert_damaged("UPDATE consumer SET log_id = X'01'", async |store| store.consumers().await)
        .await;
    assert_damaged("UPDATE progress SET applied_crc = -1", async |store| {
        store.claim("next".to_owned(), LOG).await
    })
    .await;
}

/// It is written when the tables are made. Without it numbers would be given out again.
#[tokio::test]
async fn a_counter_that_is_lost_is_damage() {
    assert_damaged("DELETE FROM counter", async |store| store.allocate_group(None).await).await;
    assert_damaged("DELETE FROM counter", async |store| store.newest_revocation().await).await;
    assert_damaged("DELETE FROM counter", async |store| {
        store.revoke_tokens(UserId(1), None, 0).await
    })
    .await;
}

#[tokio::test]
async fn a_user_number_or_a_group_number_too_many_is_refused() {
    let fresh = fresh().await;
    let last = NewUser { id: Some(UserId(u32::MAX)), ..user("last") };
    fresh.store.add_users(vec![last], false).await.unwrap();
    let error = fresh.store.add_users(vec![user("more")], false).await.unwrap_err();
    let StoreError::Refused(text) = error else { panic!("{error}") };
    assert!(text.contains("no user number left"), "{text}");
    assert_eq!(fresh.store.user_by_name("more".to_owned()).await.unwrap(), None);

    let connection = Connection::open(fresh.path()).unwrap();
    let near = u32::MAX - 1;
    connection.execute("UPDATE counter SET value = ?1 WHERE name = 'group'", [near]).unwrap();
    assert_eq!(fresh.store.allocate_group(None).await.unwrap(), GroupId(u32::MAX));
    let error = fresh.store.allocate_group(None).await.unwrap_err();
    let StoreError::Refused(text) = error else { panic!("{error}") };
    assert!(text.contains("no group number left"), "{text}");
}

#[tokio::test]
async fn on_a_full_disk_no_login_is_written_by_halves() {
    let fresh = fresh().await;
    fresh.store.add_users(vec![user("alice")], false).await.unwrap();
    let allow = async |pages: i64| {
        let set = fresh.store.records.run(move |connection| {
            Ok(connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?)
        });
        set.await.unwrap();
    };
    allow(1).await;
    let many: Vec<_> = (0..2_000).map(|number| user(&format!("user{number}"))).collect();
    let made = fresh.store.add_users(many.clone(), false).await;
    assert_unavailable(&made.map(drop));
    let (users, _) = fresh.store.users_since(Since::default(), 9_999).await.unwrap();
    assert_eq!(users.len(), 1);

    allow(1_000_000).await;
    assert_eq!(fresh.store.add_users(many, false).await.unwrap().len(), 2_000);
}

#[tokio::test]
async fn while_another_program_writes_logins_are_read_and_not_written() {
    let fresh = fresh().await;
    fresh.store.add_users(vec![user("alice")], false).await.unwrap();
    let set = fresh.store.records.run(|connection| {
        Ok(connection.pragma_update_and_check(None, "busy_timeout", 0, |_| Ok(()))?)
    });
    set.await.unwrap();
    let other = Connection::open(fresh.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let store = &fresh.store;
    assert_unavailable(&store.claim("owner".to_owned(), LOG).await.map(drop));
    assert_unavailable(&store.change_user(UserId(1), UserChange::Status(3)).await);
    assert_unavailable(&store.allocate_group(None).await.map(drop));
    assert_unavailable(&store.take_ticket(SecretHash([1; 32])).await.map(drop));
    assert_unavailable(&store.forget_consumer("push".to_owned()).await.map(drop));
    assert_eq!(store.users(vec![UserId(1)]).await.unwrap()[0].status, 0);

    other.execute_batch("ROLLBACK").unwrap();
    store.change_user(UserId(1), UserChange::Status(3)).await.unwrap();
    assert_eq!(store.users(vec![UserId(1)]).await.unwrap()[0].status, 3);
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_any_longer_is_finished() {
    let fresh = fresh().await;
    let epoch = fresh.store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let mut commit = Box::pin(fresh.store.batches.run(move |connection| {
        may_go_on.recv().unwrap();
        fold::commit(connection, epoch, Offset(0), &batch(1, 10), |_| {})
    }));
    assert!(poll!(&mut commit).is_pending());
    drop(commit);
    go_on.send(()).unwrap();
    // It takes turns with that one.
    assert_eq!(fresh.store.flushed_progress().await.unwrap(), Offset(1));
    assert_eq!(fresh.store.conversation(two(), 99).await.unwrap().recent.len(), 10);
}

#[tokio::test]
async fn batches_and_logins_take_turns_and_reads_wait_for_neither() {
    let fresh = fresh().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let heard = Arc::clone(&order);
    let mut batch = Box::pin(fresh.store.batches.run(move |_connection| {
        begun.send(()).unwrap();
        may_go_on.recv().unwrap();
        heard.lock().push("batch");
        Ok(())
    }));
    assert!(poll!(&mut batch).is_pending());
    has_begun.await.unwrap();
    assert!(format!("{:?}", fresh.store.records).contains("free: 0"), "it is not its turn");
    assert!(format!("{:?}", fresh.store.reads).contains("free: 4"));
    let heard = Arc::clone(&order);
    let mut login = Box::pin(fresh.store.records.run(move |_connection| {
        heard.lock().push("login");
        Ok(())
    }));
    assert!(poll!(&mut login).is_pending());
    assert_eq!(fresh.store.users(vec![UserId(1)]).await.unwrap(), []);
    go_on.send(()).unwrap();
    let (batch, login) = tokio::join!(batch, login);
    batch.and(login).unwrap();
    assert_eq!(*order.lock(), ["batch", "login"]);
}

#[tokio::test]
async fn a_store_without_readers_has_one() {
    let folder = TempDir::new().unwrap();
    let options = SqliteOptions { readers: 0, ..SqliteOptions::default() };
    let store = SqliteStore::open(&folder.path().join("store.db"), options).unwrap();
    assert!(format!("{:?}", store.reads).contains("free: 1"));
    assert_eq!(store.users(vec![UserId(1)]).await.unwrap(), []);
}
