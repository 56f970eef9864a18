//! Whole tables, read of a store that no process has.

use std::collections::BTreeSet;

use super::*;
use crate::table::{Field, Row, TABLES, Table};

#[tokio::test]
async fn every_column_of_a_table_that_is_moved_is_moved_unless_it_is_a_place_in_the_log() {
    let fresh = fresh().await;
    let path = fresh.path();
    let folder = fresh.close();
    let connection = Connection::open(&path).unwrap();
    for table in &TABLES {
        let query = format!("SELECT name FROM pragma_table_info('{}')", table.name);
        let there = texts(&connection, &query);
        let left: Vec<_> =
            there.iter().filter(|name| !table.columns.contains(&name.as_str())).collect();
        let expected: &[&str] = match table.name {
            "message" => &["log_offset"],
            "conversation" => &["last_offset"],
            _ => &[],
        };
        assert_eq!(left, expected, "{}", table.name);
        let query = format!("{query} WHERE pk > 0 ORDER BY pk");
        assert_eq!(texts(&connection, &query), table.key_columns(), "{}", table.name);
    }
    // What ends with the process that used it, or belongs to its log, stays where it is.
    let all = texts(&connection, "SELECT name FROM sqlite_schema WHERE type = 'table'");
    let all: BTreeSet<_> = all.iter().map(String::as_str).collect();
    let moved: BTreeSet<_> = TABLES.iter().map(|table| table.name).collect();
    let stay: Vec<_> = all.difference(&moved).copied().collect();
    assert_eq!(stay, ["consumer", "progress", "revocation", "ticket", "token_family"]);
    assert!(moved.is_subset(&all));
    drop(folder);
}

#[tokio::test]
async fn rows_come_in_the_order_of_their_keys_and_go_on_after_any_of_them() {
    let (tables, _folder) = filled().await;
    for (name, expected) in [
        ("conversation", vec![vec![3], vec![7], vec![two().number()]]),
        ("member", vec![vec![3, 9], vec![7, 1], vec![7, 2]]),
        ("user", vec![vec![1], vec![2]]),
        ("wanted_group", vec![vec![50], vec![4_000_000_000]]),
    ] {
        let table = Table::called(name).unwrap();
        let keys = |after| {
            let rows = rows(&tables, name, after);
            rows.into_iter().map(|row| row[..table.keys].to_vec()).collect::<Vec<_>>()
        };
        let expected: Vec<Row> = expected
            .into_iter()
            .map(|key: Vec<u64>| key.into_iter().map(Field::Number).collect())
            .collect();
        assert_eq!(keys(None), expected, "{name}");
        for (at, after) in expected.iter().enumerate() {
            assert_eq!(keys(Some(after)), expected[at + 1..], "{name} after {after:?}");
        }
        assert_eq!(tables.count(table).unwrap(), expected.len() as u64, "{name}");
    }
}

#[tokio::test]
async fn of_the_counters_only_that_of_groups_is_moved() {
    let (tables, _folder) = filled().await;
    let group = vec![Field::Bytes(Bytes::from_static(b"group")), Field::Number(2)];
    assert_eq!(rows(&tables, "counter", None), std::slice::from_ref(&group));
    assert_eq!(tables.count(Table::called("counter").unwrap()).unwrap(), 1);
    // A name is a text in the file too, and texts are before bytes there.
    let after = |name: &'static [u8]| [Field::Bytes(Bytes::from_static(name))];
    assert_eq!(rows(&tables, "counter", Some(&after(b"any"))), [group]);
    assert!(rows(&tables, "counter", Some(&after(b"group"))).is_empty());
}

#[tokio::test]
async fn a_row_has_numbers_without_a_sign_texts_bytes_and_nothing() {
    let (tables, _folder) = filled().await;
    let text = |text: &'static str| Field::Bytes(Bytes::from_static(text.as_bytes()));
    let of_group = vec![
        Field::Number(7),
        Field::Null,
        Field::Number(3),
        Field::Number(u64::MAX),
        text("seven"),
        text(""),
        Field::Number(1),
        Field::Number(2),
        Field::Number(4),
        Field::Number(1),
    ];
    assert_eq!(rows(&tables, "conversation", None)[1], of_group);
    let unreadable = vec![Field::Number(u64::MAX), Field::Bytes(Bytes::from_static(b"\0\xff"))];
    assert_eq!(rows(&tables, "unreadable", None), [unreadable]);
}

