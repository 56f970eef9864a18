//! Migrations, and what is refused at start: each in one line that says which and what to do.

use super::*;

#[tokio::test]
async fn a_store_that_was_not_migrated_says_how_to() {
    let (owner, user) = blocking(|| database(MariaDb::shared())).await;
    assert_refused(&options(user.clone()), &["no tables", "run `db_proxy migrate`"]).await;

    MySqlStore::migrate(&options(owner.clone())).await.unwrap();
    MySqlStore::open(options(user.clone())).await.unwrap();

    sql(&user, "UPDATE schema_version SET version = 0").await;
    assert_refused(&options(user.clone()), &["older version", "run `db_proxy migrate`"]).await;
    // Its tables are there already: what was cut short is done again.
    MySqlStore::migrate(&options(owner)).await.unwrap();
    MySqlStore::open(options(user)).await.unwrap();
}

#[tokio::test]
async fn a_newer_version_is_refused_by_all_and_stays_as_it_is() {
    let fresh = fresh().await;
    let url = fresh.options.shards[0].clone();
    for side in ["fold", "people"] {
        let set = |sign| {
            format!("UPDATE schema_version SET version = version {sign} 90 WHERE side = '{side}'")
        };
        sql(&url, &set('+')).await;
        assert_refused(&fresh.options, &["version 9", "newer program"]).await;
        let error = MySqlStore::migrate(&fresh.options).await.unwrap_err();
        assert!(error.to_string().contains("version 9"), "{error}");
        sql(&url, &set('-')).await;
    }
}

#[tokio::test]
async fn migrating_again_or_at_once_changes_nothing() {
    let (owner, user) = blocking(|| database(MariaDb::shared())).await;
    let owner = options(owner);
    let at_once = [(); 4].map(|()| MySqlStore::migrate(&owner));
    for done in futures_util::future::join_all(at_once).await {
        done.unwrap();
    }
    let store = MySqlStore::open(options(user)).await.unwrap();
    store.add_users(vec![self::user("alice")], false).await.unwrap();
    assert_eq!(store.allocate_group(None).await.unwrap(), GroupId(1));

    MySqlStore::migrate(&owner).await.unwrap();
    assert_eq!(store.departments_since(Since::default(), 10).await.unwrap().0.len(), 1);
    assert_eq!(store.users(vec![UserId(1)]).await.unwrap()[0].name, "alice");
    assert_eq!(store.allocate_group(None).await.unwrap(), GroupId(2));
}

#[tokio::test]
async fn the_user_that_serves_may_not_define_data() {
    let fresh = fresh().await;
    let url = fresh.options.shards[0].clone();
    for statement in ["DROP TABLE message", "CREATE TABLE t (n INT)", "ALTER TABLE mark ADD n INT"]
    {
        let mut conn = mysql_async::Conn::from_url(&url).await.unwrap();
        let done = mysql_async::prelude::Queryable::query_drop(&mut conn, statement).await;
        assert!(done.unwrap_err().to_string().contains("denied"), "{statement}");
    }
    let error = MySqlStore::migrate(&MySqlOptions::new(empty_database().await)).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
    assert_one_line(&error.to_string(), &["lacks a right"]);
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_stays_as_it_is() {
    let (owner, user) = blocking(|| database(MariaDb::shared())).await;
    let database = database_of(&options(owner.clone()));
    sql(&user, &format!("CREATE TABLE {database}.photo (id INT)")).await;
    let error = MySqlStore::migrate(&options(owner)).await.unwrap_err();
    assert_one_line(&error.to_string(), &["not ours"]);
    let tables = format!("SHOW TABLES FROM {database}");
    assert_eq!(blocking(move || MariaDb::shared().sql(&tables)).await, "photo\n");
}

#[tokio::test]
async fn what_is_wrong_with_a_url_is_said_in_one_line() {
    let fresh = fresh().await;
    let url = &fresh.options.shards[0];
    let database = database_of(&fresh.options);
    for (from, to, said) in [
        (":secret@", ":wr0ng@", vec!["user with this password", "correct the URL"]),
        (&*format!("{database}_run:"), "nobody:", vec!["user with this password"]),
        (&*format!("/{database}"), "/nowhere", vec!["may not use the database"]),
        (&*format!("/{database}"), "/", vec!["names no database"]),
        ("mysql:", "postgres:", vec!["Unsupported", "mysql://user:password@host"]),
        ("127.0.0.1:", "127.0.0.1:1", vec!["invalid port", "database"]),
    ] {
        let (before, after) = url.rsplit_once(from).unwrap();
        let wrong = format!("{before}{to}{after}");
        assert_ne!(&wrong, url, "{from}");
        assert_refused(&options(wrong), &said).await;
    }
    let admin = MariaDb::shared().url("nowhere");
    assert_refused(&options(admin), &["no such database", "db_proxy migrate"]).await;

    let nobody = MySqlOptions { shards: vec![], ..options(String::new()) };
    assert_refused(&nobody, &["no MySQL URL"]).await;
    assert_refused(&MySqlOptions { part: 1, ..fresh.options.clone() }, &["partition 1"]).await;
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_may_come_back() {
    let fresh = fresh().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let error = MySqlStore::open(through(&fresh.options, port)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}

#[tokio::test]
async fn something_that_is_no_mysql_is_refused() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = async {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut socket, answer).await.unwrap();
        }
    };
    let url = format!("mysql://u:secret@127.0.0.1:{port}/chat");
    let limits = MySqlLimits { connect: Duration::from_millis(500), ..MySqlLimits::default() };
    let error = tokio::select! {
        opened = MySqlStore::open(MySqlOptions { limits, ..options(url) }) => opened.unwrap_err(),
        never = answering => never,
    };
    assert_one_line(&error.to_string(), &[&port.to_string()]);
}

