//! A cluster of separate processes, as `talkhub up --processes` runs it.
//!
//! # Invariants
//!
//! - No process of a cluster outlives it: first the one that starts the others again is killed,
//!   then they are, each only after its command line has said that it is ours.
//! - Starting, stopping and killing block the calling thread; nothing else does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::programs::{Programs, scratch};
use crate::{PATIENCE, ports, sum_of};

/// How often a start is tried again that lost a race for its ports.
const STARTS_MAX: usize = 5;
/// How often something without an event is looked at.
const POLL: Duration = Duration::from_millis(10);
/// Lines of the log that a failed test shows.
const LOG_TAIL: usize = 60;

/// A log on Kafka.
#[derive(Debug, Clone)]
pub struct KafkaLog {
    /// The brokers, as `host:port` with commas between.
    pub bootstrap: String,
    /// How many partitions.
    pub partitions: u32,
    /// Whether a topic is taken that cannot keep the promise, as one of a single broker.
    pub is_unsafe: bool,
}

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Users `u1`, `u2` … with the ids 1, 2 …
    pub users: u32,
    /// How many of them are in group 1.
    pub group: u32,
    /// How many gateways.
    pub gateways: u16,
    /// Certificate and key in PEM; adds TLS ports.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// URLs of databases to store in; none for the embedded store.
    pub mysql: Vec<String>,
    /// URL of a Redis to cache in.
    pub redis: Option<String>,
    /// A log on Kafka; none for the embedded log.
    pub kafka: Option<KafkaLog>,
    /// How many db_proxies.
    pub db_proxies: u16,
    /// Lets webhooks be sent to this machine.
    pub private_webhooks: bool,
    /// The file of hooks.
    pub hooks: Option<PathBuf>,
    /// Runs the programs with the build feature `faults`, in which nothing is wrong until they are
    /// told so.
    pub faults: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            users: 20,
            group: 10,
            gateways: 2,
            tls: None,
            mysql: Vec::new(),
            redis: None,
            kafka: None,
            db_proxies: 1,
            private_webhooks: false,
            hooks: None,
            faults: false,
        }
    }
}

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    /// The login endpoint.
    pub login: String,
    /// The gateways, as `host:port`.
    pub gateways: Vec<String>,
    /// The login endpoint over TLS; empty if there is none.
    pub login_tls: String,
    /// The gateways over TLS.
    pub gateways_tls: Vec<String>,
    /// The HTTP API.
    pub api: String,
    /// How long the start took.
    pub start_took: Duration,
    daemons: Vec<Daemon>,
    up: Child,
    /// Kept open, so that writing to it can never fail.
    _stdout: BufReader<ChildStdout>,
    folder: Folder,
}

/// The end of a cluster that was told to stop.
#[derive(Debug)]
pub struct Ended {
    /// How `talkhub up` ended.
    pub status: ExitStatus,
    /// How long it took.
    pub took: Duration,
    /// Everything that the daemons logged.
    pub log: String,
    folder: Folder,
}

#[derive(Debug)]
struct Daemon {
    name: String,
    admin: SocketAddr,
}

/// Where a cluster keeps everything.
#[derive(Debug)]
struct Folder {
    root: TempDir,
    programs: Programs,
}

impl Folder {
    fn new(faults: bool) -> Self {
        let root = tempfile::Builder::new().prefix("cluster-").tempdir_in(scratch());
        let root = root.expect("make a folder for the cluster");
        let programs = Programs::link_into(&root.path().join("bin"), faults);
        Self { root, programs }
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.root.path().join("log")
    }