#[tokio::test]
async fn an_error_of_the_caller_ends_the_rows() {
    let (tables, _folder) = filled().await;
    let mut taken = 0;
    let mut each = |_row: Row| {
        taken += 1;
        if taken == 2 { Err(StoreError::Missing("room".to_owned())) } else { Ok(()) }
    };
    let done = tables.rows(Table::called("member").unwrap(), None, &mut each);
    assert!(matches!(done, Err(StoreError::Missing(_))), "{done:?}");
    assert_eq!(taken, 2);
}

#[tokio::test]
async fn conversations_say_how_many_messages_there_must_be() {
    let (tables, _folder) = filled().await;
    assert_eq!(tables.messages().unwrap(), 3 + 5);
    assert_eq!(tables.head(two().number()).unwrap(), Some(5));
    assert_eq!(tables.head(3).unwrap(), Some(0));
    assert_eq!(tables.head(8).unwrap(), None);

    let empty = fresh().await;
    let path = empty.path();
    let _folder = empty.close();
    assert_eq!(Tables::open(&path).unwrap().messages().unwrap(), 0);
}

#[tokio::test]
async fn only_a_store_of_the_current_version_is_read() {
    for version in [0, schema::VERSION - 1, schema::VERSION + 1] {
        let fresh = fresh().await;
        let path = fresh.path();
        let _folder = fresh.close();
        Connection::open(&path).unwrap().pragma_update(None, "user_version", version).unwrap();
        let error = Tables::open(&path).unwrap_err();
        let StoreError::Refused(text) = error else { panic!("{error}") };
        let found = format!("has version {version} instead of {}", schema::VERSION);
        assert!(text.contains(&found) && text.contains("store.db"), "{text}");
    }
}

/// A store with something in most of its tables, closed.
async fn filled() -> (Tables, TempDir) {
    let fresh = fresh().await;
    let store = &fresh.store;
    let epoch = store.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    let of_group = |number, head, deleted| ConversationRow {
        id: ConversationId::group(GroupId(number)).unwrap(),
        head: MsgId(head),
        last_offset: Offset(1),
        last_message_ms: u64::MAX,
        group: Some(GroupRow {
            name: "seven".to_owned(),
            avatar: String::new(),
            creator: UserId(1),
            kind: 2,
            version: 4,
            deleted,
        }),
    };
    let of_two =
        ConversationRow { id: two(), group: None, head: MsgId(5), ..of_group(1, 0, false) };
    let member = |group, user| MemberRow {
        group: GroupId(group),
        user: UserId(user),
        join: MsgId(1),
        leave: None,
    };
    let batch = Batch {
        conversations: vec![of_two, of_group(7, 3, true), of_group(3, 0, false)],
        members: vec![member(7, 2), member(7, 1), member(3, 9)],
        unreadable: vec![(Offset(u64::MAX), Bytes::from_static(b"\0\xff"))],
        ..batch(1, 2)
    };
    store.commit(epoch, Offset(0), batch).await.unwrap();
    store.add_users(vec![user("alice"), user("bob")], false).await.unwrap();
    for wanted in [None, None, Some(GroupId(50)), Some(GroupId(4_000_000_000))] {
        store.allocate_group(wanted).await.unwrap();
    }
    let path = fresh.path();
    let folder = fresh.close();
    (Tables::open(&path).unwrap(), folder)
}

/// All rows of a table after a key.
fn rows(tables: &Tables, name: &str, after: Option<&[Field]>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut each = |row| -> Result<(), StoreError> {
        rows.push(row);
        Ok(())
    };
    tables.rows(Table::called(name).unwrap(), after, &mut each).unwrap();
    rows
}
