//! Tables of older versions, with rows in them.

use super::*;
use crate::MemberRow;

/// What takes the tables of a side back to an older version.
const FOLD: [(u32, &str); 3] = [
    (3, "DROP TABLE changed_message"),
    (2, "DROP TABLE changed_message; DROP TABLE consumer"),
    (
        1,
        "DROP TABLE changed_message; DROP TABLE consumer; \
         ALTER TABLE conversation DROP COLUMN group_deleted",
    ),
];
const PEOPLE: [(u32, &str); 3] = [
    (3, "DROP TABLE webhook; DROP TABLE webhook_failure"),
    (2, "DROP TABLE webhook; DROP TABLE webhook_failure; DROP TABLE api_key"),
    (
        1,
        "DROP TABLE webhook; DROP TABLE webhook_failure; DROP TABLE api_key;
         DROP TABLE token_family; DROP TABLE ticket; DROP TABLE revocation",
    ),
];

/// A store with rows in it, and the options of the database user who may migrate it.
async fn filled() -> (Fresh, MySqlOptions) {
    let (owner, user) = blocking(|| database(MariaDb::shared())).await;
    let fresh = made(options(owner.clone()), options(user)).await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    commit_records(&fresh, epoch, 1..=2).await;
    let group = ConversationRow {
        id: ConversationId::group(GroupId(1)).unwrap(),
        head: MsgId(0),
        last_offset: Offset(3),
        last_message_ms: 0,
        group: Some(crate::GroupRow {
            name: "seven".to_owned(),
            avatar: "a.png".to_owned(),
            creator: UserId(1),
            kind: 2,
            version: 4,
            deleted: false,
        }),
    };
    let member = MemberRow { group: GroupId(1), user: UserId(1), join: MsgId(1), leave: None };
    let made = Batch {
        applied: Offset(3),
        conversations: vec![group],
        members: vec![member],
        ..Batch::default()
    };
    fresh.commit(epoch, Offset(2), made).await.unwrap();
    fresh.add_users(vec![self::user("alice"), self::user("bob")], false).await.unwrap();
    assert_eq!(fresh.allocate_group(None).await.unwrap(), GroupId(2));
    fresh.allocate_group(Some(GroupId(3))).await.unwrap();
    (fresh, options(owner))
}

async fn set(url: &str, side: &str, version: u32, steps: u32) {
    let change = "UPDATE schema_version SET version";
    sql(url, &format!("{change} = {version}, steps = {steps} WHERE side = '{side}'")).await;
}

#[tokio::test]
async fn tables_of_every_older_version_keep_their_rows_and_take_what_is_new() {
    let fold = FOLD.map(|(version, back)| ("fold", version, back));
    let people = PEOPLE.map(|(version, back)| ("people", version, back));
    for (side, version, back) in fold.into_iter().chain(people) {
        let (fresh, owner) = filled().await;
        let url = &fresh.options.shards[0];
        sql(url, back).await;
        set(url, side, version, 0).await;
        assert_refused(&fresh.options, &["older version", "db_proxy migrate"]).await;
        MySqlStore::migrate(&owner).await.unwrap();

        let said = format!("{side} {version}");
        let store = MySqlStore::open(fresh.options.clone()).await.unwrap();
        assert_eq!(store.flushed_progress().await.unwrap(), Offset(3), "{said}");
        let numbers: Vec<_> = (1..=20).rev().collect();
        let page = store.messages(two(), MsgId(0), MsgId::MAX, 99).await.unwrap();
        assert_eq!(page.iter().map(|row| row.msg_id.0).collect::<Vec<_>>(), numbers, "{said}");
        let groups = store.groups(0, 9).await.unwrap();
        let [(row, 1)] = &groups[..] else { panic!("{said}: {groups:?}") };
        let group = row.group.as_ref().unwrap();
        assert_eq!((group.name.as_str(), group.version, group.deleted), ("seven", 4, false));
        assert_eq!(store.users(vec![UserId(2)]).await.unwrap()[0].name, "bob", "{said}");
        assert_eq!(store.allocate_group(None).await.unwrap(), GroupId(4), "{said}");

        let progress = store.claim("next".to_owned(), LOG).await.unwrap();
        let at = ConsumerCursor { log: LOG, offset: Offset(3), epoch: progress.epoch };
        let moved = store.move_consumer(progress.epoch, "push".to_owned(), None, at).await;
        assert!(moved.unwrap(), "{said}");
        store.revoke_tokens(UserId(1), None, 0).await.unwrap();
        assert_eq!(store.newest_revocation().await.unwrap(), 1, "{said}");
        assert_eq!(store.keys().await.unwrap(), [], "{said}");
        assert_eq!(store.webhooks().await.unwrap(), [], "{said}");
    }
}