    fn read_log(&self) -> String {
        let bytes = fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The process of a daemon, if it runs.
    fn pid(&self, name: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.data().join("run").join(format!("{name}.pid"))).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        // The number may belong to a stranger by now, or to a child that is not the daemon yet.
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).into_owned();
        let conf = self.data().join("conf").join(format!("{name}.toml"));
        let conf = conf.canonicalize().unwrap_or(conf).display().to_string();
        command.split('\0').any(|word| word == conf).then_some(Pid::from_raw(pid)?)
    }

    /// The processes of all daemons that run.
    fn pids(&self) -> Vec<Pid> {
        let files = fs::read_dir(self.data().join("run")).into_iter().flatten().flatten();
        let names = files
            .filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".pid")?.to_owned()));
        names.filter_map(|name| self.pid(&name)).collect()
    }
}

impl Cluster {
    /// Starts a cluster with the usual options. Blocks until it is ready.
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    /// Starts a cluster. Blocks until it is ready.
    pub fn start_with(options: &Options) -> Self {
        Self::start_in(Folder::new(options.faults), options)
    }

    fn start_in(mut folder: Folder, options: &Options) -> Self {
        for _try in 0..STARTS_MAX {
            match Self::try_start(folder, options) {
                Ok(cluster) => return cluster,
                Err(ended) => {
                    let lost_a_port = ["cannot listen on", "Address already in use", "AddrInUse"];
                    let again = lost_a_port.iter().any(|text| ended.log.contains(text));
                    assert!(again, "the cluster starts, not {}:\n{}", ended.status, ended.log);
                    folder = ended.folder;
                    fs::remove_file(folder.log()).ok();
                }
            }
        }
        panic!("the cluster finds free ports in {STARTS_MAX} tries");
    }

