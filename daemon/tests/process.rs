//! The life of a whole process: exit codes, signals, reload, what the service manager is told.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);

/// A greeter that runs, and its settings.
struct Greeter {
    dir: TempDir,
    child: Child,
    log: BufReader<ChildStderr>,
}

fn program() -> PathBuf {
    // Test programs are in target/<profile>/deps, examples beside that.
    let test = env::current_exe().expect("this test's own file");
    let profile = test.ancestors().nth(2).expect("target/<profile>");
    let program = profile.join("examples/greeter");
    assert!(program.exists(), "run the whole of `cargo test -p daemon`, which builds the example");
    program
}

impl Greeter {
    fn start(settings: &str, environment: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().expect("a directory");
        let file = dir.path().join("greeter.toml");
        fs::write(&file, settings).expect("the settings");
        let mut command = Command::new(program());
        // What the environment says to tests is no setting.
        for (name, _value) in env::vars_os() {
            if name.to_string_lossy().starts_with("TALKHUB_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg("--config")
            .arg(&file)
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the greeter starts");
        let log = BufReader::new(child.stderr.take().expect("it was asked for"));
        Self { dir, child, log }
    }

    fn rewrite(&self, settings: &str) {
        fs::write(self.dir.path().join("greeter.toml"), settings).expect("the settings");
    }

    /// Reads the log up to a line that contains `text`, and returns that line.
    fn log_line(&mut self, text: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let len = self.log.read_line(&mut line).expect("the log is text");
            assert!(len > 0, "the log ended without {text:?}:\n{seen}");
            if line.contains(text) {
                return line;
            }
            seen.push_str(&line);
        }
    }

    /// Waits until it serves, and returns where.
    fn addr(&mut self) -> SocketAddr {
        let line = self.log_line(" ready ");
        let addr = line.split("clients\", ").nth(1).and_then(|rest| rest.split(')').next());
        addr.expect("the line names the address").parse().expect("an address")
    }

    /// Waits until its admin page is there, and returns where.
    fn page(&mut self) -> SocketAddr {
        let line = self.log_line(" metrics ");
        let addr = line.trim().rsplit_once("addr=").expect("the line names the address").1;
        addr.parse().expect("an address")
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("it runs"), signal).expect("it is ours");
    }

    /// Waits for the end, and returns the exit code and the rest of the log.
    fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.log.read_to_string(&mut log).expect("the log is text");
        (self.child.wait().expect("it was started").code(), log)
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        // Only of use when the test has failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const FINE: &str = "listen = '127.0.0.1:0'\ngreeting = 'hello'\n";

fn greeted(addr: SocketAddr) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(addr).expect("it listens");
    socket.set_read_timeout(Some(SOON)).expect("a limit");
    let mut greeting = [0; 5];
    socket.read_exact(&mut greeting).expect("it greets");
    (socket, String::from_utf8_lossy(&greeting).into_owned())
}

#[test]
fn told_to_stop_it_finishes_what_it_has_and_exits_with_0() {
    let mut greeter = Greeter::start(FINE, &[]);
    let addr = greeter.addr();
    let (client, greeting) = greeted(addr);
    assert_eq!(greeting, "hello");
    greeter.signal(Signal::TERM);
    greeter.log_line("draining");
    assert!(greeter.child.try_wait().unwrap().is_none(), "a client is still there");
    drop(client);
    let (code, log) = greeter.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
}

#[test]
fn a_client_that_does_not_leave_cannot_hold_it_beyond_the_limit() {
    let mut greeter = Greeter::start(&format!("{FINE}[process]\ndrain_limit_s = 1\n"), &[]);
    let (_client, _) = greeted(greeter.addr());
    greeter.signal(Signal::TERM);
    let (code, log) = greeter.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("stopped by force"), "{log}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut greeter = Greeter::start(&format!("{FINE}[process]\ndrain_limit_s = 3600\n"), &[]);
    let (_client, _) = greeted(greeter.addr());
    greeter.signal(Signal::TERM);
    greeter.log_line("draining");
    greeter.signal(Signal::INT);
    let (code, log) = greeter.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("stopped at once"), "{log}");
}

