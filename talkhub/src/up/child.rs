//! A daemon's process, from the inside, just before it becomes the daemon.
//!
//! `talkhub up --processes` does not start a daemon directly but this command, which asks the kernel
//! to be told when `up` dies, and then replaces itself by the daemon; the request outlives that. So
//! no daemon is left behind, however `up` ends: it drains, as if told by hand.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::failure::Failure;

/// The name of the command, which is not for people.
pub(crate) const COMMAND: &str = "run-child";

/// The arguments of the hidden command.
#[derive(Debug, Args)]
pub struct ChildArgs {
    /// The process of `up`
    parent: i32,
    /// The daemon
    program: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// The command line that runs `program` as a child of this process.
pub(super) fn command(talkhub: &Path, program: &Path, config: &Path) -> Command {
    let mut command = Command::new(talkhub);
    command.arg(COMMAND).arg(std::process::id().to_string());
    command.arg(program).arg("--config").arg(config);
    // A Ctrl-C in the terminal is for `up`, which then stops its children in their order.
    command.process_group(0);
    command
}

/// Becomes the daemon. Returns only if that fails.
pub fn run(args: &ChildArgs) -> Failure {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return Failure::new(format!("cannot follow the process of `up`: {error}"));
    }
    // It may have died before the kernel was asked.
    if getppid().map(Pid::as_raw_pid) != Some(args.parent) {
        return Failure::new(format!("the process {} of `up` has ended", args.parent));
    }
    let error = Command::new(&args.program).args(&args.args).exec();
    Failure::new(format!("cannot run {}: {error}", args.program.display()))
}
