//! The servers do what tests rely on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use backends::{Kafka, MariaDb, Redis};

#[test]
fn mariadb_keeps_what_was_committed_over_a_kill() {
    let server = MariaDb::start();
    let url = server.fresh_database();
    let name = url.rsplit('/').next().unwrap();
    server.sql(&format!("CREATE TABLE {name}.t (n INT); INSERT INTO {name}.t VALUES (1), (2)"));
    let (port, pid) = (server.port(), server.pid());
    server.kill();
    assert!(!server.is_running());
    server.restart();
    assert_eq!(server.sql(&format!("SELECT SUM(n) FROM {name}.t")), "3\n");
    assert!(server.port() == port && server.pid() != pid);
}

#[test]
fn each_database_of_mariadb_has_users_of_its_own() {
    let server = MariaDb::shared();
    let (one, other) = (server.fresh_database(), server.fresh_database());
    assert_ne!(one, other);
    let url = server.run_user(&one);
    let user = "'db1_run'@'%'".replace("db1", one.rsplit('/').next().unwrap());
    let grants = server.sql(&format!("SHOW GRANTS FOR {user}"));
    assert!(grants.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON"), "{grants}");
    assert!(!grants.contains("ALL PRIVILEGES") && !grants.contains("CREATE"), "{grants}");
    // The users can be used as the URLs say.
    for url in [&one, &url, &server.admin_url()] {
        let (login, place) = url.strip_prefix("mysql://").unwrap().split_once('@').unwrap();
        let (user, password) = login.split_once(':').unwrap();
        let (address, database) = place.split_once('/').unwrap();
        let mut client = Command::new("mariadb");
        client
            .args(["--no-defaults", "--host=127.0.0.1", "--execute=SELECT 1"])
            .arg(format!("--port={}", address.split_once(':').unwrap().1))
            .args([format!("--user={user}"), format!("--password={password}")])
            .arg(format!("--database={database}"));
        assert!(client.output().unwrap().status.success(), "{url}");
    }
}

#[test]
fn mariadb_says_why_a_statement_fails_and_takes_options() {
    let server = MariaDb::start_with(&["--sql-mode="]);
    assert_eq!(server.sql("SELECT @@GLOBAL.sql_mode"), "\n");
    assert!(server.try_sql("SELECT nothing").unwrap_err().contains("ERROR 1054"));
    server.stop();
    assert!(server.try_sql("SELECT 1").is_err());
}

#[test]
fn a_paused_server_takes_connections_and_answers_when_it_goes_on() {
    let server = Redis::start();
    server.pause();
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).unwrap();
    socket.write_all(b"PING\r\n").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = [0; 7];
    assert!(socket.read(&mut answer).is_err());
    server.resume();
    socket.set_read_timeout(Some(backends::PATIENCE)).unwrap();
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    let mariadb = MariaDb::start();
    mariadb.pause();
    let state = std::fs::read_to_string(format!("/proc/{}/stat", mariadb.pid())).unwrap();
    assert!(state.contains(") T "), "{state}");
    mariadb.resume();
    assert_eq!(mariadb.sql("SELECT 1"), "1\n");
    mariadb.pause();
    // Ends although it stands still.
    mariadb.stop();
}

#[test]
fn redis_forgets_or_keeps_as_its_options_say() {
    let server = Redis::start();
    server.command(&["SET", "key", "value"]);
    server.kill();
    server.restart();
    assert_eq!(server.command(&["GET", "key"]), "");
    let server = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    server.command(&["SET", "key", "value"]);
    server.kill();
    server.restart();
    assert_eq!(server.command(&["GET", "key"]), "value");
    server.flush();
    assert_eq!(server.command(&["GET", "key"]), "");
}

#[test]
fn redis_can_be_given_back_what_it_knew_long_ago() {
    let server = Redis::start_with(&["--requirepass", "secret"]);
    assert!(server.url().contains(":secret@"));
    server.command(&["SET", "key", "old"]);
    let old = server.dump();
    server.command(&["SET", "key", "new"]);
    server.restore(&old);
    assert_eq!(server.command(&["GET", "key"]), "old");
    server.restart();
    assert_eq!(server.command(&["GET", "key"]), "");
}

#[test]
fn a_broker_keeps_its_topics_over_a_kill() {
    let kafka = Kafka::start(1);
    kafka.create_topic("talk", 3, &[("retention.ms", "-1")]);
    let (address, pid) = (kafka.bootstrap(), kafka.pid(1));
    kafka.kill(1);
    assert!(!kafka.is_running(1) && kafka.partition("talk", 0).is_none());
    kafka.restart(1);
    assert!(kafka.bootstrap() == address && kafka.pid(1) != pid);
    let state = kafka.partition("talk", 2).expect("the topic is there");
    assert_eq!((state.leader, state.in_sync), (Some(1), vec![1]));
    assert_eq!(kafka.partition("talk", 3), None);
}

#[test]
fn of_three_brokers_another_leads_when_one_is_killed() {
    let kafka = Kafka::start(3);
    kafka.create_topic("talk", 1, &[]);
    let leader = kafka.partition("talk", 0).and_then(|state| state.leader).unwrap();
    kafka.kill(leader);
    wait_until("another leads", || {
        let state = kafka.partition("talk", 0);
        state.is_some_and(|state| state.leader.is_some_and(|now| now != leader))
    });
    kafka.restart(leader);
    wait_until("all have everything again", || {
        kafka.partition("talk", 0).is_some_and(|state| state.in_sync.len() == 3)
    });
    let other = leader % 3 + 1;
    kafka.pause(other);
    wait_until("it is given up", || {
        kafka.partition("talk", 0).is_some_and(|state| state.in_sync.len() == 2)
    });
    kafka.resume(other);
    wait_until("it has caught up", || {
        kafka.partition("talk", 0).is_some_and(|state| state.in_sync.len() == 3)
    });
}

#[expect(clippy::disallowed_methods, reason = "another process has no event to wait for")]
fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    let began = Instant::now();
    while !look() {
        assert!(began.elapsed() < backends::PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Set for the process that the next test kills.
const VICTIM: &str = "BACKENDS_TEST_VICTIM";

#[test]
fn a_shared_server_ends_with_the_process_that_started_it() {
    if std::env::var_os(VICTIM).is_some() {
        // From a thread that ends: the server does not.
        let pids = || [Redis::shared().pid(), MariaDb::shared().pid()];
        let [redis, mariadb] = std::thread::spawn(pids).join().unwrap();
        assert_eq!(Redis::shared().command(&["PING"]), "PONG");
        println!("\npids {redis} {mariadb}");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_shared_server_ends_with_the_process_that_started_it", "--nocapture"])
        .env(VICTIM, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let pids = lines.find_map(|line| line.unwrap().strip_prefix("pids ").map(str::to_owned));
    let pids = pids.expect("the servers start");
    let runs = |pid: &str| {
        let command = std::fs::read(Path::new("/proc").join(pid).join("cmdline"));
        // What has ended and is not waited for yet has none.
        command.is_ok_and(|command| !command.is_empty())
    };
    assert!(pids.split(' ').all(runs));
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until("the servers end", || !pids.split(' ').any(runs));
}
