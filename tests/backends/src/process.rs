//! One child process that can be killed, paused, resumed and started again.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::PATIENCE;

/// How often something without an event is looked at.
const POLL: Duration = Duration::from_millis(5);
/// Lines of its log that a server shows which does not start.
const LOG_TAIL: usize = 40;

/// A server, which may be down.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// A server that is down. It will log into the file `log`.
    pub(crate) fn new(name: &str, log: PathBuf) -> Self {
        Self { name: name.to_owned(), log, child: Mutex::new(None) }
    }

    /// Starts it, which must be down, and returns when `ready` says so.
    pub(crate) fn start(&self, mut command: Command, mut ready: impl FnMut() -> bool) {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.expect("make a log for the server");
        let again = log.try_clone().expect("a file can be opened twice");
        command.stdin(Stdio::null()).stdout(log).stderr(again);
        {
            let mut child = self.child();
            assert!(child.is_none(), "{} is down before it is started", self.name);
            *child = Some(spawn(command));
        }
        let began = Instant::now();
        while !ready() {
            let ended = self.child().as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "{} starts: {ended:?}{}", self.name, self.log_tail());
            let late = began.elapsed() > PATIENCE;
            assert!(!late, "{} is ready within {PATIENCE:?}{}", self.name, self.log_tail());
            pause();
        }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        let child = self.child();
        child.as_ref().unwrap_or_else(|| panic!("{} runs", self.name)).id()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child().is_some()
    }

    /// Whether it runs and is not paused.
    pub(crate) fn is_awake(&self) -> bool {
        let pid = self.child().as_ref().map(Child::id);
        pid.is_some_and(|pid| threads(pid).any(|stat| state(&stat) != Some('T')))
    }

    /// Kills it as `kill -9` does, if it runs, and returns when it is gone.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            child.kill().ok();
            child.wait().expect("it was started");
        }
    }

    /// Asks it to end, if it runs, and returns when it has.
    pub(crate) fn stop(&self) {
        let Some(mut child) = self.child().take() else { return };
        // One that is paused would not hear it.
        for signal in [Signal::TERM, Signal::CONT] {
            kill_process(pid_of(&child), signal).expect("it is ours");
        }
        let began = Instant::now();
        while child.try_wait().expect("it was started").is_none() {
            if began.elapsed() > PATIENCE {
                child.kill().ok();
                child.wait().ok();
                panic!("{} ends within {PATIENCE:?}{}", self.name, self.log_tail());
            }
            pause();
        }
    }

    /// Stops it in its tracks, and returns when all of it stands still. Its connections stay open.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        wait_for(&format!("{} stands still", self.name), || {
            threads(self.pid()).all(|stat| state(&stat) == Some('T'))
        });
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child();
        let child = child.as_ref().unwrap_or_else(|| panic!("{} runs", self.name));
        kill_process(pid_of(child), signal).expect("it is ours");
    }

    fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(LOG_TAIL)..).unwrap_or_default();
        format!("\n--- the end of its log:\n{}\n---", tail.join("\n"))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        // A panic of another test does not make what is in it wrong.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command that runs a server: the kernel kills it when this process is gone.
pub(crate) fn server(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(installed("setpriv", "util-linux"));
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Finds a program that must be installed.
pub(crate) fn installed(program: &str, package: &str) -> PathBuf {
    find(program).unwrap_or_else(|| {
        panic!("`{program}` is not installed: ./test installs it (Debian package {package})")
    })
}

/// Finds a program. Servers may be where only root usually looks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Runs a command to its end. Returns what it said: on standard error, if it failed.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let output = output(command, input).map_err(|error| error.to_string())?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn output(command: &mut Command, input: &str) -> io::Result<Output> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    let input = input.to_owned();
    // From another thread, or both could wait for each other.
    let writer = thread::spawn(move || io::Write::write_all(&mut stdin, input.as_bytes()));
    let output = child.wait_with_output();
    // A program that ends early does not want the rest of it.
    drop(writer.join());
    output
}

/// Looks until `look` says yes.
pub(crate) fn wait_for(what: &str, mut look: impl FnMut() -> bool) {
    let began = Instant::now();
    while !look() {
        assert!(began.elapsed() < PATIENCE, "{what} within {PATIENCE:?}");
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "another process has no event to wait for")]
fn pause() {
    thread::sleep(POLL);
}

/// What the kernel says of each thread of a process.
fn threads(pid: u32) -> impl Iterator<Item = String> {
    let tasks = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"));
    let stats = tasks.into_iter().flatten().flatten().map(|task| task.path().join("stat"));
    // A thread may end before it is looked at.
    stats.filter_map(|stat| fs::read_to_string(stat).ok())
}

/// The state is the first word after the name, which is in parentheses and may have some itself.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

fn pid_of(child: &Child) -> Pid {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.expect("a process has a number")
}

/// Starts a process from a thread that never ends: the kernel takes the end of the thread that
/// started a process, and not that of its program, for the death of its parent.
fn spawn(command: Command) -> Child {
    type Request = (Command, SyncSender<io::Result<Child>>);
    static STARTER: OnceLock<SyncSender<Request>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        // A caller that comes while it is busy waits for the few milliseconds that a start takes.
        let (sender, requests) = sync_channel::<Request>(1);
        thread::spawn(move || {
            for (mut command, answer) in requests {
                answer.send(command.spawn()).expect("somebody waits for it");
            }
        });
        sender
    });
    let (answer, child) = sync_channel(1);
    starter.send((command, answer)).expect("the starter never ends");
    child.recv().expect("the starter answers").expect("the server can be run")
}
