//! A private cluster of Apache Kafka brokers, each of which is a controller as well (KRaft).

mod secured;
mod wire;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use tempfile::TempDir;

use crate::folder;
use crate::ports::Port;
use crate::process::{self, Process, wait_for};
use crate::template::{self, template};
use wire::{Metadata, NewTopic};

pub use secured::{Resource, SecuredKafka};

/// Names a folder with the jars of Kafka.
const LIBS: &str = "TALKHUB_KAFKA_LIBS";
/// Where `./test` puts them.
const LIBS_USUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/kafka-libs");
const PACKAGE: &str = "openjdk-17-jre-headless";
/// A small heap, and up as soon as can be: most brokers live for seconds.
const JAVA: [&str; 6] = [
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.net.preferIPv4Stack=true",
];
const LOGGING: &str = include_str!("kafka/log4j2.properties");
const CLUSTER_ID: &str = "dGFsa2h1Yi10ZXN0cy1rYQ";

/// What the template has.
const FORMATTED: &str = "formatted";
const CLASSES: &str = "classes.jsa";

/// How the brokers differ from Kafka's own defaults, apart from names and places.
const SETTINGS: [(&str, &str); 12] = [
    ("auto.create.topics.enable", "false"),
    // A broker that was killed may come back when the controllers have given it up, so soon.
    ("broker.heartbeat.interval.ms", "500"),
    ("broker.session.timeout.ms", "3000"),
    ("group.initial.rebalance.delay.ms", "0"),
    // Half a gigabyte of heap is all there is.
    ("log.cleaner.dedupe.buffer.size", "4194304"),
    ("num.io.threads", "4"),
    ("num.network.threads", "2"),
    // Making a topic of fifty partitions takes seconds.
    ("offsets.topic.num.partitions", "4"),
    ("share.coordinator.state.topic.num.partitions", "4"),
    ("transaction.state.log.num.partitions", "4"),
    ("controller.listener.names", "CONTROLLER"),
    ("process.roles", "broker,controller"),
];

/// A Kafka cluster of its own. Brokers have the numbers from 1 on.
#[derive(Debug)]
pub struct Kafka {
    brokers: Vec<Broker>,
    template: PathBuf,
    /// After the brokers: they end before it goes.
    _folder: TempDir,
}

#[derive(Debug)]
struct Broker {
    id: i32,
    process: Process,
    port: Port,
    controller: Port,
    /// Where it also listens with TLS, for clients that log in.
    secured: Option<Port>,
    folder: PathBuf,
}

/// Which brokers have a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionState {
    /// The broker that takes what is written.
    pub leader: Option<usize>,
    /// The brokers that have everything.
    pub in_sync: Vec<usize>,
}

impl Kafka {
    /// Starts a cluster of that many brokers; with three, everything is kept three times and is
    /// written when two have it.
    pub fn start(brokers: usize) -> Self {
        Self::start_with(brokers, &[])
    }

    /// Starts a cluster whose brokers have more settings. They come last, and so win.
    pub fn start_with(brokers: usize, settings: &[(&str, &str)]) -> Self {
        Self::start_for(None, brokers, settings)
    }

    /// As [`Self::start_with`]. With a user, in the words of Kafka's own tool, the brokers also listen
    /// with TLS, for clients that log in.
    fn start_for(user: Option<&str>, brokers: usize, settings: &[(&str, &str)]) -> Self {
        let template = template("kafka", &[&java(), &libs()], JAVA, make_template);
        let folder = folder::new("kafka");
        let count = i32::try_from(brokers).expect("a few brokers");
        let mut brokers: Vec<Broker> =
            (1..=count).map(|id| Broker::new(id, folder.path())).collect();
        for broker in &mut brokers {
            broker.secured = user.map(|_| Port::take());
        }
        let voters: Vec<String> = brokers.iter().map(Broker::voter).collect();
        for broker in &brokers {
            broker.configure(&voters.join(","), settings, brokers.len());
            match user {
                None => broker.copy_data(&template.join(FORMATTED)),
                Some(_) => broker.format(user),
            }
        }
        let cluster = Self { brokers, template, _folder: folder };
        // Each is ready only with the others.
        let all = |metadata: &Metadata| metadata.brokers.len() == cluster.brokers.len();
        thread::scope(|scope| {
            for broker in &cluster.brokers {
                scope.spawn(|| broker.run(&cluster.classes(), &all));
            }
        });
        cluster
    }