#[tokio::test]
async fn a_server_whose_settings_cannot_keep_the_promise_is_refused() {
    let server = blocking(MariaDb::start).await;
    let (owner, user) = database(&server);
    let fresh = made(options(owner.clone()), options(user)).await;
    for (set, back, said) in [
        ("sql_mode = ''", "sql_mode = 'STRICT_TRANS_TABLES'", vec!["sql_mode", "STRICT"]),
        (
            "innodb_flush_log_at_trx_commit = 2",
            "innodb_flush_log_at_trx_commit = 1",
            vec!["innodb_flush_log_at_trx_commit is 2", "must be 1"],
        ),
        (
            "max_allowed_packet = 1048576",
            "max_allowed_packet = 16777216",
            vec!["max_allowed_packet is 1048576", "16M"],
        ),
    ] {
        server.sql(&format!("SET GLOBAL {set}"));
        assert_refused(&fresh.options, &said).await;
        let error = MySqlStore::migrate(&options(owner.clone())).await.unwrap_err();
        assert_one_line(&error.to_string(), &said);
        server.sql(&format!("SET GLOBAL {back}"));
        MySqlStore::open(fresh.options.clone()).await.unwrap();
    }

    let database = database_of(&fresh.options);
    server.sql(&format!("ALTER TABLE {database}.mark ENGINE = MyISAM"));
    assert_refused(&fresh.options, &["table mark", "InnoDB"]).await;
}

#[tokio::test]
async fn another_layout_than_the_databases_were_made_with_is_refused() {
    let split = fresh_split().await;
    let options = &split.options;
    let [first, second] = &options.shards[..] else { panic!() };
    for (wrong, said) in [
        (MySqlOptions { partitions: 3, ..options.clone() }, "partitions"),
        (MySqlOptions { shards: vec![second.clone(), first.clone()], ..options.clone() }, "shard:"),
        (MySqlOptions { shards: vec![first.clone()], ..options.clone() }, "shards"),
        (MySqlOptions { users: None, ..options.clone() }, "no tables"),
        (
            MySqlOptions {
                users: Some(fresh().await.options.shards[0].clone()),
                ..options.clone()
            },
            "site",
        ),
    ] {
        assert_refused(&wrong, &[said]).await;
    }
}

#[tokio::test]
async fn connections_are_encrypted_and_servers_known_if_authorities_are_named() {
    let folder = tempfile::TempDir::new().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let authority = Authority::new();
    let (certificate, key) = authority.server();
    let certificate = write("server.pem", certificate);
    let key = write("server.key", key);
    let known = write("known.pem", authority.pem());
    let other = write("other.pem", Authority::new().pem());
    let args =
        [format!("--ssl-cert={}", certificate.display()), format!("--ssl-key={}", key.display())];
    let server = blocking(move || MariaDb::start_with(&args.each_ref().map(String::as_str))).await;
    let (owner, user) = database(&server);
    let with = |url: &str, file: &PathBuf| MySqlOptions {
        authorities: Some(file.clone()),
        ..options(url.to_owned())
    };
    MySqlStore::migrate(&with(&owner, &known)).await.unwrap();
    let store = MySqlStore::open(with(&user, &known)).await.unwrap();
    let cipher = store.databases.shards[0]
        .reads
        .run(|link| async { link.query("SHOW SESSION STATUS LIKE 'Ssl_cipher'").await }.boxed());
    let cipher: String = cipher.await.unwrap().remove(0).take(1).unwrap();
    assert!(!cipher.is_empty());

    assert_refused(&with(&user, &other), &["TLS"]).await;
    let plain = fresh().await;
    let named = with(&plain.options.shards[0], &known);
    assert_refused(&named, &["TLS"]).await;
}

/// One who signs certificates.
struct Authority {
    key: rcgen::KeyPair,
    parameters: rcgen::CertificateParams,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self { key: rcgen::KeyPair::generate().unwrap(), parameters }
    }

    fn pem(&self) -> String {
        self.parameters.self_signed(&self.key).unwrap().pem()
    }

    /// A certificate for the server here, and its key.
    fn server(&self) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let issuer = rcgen::Issuer::from_params(&self.parameters, &self.key);
        (parameters.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// The URL of a user without rights to define data, of a database without tables.
async fn empty_database() -> String {
    blocking(|| database(MariaDb::shared())).await.1
}
