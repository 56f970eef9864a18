//! A daemon under `strace`, which makes chosen system calls fail, late, or deadly.
//!
//! # Invariants
//!
//! - A tracer ends with its value, and lets the daemon go on as if nothing had been.
//! - What an injection counts, it counts for each thread of the daemon by itself.
//! - Everything blocks the calling thread.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::cluster::{pause, pid_of, wait_for};
use crate::programs::scratch;

/// How often its end is looked for before it is killed.
const ENDS_MAX: usize = 200;

/// A tracer of one process.
#[derive(Debug)]
pub struct Strace {
    child: Child,
    /// Reads what it says, so that it never waits.
    talk: Option<JoinHandle<()>>,
    folder: TempDir,
}

impl Strace {
    /// Whether processes can be traced here; otherwise why not.
    pub fn works() -> Result<(), String> {
        let mut command = Command::new("strace");
        command.args(["-qq", "-o", "/dev/null", "true"]).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("strace cannot be run: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(()) } else { Err(format!("strace does not work: {said}")) }
    }

    /// Begins to trace all threads of a process, with further arguments. Returns when it does.
    pub fn attach(pid: Pid, args: &[&str]) -> Self {
        let folder = TempDir::new_in(scratch()).expect("make a folder for a trace");
        let mut child = Command::new("strace")
            .args(["-f", "-y", "-p", &pid.to_string(), "-o"])
            .arg(folder.path().join("trace"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace can be run");
        let mut said = BufReader::new(child.stderr.take().expect("it was asked for"));
        let mut line = String::new();
        said.read_line(&mut line).expect("it says text");
        let talk = std::thread::spawn(move || {
            let mut line = String::new();
            while said.read_line(&mut line).is_ok_and(|length| length > 0) {
                line.clear();
            }
        });
        let strace = Self { child, talk: Some(talk), folder };
        assert!(line.contains(" attached"), "strace attaches, not: {line}");
        let tracer = format!("TracerPid:\t{}", strace.child.id());
        wait_for("all threads are traced", || is_everywhere(pid, &tracer).then_some(()));
        strace
    }

    /// What was traced so far, one line for each call or event.
    pub fn lines(&self) -> Vec<String> {
        let text = fs::read(self.trace()).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    /// The calls that were made to fail or be late, as far as they are written down.
    pub fn injected(&self) -> Vec<String> {
        self.lines().into_iter().filter(|line| is_injected(line)).collect()
    }

    /// Ends it. Returns what was traced.
    pub fn detach(mut self) -> Vec<String> {
        self.end();
        self.lines()
    }

    fn trace(&self) -> PathBuf {
        self.folder.path().join("trace")
    }

    fn end(&mut self) {
        // It lets go in order if it is asked to end; the kernel sees to it if it does not.
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        kill_process(pid_of(&self.child), Signal::TERM).ok();
        for _ in 0..ENDS_MAX {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            pause();
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.end();
        if let Some(talk) = self.talk.take() {
            talk.join().ok();
        }
    }
}

/// Whether a line tells of a call that was made to fail or be late.
pub(crate) fn is_injected(line: &str) -> bool {
    ["(INJECTED", "(DELAYED"].iter().any(|mark| line.contains(mark))
}

/// Whether all threads of a process have this tracer.
fn is_everywhere(pid: Pid, tracer: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let statuses = threads.into_iter().flatten().flatten().map(|thread| {
        // A thread that has just ended is traced well enough.
        fs::read_to_string(thread.path().join("status"))
    });
    statuses.flatten().all(|status| status.lines().any(|line| line == tracer))
}

/// How often each thread made each call, by the call's name: the most of any thread.
pub fn most_calls<'a>(lines: impl IntoIterator<Item = &'a String>) -> BTreeMap<String, usize> {
    let mut calls: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (thread, call) in lines.into_iter().filter_map(|line| call_of(line)) {
        *calls.entry((thread, call)).or_default() += 1;
    }
    let mut most = BTreeMap::new();
    for ((_thread, call), count) in calls {
        let known: &mut usize = most.entry(call.to_owned()).or_default();
        *known = count.max(*known);
    }
    most
}

/// The thread and the call that a line begins to tell of.
fn call_of(line: &str) -> Option<(&str, &str)> {
    let (thread, rest) = line.split_once(' ')?;
    let (name, _arguments) = rest.trim_start().split_once('(')?;
    let is_name = |name: &str| !name.is_empty() && name.chars().all(is_of_a_name);
    (is_name(thread) && is_name(name)).then_some((thread, name))
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn calls_are_counted_for_each_thread() {
        let lines = [
            "7 futex(0x7f, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>",
            "8 pwrite64(9</data/1.segment>, \"a(b\"..., 64, 0) = 64",
            "7 <... futex resumed>) = 0",
            "8 futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 1",
            "8 futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 1",
            "8 --- SIGTERM {si_signo=SIGTERM} ---",
            "7 +++ killed by SIGKILL +++",
        ]
        .map(str::to_owned);
        let most = most_calls(&lines);
        assert_eq!(most, BTreeMap::from([("futex".to_owned(), 2), ("pwrite64".to_owned(), 1)]));
    }

    #[test]
    fn a_traced_process_meets_what_was_injected_and_goes_on_without_its_tracer() {
        if let Err(why) = Strace::works() {
            backends::skip(&why);
            return;
        }
        let mut cat = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut into, mut out) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
        let mut say = |text: &str| {
            into.write_all(text.as_bytes()).unwrap();
            let mut line = String::new();
            BufReader::new(&mut out).read_line(&mut line).unwrap();
            line
        };
        let strace = Strace::attach(pid_of(&cat), &["-e", "inject=write:delay_enter=1000:when=1"]);
        assert_eq!(say("one\n"), "one\n");
        wait_for("it is traced", || (strace.injected().len() == 1).then_some(()));
        assert!(strace.detach().iter().any(|line| line.contains("write(")));
        assert_eq!(say("two\n"), "two\n");
        drop(into);
        assert!(cat.wait().unwrap().success());
    }
}