    /// The one broker that all tests of this process share: no test may stop, pause or reconfigure
    /// it, and each test takes topics and groups of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(1))
    }

    /// The brokers, as `host:port` with commas between.
    pub fn bootstrap(&self) -> String {
        let addresses = self.brokers.iter().map(|broker| format!("127.0.0.1:{}", broker.port()));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// How many brokers there are, running or not.
    pub fn brokers(&self) -> usize {
        self.brokers.len()
    }

    /// The port of 127.0.0.1 that a broker listens on.
    pub fn port(&self, broker: usize) -> u16 {
        self.broker(broker).port()
    }

    /// The process of a broker.
    pub fn pid(&self, broker: usize) -> u32 {
        self.broker(broker).process.pid()
    }

    /// Makes a topic, with as many replicas as there are brokers up to three, and returns when each
    /// partition has a leader.
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let replicas = i16::try_from(self.brokers.len().min(3)).expect("it is at most three");
        let topic = NewTopic { name, partitions, replicas, settings };
        let made = self.ask(|port| wire::create_topic(port, &topic));
        made.expect("a broker answers").unwrap_or_else(|why| panic!("{name} is made: {why}"));
        wait_for(&format!("{name} has leaders"), || {
            (0..partitions).all(|partition| {
                self.partition(name, partition).is_some_and(|state| state.leader.is_some())
            })
        });
    }

    /// Which brokers have a partition, as the first broker that answers sees it; `None` if it knows
    /// no such partition, or if no broker answers.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<PartitionState> {
        let metadata = self.ask(wire::metadata)?;
        let topic = metadata.topics.into_iter().find(|each| each.name == topic)?;
        let found = topic.partitions.into_iter().find(|each| each.index == partition)?;
        Some(PartitionState {
            leader: usize::try_from(found.leader).ok(),
            in_sync: found.in_sync.into_iter().filter_map(|id| usize::try_from(id).ok()).collect(),
        })
    }

    /// Ends a broker in good order, if it runs.
    pub fn stop(&self, broker: usize) {
        self.broker(broker).process.stop();
    }

    /// Kills a broker as `kill -9` does, if it runs.
    pub fn kill(&self, broker: usize) {
        self.broker(broker).process.kill();
    }

    /// Starts a broker again with the same data on the same port; in good order, if it runs. Returns
    /// when it takes requests, which needs most of the others.
    pub fn restart(&self, broker: usize) {
        self.stop(broker);
        let broker = self.broker(broker);
        broker.run(&self.classes(), &|metadata| metadata.brokers.contains(&broker.id));
    }

    /// Stops a broker in its tracks (SIGSTOP): connections stay open, and no request gets an answer.
    pub fn pause(&self, broker: usize) {
        self.broker(broker).process.pause();
    }

    /// Lets a broker go on after [`Self::pause`].
    pub fn resume(&self, broker: usize) {
        self.broker(broker).process.resume();
    }

    /// Whether every broker runs and knows of all others, as it is again some time after one was away. One
    /// that was stopped in its tracks may tell what it knew before.
    pub fn is_whole(&self) -> bool {
        self.brokers.iter().all(|broker| {
            let known = wire::metadata(broker.port());
            known.is_some_and(|known| known.brokers.len() == self.brokers.len())
        })
    }

    /// Whether a broker was started and not ended since.
    pub fn is_running(&self, broker: usize) -> bool {
        self.broker(broker).process.is_running()
    }

    fn classes(&self) -> String {
        format!("-XX:SharedArchiveFile={}", self.template.join(CLASSES).display())
    }

    fn broker(&self, number: usize) -> &Broker {
        let broker = number.checked_sub(1).and_then(|index| self.brokers.get(index));
        broker.unwrap_or_else(|| panic!("there is a broker {number}"))
    }

    /// Asks the brokers until one answers.
    fn ask<T>(&self, question: impl Fn(u16) -> Option<T>) -> Option<T> {
        let mut running = self.brokers.iter().filter(|broker| broker.process.is_awake());
        running.find_map(|broker| question(broker.port()))
    }
}

impl Broker {
    fn new(id: i32, cluster: &Path) -> Self {
        let folder = cluster.join(id.to_string());
        fs::create_dir(&folder).expect("make the folder of a broker");
        let process = Process::new(&format!("Kafka broker {id}"), folder.join("log"));
        let (port, controller) = (Port::take(), Port::take());
        Self { id, process, port, controller, secured: None, folder }
    }

    fn port(&self) -> u16 {
        self.port.number
    }

