//! The examples of db_client beside a running system: what other daemons can stand on.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use client::Conversation;
use tests::{Cluster, Device, Programs};

/// How many texts the example sends, and after how many of them db_proxy is killed.
const TEXTS: u32 = 60;
const KILLED_AFTER: [u32; 2] = [20, 40];

#[tokio::test(flavor = "multi_thread")]
async fn an_api_sends_each_text_once_through_kills_of_db_proxy_and_reads_them_back() {
    let cluster = Cluster::start();
    let mut ben = Device::pc(&cluster.gateways[0], 2).await;
    let mut api = Command::new(Programs::example("api"))
        .args([db_proxies(&cluster), key_file(&cluster)])
        .args(["1", "2", &TEXTS.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example can be run");
    let mut lines = BufReader::new(api.stdout.take().expect("it is piped")).lines();
    let mut next = || lines.next().expect("it goes on").expect("it writes text");
    for number in 1..=TEXTS {
        assert_eq!(next(), format!("{number} is stored as {number}"));
        if KILLED_AFTER.contains(&number) {
            cluster.kill("db_proxy");
        }
    }
    for number in (1..=TEXTS).rev() {
        assert_eq!(next(), format!("{number}: message {number}"), "the newest first");
    }
    assert!(api.wait().expect("it ends").success());
    for number in 1..=TEXTS {
        ben.hears(1, Conversation::user(2), &format!("message {number}")).await;
    }
}

/// Long enough for a loaded machine that starts all daemons again.
const PATIENCE: Duration = Duration::from_mins(2);

/// How many texts each pair says in a round, and the pairs that talk.
const ROUND: u32 = 40;
const PAIRS: [(u32, u32); 3] = [(1, 2), (3, 4), (5, 6)];

#[test]
fn a_consumer_misses_nothing_through_kills_of_everything() {
    consume_through_kills(&Cluster::start());
}

#[cfg(feature = "kafka")]
#[test]
fn a_consumer_misses_nothing_through_kills_of_everything_and_moves_on_kafka() {
    let (kafka, database) = (backends::Kafka::start(1), backends::MariaDb::start());
    let log = tests::KafkaLog { bootstrap: kafka.bootstrap(), partitions: 4, is_unsafe: true };
    consume_through_kills(&Cluster::start_with(&tests::Options {
        mysql: vec![database.fresh_database()],
        kafka: Some(log),
        db_proxies: 2,
        ..tests::Options::default()
    }));
}

/// People talk; meanwhile db_proxies are killed, then the consumer, and then everything at once.
fn consume_through_kills(cluster: &Cluster) {
    let proxies: Vec<_> =
        cluster.names().into_iter().filter(|name| name.starts_with("db_proxy")).collect();
    let mut consumer = Consumer::start(cluster);
    let mut seen = vec![0; PAIRS.len()];
    for round in 1..=4 {
        let talk: Vec<_> = PAIRS.iter().map(|pair| api(cluster, *pair)).collect();
        consumer.read_until(&mut seen, (round - 1) * ROUND + 5);
        match round {
            1 => {}
            2 => drop(cluster.kill(&proxies[0])),
            3 => consumer.kill_and_start(cluster),
            _ => {
                for name in cluster.names() {
                    cluster.kill(&name);
                }
                consumer.kill_and_start(cluster);
            }
        }
        for mut said in talk {
            assert!(said.wait().expect("it ends").success(), "round {round}");
        }
        consumer.read_until(&mut seen, round * ROUND);
        for name in &proxies {
            cluster.wait_ready(name);
        }
    }
}

/// Texts from one user to another.
fn api(cluster: &Cluster, (from, to): (u32, u32)) -> Child {
    Command::new(Programs::example("api"))
        .args([db_proxies(cluster), key_file(cluster)])
        .args([from, to, ROUND].map(|number| number.to_string()))
        .stdout(Stdio::null())
        .spawn()
        .expect("the example can be run")
}

/// The example, and what it prints.
struct Consumer {
    process: Child,
    /// Passes on what it prints.
    reader: Option<JoinHandle<()>>,
    sender: Sender<String>,
    lines: Receiver<String>,
}

impl Consumer {
    fn start(cluster: &Cluster) -> Self {
        let (sender, lines) = mpsc::channel();
        let (process, reader) = spawn_consumer(cluster, sender.clone());
        Self { process, reader: Some(reader), sender, lines }
    }

    /// Kills it, and starts it once more.
    fn kill_and_start(&mut self, cluster: &Cluster) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it is ours");
        // What it had printed comes first.
        self.reader.take().expect("it was started").join().expect("it passes on all");
        let (process, reader) = spawn_consumer(cluster, self.sender.clone());
        (self.process, self.reader) = (process, Some(reader));
    }

    /// Reads until the newest message of each pair has at least this number. Each must be the one after the
    /// newest so far, or one that was there before.
    fn read_until(&self, seen: &mut [u32], number: u32) {
        while seen.iter().any(|newest| *newest < number) {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("nothing comes, seen: {seen:?}"));
            let (conversation, msg_id) = line.split_once(' ').expect("conversation and number");
            let msg_id: u32 = msg_id.parse().unwrap_or_else(|_| panic!("{line}"));
            let names = PAIRS.map(|(one, other)| format!("single:{one}-{other}"));
            let Some(pair) = names.iter().position(|name| name == conversation) else {
                panic!("nobody said anything there: {line}")
            };
            assert!(msg_id <= seen[pair] + 1, "a hole: {line} after {seen:?}");
            seen[pair] = seen[pair].max(msg_id);
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn spawn_consumer(cluster: &Cluster, lines: Sender<String>) -> (Child, JoinHandle<()>) {
    let mut process = Command::new(Programs::example("consumer"))
        .args([db_proxies(cluster), key_file(cluster), "test".to_owned()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example can be run");
    let out = BufReader::new(process.stdout.take().expect("it is piped"));
    let reader = std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    (process, reader)
}

/// The cluster's key.
fn key_file(cluster: &Cluster) -> String {
    cluster.data().join("cluster.key").display().to_string()
}

/// Where the db_proxies listen, with commas between.
fn db_proxies(cluster: &Cluster) -> String {
    let names = cluster.names().into_iter().filter(|name| name.starts_with("db_proxy"));
    let addrs = names.map(|name| {
        let file: PathBuf = cluster.data().join("conf").join(format!("{name}.toml"));
        let settings = std::fs::read_to_string(file).expect("db_proxy has settings");
        let settings: toml::Table = settings.parse().expect("they are TOML");
        settings["link_addr"].as_str().expect("it is a text").to_owned()
    });
    addrs.collect::<Vec<_>>().join(",")
}
