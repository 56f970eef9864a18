//! The `talkhub` command itself: its exit codes, and how it becomes a daemon that does not outlive `up`.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn talkhub(args: &[&str]) -> Output {
    let mut command = backends::program(env!("CARGO_BIN_EXE_talkhub"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_arguments_end_with_2_and_what_was_asked_for_with_0() {
    for wrong in [&["nothing"][..], &[], &["up", "--gateways", "0"], &["chat", "--user", "anna"]] {
        let output = talkhub(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{wrong:?}");
    }
    for asked in [&["--version"][..], &["--help"], &["admin", "user", "--help"]] {
        let output = talkhub(asked);
        assert_eq!(output.status.code(), Some(0), "{asked:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{asked:?}");
    }
    let help = String::from_utf8(talkhub(&["--help"]).stdout).unwrap();
    assert!(!help.contains("run-child"), "it is not for people: {help}");
}

#[test]
fn a_command_that_failed_says_why_in_one_line_and_whether_another_try_may_help() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().to_str().unwrap();
    for (args, code) in [
        (&["admin", "--data", data, "user", "list"][..], 1),
        (&["up", "--data", data, "--db-proxies", "2"], 78),
        (&["chat", "--login", "https://h", "--user", "a", "--to", "b", "--ca", "/nowhere"], 78),
    ] {
        let output = talkhub(args);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.starts_with("talkhub: ") && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_child_becomes_its_program_unless_that_cannot_be_or_its_parent_has_gone() {
    let parent = std::process::id().to_string();
    let output = talkhub(&["run-child", &parent, "/bin/echo", "--config", "file", "-x"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"--config file -x\n"[..]));
    let output = talkhub(&["run-child", &parent, "/nowhere/db_proxy"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("cannot run /nowhere/db_proxy: "), "{}", said(&output));
    // The number of another process: the one that started it is gone.
    let output = talkhub(&["run-child", "1", "/bin/echo", "hello"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]));
    assert!(said(&output).contains("the process 1 of `up` has ended"), "{}", said(&output));
}

#[test]
fn a_daemon_is_told_to_stop_when_the_process_that_started_it_is_killed() {
    let temp = tempfile::tempdir().unwrap();
    let told = temp.path().join("told");
    // A daemon that takes down that it was told to stop.
    let daemon = format!(
        "trap 'echo stop > {}; exit' TERM; echo up; while :; do sleep 0.01 & wait; done",
        told.display()
    );
    // In place of `up`: starts it as `up` does, and waits.
    let mut up = Command::new("sh");
    up.args(["-c", "\"$0\" run-child $$ /bin/sh -c \"$1\" & wait"]);
    up.arg(env!("CARGO_BIN_EXE_talkhub")).arg(daemon);
    up.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut up = up.spawn().unwrap();
    let mut stdout = BufReader::new(up.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let pid = Pid::from_raw(i32::try_from(up.id()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    up.wait().unwrap();
    // The daemon has the other end: it is at its end when that has ended.
    stdout.read_to_string(&mut line).unwrap();
    assert_eq!(fs::read_to_string(told).unwrap(), "stop\n");
}