    fn try_start(folder: Folder, options: &Options) -> Result<Self, Ended> {
        let began = Instant::now();
        let mut up = spawn(&folder, options);
        let mut stdout = BufReader::new(up.stdout.take().expect("it was asked for"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the report is text");
        if line.is_empty() {
            let status = up.wait().expect("it was started");
            let log = folder.read_log();
            return Err(Ended { status, took: began.elapsed(), log, folder });
        }
        let report: Value = serde_json::from_str(&line).expect("the report is JSON");
        Ok(Self {
            login: report["login"].as_str().expect("a login endpoint").to_owned(),
            gateways: texts(&report["gateways"]),
            login_tls: report["login_tls"].as_str().unwrap_or_default().to_owned(),
            gateways_tls: texts(&report["gateways_tls"]),
            api: report["api"].as_str().expect("an API").to_owned(),
            start_took: began.elapsed(),
            daemons: daemons(&report),
            up,
            _stdout: stdout,
            folder,
        })
    }

    /// The names of the daemons.
    pub fn names(&self) -> Vec<String> {
        self.daemons.iter().map(|daemon| daemon.name.clone()).collect()
    }

    /// The daemons and their admin pages.
    pub(crate) fn pages(&self) -> Vec<(String, SocketAddr)> {
        self.daemons.iter().map(|daemon| (daemon.name.clone(), daemon.admin)).collect()
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.data()
    }

    /// The programs that this cluster runs.
    pub fn programs(&self) -> &Programs {
        &self.folder.programs
    }

    /// What an administrator reads; an error is what the administrator is told is wrong.
    pub fn admin(&self, args: &[&str]) -> Result<String, String> {
        let data = self.data().display().to_string();
        administer(self.programs(), &["--data", &data], args)
    }

    /// Kills a daemon as `kill -9` does, and returns when another process has taken its place and
    /// says that it is ready. Blocks.
    pub fn kill_and_wait(&self, name: &str) {
        let killed = self.kill(name);
        self.wait_restarted(name, killed);
    }

    /// Kills a daemon as `kill -9` does. Returns its process.
    pub fn kill(&self, name: &str) -> Pid {
        // Between the death of one process and the start of the next there is none to kill.
        let pid = wait_for(&format!("{name} runs"), || self.folder.pid(name));
        kill_process(pid, Signal::KILL).expect("it is ours");
        pid
    }

    /// Lets a daemon read its settings again.
    pub fn reload(&self, name: &str) {
        let pid = wait_for(&format!("{name} runs"), || self.folder.pid(name));
        kill_process(pid, Signal::HUP).expect("it is ours");
    }

    /// Returns when another process than `old` is this daemon, and says that it is ready. Blocks.
    pub fn wait_restarted(&self, name: &str, old: Pid) {
        wait_for(&format!("{name} is started again"), || {
            self.folder.pid(name).filter(|pid| *pid != old)
        });
        self.wait_ready(name);
    }

    /// Returns when the daemon says that it is ready. Blocks.
    pub fn wait_ready(&self, name: &str) {
        let daemon = self.daemons.iter().find(|daemon| daemon.name == name);
        let admin = daemon.unwrap_or_else(|| panic!("there is a daemon {name}")).admin;
        wait_for(&format!("{name} is ready"), || {
            get(admin, "/readyz").filter(|answer| answer.starts_with("HTTP/1.1 200"))
        });
    }

    /// The metrics page of a daemon. Blocks.
    pub fn metrics(&self, name: &str) -> String {
        let daemon = self.daemons.iter().find(|daemon| daemon.name == name);
        let admin = daemon.unwrap_or_else(|| panic!("there is a daemon {name}")).admin;
        get(admin, "/metrics").unwrap_or_else(|| panic!("{name} shows its metrics"))
    }

    /// One number of that page, or their sum where it has labels; 0 if it is not there. Blocks.
    pub fn metric(&self, name: &str, metric: &str) -> u64 {
        sum_of(&self.metrics(name), metric)
    }

    /// Stops the cluster as systemd would: SIGTERM, and then it is waited for. Blocks.
    pub fn stop(self) -> Ended {
        let began = Instant::now();
        kill_process(pid_of(&self.up), Signal::TERM).expect("it is ours");
        self.wait_ended(began)
    }

    /// Kills the process that started the daemons, and returns when they have ended by themselves.
    /// Blocks.
    pub fn kill_starter(self) -> Ended {
        let began = Instant::now();
        kill_process(pid_of(&self.up), Signal::KILL).expect("it is ours");
        wait_for("the daemons end", || self.folder.pids().is_empty().then_some(()));
        self.wait_ended(began)
    }

    fn wait_ended(mut self, began: Instant) -> Ended {
        let up = &mut self.up;
        let status = wait_for("the cluster ends", || up.try_wait().expect("it was started"));
        // What is left of `self` has nothing left to kill.
        let programs = self.folder.programs.clone();
        let empty = TempDir::new_in(scratch()).expect("make a folder");
        let folder = std::mem::replace(&mut self.folder, Folder { root: empty, programs });
        Ended { status, took: began.elapsed(), log: folder.read_log(), folder }
    }
}

impl Ended {
    /// Starts a cluster on the data that this one left behind. Blocks.
    pub fn start_again(self, options: &Options) -> Cluster {
        Cluster::start_in(self.folder, options)
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.data()
    }

    /// The programs that the cluster ran.
    pub fn programs(&self) -> &Programs {
        &self.folder.programs
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // First the one that would start the others again.
        self.up.kill().ok();
        self.up.wait().ok();
        for pid in self.folder.pids() {
            kill_process(pid, Signal::KILL).ok();
        }
        if thread::panicking() {
            show_log_tail(&self.folder.read_log());
        }
    }
}

/// Shows the end of a log, for a test that fails.
pub(crate) fn show_log_tail(log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(LOG_TAIL)..).unwrap_or_default();
    let text = format!("--- the end of the cluster's log:\n{}\n---\n", tail.join("\n"));
    // Not by a macro: the panic may be one of printing.
    std::io::stderr().write_all(text.as_bytes()).ok();
}

/// What an administrator reads of the cluster that is found there; an error is what is said to be wrong. Blocks.
pub(crate) fn administer(
    programs: &Programs,
    place: &[&str],
    args: &[&str],
) -> Result<String, String> {
    let output = Command::new(programs.path("talkhub"))
        .arg("admin")
        .args(place)
        .args(args)
        .output()
        .expect("the program can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Runs a program to its end, which must come soon. Returns its exit code and what it said on
/// standard error. Blocks.
pub fn run_program(programs: &Programs, name: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut child = command(programs, name)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be run");
    let mut stderr = child.stderr.take().expect("it was asked for");
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_len| text).unwrap_or_default()
    });
    let began = Instant::now();
    let status = loop {
        match child.try_wait().expect("it was started") {
            Some(status) => break status,
            None if began.elapsed() > PATIENCE => {
                child.kill().ok();
                child.wait().ok();
                panic!("`{name} {}` ends by itself", args.join(" "));
            }
            None => pause(),
        }
    };
    (status.code(), reader.join().expect("reading does not panic"))
}

