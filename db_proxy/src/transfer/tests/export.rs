//! From the store to files.

use std::os::unix::fs::PermissionsExt;

use store::table::{Field, Sum};

use super::*;
use crate::transfer::folder::{Begun, Making, Source};

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_the_store_is_in_the_files() {
    let site = site().await;
    let (temp, moved) = exported(&site.setup).await;
    assert_eq!((moved.of("message"), moved.of("user"), moved.of("member")), (14, 22, 5));
    assert!(!moved.already);
    for table in &TABLES {
        let rows = moved.of(table.name);
        assert!(rows > 0 || table.name == "unreadable", "{}", table.name);
    }
    let export = Export::open(&folder(&temp)).unwrap();
    for table in &TABLES {
        assert_eq!(in_files(&export, table), in_store(&site.setup, table), "{}", table.name);
    }
    for entry in fs::read_dir(folder(&temp)).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_whole_is_left_as_it_is() {
    let site = site().await;
    let (temp, moved) = exported(&site.setup).await;
    let manifest = folder(&temp).join("manifest.jsonl");
    let before = fs::read(&manifest).unwrap();
    let (from, to) = (site.setup.dir.path().to_owned(), folder(&temp));
    let again = blocking(move || export(&from, &to, &on)).await.unwrap();
    assert_eq!(again, Moved { already: true, ..moved });
    assert_eq!(fs::read(&manifest).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_stopped_anywhere_goes_on() {
    let site = site().await;
    let (whole, moved) = exported(&site.setup).await;
    let temp = TempDir::new().unwrap();
    let from = site.setup.dir.path();
    for step in 1.. {
        let stopped = export(from, &folder(&temp), &stop_at(step));
        if let Ok(done) = stopped {
            assert_eq!(done.tables, moved.tables);
            assert!(step > 5, "{step}");
            break;
        }
        assert!(matches!(stopped, Err(MoveError::Stopped)), "{stopped:?}");
        refused(
            Export::open(&folder(&temp)),
            &["not finished", "run `talkhub admin export` again"],
        );
        // As a kill leaves it in the middle of a line, or of a file.
        let manifest = folder(&temp).join("manifest.jsonl");
        let mut text = fs::read(&manifest).unwrap();
        text.extend_from_slice(b"{\"rows\":{\"file\":\"us");
        fs::write(&manifest, text).unwrap();
        fs::write(folder(&temp).join("message-000001.rows.new"), "TalkHub ro").unwrap();
    }
    let (one, other) = (folder(&temp), folder(&whole));
    let (one, other) = (Export::open(&one).unwrap(), Export::open(&other).unwrap());
    assert_eq!(one.parts(), other.parts());
}

#[test]
fn a_table_of_several_files_goes_on_after_the_last_one() {
    let temp = TempDir::new().unwrap();
    let source = Source { log: "00".into(), epoch: 1, applied: 1, applied_crc: 1, fold_version: 1 };
    let users = table::Table::called("user").unwrap();
    for number in 1..=3 {
        let Begun::Making(mut making) = Making::begin(temp.path(), &source, "ab").unwrap() else {
            panic!("it is not finished")
        };
        assert_eq!(making.parts().len(), number - 1);
        let last = making.parts().last().map(|part| part.last(users).unwrap());
        let before = (number > 1).then(|| vec![Field::Number(number as u64 - 1)]);
        assert_eq!(last, before);
        let mut key = Vec::new();
        table::encode(&[Field::Number(number as u64)], &mut key);
        making.put(users, b"rows", Sum { rows: 1, sum: number as u128 }, &key).unwrap();
    }
    let Begun::Making(making) = Making::begin(temp.path(), &source, "ab").unwrap() else {
        panic!("it is not finished")
    };
    let export = making.end().unwrap();
    let sum = export.sums().iter().find(|(table, _)| table.name == "user").unwrap().1;
    assert_eq!(sum, Sum { rows: 3, sum: 6 });
    drop(export);

    let other = Source { epoch: 2, ..source };
    refused(Making::begin(temp.path(), &other, "ab"), &["another site", "started again"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_byte_is_found_wherever_it_is() {
    let site = site().await;
    let (temp, _moved) = exported(&site.setup).await;
    let whole = Export::open(&folder(&temp)).unwrap();
    let part = whole.parts().iter().find(|part| part.table == "message").unwrap().clone();
    drop(whole);
    let path = folder(&temp).join(&part.file);
    let content = fs::read(&path).unwrap();
    for at in [0, 20, content.len() / 2, content.len() - 1] {
        let mut damaged = content.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        refused(Export::rows(&folder(&temp), &part), &[&part.file, "damaged", "SHA-256"]);
    }
    fs::write(&path, &content[1..]).unwrap();
    refused(Export::rows(&folder(&temp), &part), &[&part.file, "damaged", "bytes instead of"]);
    fs::remove_file(&path).unwrap();
    refused(Export::rows(&folder(&temp), &part), &[&part.file, "missing"]);

    let manifest = folder(&temp).join("manifest.jsonl");
    let content = fs::read(&manifest).unwrap();
    for at in 0..content.len() {
        let mut damaged = content.clone();
        damaged[at] ^= 1;
        fs::write(&manifest, damaged).unwrap();
        let error = Export::open(&folder(&temp)).unwrap_err().to_string();
        assert!(error.contains("manifest.jsonl") || error.contains("not finished"), "{error}");
    }
    let newer = String::from_utf8(content).unwrap().replace("\"format\":2", "\"format\":3");
    fs::write(&manifest, newer).unwrap();
    refused(Export::open(&folder(&temp)), &["format 3", "use the version of talkhub"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_longer_than_any_that_is_written_is_not_read() {
    let site = site().await;
    let (temp, _moved) = exported(&site.setup).await;
    let whole = Export::open(&folder(&temp)).unwrap();
    let mut part = whole.parts()[0].clone();
    drop(whole);
    part.bytes = (64 << 20) + 1;
    // A hole of that length takes no room. Read, it would be refused for its SHA-256.
    let file = fs::File::options().write(true).open(folder(&temp).join(&part.file)).unwrap();
    file.set_len(part.bytes).unwrap();
    refused(Export::rows(&folder(&temp), &part), &[&part.file, "damaged", "bytes instead of"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_stopped_site_is_not_exported() {
    let temp = TempDir::new().unwrap();
    let to = temp.path().join("to");
    refused(export(temp.path(), &to, &on), &["no embedded site", "data_dir"]);

    let proxy = Proxy::start().await;
    proxy.send(message(single(1, 2), 1)).await;
    let from = proxy.setup.dir.path().to_owned();
    refused(export(&from, &to, &on), &["a db_proxy runs", "stop the site"]);
    proxy.stored().await;
    let mut setup = proxy.stop().await;

    // One that has more in its log than in its store.
    setup.store_writer = false;
    let proxy = setup.start().await;
    proxy.send(message(single(1, 2), 1)).await;
    let setup = proxy.kill().await;
    refused(export(&from, &to, &on), &["records that the store lacks", "start db_proxy once"]);
    let setup = Setup { store_writer: true, ..setup }.start().await.stop().await;
    export(&from, &to, &on).unwrap();

    // One of another store.
    let other = Proxy::start().await.stop().await;
    fs::copy(other.store_path(), setup.store_path()).unwrap();
    refused(export(&from, &temp.path().join("other"), &on), &["filled from another log"]);
    assert!(!temp.path().join("other").exists(), "nothing is made for nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_one_exports_alone() {
    let site = site().await;
    let (temp, _moved) = exported(&site.setup).await;
    let from = site.setup.dir.path();
    let reading = Export::open(&folder(&temp)).unwrap();
    refused(export(from, &folder(&temp), &on), &["in use"]);
    drop(reading);

    let again = site.setup.start().await.stop().await;
    refused(export(again.dir.path(), &folder(&temp), &on), &["another folder"]);
    let full = TempDir::new().unwrap();
    fs::write(full.path().join("photo.jpg"), "").unwrap();
    refused(export(again.dir.path(), full.path(), &on), &["not empty", "another folder"]);
    refused(Export::open(full.path()), &["no export", "talkhub admin export"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lacks_a_message_is_not_exported() {
    let site = site().await;
    let store = rusqlite::Connection::open(site.setup.store_path()).unwrap();
    store.execute("DELETE FROM message WHERE conversation = ?1 AND msg_id = 3", [7]).unwrap();
    drop(store);
    let temp = TempDir::new().unwrap();
    let done = export(site.setup.dir.path(), &folder(&temp), &on);
    refused(done, &["damaged", "conversation 7 lacks message 3"]);
}

fn in_store(setup: &Setup, table: &table::Table) -> Vec<Row> {
    let mut rows = Vec::new();
    let tables = Tables::open(&setup.store_path()).unwrap();
    tables
        .rows(table, None, &mut |row| {
            rows.push(row);
            Ok::<_, MoveError>(())
        })
        .unwrap();
    rows
}

fn in_files(export: &Export, table: &table::Table) -> Vec<Row> {
    let mut rows = Vec::new();
    for part in export.parts().iter().filter(|part| part.table == table.name) {
        let mut written = Export::rows(export.dir(), part).unwrap();
        while !written.is_empty() {
            rows.push(table::decode(&mut written, table.columns.len()).unwrap());
        }
    }
    rows
}
