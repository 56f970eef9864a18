//! Imports: whole tables, written into the databases of a site that nobody uses yet.

use super::*;
use crate::table::{self, Field, MESSAGE, Place, Row, Sum, TABLES, Table};

const PARTITIONS: u32 = 8;

/// What is imported, and the names of two tries.
const EXPORT: &str = "0123456789abcdef0123456789abcdef";
const OTHER_EXPORT: &str = "fedcba9876543210fedcba9876543210";
const RUN: &str = "11111111111111111111111111111111";
const NEXT_RUN: &str = "22222222222222222222222222222222";

/// Rows that are put together; enough that none is put alone.
const BATCH_BYTES: usize = 1 << 20;

#[tokio::test]
async fn what_was_imported_is_what_a_store_has_from_then_on() {
    let fresh = site().await;
    let target = target(&fresh, EXPORT, RUN).await;
    assert_eq!(target.begin().await.unwrap(), Begun::After(0));

    // Nobody uses it meanwhile, not even a process that has opened it before.
    assert_refused(&fresh.options, &["not finished", "admin import"]).await;
    let claimed = fresh.claim("owner".to_owned(), LOG).await;
    assert!(matches!(claimed, Err(StoreError::Refused(_))), "{claimed:?}");
    assert_not_finished(&target, "run it again").await;

    put_all(&target).await;
    assert_sums(&target).await;
    target.finish().await.unwrap();
    target.check_finished().await.unwrap();
    assert_eq!(target.begin().await.unwrap(), Begun::Finished);

    let mut heads = Vec::new();
    for part in 0..PARTITIONS {
        let store = fresh.for_partition(part).unwrap();
        let progress = store.claim("owner".to_owned(), LOG).await.unwrap();
        assert_eq!((progress.epoch, progress.applied), (1, Offset(0)), "{part}");
        let groups = store.groups(0, 99).await.unwrap();
        heads.extend(groups.into_iter().map(|(row, members)| (row.head, members)));
    }
    heads.sort_unstable();
    assert_eq!(heads, (1..=20).map(|number| (MsgId(number), 1)).collect::<Vec<_>>());
    let alice = fresh.user_by_name("alice".to_owned()).await.unwrap().unwrap();
    assert_eq!((alice.id, alice.stamp, alice.push_shield), (UserId(1), 7, true));
    // Neither 21, which somebody chose, nor any that the counter had given out.
    assert_eq!(fresh.allocate_group(None).await.unwrap(), GroupId(22));
    assert_not_finished(&target, "has used it since").await;
}

#[tokio::test]
async fn rows_go_where_their_conversation_belongs_and_logins_to_their_own() {
    let (fresh, target) = begun().await;
    put_all(&target).await;
    let [first, second] = &fresh.options.shards[..] else { panic!() };
    let count = async |url: &str, what: &str| {
        let sql = format!("SELECT COUNT(*) FROM {}.{what}", database_in(url));
        blocking(move || MariaDb::shared().sql(&sql)).await.trim().parse::<u64>().unwrap()
    };
    for table in ["conversation", "message", "member", "mark"] {
        let (here, there) = (count(first, table).await, count(second, table).await);
        assert!(here > 0 && there > 0, "{table}: {here} and {there}");
        assert_eq!(here + there, rows_of(table).len() as u64, "{table}");
    }
    // A partition is in the shard that its number says.
    for (url, odd) in [(first, 0), (second, 1)] {
        let wrong = format!("conversation WHERE part % 2 <> {odd}");
        assert_eq!(count(url, &wrong).await, 0, "{odd}");
    }
    let people = fresh.options.users.as_deref().unwrap();
    assert_eq!(count(people, "user").await, 2);
    assert_eq!(count(people, "counter WHERE name = 'token' AND value = 0").await, 1);
}

