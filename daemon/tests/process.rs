//! The life of a whole process: exit codes, signals, reload, what the service manager is told.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

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
fn the_service_manager_is_told() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let environment =
        [("NOTIFY_SOCKET", path.to_str().expect("text")), ("WATCHDOG_USEC", "100000")];
    let mut greeter = Greeter::start(FINE, &environment);
    greeter.addr();
    let heard = |text: &str| {
        let mut buffer = [0; 256];
        loop {
            let len = manager.recv(&mut buffer).expect("told soon");
            if String::from_utf8_lossy(&buffer[..len]).contains(text) {
                return;
            }
        }
    };
    heard("READY=1");
    heard("WATCHDOG=1");
    heard("WATCHDOG=1");
    greeter.signal(Signal::TERM);
    heard("STOPPING=1");
    assert_eq!(greeter.end().0, Some(0));
}