#[test]
fn wrong_settings_are_one_line_and_exit_code_78() {
    let greeter = Greeter::start("listen = '127.0.0.1:0'\ngreeting = ''\n", &[]);
    let place = format!("{}/greeter.toml:2", greeter.dir.path().display());
    let (code, log) = greeter.end();
    assert_eq!(code, Some(78));
    assert_eq!(log, format!("greeter: {place}: key `greeting`: must say something\n"));

    let (code, log) = Greeter::start(FINE, &[("TALKHUB_GREETING_", "x")]).end();
    assert_eq!(code, Some(78));
    assert!(log.starts_with("greeter: TALKHUB_GREETING_: key `greeting_`: is unknown"), "{log}");

    let refused = format!("{FINE}trouble = 'start_refused'\n");
    let (code, log) = Greeter::start(&refused, &[]).end();
    assert_eq!((code, log.as_str()), (Some(78), "greeter: there is nobody to greet\n"));
}

#[test]
fn a_port_that_is_taken_is_exit_code_1_since_a_restart_may_help() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let settings = format!("listen = '{addr}'\ngreeting = 'hello'\n");
    let (code, log) = Greeter::start(&settings, &[]).end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("cannot serve"), "{log}");
}

#[test]
fn the_end_of_a_vital_task_ends_the_process_with_1() {
    let trouble = format!("{FINE}trouble = 'vital_task_panics'\n[process]\nlog_format = 'json'\n");
    let (code, log) = Greeter::start(&trouble, &[]).end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("a vital task has ended"), "{log}");
    assert!(log.contains(r#""panic":"on purpose""#), "the panic is a log line:\n{log}");
    assert!(log.lines().all(|line| line.starts_with('{')), "{log}");
}

#[test]
fn a_hangup_takes_up_new_settings_and_ignores_wrong_ones() {
    let mut greeter = Greeter::start(FINE, &[]);
    let addr = greeter.addr();
    greeter.rewrite("listen = '127.0.0.1:0'\ngreeting = 'howdy'\n");
    greeter.signal(Signal::HUP);
    greeter.log_line("settings read again");
    assert_eq!(greeted(addr).1, "howdy");

    greeter.rewrite("listen = '127.0.0.1:0'\ngreeting = ''\n");
    greeter.signal(Signal::HUP);
    let line = greeter.log_line("settings not taken up");
    assert!(line.contains("greeter.toml:2: key `greeting`"), "{line}");
    assert_eq!(greeted(addr).1, "howdy");

    greeter.signal(Signal::TERM);
    assert_eq!(greeter.end().0, Some(0));
}

#[test]
fn told_to_stop_before_it_serves_it_ends_with_0() {
    let settings = format!("{FINE}trouble = 'start_hangs'\n[process]\nlog_level = 'debug'\n");
    let mut greeter = Greeter::start(&settings, &[]);
    greeter.log_line("the start hangs");
    greeter.signal(Signal::HUP);
    greeter.signal(Signal::TERM);
    let (code, log) = greeter.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("told to stop before the start was complete"), "{log}");
    assert!(!log.contains(" ready "), "{log}");
}

/// What a service manager hears.
struct Manager {
    dir: TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(SOON)).expect("a limit");
        Self { dir, socket }
    }

    fn path(&self) -> String {
        self.dir.path().join("notify").display().to_string()
    }

    /// Waits until it is told `text`, and returns what it was told until then.
    fn heard(&self, text: &str) -> String {
        let mut told = String::new();
        while !told.contains(text) {
            let mut buffer = [0; 256];
            let len = self.socket.recv(&mut buffer).expect("told soon");
            told.push_str(&String::from_utf8_lossy(&buffer[..len]));
        }
        told
    }
}

#[test]
fn a_hangup_changes_the_log_level_too() {
    let level = |level: &str| format!("{FINE}[process]\nlog_level = '{level}'\n");
    let manager = Manager::new();
    let mut greeter = Greeter::start(&level("error"), &[("NOTIFY_SOCKET", &manager.path())]);
    manager.heard("READY=1");
    greeter.rewrite(&level("loud"));
    greeter.signal(Signal::HUP);
    let line = greeter.log_line("");
    assert!(line.contains("settings not taken up"), "nothing before was an error: {line}");
    greeter.rewrite(&level("info"));
    greeter.signal(Signal::HUP);
    assert!(greeter.log_line("").contains("settings read again"));
    greeter.signal(Signal::TERM);
    assert_eq!(greeter.end().0, Some(0));
}

