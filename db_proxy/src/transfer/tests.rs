//! A site that real db_proxies have filled, moved to a real MariaDB, interrupted and spoilt on the way.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backends::MariaDb;
use fold::admission::{Change, Message};
use partition::test::{Proxy, Setup, group, message, single};
use proto::ids::{ConversationId, GroupId, MsgId, UserId};
use proto::log::HookVerdict;
use store::UserStore;
use store::keys::{ApiKeyId, ApiKeyRow, KeyStore};
use store::mysql::{MySqlOptions, MySqlStore};
use store::sqlite::Tables;
use store::table::{self, Row, TABLES};
use store::tokens::SecretHash;
use store::webhooks::{WebhookFailureRow, WebhookRow, WebhookStore};
use tempfile::TempDir;

use super::folder::Export;
use super::*;

mod export;
mod import;
mod million;
mod serving;

/// A group that members have come to and left.
const GROUP: u32 = 7;

/// What one message of the site is, to be looked for again.
struct Site {
    setup: Setup,
    known: Message,
}

/// A stopped site with something in every table.
async fn site() -> Site {
    let proxy = Proxy::start().await;
    let (talk, quiet) = (single(1, 2), single(3, 4));
    for sender in [1, 2, 1, 1, 2, 1] {
        proxy.send(message(talk, sender)).await;
    }
    let known = message(talk, 2);
    assert_eq!(proxy.send(known.clone()).await, 7);
    let hooks = vec![HookVerdict { hook: "words".to_owned(), outcome: 1 }];
    let body = b"what a hook made of it".as_slice().into();
    proxy.send(Message { hooks, body, ..message(quiet, 4) }).await;
    // A user number whose conversations SQLite keeps below zero.
    let high = partition::test::user(4_000_000_001, "high");
    let higher = partition::test::user(4_000_000_002, "höher 🦀");
    proxy.store.add_users(vec![high, higher], false).await.unwrap();
    let voice = Message { kind: 2, body: vec![0xff; 3_000].into(), ..message(talk, 1) };
    let far = single(4_000_000_001, 4_000_000_002);
    proxy.send(Message { conversation: far, ..message(far, 4_000_000_001) }).await;
    proxy.send(voice).await;

    let room = proxy.make_group(GROUP, &[1, 2, 3]).await;
    proxy.send(message(room, 1)).await;
    proxy.change_members(GROUP, &[5], &[2]).await;
    proxy.send(message(room, 5)).await;
    proxy.send(message(room, 1)).await;
    proxy.change_members(GROUP, &[2], &[3]).await;
    proxy.send(message(room, 2)).await;
    proxy.make_group(8, &[9]).await;
    mark(&proxy, talk, room, quiet).await;
    let store = &proxy.store;
    store.set_device_token(UserId(1), 0x11, Some("ios:token".to_owned())).await.unwrap();
    let key = ApiKeyRow {
        id: ApiKeyId([3; 8]),
        name: "hr".to_owned(),
        hash: SecretHash([4; 32]),
        scopes: 3,
        rate: 0,
        made_s: 1,
        expires_s: 0,
        used_s: 2,
    };
    assert!(store.add_key(key).await.unwrap());
    add_webhook(&**store).await;
    store.allocate_group(Some(GroupId(99))).await.unwrap();
    store.allocate_group(None).await.unwrap();
    Site { setup: proxy.stop().await, known }
}

async fn add_webhook(store: &impl WebhookStore) {
    let webhook = WebhookRow {
        number: 0,
        name: "crm".to_owned(),
        url: "https://example.com/".to_owned(),
        events: 7,
        state: WebhookRow::ON,
        secret: "whsec_new".to_owned(),
        old_secret: String::new(),
        old_until_s: 0,
        made_ms: 1,
        from_ms: 2,
        begun_ms: 3,
        run: 4,
        version: 5,
        failures: 0,
    };
    let number = store.add_webhook(webhook).await.unwrap().unwrap();
    let failure = WebhookFailureRow {
        number: 0,
        event_id: "msg_1-2_1".to_owned(),
        event_type: "message.created".to_owned(),
        happened_ms: 1,
        given_up_ms: 2,
        status: 0,
        tries: 10,
    };
    assert!(store.give_up(number, failure, 10).await.unwrap());
}

async fn mark(proxy: &Proxy, talk: ConversationId, room: ConversationId, quiet: ConversationId) {
    let (one, two, three) = (UserId(1), UserId(2), UserId(3));
    for change in [
        Change::Read { conversation: talk, user: two, upto: MsgId(4) },
        Change::Read { conversation: room, user: one, upto: MsgId(2) },
        Change::RemoveSession { conversation: quiet, user: three },
        Change::Shield { conversation: room, user: one, on: true },
    ] {
        proxy.change(change).await;
    }
}

fn on(_step: Step) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Ends it at the step of that number, counted from 1.
fn stop_at(number: u64) -> impl Fn(Step) -> ControlFlow<()> {
    let steps = AtomicU64::new(0);
    move |_step| {
        if steps.fetch_add(1, Ordering::Relaxed) + 1 == number {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

async fn exported(setup: &Setup) -> (TempDir, Moved) {
    let to = TempDir::new().unwrap();
    let (from, folder) = (setup.dir.path().to_owned(), to.path().join("export"));
    let moved = blocking(move || export(&from, &folder, &on)).await.unwrap();
    (to, moved)
}

fn folder(temp: &TempDir) -> PathBuf {
    temp.path().join("export")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Empty databases for a site of `partitions`, without tables: those that its owner sees.
async fn databases(shards: usize, logins: bool, partitions: u32) -> MySqlOptions {
    let urls = move || {
        let server = MariaDb::shared();
        let shards: Vec<String> = (0..shards).map(|_| server.fresh_database()).collect();
        (shards, logins.then(|| server.fresh_database()))
    };
    let (shards, users) = blocking(urls).await;
    MySqlOptions { shards, users, partitions, ..MySqlOptions::new(String::new()) }
}

/// The same, as a database user that may only read and write rows.
async fn to_serve(options: &MySqlOptions) -> MySqlOptions {
    let options = options.clone();
    let run = |url: &String| MariaDb::shared().run_user(url);
    let served = move || MySqlOptions {
        shards: options.shards.iter().map(run).collect(),
        users: options.users.as_ref().map(run),
        ..options.clone()
    };
    blocking(served).await
}

/// A row of the whole table as the command-line client prints it.
async fn sql(options: &MySqlOptions, statement: &str) -> String {
    let database = options.shards[0].rsplit('/').next().unwrap().to_owned();
    let statement = format!("USE {database}; {statement}");
    blocking(move || MariaDb::shared().sql(&statement)).await
}

fn refused<T: std::fmt::Debug>(result: Result<T, MoveError>, words: &[&str]) {
    let error = result.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, MoveError::Refused(_)), "{error:?}");
    assert!(!text.contains('\n'), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` in: {text}");
    }
}