#[tokio::test]
async fn what_is_not_where_it_belongs_is_found_when_it_is_read_back() {
    let (fresh, target) = begun().await;
    put_all(&target).await;
    let [first, second] = &fresh.options.shards[..] else { panic!() };
    let of_second = database_in(second);
    let stray = "msg_id = 77";
    for (table, wrong, back, said) in [
        (
            MESSAGE,
            format!(
                "INSERT INTO message SELECT conversation, 77, sender, client_msg_id, log_offset,
                 timestamp_ms, kind, body FROM {of_second}.message LIMIT 1"
            ),
            format!("DELETE FROM message WHERE {stray}"),
            "belongs to another database",
        ),
        (
            MESSAGE,
            "UPDATE message SET log_offset = 5 LIMIT 1".to_owned(),
            "UPDATE message SET log_offset = 0".to_owned(),
            "another log_offset",
        ),
        (
            "conversation",
            "UPDATE conversation SET last_offset = 5".to_owned(),
            "UPDATE conversation SET last_offset = 0".to_owned(),
            "another last_offset",
        ),
        (
            "conversation",
            "UPDATE conversation SET part = part + 2".to_owned(),
            "UPDATE conversation SET part = part - 2".to_owned(),
            "another part",
        ),
    ] {
        sql(first, &wrong).await;
        let error = sum(&target, table).await.unwrap_err();
        let StoreError::Refused(text) = error else { panic!("{error}") };
        assert!(text.contains(said), "{wrong}: {text}");
        sql(first, &back).await;
        sum(&target, table).await.unwrap();
    }
}

#[tokio::test]
async fn a_row_that_is_put_twice_is_there_once_as_it_was_put_last() {
    let (_fresh, target) = begun().await;
    put(&target, "user", vec![user_row(1, "before"), user_row(1, "between")]).await;
    put_all(&target).await;
    put_all(&target).await;
    assert_sums(&target).await;
}

#[tokio::test]
async fn a_batch_is_of_one_database_and_ends_when_it_has_so_many_bytes() {
    let (_fresh, target) = begun().await;
    let sizes = async |name: &str, bytes_max: usize| {
        let mut sizes = Vec::new();
        for batch in target.batches(table(name), rows_of(name), bytes_max) {
            sizes.push(target.put(batch).await.unwrap());
        }
        sizes
    };
    assert_eq!(sizes("user", BATCH_BYTES).await, [2]);
    assert_eq!(sizes("user", 1).await, [1, 1]);
    assert_eq!(sizes("member", 1).await, [1; 20]);
    let of_shards = sizes("member", BATCH_BYTES).await;
    assert_eq!((of_shards.len(), of_shards.iter().sum()), (2, 20));
    // Each row counts 64 bytes and its texts: a batch ends with the row that reaches the bound.
    let bytes = |name: &str| Field::Bytes(name.to_owned().into());
    let tokens = (0..10).map(|n| vec![Field::Number(n), Field::Number(1), bytes("token")]);
    let of = |bytes_max| target.batches(table("device_token"), tokens.clone(), bytes_max).count();
    assert_eq!((of(69), of(70), of(138), of(139)), (10, 5, 5, 4));
    // What is kept for inspection stays in the files, and a row that has no number belongs nowhere.
    assert_eq!(sizes("unreadable", 1).await, [0; 0]);
    let nowhere = vec![vec![bytes("7"), Field::Number(1)], vec![]];
    assert_eq!(target.batches(table("member"), nowhere, 1).count(), 0);
}