/// What the kernel says about a limit of the process: the soft one and the hard one.
fn limit(greeter: &Greeter, name: &str) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{}/limits", greeter.child.id()));
    let limits = limits.expect("it runs");
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a known limit");
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().expect("the soft one"), words.next().expect("the hard one"))
}

#[test]
fn it_may_open_all_files_that_it_may_and_leaves_no_core_unless_that_was_said() {
    let mut greeter = Greeter::start(FINE, &[]);
    greeter.addr();
    let (soft, hard) = limit(&greeter, "Max open files");
    assert_eq!(soft, hard);
    assert_eq!(limit(&greeter, "Max core file size").0, "0");

    let mut open = Greeter::start(&format!("{FINE}[process]\ncore_dumps = true\n"), &[]);
    open.addr();
    let own = fs::read_to_string("/proc/self/limits").expect("our own limits");
    let own = own.lines().find_map(|line| line.strip_prefix("Max core file size"));
    let own = own.and_then(|line| line.split_whitespace().next()).expect("a known limit");
    assert_eq!(limit(&open, "Max core file size").0, own);
}

/// What the admin page of a greeter says.
fn page(addr: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(addr).expect("it listens");
    socket.set_read_timeout(Some(SOON)).expect("a limit");
    write!(socket, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn its_page_is_there_from_the_start_to_the_end_and_says_when_to_stop_giving_it_work() {
    let metrics = "[process]\nmetrics_addr = '127.0.0.1:0'\n";
    let mut greeter = Greeter::start(&format!("{FINE}{metrics}"), &[]);
    let at = greeter.page();
    let (client, _greeting) = greeted(greeter.addr());
    assert!(page(at, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(page(at, "/metrics").contains("\ntalkhub_greeter_greeted_total 1\n"));
    greeter.signal(Signal::TERM);
    greeter.log_line("draining");
    // It says so before it begins.
    let deadline = Instant::now() + SOON;
    while page(at, "/readyz").starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < deadline, "it is given work although it drains");
    }
    assert!(page(at, "/readyz").starts_with("HTTP/1.1 503"), "a client is still there");
    drop(client);
    assert_eq!(greeter.end().0, Some(0));

    // One that hangs in its start is alive, and not ready.
    let hangs = format!("{FINE}trouble = 'start_hangs'\n{metrics}");
    let mut greeter = Greeter::start(&hangs, &[]);
    let at = greeter.page();
    assert!(page(at, "/readyz").ends_with("starting\n"));
    assert!(page(at, "/healthz").starts_with("HTTP/1.1 200"));
    greeter.signal(Signal::INT);
    assert_eq!(greeter.end().0, Some(0));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = format!("[process]\nmetrics_addr = '{}'\n", taken.local_addr().unwrap());
    let (code, log) = Greeter::start(&format!("{FINE}{metrics}"), &[]).end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("metrics_addr 127.0.0.1:"), "{log}");
}

#[test]
fn a_daemon_of_which_a_part_stands_still_shows_no_sign_of_life() {
    let manager = Manager::new();
    let environment = [("NOTIFY_SOCKET", &*manager.path()), ("WATCHDOG_USEC", "20000")];
    let mut greeter = Greeter::start(&format!("{FINE}trouble = 'stalls'\n"), &environment);
    for _period in 0..2 {
        let line = greeter.log_line("no sign of life");
        assert!(line.contains("greeting"), "{line}");
    }
    greeter.signal(Signal::TERM);
    let told = manager.heard("STOPPING=1");
    assert!(told.contains("READY=1") && !told.contains("WATCHDOG"), "{told}");
    assert_eq!(greeter.end().0, Some(0));
}

#[test]
fn the_service_manager_is_told() {
    let manager = Manager::new();
    let environment = [("NOTIFY_SOCKET", &*manager.path()), ("WATCHDOG_USEC", "100000")];
    let mut greeter = Greeter::start(FINE, &environment);
    greeter.addr();
    manager.heard("READY=1");
    manager.heard("WATCHDOG=1");
    manager.heard("WATCHDOG=1");
    greeter.signal(Signal::TERM);
    manager.heard("STOPPING=1");
    assert_eq!(greeter.end().0, Some(0));
}