fn spawn(folder: &Folder, options: &Options) -> Child {
    let log = File::options().create(true).append(true).open(folder.log()).expect("make a log");
    let mut command = command(&folder.programs, "talkhub");
    command
        .args(["up", "--processes", "--json"])
        .arg("--data")
        .arg(folder.data())
        .args(["--port-base", &ports::free_base().to_string()])
        .args(["--gateways", &options.gateways.to_string()])
        .args(["--demo-users", &options.users.to_string()])
        .args(["--demo-group", &options.group.to_string()])
        .env("TALKHUB_PROCESS__LOG_LEVEL", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    if let Some((cert, key)) = &options.tls {
        command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
    }
    for url in &options.mysql {
        command.args(["--mysql", url]);
    }
    if let Some(url) = &options.redis {
        command.args(["--redis", url]);
    }
    if let Some(log) = &options.kafka {
        command.args(["--kafka", &log.bootstrap]);
        command.args(["--kafka-partitions", &log.partitions.to_string()]);
        command.args(log.is_unsafe.then_some("--kafka-unsafe"));
    }
    command.args(["--db-proxies", &options.db_proxies.to_string()]);
    command.args(options.private_webhooks.then_some("--allow-private-webhooks"));
    if let Some(hooks) = &options.hooks {
        command.arg("--hooks").arg(hooks);
    }
    command.spawn().expect("talkhub can be run")
}

/// A program to run.
pub(crate) fn command(programs: &Programs, name: &str) -> Command {
    backends::program(programs.path(name))
}

/// The daemons that a report names.
fn daemons(report: &Value) -> Vec<Daemon> {
    let processes = report["processes"].as_array().expect("the report has processes");
    let pages = texts(&report["metrics"]);
    assert_eq!(processes.len(), pages.len(), "every daemon has a page: {report}");
    let daemon = |(process, page): (&Value, &String)| {
        let admin = page.trim_start_matches("http://").trim_end_matches("/metrics");
        Daemon {
            name: process["name"].as_str().expect("a daemon has a name").to_owned(),
            admin: admin.parse().expect("a page is at an address"),
        }
    };
    processes.iter().zip(&pages).map(daemon).collect()
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|text| text.as_str().unwrap_or_default().to_owned()).collect()
}

pub(crate) fn pid_of(child: &Child) -> Pid {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.expect("a process has a number")
}

/// Looks until `look` finds something.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what} within {PATIENCE:?}");
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "another process has no event to wait for")]
pub(crate) fn pause() {
    thread::sleep(POLL);
}

/// Asks an admin page; `None` if there is no answer.
pub(crate) fn get(admin: SocketAddr, path: &str) -> Option<String> {
    let limit = Duration::from_secs(2);
    let mut socket = TcpStream::connect_timeout(&admin, limit).ok()?;
    socket.set_read_timeout(Some(limit)).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The names and contents of all files in a folder and those below it.
pub fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("read a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.clone(), fs::read(&path).expect("read a file")));
            }
        }
    }
    files.sort();
    files
}
