//! Rows, tables and counters that are not as any version of ours has left them: what helps is not to try
//! again.

use super::*;

/// A store with something in most of its tables.
async fn filled() -> Fresh {
    let fresh = fresh().await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    let mark = MarkRow {
        conversation: two(),
        user: UserId(2),
        read: MsgId(1),
        own_up_to_read: 0,
        own_total: 0,
        removed_at: MsgId(0),
        shield: false,
    };
    let batch = Batch { marks: vec![mark], ..batch(1, 1) };
    fresh.commit(epoch, Offset(0), batch).await.unwrap();
    conformance::filling::fill_logins(&*fresh, epoch).await;
    fresh
}

/// Damages a store, and expects that a call which reads or writes what is damaged fails and says so, without
/// what the row holds.
async fn assert_damaged<T: fmt::Debug>(
    damage: &str,
    said: &str,
    call: impl AsyncFnOnce(&MySqlStore) -> Result<T, StoreError>,
) {
    let fresh = filled().await;
    sql(&fresh.options.shards[0], damage).await;
    let done = call(&fresh).await;
    let Err(StoreError::Refused(text)) = done else { panic!("{damage}: {done:?}") };
    assert!(text.contains(said), "{damage}: {text}");
    assert!(!text.contains("secret"), "{damage}: {text}");
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_damage() {
    let short = "ALTER TABLE message MODIFY client_msg_id VARBINARY(32);
                 UPDATE message SET client_msg_id = 'secret'";
    assert_damaged(short, "damaged: a client's message id", async |store| {
        store.messages(two(), MsgId(1), MsgId(9), 9).await
    })
    .await;
    let negative = "ALTER TABLE message MODIFY kind BIGINT; UPDATE message SET kind = -1";
    assert_damaged(negative, "damaged: column 6", async |store| {
        store.messages_at(vec![(two(), MsgId(1))]).await
    })
    .await;
    let nowhere = "UPDATE message SET conversation = (5 << 32) | 5";
    assert_damaged(nowhere, "damaged: conversation 21474836485", async |store| {
        store.find_message(UserId(1), batch(1, 1).messages[0].client_msg_id).await
    })
    .await;
    let nothing = "ALTER TABLE message MODIFY body LONGBLOB; UPDATE message SET body = NULL";
    assert_damaged(nothing, "damaged: column 9", async |store| store.conversation(two(), 9).await)
        .await;
}

#[tokio::test]
async fn a_conversation_that_cannot_be_read_is_damage() {
    let nowhere = "UPDATE conversation SET id = (2 << 32) | 1, higher_user = 1";
    assert_damaged(nowhere, "damaged: conversation 8589934593", async |store| {
        store.conversations_of(UserId(2)).await
    })
    .await;
    let no_text = "UPDATE conversation SET id = 7, group_name = X'FF', group_avatar = '',
                   group_creator = 1, group_kind = 1, group_version = 1";
    assert_damaged(no_text, "damaged: column 4", async |store| store.groups(0, 9).await).await;
    let shield = "ALTER TABLE mark MODIFY shield INT UNSIGNED; UPDATE mark SET shield = NULL";
    assert_damaged(shield, "damaged: column", async |store| store.conversation(two(), 9).await)
        .await;
}

#[tokio::test]
async fn a_login_that_cannot_be_read_is_damage() {
    assert_damaged("UPDATE user SET nick = X'FF'", "damaged: column 3", async |store| {
        store.user_by_name("u1".to_owned()).await
    })
    .await;
    let department = "UPDATE department SET name = X'C328'";
    assert_damaged(department, "damaged: column 2", async |store| {
        store.departments_since(Since::default(), 9).await
    })
    .await;
    let hash = "ALTER TABLE token_family MODIFY current VARBINARY(64);
                UPDATE token_family SET current = 'secret'";
    assert_damaged(hash, "damaged: a hash", async |store| store.family(FamilyId([1; 16])).await)
        .await;
    let log = "ALTER TABLE consumer MODIFY log_id VARBINARY(64);
               UPDATE consumer SET log_id = 'secret'";
    assert_damaged(log, "damaged: a consumer", async |store| store.consumers().await).await;
    let name = "UPDATE consumer SET name = X'FF'";
    assert_damaged(name, "damaged: a consumer", async |store| store.consumers().await).await;
}

/// They are written when the tables are made. Without them numbers would be given out again.
#[tokio::test]
async fn a_counter_that_is_lost_is_damage() {
    let lost = |name: &str| format!("DELETE FROM counter WHERE name = '{name}'");
    assert_damaged(&lost("group"), "lost its counter group", async |store| {
        store.allocate_group(None).await
    })
    .await;
    assert_damaged(&lost("user"), "lost its counter user", async |store| {
        store.add_users(vec![user("bob")], false).await
    })
    .await;
    assert_damaged(&lost("token"), "lost its counter token", async |store| {
        store.change_user(UserId(1), UserChange::Password("secret".to_owned())).await
    })
    .await;
    // None would be taken for "nothing has ended".
    assert_damaged(&lost("token"), "lost its counter token", async |store| {
        store.newest_revocation().await
    })
    .await;
    let log = "ALTER TABLE progress MODIFY log_id VARBINARY(64); UPDATE progress SET log_id = 'x'";
    assert_damaged(log, "lost its progress", async |store| {
        store.claim("next".to_owned(), LOG).await
    })
    .await;
}

#[tokio::test]
async fn a_table_or_a_column_that_is_gone_is_not_waited_for() {
    assert_damaged("DROP TABLE mark", "1146", async |store| store.conversation(two(), 9).await)
        .await;
    assert_damaged("ALTER TABLE message DROP COLUMN kind", "1054", async |store| {
        store.commit(1, Offset(1), batch(2, 1)).await
    })
    .await;
    let narrow = "ALTER TABLE user MODIFY nick VARBINARY(16)";
    assert_damaged(narrow, "1406", async |store| {
        store.add_users(vec![NewUser { nick: "secret".repeat(3), ..user("x") }], false).await
    })
    .await;
}

/// What is refused leaves nothing behind: not in the tables, and not on the connection.
#[tokio::test]
async fn a_change_that_is_refused_in_its_middle_is_no_change() {
    let fresh = filled().await;
    sql(&fresh.options.shards[0], "DELETE FROM counter WHERE name = 'token'").await;
    let change = UserChange::Status(3);
    let refused = fresh.change_user(UserId(1), change.clone()).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert_eq!(fresh.users(vec![UserId(1)]).await.unwrap()[0].status, 0);
    sql(&fresh.options.shards[0], "INSERT INTO counter VALUES ('token', 8)").await;
    fresh.change_user(UserId(1), change).await.unwrap();
    assert_eq!(fresh.newest_revocation().await.unwrap(), 9);
}

#[tokio::test]
async fn a_user_number_or_a_group_number_too_many_is_refused() {
    let fresh = fresh().await;
    let last = NewUser { id: Some(UserId(u32::MAX)), ..user("last") };
    fresh.add_users(vec![last], false).await.unwrap();
    let error = fresh.add_users(vec![user("more")], false).await.unwrap_err();
    let StoreError::Refused(text) = error else { panic!("{error}") };
    assert!(text.contains("no user number left"), "{text}");

    let near = format!("UPDATE counter SET value = {} WHERE name = 'group'", u32::MAX - 1);
    sql(&fresh.options.shards[0], &near).await;
    assert_eq!(fresh.allocate_group(None).await.unwrap(), GroupId(u32::MAX));
    let error = fresh.allocate_group(None).await.unwrap_err();
    let StoreError::Refused(text) = error else { panic!("{error}") };
    assert!(text.contains("no group number left"), "{text}");
}
