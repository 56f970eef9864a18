//! The `talkhub` command: a cluster with one command, a chat in a terminal, and administration.
//!
//! ```text
//! up ──► the daemons' crates, or their programs        chat ──► client
//!  └───► admin_link ◄── admin
//! ```
//!
//! Each module is one sub-command and reads top down; `failure` is how all of them end badly, `terminal`
//! how they show texts, and `demo` what `up` and `chat` know of the demo users.

#![expect(clippy::print_stderr, reason = "a command talks to its user")]

pub mod admin;
mod admin_link;
pub mod chat;
mod demo;
pub mod failure;
mod terminal;
pub mod up;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use failure::Failure;

/// What the arguments mean to clap when they are wrong.
const EXIT_USAGE: u8 = 2;

/// The arguments.
#[derive(Debug, Parser)]
#[command(name = "talkhub", version, about = "Self-hosted instant messaging", long_about = None)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a whole cluster on this machine
    Up(up::UpArgs),
    /// Chats from a terminal
    Chat(chat::ChatArgs),
    /// Users and groups; a whole site to MySQL
    Admin(admin::AdminArgs),
    /// Not for people
    #[command(name = up::child::COMMAND, hide = true)]
    RunChild(up::child::ChildArgs),
}

/// Does what the arguments (with the program's name first) ask for.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // If this fails, it cannot be reported.
            error.print().ok();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let done: Result<(), Failure> = match &cli.command {
        Command::Up(args) => up::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Admin(args) => admin::run(args),
        Command::RunChild(args) => Err(up::child::run(args)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.complain(),
    }
}