#[tokio::test]
async fn a_migration_that_was_cut_short_goes_on_behind_the_steps_that_are_done() {
    let (fresh, owner) = filled().await;
    let url = &fresh.options.shards[0];
    // The column was added, which was not noted; of the tokens' tables the first is done.
    sql(url, FOLD[1].1).await;
    set(url, "fold", 1, 0).await;
    sql(url, "DROP TABLE ticket; DROP TABLE revocation").await;
    sql(url, "CREATE INDEX of_the_first_step ON token_family (client_type)").await;
    set(url, "people", 1, 1).await;
    MySqlStore::migrate(&owner).await.unwrap();
    MySqlStore::open(fresh.options.clone()).await.unwrap();
    let database = database_of(&fresh.options);
    let stand = format!("SELECT * FROM {database}.schema_version ORDER BY side");
    let stand = blocking(move || MariaDb::shared().sql(&stand)).await;
    assert_eq!(stand, "fold\t4\t0\npeople\t4\t0\n");

    // A step that is noted as done is not done again.
    sql(url, "DROP TABLE token_family").await;
    set(url, "people", 1, 1).await;
    MySqlStore::migrate(&owner).await.unwrap();
    let family = fresh.family(FamilyId([1; 16])).await;
    assert!(matches!(family, Err(StoreError::Refused(_))), "{family:?}");
}

#[tokio::test]
async fn a_step_that_cannot_be_done_ends_the_migration_before_it() {
    let (fresh, owner) = filled().await;
    let url = &fresh.options.shards[0];
    let database = database_of(&fresh.options);
    sql(url, FOLD[2].1).await;
    set(url, "fold", 1, 0).await;
    sql(url, "RENAME TABLE conversation TO elsewhere").await;
    let error = MySqlStore::migrate(&owner).await.unwrap_err();
    assert_one_line(&error.to_string(), &["1146"]);
    let stand = format!("SELECT version, steps FROM {database}.schema_version WHERE side = 'fold'");
    assert_eq!(blocking(move || MariaDb::shared().sql(&stand)).await, "1\t0\n");

    sql(url, "RENAME TABLE elsewhere TO conversation").await;
    MySqlStore::migrate(&owner).await.unwrap();
    assert_eq!(fresh.groups(0, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_newer_version_of_one_side_leaves_the_other_as_it_is() {
    let (fresh, owner) = filled().await;
    let url = &fresh.options.shards[0];
    sql(url, FOLD[1].1).await;
    set(url, "fold", 2, 0).await;
    set(url, "people", 5, 0).await;
    let error = MySqlStore::migrate(&owner).await.unwrap_err();
    assert_one_line(&error.to_string(), &["version 5", "knows up to 4"]);
    let database = database_of(&fresh.options);
    let there = format!("SHOW TABLES FROM {database} LIKE 'consumer'");
    assert_eq!(blocking(move || MariaDb::shared().sql(&there)).await, "", "nothing was made");
}

/// What a site agrees on is written down once, by the first migration.
#[tokio::test]
async fn a_site_whose_facts_are_lost_is_refused() {
    let (fresh, _owner) = filled().await;
    let url = &fresh.options.shards[0];
    for name in ["partitions", "shards", "shard"] {
        let keep = format!("UPDATE site SET name = 'kept' WHERE name = '{name}'");
        sql(url, &keep).await;
        assert_refused(&fresh.options, &[name, "made with nothing"]).await;
        sql(url, &format!("UPDATE site SET name = '{name}' WHERE name = 'kept'")).await;
    }
    sql(url, "DROP TABLE site").await;
    assert_refused(&fresh.options, &["made with nothing"]).await;
}
