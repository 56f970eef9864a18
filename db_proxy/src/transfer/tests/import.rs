//! From files to databases on a server.

use store::sqlite::{SqliteOptions, SqliteStore};
use store::{ConversationStore, Since, StoreError};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_moved_and_is_the_same() {
    let site = site().await;
    let (temp, moved) = exported(&site.setup).await;
    let options = databases(1, false, 1).await;
    let done = import(&folder(&temp), &options, true, &on).await.unwrap();
    assert_eq!(done, moved);
    assert_eq!(verify(&folder(&temp), &options, &on).await.unwrap().rows(), moved.rows());
    assert!(import(&folder(&temp), &options, false, &on).await.unwrap().already);
    same_people(&site, &options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_spread_over_its_databases() {
    let site = site().await;
    let (temp, moved) = exported(&site.setup).await;
    let options = databases(2, true, 5).await;
    MySqlStore::migrate(&options).await.unwrap();
    let served = to_serve(&options).await;
    // A database user that may only read and write rows can do it, too.
    import(&folder(&temp), &served, false, &on).await.unwrap();
    verify(&folder(&temp), &served, &on).await.unwrap();
    same_people(&site, &options).await;
    let mut messages = 0;
    for part in 0..5 {
        let store = MySqlStore::open(MySqlOptions { part, ..served.clone() }).await.unwrap();
        for id in [single(1, 2), single(3, 4), group(GROUP)] {
            if proto::cluster::partition_of(id.number(), 5) == part {
                messages += store.conversation(id, 100).await.unwrap().recent.len();
            }
        }
    }
    assert_eq!(messages as u64, moved.of("message") - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_stopped_anywhere_goes_on_and_its_site_opens_only_after_it() {
    let site = site().await;
    let (temp, moved) = exported(&site.setup).await;
    let options = databases(2, true, 3).await;
    MySqlStore::migrate(&options).await.unwrap();
    for step in 1.. {
        match import(&folder(&temp), &options, false, &stop_at(step)).await {
            Ok(done) => {
                assert_eq!(done, moved);
                assert!(step > 9, "{step}");
                break;
            }
            Err(error) => assert!(matches!(error, MoveError::Stopped), "{error}"),
        }
        let error = MySqlStore::open(options.clone()).await;
        let StoreError::Refused(why) = error.unwrap_err() else { panic!("it is not refused") };
        assert!(why.contains("not finished: run `talkhub admin import` again"), "{why}");
        let unfinished = verify(&folder(&temp), &options, &on).await;
        refused(unfinished, &["not finished: run it again"]);
    }
    MySqlStore::open(options.clone()).await.unwrap();
    verify(&folder(&temp), &options, &on).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_call_was_dropped_goes_on() {
    let site = site().await;
    let (temp, moved) = exported(&site.setup).await;
    let options = databases(1, false, 1).await;
    MySqlStore::migrate(&options).await.unwrap();
    let (began, first) = (tokio::sync::Notify::new(), AtomicU64::new(0));
    let watch = |step: Step| {
        if step.phase == Phase::Importing && step.table == "user" {
            first.fetch_add(1, Ordering::Relaxed);
            began.notify_one();
        }
        ControlFlow::Continue(())
    };
    let from = folder(&temp);
    tokio::select! {
        biased;
        () = began.notified() => {}
        _done = import(&from, &options, false, &watch) => panic!("it was seen before"),
    }
    assert_eq!(first.load(Ordering::Relaxed), 1);
    assert_eq!(import(&folder(&temp), &options, false, &on).await.unwrap(), moved);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_db_proxy_takes_a_partition_of_an_unfinished_site() {
    let site = site().await;
    let (temp, _moved) = exported(&site.setup).await;
    let options = databases(1, false, 2).await;
    MySqlStore::migrate(&options).await.unwrap();
    // Opened before the import has begun.
    let store = MySqlStore::open(options.clone()).await.unwrap();
    let stop = |_step| ControlFlow::Break(());
    import(&folder(&temp), &options, false, &stop).await.unwrap_err();
    let claimed = store.claim("early".to_owned(), record_log::LogId([1; 16])).await;
    assert!(matches!(claimed, Err(StoreError::Refused(_))), "{claimed:?}");
    import(&folder(&temp), &options, false, &on).await.unwrap();
    assert_eq!(store.claim("now".to_owned(), record_log::LogId([1; 16])).await.unwrap().epoch, 1);
    let used = verify(&folder(&temp), &options, &on).await;
    refused(used, &["a db_proxy has used it since"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_empty_databases_are_imported_into() {
    let site = site().await;
    let (temp, _moved) = exported(&site.setup).await;
    let options = databases(1, false, 1).await;
    refused(import(&folder(&temp), &options, false, &on).await, &["no tables", "migrate"]);
    refused(verify(&folder(&temp), &options, &on).await, &["no tables"]);
    MySqlStore::migrate(&options).await.unwrap();
    refused(verify(&folder(&temp), &options, &on).await, &["was not imported into it"]);

    let other = MySqlOptions { partitions: 2, ..options.clone() };
    refused(import(&folder(&temp), &other, true, &on).await, &["partitions", "made with 1"]);

    sql(&options, "INSERT INTO wanted_group VALUES (1)").await;
    refused(import(&folder(&temp), &options, false, &on).await, &["not empty", "wanted_group"]);
    sql(&options, "DELETE FROM wanted_group").await;
    let store = MySqlStore::open(options.clone()).await.unwrap();
    store.claim("owner".to_owned(), record_log::LogId([1; 16])).await.unwrap();
    refused(import(&folder(&temp), &options, false, &on).await, &["not empty", "progress"]);
    sql(&options, "DELETE FROM progress").await;

    // Nothing of that was written down.
    let stop = |_step| ControlFlow::Break(());
    import(&folder(&temp), &options, false, &stop).await.unwrap_err();
    let (another, _moved) = exported(&site.setup).await;
    refused(
        import(&folder(&another), &options, false, &on).await,
        &["an import of another export is not finished"],
    );
    import(&folder(&temp), &options, false, &on).await.unwrap();
    refused(
        import(&folder(&another), &options, false, &on).await,
        &["not empty", "another export was imported"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_url_is_said_in_one_line() {
    let site = site().await;
    let (temp, _moved) = exported(&site.setup).await;
    let options = databases(1, false, 1).await;
    for (url, word) in [
        ("http://h/x".to_owned(), "a MySQL URL is wrong"),
        (options.shards[0].replace("secret", "wrong"), "correct the URL"),
    ] {
        let wrong = MySqlOptions { shards: vec![url], ..options.clone() };
        refused(import(&folder(&temp), &wrong, true, &on).await, &[word]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_same_in_the_databases_is_found() {
    let site = site().await;
    let (temp, _moved) = exported(&site.setup).await;
    let options = databases(1, false, 1).await;
    import(&folder(&temp), &options, true, &on).await.unwrap();
    for (spoil, mend, word) in [
        (
            "UPDATE message SET kind = 18 WHERE kind = 2",
            "UPDATE message SET kind = 2 WHERE kind = 18",
            "message have another checksum",
        ),
        (
            "INSERT INTO mark VALUES (5,5,5,5,5,5,0)",
            "DELETE FROM mark WHERE conversation = 5",
            "mark has",
        ),
        (
            "UPDATE counter SET value = 5 WHERE name = 'group'",
            "UPDATE counter SET value = 1 WHERE name = 'group'",
            "counter have another checksum",
        ),
        (
            "UPDATE user SET nick = 'x' WHERE id = 3",
            "UPDATE user SET nick = 'u3' WHERE id = 3",
            "user have another checksum",
        ),
    ] {
        sql(&options, spoil).await;
        let error = verify(&folder(&temp), &options, &on).await.unwrap_err();
        assert!(matches!(error, MoveError::Differs(_)), "{error}");
        assert!(error.to_string().contains(word), "{error}");
        sql(&options, mend).await;
        verify(&folder(&temp), &options, &on).await.unwrap();
    }
    sql(&options, "UPDATE conversation SET part = 1 WHERE id = 7").await;
    refused(verify(&folder(&temp), &options, &on).await, &["conversation", "part"]);
    sql(&options, "UPDATE conversation SET part = 0; UPDATE message SET log_offset = 9").await;
    refused(verify(&folder(&temp), &options, &on).await, &["message", "log_offset"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_ends_an_import_and_mended_it_goes_on() {
    let site = site().await;
    let (temp, moved) = exported(&site.setup).await;
    let path = folder(&temp).join("message-000001.rows");
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[100] ^= 0x10;
    fs::write(&path, damaged).unwrap();
    let options = databases(1, false, 1).await;
    let done = import(&folder(&temp), &options, true, &on).await;
    refused(done, &["message-000001.rows is damaged", "restore it"]);
    fs::write(&path, whole).unwrap();
    assert_eq!(import(&folder(&temp), &options, false, &on).await.unwrap(), moved);
}

/// Compares what the two stores say of logins.
async fn same_people(site: &Site, options: &MySqlOptions) {
    let path = site.setup.store_path();
    let old = blocking(move || SqliteStore::open(&path, SqliteOptions::default()).unwrap()).await;
    let new = MySqlStore::open(options.clone()).await.unwrap();
    assert_eq!(
        old.users_since(Since::default(), 100).await.unwrap(),
        new.users_since(Since::default(), 100).await.unwrap()
    );
    let departments = old.departments_since(Since::default(), 10).await.unwrap();
    assert_eq!(departments, new.departments_since(Since::default(), 10).await.unwrap());
    for expected in [2, 3] {
        // Two groups have numbers that the counter did not give out.
        assert_eq!(new.allocate_group(None).await.unwrap(), GroupId(expected));
    }
    for wanted in [99, GROUP] {
        let taken = new.allocate_group(Some(GroupId(wanted))).await;
        assert!(matches!(taken, Err(StoreError::Taken(_))), "{taken:?}");
    }
}