#[tokio::test]
async fn only_empty_databases_are_imported_into() {
    let fresh = site().await;
    let target = target(&fresh, EXPORT, RUN).await;
    let [first, second] = &fresh.options.shards[..] else { panic!() };
    let people = fresh.options.users.as_ref().unwrap();
    let hash = "REPEAT('x', 32)";
    for (url, table, values) in [
        (first, "progress", "0, 1, 'owner', REPEAT('x', 16), 0, 0, 0".to_owned()),
        (second, "mark", "1, 1, 0, 0, 0, 0, 0".to_owned()),
        (second, "member", "1, 1, 1, NULL".to_owned()),
        (second, "changed_message", "1, 1, 1".to_owned()),
        (people, "wanted_group", "5".to_owned()),
        (people, "ticket", format!("{hash}, 1, 1, 1")),
        (people, "revocation", "1, 1, NULL, 1".to_owned()),
        (people, "device_token", "1, 1, 'token'".to_owned()),
        (people, "api_key", format!("'hr', REPEAT('x', 8), {hash}, 1, 0, 1, 0, 0")),
        (people, "webhook", "1, 'hr', 'http://h/', 1, 1, 's', '', 0, 1, 1, 1, 0, 1, 0".to_owned()),
        (people, "webhook_failure", "1, 1, 'id', 'type', 1, 1, 500, 1".to_owned()),
    ] {
        sql(url, &format!("INSERT INTO `{table}` VALUES ({values})")).await;
        let error = target.begin().await.unwrap_err();
        assert_one_line(&error.to_string(), &["not empty", table, database_in(url)]);
        sql(url, &format!("DELETE FROM `{table}`")).await;
    }
    assert_eq!(target.begin().await.unwrap(), Begun::After(0));
}

#[tokio::test]
async fn another_export_waits_for_other_databases() {
    let fresh = site().await;
    let (one, other) =
        (target(&fresh, EXPORT, RUN).await, target(&fresh, OTHER_EXPORT, NEXT_RUN).await);
    assert_not_finished(&one, "was not imported into it").await;
    one.begin().await.unwrap();
    let error = other.begin().await.unwrap_err();
    assert_one_line(&error.to_string(), &["another export is not finished"]);
    one.finish().await.unwrap();
    let error = other.begin().await.unwrap_err();
    assert_one_line(&error.to_string(), &["not empty", "another export was imported"]);
    assert_not_finished(&other, "was not imported into it").await;
    one.check_finished().await.unwrap();
}

#[tokio::test]
async fn a_try_that_was_believed_to_be_dead_writes_nothing_any_more() {
    let fresh = site().await;
    let dead = target(&fresh, EXPORT, RUN).await;
    dead.begin().await.unwrap();
    put(&dead, "user", vec![user_row(1, "alice")]).await;
    dead.note(3).await.unwrap();
    let next = target(&fresh, EXPORT, NEXT_RUN).await;
    assert_eq!(next.begin().await.unwrap(), Begun::After(3));

    for finished in [false, true] {
        let batch = batch_of(&dead, "user", vec![user_row(2, "bob")]);
        assert_replaced(&dead.put(batch).await.map(drop));
        assert_replaced(&dead.note(9).await);
        if finished {
            // What it wanted is done.
            dead.finish().await.unwrap();
        } else {
            assert_replaced(&dead.finish().await);
            next.note(5).await.unwrap();
            assert_eq!(next.begin().await.unwrap(), Begun::After(5));
            next.finish().await.unwrap();
        }
    }
    let store = MySqlStore::open(fresh.options.clone()).await.unwrap();
    assert_eq!(store.users(vec![UserId(1), UserId(2)]).await.unwrap().len(), 1);
}

/// The end is told to one database after the other.
#[tokio::test]
async fn an_end_that_was_cut_short_is_no_end() {
    let (fresh, target) = begun().await;
    put_all(&target).await;
    target.note(4).await.unwrap();
    let people = fresh.options.users.as_ref().unwrap();
    let said = format!("UPDATE site SET name = 'imported', value = '{EXPORT}' WHERE name =");
    sql(people, &format!("{said} 'importing'")).await;

    assert_refused(&fresh.options, &["not finished"]).await;
    assert_not_finished(&target, "run it again").await;
    assert_eq!(target.begin().await.unwrap(), Begun::After(4));
    let still = format!("SELECT name FROM {}.site WHERE name LIKE 'import%'", database_in(people));
    assert_eq!(blocking(move || MariaDb::shared().sql(&still)).await, "importing\n");
    target.finish().await.unwrap();
    target.finish().await.unwrap();
    target.check_finished().await.unwrap();
    assert_sums(&target).await;
}

