//! The `talkhub` command as a person uses it: a cluster, a chat, an administrator.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use talkhub::up::ports::{Ports, SPAN};
use talkhub::up::report::Status;

/// Longer than anything here takes, and shorter than a person's patience.
const LIMIT: Duration = Duration::from_mins(1);

fn talkhub() -> Command {
    let mut command = backends::program(env!("CARGO_BIN_EXE_talkhub"));
    command.env("TZ", "UTC");
    command
}

/// The first port of a range in which nothing listens, below those that the kernel gives out. Tests
/// that run at once, of this process or of another, begin at other places.
fn free_base() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    const RANGES: u16 = 20_000 / SPAN;
    let first = u16::try_from(std::process::id() % u32::from(RANGES)).unwrap();
    for _range in 0..RANGES {
        let range = first + TAKEN.fetch_add(1, Ordering::Relaxed);
        let base = 11_000 + range % RANGES * SPAN;
        let mut ports = base..base + SPAN;
        if ports.all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return base;
        }
    }
    panic!("no {SPAN} ports in a row are free");
}

/// Keeps reading, so that the other end never waits, and hands out whole lines.
fn lines_of(from: impl Read + Send + 'static) -> Receiver<String> {
    let (lines, received) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    received
}

/// A process that is killed if the test fails.
struct Process {
    child: Child,
    stdout: Receiver<String>,
    stdin: Option<ChildStdin>,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = lines_of(child.stdout.take().unwrap());
        let stdin = child.stdin.take();
        Self { child, stdout, stdin }
    }

    /// The next line that has `part` in it.
    fn line_with(&self, part: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stdout.recv_timeout(left) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line with {part:?} ({error}) after {seen:#?}"),
            }
        }
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        drop(self.stdin.take());
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None if Instant::now() > deadline => panic!("it does not end"),
                // A process has no event to wait for with a limit.
                None => thread::park_timeout(Duration::from_millis(10)),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, unless the test has failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A cluster in a folder of its own.
struct Up {
    process: Process,
    status: Status,
}

impl Up {
    fn start(data: &Path, base: u16, args: &[&str]) -> Self {
        let mut command = talkhub();
        command.args(["up", "--json", "--port-base", &base.to_string(), "--data"]).arg(data);
        let process = Process::start(command.args(args));
        let status = serde_json::from_str(&process.line_with("{")).unwrap();
        Self { process, status }
    }

    fn chat(&self, user: &str, to: &str) -> Process {
        let login = self.status.login.as_str();
        Process::start(talkhub().args(["chat", "--login", login, "--user", user, "--to", to]))
    }

    fn stop(mut self) {
        self.process.signal(Signal::TERM);
        assert!(self.process.wait().success(), "a cluster that is told to stop ends with 0");
    }
}

