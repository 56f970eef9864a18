//! The checks of every store, on one database and on a site of several; and those of a store on a
//! server: how it is opened, what a lost answer does to a commit, what an outage costs.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use backends::MariaDb;
use bytes::Bytes;

use super::*;
use crate::{MarkRow, ReplicaMetrics, Store, conformance};

mod commits;
mod connections;
mod damage;
mod imports;
mod migrations;
mod opening;
mod outages;
mod proxy;
mod reading;
mod replicas;
mod throughput;

conformance::suite!(fresh);

/// The second partition of a site of two shards and a database of logins.
mod split {
    crate::conformance::suite!(super::fresh_split);
}

/// An empty store on the server that all tests here share, used by a database user who may not define
/// data.
struct Fresh {
    store: MySqlStore,
    options: MySqlOptions,
}

impl Fresh {
    fn store(&self) -> &dyn Store {
        &self.store
    }
}

impl Deref for Fresh {
    type Target = MySqlStore;

    fn deref(&self) -> &MySqlStore {
        &self.store
    }
}

async fn fresh() -> Fresh {
    let (owner, user) = blocking(|| database(MariaDb::shared())).await;
    made(options(owner), options(user)).await
}

async fn fresh_split() -> Fresh {
    fresh_of_two_shards(1, 2).await
}

/// Partition `part` of so many, which are in two shards by turns.
async fn fresh_of_two_shards(part: u32, partitions: u32) -> Fresh {
    let of_three = blocking(|| [(); 3].map(|()| database(MariaDb::shared()))).await;
    let [first, second, people] = of_three;
    let split = |first, second, people| MySqlOptions {
        shards: vec![first, second],
        users: Some(people),
        part,
        partitions,
        ..options(String::new())
    };
    made(split(first.0, second.0, people.0), split(first.1, second.1, people.1)).await
}

async fn made(owner: MySqlOptions, user: MySqlOptions) -> Fresh {
    MySqlStore::migrate(&owner).await.unwrap();
    Fresh { store: MySqlStore::open(user.clone()).await.unwrap(), options: user }
}

/// A database: the URL of its owner, and that of a user who may only read and write rows.
fn database(server: &MariaDb) -> (String, String) {
    let owner = server.fresh_database();
    let user = server.run_user(&owner);
    (owner, user)
}

fn options(url: String) -> MySqlOptions {
    MySqlOptions { on_broken_fold: |_| {}, ..MySqlOptions::new(url) }
}

/// The options for the same shards as seen through another port.
fn through(options: &MySqlOptions, port: u16) -> MySqlOptions {
    let through = |url: &String| {
        let (before, rest) = url.rsplit_once(':').unwrap();
        let (_port, database) = rest.split_once('/').unwrap();
        format!("{before}:{port}/{database}")
    };
    MySqlOptions { shards: options.shards.iter().map(through).collect(), ..options.clone() }
}

/// A name of the database as `mariadb` takes it.
fn database_of(options: &MySqlOptions) -> String {
    database_in(&options.shards[0]).to_owned()
}

/// The database that a URL names.
fn database_in(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

const LOG: LogId = LogId([7; 16]);

fn two() -> ConversationId {
    ConversationId::single(UserId(1), UserId(2)).unwrap()
}

/// A batch of record `record`, the next `count` messages of one conversation, whose row says so.
fn batch(record: u32, count: u32) -> Batch {
    let first = (record - 1) * count + 1;
    let message = |number: u32| MessageRow {
        conversation: two(),
        msg_id: MsgId(number),
        sender: UserId(1),
        client_msg_id: ClientMsgId((u128::from(record) << 64 | u128::from(number)).to_be_bytes()),
        offset: Offset(record.into()),
        timestamp_ms: 1,
        kind: 1,
        body: Bytes::from(vec![7; 256]),
    };
    let head = MsgId(first + count - 1);
    let row = ConversationRow {
        id: two(),
        head,
        last_offset: Offset(record.into()),
        last_message_ms: 1,
        group: None,
    };
    Batch {
        applied: Offset(record.into()),
        applied_crc: record,
        messages: (first..=head.0).map(message).collect(),
        conversations: vec![row],
        ..Batch::default()
    }
}

/// Commits batches of ten messages, one record each, and says how far it got.
async fn commit_records(store: &MySqlStore, epoch: u64, records: std::ops::RangeInclusive<u32>) {
    for record in records {
        let after = Offset(u64::from(record) - 1);
        store.commit(epoch, after, batch(record, 10)).await.unwrap();
    }
}

/// Checks that every message up to the one of `records` is there, and no other.
async fn assert_dense(store: &MySqlStore, records: u32) {
    let stored = store.conversation(two(), usize::MAX).await.unwrap();
    let numbers: Vec<_> = stored.recent.iter().map(|message| message.msg_id.0).collect();
    assert_eq!(numbers, (1..=records * 10).collect::<Vec<_>>());
    assert_eq!(stored.row.unwrap().head, MsgId(records * 10));
    assert_eq!(store.flushed_progress().await.unwrap(), Offset(records.into()));
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

fn assert_unavailable<T: fmt::Debug>(result: &Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
}

fn assert_fenced(result: &Result<(), StoreError>) {
    assert!(matches!(result, Err(StoreError::Fenced(_))), "{result:?}");
}

async fn assert_refused(options: &MySqlOptions, said: &[&str]) {
    let error = MySqlStore::open(options.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
    assert_one_line(&error.to_string(), said);
}

fn assert_one_line(text: &str, said: &[&str]) {
    assert!(!text.contains('\n') && !text.contains("secret") && !text.contains("wr0ng"), "{text}");
    for word in said {
        assert!(text.contains(word), "{word}: {text}");
    }
}

/// Runs a statement in the database of a URL, as a database user who may do everything.
async fn sql(url: &str, statement: &str) {
    let database = database_in(url);
    let statement = format!("USE {database}; {statement}");
    blocking(move || MariaDb::shared().sql(&statement)).await;
}