#[tokio::test]
async fn an_export_is_named_by_16_bytes() {
    let fresh = site().await;
    for wrong in ["", "0123", "0123456789abcdef0123456789abcdeg", &EXPORT.to_uppercase()] {
        let target = target(&fresh, wrong, RUN).await;
        let error = target.begin().await.unwrap_err();
        assert!(error.to_string().contains("not 16 bytes"), "{wrong}: {error}");
    }
    // Nothing is left of these.
    assert_eq!(target(&fresh, EXPORT, RUN).await.begin().await.unwrap(), Begun::After(0));
}

#[tokio::test]
async fn databases_without_tables_are_not_imported_into() {
    let (_owner, user) = blocking(|| database(MariaDb::shared())).await;
    let error = Target::open(&options(user), EXPORT, RUN).await.unwrap_err();
    assert_one_line(&error.to_string(), &["no tables"]);
}

/// Longer than a page, by either kind of key.
#[tokio::test]
async fn a_long_table_is_read_back_page_by_page_and_nothing_is_left_out() {
    const ROWS: u32 = 20_001;
    let (_fresh, target) = begun().await;
    let one = |number: u32| vec![Field::Number(number.into())];
    let two = |number: u32| {
        let token = Field::Bytes(number.to_string().into());
        vec![Field::Number(5), Field::Number(number.into()), token]
    };
    let of_one: Vec<Row> = (1..=ROWS).map(one).collect();
    let of_two: Vec<Row> = (1..=ROWS).map(two).collect();
    for (name, rows) in [("wanted_group", of_one), ("device_token", of_two)] {
        put(&target, name, rows.clone()).await;
        let mut pages = Vec::new();
        let mut each = |rows| {
            pages.push(rows);
            Ok(())
        };
        assert_eq!(target.sum(table(name), &mut each).await.unwrap(), sum_of(&rows), "{name}");
        assert_eq!(pages, [20_000, 1], "{name}");
    }
    // The caller ends it by an error when it is told of a page.
    let mut each = |_rows| Err(StoreError::Missing("time".to_owned()));
    let ended = target.sum(table("wanted_group"), &mut each).await;
    assert!(matches!(ended, Err(StoreError::Missing(_))), "{ended:?}");
}

async fn site() -> Fresh {
    fresh_of_two_shards(0, PARTITIONS).await
}

/// A site, and an import into it that has begun.
async fn begun() -> (Fresh, Target) {
    let fresh = site().await;
    let target = target(&fresh, EXPORT, RUN).await;
    target.begin().await.unwrap();
    (fresh, target)
}

async fn target(fresh: &Fresh, export: &str, run: &str) -> Target {
    Target::open(&fresh.options, export, run).await.unwrap()
}

fn table(name: &str) -> &'static Table {
    Table::called(name).unwrap()
}