fn http_get(url: &str) -> String {
    let (addr, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let addr: SocketAddr = addr.parse().unwrap();
    let mut socket = TcpStream::connect(addr).unwrap();
    write!(socket, "GET /{path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn two_people_talk_with_two_commands() {
    let temp = tempfile::tempdir().unwrap();
    let up = Up::start(temp.path(), free_base(), &["--demo-users", "3", "--demo-group", "3"]);
    assert_eq!(up.status.gateways.len(), 2);
    assert!(up.status.metrics.iter().all(|page| http_get(page).contains("# EOF")));

    let mut anna = up.chat("u1", "u2");
    let mut ben = up.chat("u2", "u1");
    anna.line_with("no messages yet");
    ben.line_with("no messages yet");
    anna.type_line("hello ben");
    anna.line_with("✓ 1");
    assert!(ben.line_with("hello ben").ends_with(" u1: hello ben"));
    ben.type_line("hello anna");
    assert!(anna.line_with("hello anna").ends_with(" u2: hello anna"));
    assert!(ben.wait().success(), "the end of the input is a clean end");

    let mut all = up.chat("u3", "group:everyone");
    all.line_with("no messages yet");
    all.type_line("hello all");
    all.line_with("✓ 1");
    anna.line_with("--to group:1");
    anna.signal(Signal::INT);
    assert!(anna.wait().success(), "so is Ctrl-C");

    let again = up.chat("u2", "u1");
    again.line_with("u1: hello ben");
    again.line_with("u2: hello anna");
    up.stop();
}

#[test]
fn with_a_certificate_the_chat_goes_over_tls() {
    let temp = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (temp.path().join("cert.pem"), temp.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let args = ["--demo-users", "2", "--tls-cert", cert, "--tls-key", key];
    let up = Up::start(&temp.path().join("data"), free_base(), &args);
    assert_eq!(up.status.gateways_tls.len(), 2);
    let login = up.status.login_tls.as_deref().unwrap();

    let chat = ["chat", "--login", login, "--user", "u1", "--to", "u2"];
    let mut anna = Process::start(talkhub().args(chat).args(["--ca", cert]));
    anna.line_with("no messages yet");
    anna.type_line("in private");
    anna.line_with("✓ 1");
    assert!(anna.wait().success());

    // Believes in the authorities of the system, of which this is none.
    let stranger = Process::start(talkhub().args(chat));
    stranger.line_with("cannot connect");
    up.stop();
}

#[test]
fn an_administrator_makes_users_and_groups() {
    let temp = tempfile::tempdir().unwrap();
    let up = Up::start(temp.path(), free_base(), &["--gateways", "1", "--routes", "1"]);
    let admin = |line: &str| {
        let mut command = talkhub();
        run(command.args(["admin", "--data"]).arg(temp.path()).args(line.split(' ')))
    };
    let done = |line: &str| {
        let output = admin(line);
        assert!(output.status.success(), "{line}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    for name in ["anna", "ben", "cleo"] {
        done(&format!("user add {name} --password correct-horse-{name}"));
    }
    assert!(done("group create friends anna ben").contains("group friends created (id "));
    done("group add friends cleo");
    done("group remove friends ben");
    // The list is read from the store, which is a moment behind.
    let deadline = Instant::now() + LIMIT;
    loop {
        let groups = done("group list");
        let friends = groups.lines().find(|line| line.contains("friends")).unwrap();
        if friends.split_whitespace().nth(2) == Some("2") {
            break;
        }
        assert!(Instant::now() < deadline, "{groups}");
    }

    done("user passwd ben --password battery-staple-ben");
    done("user disable cleo");
    let users = done("user list");
    let cleo = users.lines().find(|line| line.contains("cleo")).unwrap();
    assert!(cleo.ends_with("disabled"), "{users}");

    let login = up.status.login.as_str();
    let refused = run(talkhub()
        .args(["chat", "--login", login, "--user", "cleo", "--to", "anna"])
        .args(["--password", "correct-horse-cleo"]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("login of cleo refused: wrong name"), "{}", said(&refused));
    done("user enable cleo");

    let twice = admin("user add anna --password correct-horse-anna");
    assert_eq!(twice.status.code(), Some(1));
    assert!(said(&twice).starts_with("talkhub: "), "{}", said(&twice));
    let nobody = admin("group add friends dora");
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(&nobody).contains("dora"), "{}", said(&nobody));
    up.stop();
}

#[test]
fn a_data_folder_or_a_port_in_use_is_refused_in_one_line() {
    let temp = tempfile::tempdir().unwrap();
    let base = free_base();
    let up = Up::start(temp.path(), base, &["--gateways", "1", "--routes", "1"]);

    let mut second = talkhub();
    let second = run(second.args(["up", "--port-base", "9000", "--data"]).arg(temp.path()));
    assert_eq!(second.status.code(), Some(78));
    assert!(said(&second).contains("is in use by another"), "{}", said(&second));

    let other = tempfile::tempdir().unwrap();
    let mut third = talkhub();
    let third =
        run(third.args(["up", "--port-base", &base.to_string(), "--data"]).arg(other.path()));
    assert_eq!(third.status.code(), Some(1));
    let login_links = Ports::from_base(base).unwrap().login_links();
    assert!(said(&third).contains(&format!("127.0.0.1:{login_links}")), "{}", said(&third));
    assert!(said(&third).contains("--port-base"), "{}", said(&third));
    assert_eq!(said(&third).lines().count(), 1, "{}", said(&third));
    up.stop();
}

#[test]
fn processes_that_die_are_started_again() {
    let daemons = ["login_server", "route_server", "db_proxy", "msg_server", "api_server"];
    let talkhub = Path::new(env!("CARGO_BIN_EXE_talkhub"));
    if let Some(missing) = daemons.iter().find(|name| !talkhub.with_file_name(name).is_file()) {
        backends::skip(&format!("{missing} is not built; `cargo build --workspace` builds it"));
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let up = Up::start(temp.path(), free_base(), &["--processes", "--demo-users", "2"]);
    assert_eq!(up.status.processes.len(), 7);

    let mut anna = up.chat("u1", "u2");
    anna.line_with("no messages yet");
    for process in &up.status.processes {
        let pid = Pid::from_raw(i32::try_from(process.pid).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }
    anna.line_with("connection lost");
    anna.line_with("connected");
    anna.type_line("still there?");
    anna.line_with("✓ 1");
    up.stop();
    let left: Vec<_> = std::fs::read_dir(temp.path().join("run")).unwrap().flatten().collect();
    assert!(left.is_empty(), "nothing is left behind: {left:?}");
}

#[test]
fn more_lines_than_a_client_holds_wait_where_they_were_typed() {
    let temp = tempfile::tempdir().unwrap();
    let (base, args) = (free_base(), ["--gateways", "1", "--routes", "1", "--demo-users", "2"]);
    let up = Up::start(temp.path(), base, &args);
    let mut anna = up.chat("u1", "u2");
    anna.line_with("no messages yet");
    up.stop();
    anna.line_with("connection lost");
    for number in 1..=2_000 {
        anna.type_line(&format!("line {number}"));
    }
    let up = Up::start(temp.path(), base, &args);
    // A line that the client has no room for would be said to be not sent, and before this.
    let next = anna.stdout.recv_timeout(LIMIT).unwrap();
    assert!(next.contains("connected"), "{next}");
    anna.line_with("✓ 1");
    drop(anna);
    up.stop();
}

/// Runs `up` with these arguments, which must refuse to start with one line.
fn refused_line(data: &Path, args: &[&str]) -> String {
    let base = free_base().to_string();
    let mut command = talkhub();
    command.args(["up", "--port-base", &base, "--data"]).arg(data).args(args);
    let refused = run(&mut command);
    let said = said(&refused);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("talkhub: ")).count(), 1, "{said}");
    said
}

#[cfg(feature = "kafka")]
#[test]
fn several_db_proxies_share_a_log_and_an_administrator_finds_the_right_one() {
    let (kafka, database) = (backends::Kafka::start(1), backends::MariaDb::shared());
    let (mysql, bootstrap) = (database.fresh_database(), kafka.bootstrap());
    let temp = tempfile::tempdir().unwrap();
    let mut args = vec!["--mysql", &mysql, "--kafka", &bootstrap];

    let said = refused_line(temp.path(), &args);
    assert!(said.contains("brokers") && said.contains("--kafka-unsafe"), "{said}");
    args.push("--kafka-unsafe");
    let three = ["--db-proxies", "3", "--demo-users", "4", "--demo-group", "2"];
    let up = Up::start(temp.path(), free_base(), &[args.as_slice(), &three].concat());
    assert_eq!(up.status.processes.iter().filter(|it| it.role == "db_proxy").count(), 3);
    let admin = |line: &str| {
        let mut command = talkhub();
        let output = run(command.args(["admin", "--data"]).arg(temp.path()).args(line.split(' ')));
        assert!(output.status.success(), "{line}: {}", self::said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    // Each in a partition of its own, more or less.
    for number in 0..8 {
        let made = admin(&format!("group create g{number} u1 u2"));
        let id = made.trim().rsplit_once("(id ").and_then(|(_made, id)| id.strip_suffix(')'));
        admin(&format!("group add {} u3", id.unwrap()));
    }
    let mut anna = up.chat("u1", "u4");
    anna.line_with("no messages yet");
    anna.type_line("hello");
    anna.line_with("✓ 1");
    up.stop();

    let other =
        refused_line(temp.path(), &[args.as_slice(), &["--kafka-partitions", "4"]].concat());
    assert!(other.contains("has 8 partitions, and 4 are configured"), "{other}");
    let embedded = refused_line(temp.path(), &[]);
    assert!(embedded.contains("db belongs to a log in Kafka"), "{embedded}");
}

#[cfg(not(feature = "kafka"))]
#[test]
fn without_kafka_built_in_it_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let args = ["--mysql", "mysql://a:b@127.0.0.1:1/c", "--kafka", "127.0.0.1:1"];
    let said = refused_line(temp.path(), &args);
    assert!(said.contains("--features kafka"), "{said}");
}