    fn voter(&self) -> String {
        format!("{}@127.0.0.1:{}", self.id, self.controller.number)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn properties(&self) -> PathBuf {
        self.folder.join("properties")
    }

    fn configure(&self, voters: &str, settings: &[(&str, &str)], brokers: usize) {
        let mut text = String::new();
        let mut set = |name: &str, value: &str| {
            writeln!(text, "{name}={value}").expect("a text takes everything");
        };
        for (name, value) in SETTINGS {
            set(name, value);
        }
        let (client, control) = (self.port(), self.controller.number);
        set("node.id", &self.id.to_string());
        let mut listeners =
            format!("PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{control}");
        if let Some(port) = &self.secured {
            write!(listeners, ",SASL_SSL://127.0.0.1:{}", port.number)
                .expect("it takes everything");
        }
        set("listeners", &listeners);
        set("controller.quorum.voters", voters);
        set("log.dirs", &self.data().display().to_string());
        let (replicas, in_sync) = (brokers.min(3).to_string(), brokers.min(2).to_string());
        set("default.replication.factor", &replicas);
        set("min.insync.replicas", &in_sync);
        for topic in ["transaction.state.log", "share.coordinator.state.topic"] {
            set(&format!("{topic}.replication.factor"), &replicas);
            set(&format!("{topic}.min.isr"), &in_sync);
        }
        set("offsets.topic.replication.factor", &replicas);
        for (name, value) in settings {
            set(name, value);
        }
        fs::write(self.properties(), text).expect("write the settings of a broker");
        fs::write(self.folder.join("logging.properties"), LOGGING).expect("write them");
    }

    fn format(&self, user: Option<&str>) {
        let mut command = Command::new(java());
        self.java_args(&mut command);
        command
            .args(["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID, "--config"])
            .arg(self.properties());
        if let Some(user) = user {
            command.args(["--add-scram", user]);
        }
        let said = process::run(&mut command, "");
        said.unwrap_or_else(|why| panic!("the folder of a broker is formatted: {why}"));
    }

    /// What [`Self::format`] would do without a user, from what it did for another broker.
    fn copy_data(&self, formatted: &Path) {
        template::copy(formatted, &self.data()).expect("copy the formatted folder");
        let file = self.data().join("meta.properties");
        let text = fs::read_to_string(&file).expect("a formatted folder says what it is");
        // A broker gives its folder a number of its own if it has none.
        let others =
            |line: &&str| !line.starts_with("node.id") && !line.starts_with("directory.id");
        let mut lines: Vec<&str> = text.lines().filter(others).collect();
        let id = format!("node.id={}\n", self.id);
        lines.push(&id);
        fs::write(file, lines.join("\n")).expect("write what the folder is");
    }

    /// Starts it, which must be down, and returns when it has answered with what `ready` accepts.
    fn run(&self, classes: &str, ready: &dyn Fn(&Metadata) -> bool) {
        let mut command = process::server(java());
        self.java_args(&mut command);
        command.arg(classes).arg("kafka.Kafka").arg(self.properties());
        self.process.start(command, || wire::metadata(self.port()).is_some_and(|all| ready(&all)));
    }

    fn java_args(&self, command: &mut Command) {
        let logging = self.folder.join("logging.properties");
        command
            .current_dir(&self.folder)
            .args(JAVA)
            .arg(format!("-Dlog4j2.configurationFile={}", logging.display()))
            .arg("-cp")
            .arg(libs().join("*"));
    }
}

/// Formats a folder, and lets a broker live long enough for the virtual machine to write down what
/// it has found out of the jars: a third of each start.
fn make_template(draft: &Path) {
    fs::create_dir(draft).expect("make the folder of the template");
    let folder = folder::new("kafka");
    let broker = Broker::new(1, folder.path());
    broker.configure(&broker.voter(), &[], 1);
    broker.format(None);
    template::copy(&broker.data(), &draft.join(FORMATTED)).expect("copy the formatted folder");
    let classes = format!("-XX:ArchiveClassesAtExit={}", draft.join(CLASSES).display());
    broker.run(&classes, &|metadata| metadata.brokers.len() == 1);
    broker.process.stop();
}

fn java() -> PathBuf {
    process::installed("java", PACKAGE)
}

fn libs() -> PathBuf {
    let folder = std::env::var_os(LIBS).map_or_else(|| LIBS_USUAL.into(), PathBuf::from);
    let there = fs::read_dir(&folder).is_ok_and(|mut files| files.next().is_some());
    assert!(there, "no jars of Kafka in {}: ./test fetches them", folder.display());
    folder
}