/// Some rows of every table, as an export has them.
fn rows_of(name: &str) -> Vec<Row> {
    let number = |number: u32| Field::Number(number.into());
    let text = |text: &str| Field::Bytes(text.to_owned().into());
    let groups = || (1..=20).map(number);
    match name {
        "counter" => vec![vec![text("group"), number(20)]],
        "wanted_group" => vec![vec![number(21)]],
        "department" => {
            vec![vec![number(1), number(0), text("All"), number(0), number(0), number(9)]]
        }
        "user" => vec![user_row(1, "alice"), user_row(2, "bob")],
        "device_token" => vec![vec![number(1), number(17), text("phone")]],
        "api_key" => {
            let (id, hash) = (vec![8; 8], vec![32; 32]);
            let bytes = |bytes: Vec<u8>| Field::Bytes(bytes.into());
            let row = [vec![text("hr"), bytes(id), bytes(hash)], vec![number(1); 5]];
            vec![row.concat()]
        }
        "webhook" => {
            let [one, none] = [number(1), number(0)];
            let texts = [text("hr"), text("http://h/")];
            let signs = [one.clone(), one.clone(), text("secret"), text(""), none.clone()];
            let rest = [one.clone(), one.clone(), one.clone(), none.clone(), one.clone(), none];
            vec![[vec![one], texts.to_vec(), signs.to_vec(), rest.to_vec()].concat()]
        }
        "webhook_failure" => {
            let names = vec![text("id"), text("message.created")];
            vec![[vec![number(1); 2], names, vec![number(1); 4]].concat()]
        }
        "conversation" => (1..=20)
            .map(|group| {
                let [one, none] = [number(1), number(0)];
                let head = number(group);
                vec![
                    head.clone(),
                    Field::Null,
                    head,
                    one.clone(),
                    text("group"),
                    text(""),
                    one.clone(),
                    one.clone(),
                    one,
                    none,
                ]
            })
            .collect(),
        "changed_message" => groups().map(|group| vec![group, number(1), number(7)]).collect(),
        "member" => groups().map(|group| vec![group, number(1), number(1), Field::Null]).collect(),
        "mark" => {
            groups().map(|group| [vec![group, number(1)], vec![number(0); 5]].concat()).collect()
        }
        MESSAGE => groups()
            .map(|group| {
                let id = Field::Bytes(vec![7; 16].into());
                vec![group, number(1), number(1), id, number(5), number(1), text("hello")]
            })
            .collect(),
        _ => vec![vec![number(1), text("what")]],
    }
}

fn user_row(id: u32, name: &str) -> Row {
    let (number, text) =
        (|of: u32| Field::Number(of.into()), |of: &str| Field::Bytes(of.to_owned().into()));
    let texts = [text("hash"), text("nick")];
    let [hash, nick] = texts;
    vec![
        number(id),
        text(name),
        hash,
        nick,
        number(0),
        text(""),
        number(1),
        text(""),
        text(""),
        text(name),
        number(0),
        text(""),
        number(7),
        number(1),
    ]
}

fn batch_of(target: &Target, name: &str, rows: Vec<Row>) -> transfer::Batch {
    target.batches(table(name), rows, BATCH_BYTES).next().unwrap()
}

async fn put(target: &Target, name: &str, rows: Vec<Row>) {
    for batch in target.batches(table(name), rows, BATCH_BYTES) {
        target.put(batch).await.unwrap();
    }
}

async fn put_all(target: &Target) {
    for table in &TABLES {
        put(target, table.name, rows_of(table.name)).await;
    }
}

async fn sum(target: &Target, name: &str) -> Result<Sum, StoreError> {
    target.sum(table(name), &mut |_rows| Ok(())).await
}

fn sum_of(rows: &[Row]) -> Sum {
    let (mut sum, mut encoded) = (Sum::default(), Vec::new());
    for row in rows {
        encoded.clear();
        table::encode(row, &mut encoded);
        sum.add(&encoded);
    }
    sum
}

/// Checks that what is read back is what was put, of every table.
async fn assert_sums(target: &Target) {
    for Table { name, place, .. } in &TABLES {
        let expected = if *place == Place::Files { Vec::new() } else { rows_of(name) };
        assert_eq!(sum(target, name).await.unwrap(), sum_of(&expected), "{name}");
    }
}

async fn assert_not_finished(target: &Target, said: &str) {
    let error = target.check_finished().await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
    assert_one_line(&error.to_string(), &[said]);
}

fn assert_replaced(result: &Result<(), StoreError>) {
    let Err(StoreError::Refused(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("another import"), "{text}");
}
