//! How a cluster starts, refuses to start, and stops.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::{Conversation, Draft};
use proto::Command;
use tests::{Cluster, Device, Ended, Options, Programs, run_program, snapshot};

/// The settings are wrong: a restart will not help.
const EXIT_CONFIG: Option<i32> = Some(78);

#[tokio::test]
async fn it_is_ready_within_seconds_and_stops_with_0_when_told_to() {
    let cluster = Cluster::start_with(&Options { users: 5_000, ..Options::default() });
    // Three seconds are promised on a machine of its own.
    assert!(cluster.start_took < Duration::from_secs(10), "ready after {:?}", cluster.start_took);
    println!("ready after {:?}", cluster.start_took);
    let mut last = Device::pc(&cluster.gateways[0], 5_000).await;
    let mut anna = Device::pc(&cluster.gateways[1], 1).await;
    // What was sent before the signal is acknowledged or not, but never half.
    let mut sent = Vec::new();
    for number in 0..50 {
        let draft = Draft::text(Conversation::user(2), &format!("{number}")).without_id();
        sent.push(anna.connection().post_message(&draft).await.expect("send"));
    }
    let ended = cluster.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(ended.took < Duration::from_secs(15), "stopped after {:?}", ended.took);
    last.connection().expect_close(tests::PATIENCE).await.expect("it was let go");
    let frames = anna.connection().expect_close(tests::PATIENCE).await.expect("it was let go");
    let acked = frames.iter().filter(|frame| frame.known_command() == Some(Command::MessageAck));
    let acked: Vec<u16> = acked.map(|frame| frame.seq).collect();

    let cluster = ended.start_again(&Options::default());
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let history = anna.texts(Conversation::user(2)).await;
    for (number, seq) in sent.iter().enumerate() {
        let stored = history.contains(&number.to_string());
        assert!(stored || !acked.contains(seq), "message {number} was acknowledged");
    }
    assert!(history.is_sorted_by_key(|text| text.parse::<u32>().expect("a number")));
}

#[test]
fn a_data_folder_in_use_is_refused_and_the_cluster_that_uses_it_goes_on() {
    let cluster = Cluster::start();
    let data = cluster.data().display().to_string();
    let (code, said) =
        run_program(cluster.programs(), "talkhub", &["up", "--processes", "--data", &data]);
    assert_eq!(code, EXIT_CONFIG, "{said}");
    assert_one_line(&said, &["in use", &data]);

    // And by db_proxy itself, however it was started.
    let conf = fs::read_to_string(cluster.data().join("conf/db_proxy.toml")).expect("settings");
    let elsewhere: Vec<String> = conf
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some((key @ ("link_addr" | "metrics_addr"), _)) => format!("{key} = \"127.0.0.1:0\""),
            _ => line.to_owned(),
        })
        .collect();
    let file = cluster.data().join("second.toml");
    fs::write(&file, elsewhere.join("\n")).expect("write settings");
    let (code, said) = run_daemon(cluster.programs(), "db_proxy", &file);
    assert_eq!(code, EXIT_CONFIG, "{said}");
    assert!(said.contains("in use") || said.contains("locked"), "{said}");

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut anna = Device::pc(&cluster.gateways[0], 1).await;
        anna.say(Conversation::user(2), "not disturbed").await;
    });
    assert_eq!(cluster.stop().status.code(), Some(0));
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_not_touched() {
    refuses_newer(|db| {
        // Where SQLite keeps the number that its user gives to the schema.
        let file = db.join("store.sqlite");
        let mut bytes = fs::read(&file).expect("the store");
        bytes[60..64].copy_from_slice(&9_999_u32.to_be_bytes());
        fs::write(&file, bytes).expect("write the store");
    });
}

#[test]
fn a_log_of_a_newer_version_is_refused_and_not_touched() {
    refuses_newer(|db| {
        let file = db.join("log/log.meta");
        let mut bytes = fs::read(&file).expect("the log's own file");
        bytes[8..12].copy_from_slice(&9_999_u32.to_be_bytes());
        let (covered, crc) = bytes.split_at_mut(36);
        crc.copy_from_slice(&crc32fast::hash(covered).to_be_bytes());
        fs::write(&file, bytes).expect("write the log's own file");
    });
}

