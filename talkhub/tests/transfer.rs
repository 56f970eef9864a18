//! `talkhub admin export` and `import` as a person uses them, with a real MariaDB.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::path::Path;
use std::process::Output;

use backends::MariaDb;
use bytes::Bytes;
use proto::ids::{ClientMsgId, ConversationId, MsgId, Offset, UserId};
use record_log::embedded::{EmbeddedLog, Options};
use record_log::{Log, LogReader};
use store::mysql::{MySqlOptions, MySqlStore};
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{Batch, ConversationRow, ConversationStore, MessageRow, NewUser, UserStore};

const MESSAGES: u32 = 20;

fn admin(arguments: &[&str]) -> Output {
    let mut command = backends::program(env!("CARGO_BIN_EXE_talkhub"));
    command.arg("admin").args(arguments).output().unwrap()
}

fn done(arguments: &[&str]) -> String {
    let output = admin(arguments);
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{error}");
    out
}

/// Checks that it is refused with one line that has these words.
fn refused(arguments: &[&str], words: &[&str]) {
    let output = admin(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{arguments:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    for word in words {
        assert!(error.contains(word), "`{word}` in {error}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn two() -> ConversationId {
    ConversationId::single(UserId(1), UserId(2)).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// What a db_proxy that was stopped leaves.
fn make_site(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let mut log = EmbeddedLog::open(Options::new(dir.join("log")), Offset(0)).unwrap().log;
    let record = log.append(&[Bytes::from_static(b"")], 1).unwrap().remove(0).record;
    let store = SqliteStore::open(&dir.join("store.sqlite"), SqliteOptions::default()).unwrap();
    let user = |id| NewUser {
        id: Some(UserId(id)),
        name: format!("user{id}"),
        nick: format!("User {id}"),
        password_hash: "hash".to_owned(),
        department: 1,
    };
    let message = |number| MessageRow {
        conversation: two(),
        msg_id: MsgId(number),
        sender: UserId(1),
        client_msg_id: ClientMsgId(u128::from(number).to_be_bytes()),
        offset: record.offset,
        timestamp_ms: 1,
        kind: 1,
        body: Bytes::from_static(b"nobody else's business"),
    };
    let row = ConversationRow {
        id: two(),
        head: MsgId(MESSAGES),
        last_offset: record.offset,
        last_message_ms: 1,
        group: None,
    };
    let batch = Batch {
        applied: record.offset,
        applied_crc: record.crc,
        fold_version: 1,
        messages: (1..=MESSAGES).map(message).collect(),
        conversations: vec![row],
        ..Batch::default()
    };
    runtime().block_on(async {
        store.claim("owner".to_owned(), log.id()).await.unwrap();
        store.add_users(vec![user(1), user(2)], false).await.unwrap();
        store.commit(1, Offset(0), batch).await.unwrap();
    });
}

#[test]
fn a_site_is_exported_imported_and_compared_by_commands() {
    let temp = tempfile::tempdir().unwrap();
    let (site, folder) = (temp.path().join("data").join("db"), temp.path().join("export"));
    make_site(&site);
    let (site, folder) = (site.to_str().unwrap(), folder.to_str().unwrap());
    let url = MariaDb::shared().fresh_database();
    let import = ["import", "--from", folder, "--mysql", &url, "--partitions", "2"];
    let with = |more| [&import[..], &[more]].concat();

    refused(
        &["export", "--data-dir", "/nowhere", "--to", folder],
        &["no embedded site", "data_dir"],
    );
    refused(&import, &["no export", "talkhub admin export"]);
    let exported = done(&["export", "--data-dir", site, "--to", folder]);
    assert!(exported.starts_with("exported: 25 rows, 20 of them messages"), "{exported}");
    // By the folder of `talkhub up`, too.
    let data = temp.path().join("data");
    let again = done(&["--data", data.to_str().unwrap(), "export", "--to", folder]);
    assert!(again.starts_with("was exported already: 25 rows"), "{again}");

    refused(&import, &["no tables", "db_proxy migrate"]);
    let wrong = url.replace("secret", "wrong");
    let import_wrong = ["import", "--from", folder, "--mysql", &wrong, "--partitions", "2"];
    refused(&import_wrong, &["correct the URL"]);
    let imported = done(&with("--migrate"));
    assert!(imported.starts_with("imported, read back, and the same: 25 rows"), "{imported}");
    assert!(done(&with("--verify-only")).starts_with("the same as was exported"));
    assert!(done(&import).starts_with("was imported already"));

    let part = (0..2).find(|part| proto::cluster::partition_of(two().number(), 2) == *part);
    let options = MySqlOptions { part: part.unwrap(), partitions: 2, ..MySqlOptions::new(url) };
    runtime().block_on(async {
        let store = MySqlStore::open(options).await.unwrap();
        let stored = store.conversation(two(), 100).await.unwrap();
        assert_eq!(stored.row.unwrap().head, MsgId(MESSAGES));
        assert_eq!(stored.recent.len(), MESSAGES as usize);
    });
}