#[test]
fn wrong_settings_are_refused_in_one_line_that_says_what_is_wrong() {
    let ended = Cluster::start().stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let conf = ended.data().join("conf");
    let file = conf.join("wrong.toml");
    let name = file.display().to_string();
    for (daemon, of) in [
        ("login_server", "login_server"),
        ("msg_server", "msg_server-1"),
        ("route_server", "route_server-1"),
        ("db_proxy", "db_proxy"),
    ] {
        let right = fs::read_to_string(conf.join(format!("{of}.toml"))).expect("settings");
        let wrong = [
            (format!("colour = \"blue\"\n{right}"), "colour"),
            (right.replace("drain_limit_s = ", "drain_limit_s = -"), "drain_limit_s"),
            (right.replace("[process]", "[process]\nlog_levle = \"info\""), "log_levle"),
            (right.replace(" = ", " "), "wrong.toml"),
        ];
        for (text, key) in wrong {
            assert_ne!(text, right);
            fs::write(&file, text).expect("write settings");
            let (code, said) = run_daemon(ended.programs(), daemon, &file);
            assert_eq!(code, EXIT_CONFIG, "{daemon}, {key}: {said}");
            assert_one_line(&said, &[&name, key]);
        }
        fs::remove_file(&file).expect("remove the settings");
        let (code, said) = run_daemon(ended.programs(), daemon, &file);
        assert_eq!(code, EXIT_CONFIG, "{daemon}, no file: {said}");
        assert_one_line(&said, &[&name]);
    }
    let args = ["up", "--demo-users", "3", "--demo-group", "5"];
    let (code, said) = run_program(ended.programs(), "talkhub", &args);
    assert_eq!(code, EXIT_CONFIG, "{said}");
    assert_one_line(&said, &["--demo-group"]);
}

#[test]
fn when_the_one_that_started_them_is_killed_the_daemons_end_and_a_new_start_finds_everything() {
    let cluster = Cluster::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut anna = Device::pc(&cluster.gateways[0], 1).await;
        anna.say(Conversation::user(2), "before").await;
    });
    let cluster = cluster.kill_starter().start_again(&Options::default());
    runtime.block_on(async {
        let mut ben = Device::pc(&cluster.gateways[0], 2).await;
        assert_eq!(ben.texts(Conversation::user(1)).await, ["before"]);
    });
}

fn refuses_newer(make_newer: impl FnOnce(&Path)) {
    let cluster = Cluster::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut anna = Device::pc(&cluster.gateways[0], 1).await;
        anna.say(Conversation::user(2), "something to keep").await;
    });
    let ended: Ended = cluster.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let db = ended.data().join("db");
    make_newer(&db);
    let before = snapshot(&db);
    let data = ended.data().display().to_string();
    let base = tests::free_base().to_string();
    let args = ["up", "--processes", "--data", &data, "--port-base", &base];
    let (code, said) = run_program(ended.programs(), "talkhub", &args);
    assert_eq!(code, EXIT_CONFIG, "{said}");
    assert!(said.contains("newer"), "{said}");
    let after = snapshot(&db);
    let names = |files: &[(PathBuf, Vec<u8>)]| -> Vec<PathBuf> {
        files.iter().map(|(path, _bytes)| path.clone()).collect()
    };
    assert_eq!(names(&after), names(&before), "no file was made or removed");
    // Not by `assert_eq`: a failure would print every byte.
    assert!(after == before, "nothing was touched");
}

fn run_daemon(programs: &Programs, daemon: &str, conf: &Path) -> (Option<i32>, String) {
    run_program(programs, daemon, &["--config", &conf.display().to_string()])
}

fn assert_one_line(said: &str, parts: &[&str]) {
    assert_eq!(said.trim_end().lines().count(), 1, "one line:\n{said}");
    for part in parts {
        assert!(said.contains(part), "{part} is named: {said}");
    }
}
