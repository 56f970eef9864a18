//! Measures how many messages a cluster acknowledges and how fast, with each kind of storage behind it,
//! and what it costs to deliver the messages of a group to all who are there.
//!
//! `cargo run --release -p tests --features kafka --bin talkhub-load` prints the table. It takes a few
//! minutes, and is worth something on a machine that does nothing else.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tests::fault::say;
use tests::load::api::{self, ApiOptions};
use tests::load::fanout::{self, FanoutOptions};
use tests::load::{Behind, HEAD, LoadOptions, machine, measure};

/// Measures how many messages a cluster acknowledges and how fast, with each kind of storage behind it
#[derive(Debug, Parser)]
#[command(name = "talkhub-load")]
struct Args {
    /// What is behind the gateways: embedded, hook (embedded, with a hook that hangs for one user), mysql, kafka;
    /// or the members of a group who read; or the HTTP API; all of them if not given
    #[arg(value_parser = ["embedded", "hook", "mysql", "kafka", "group", "api"])]
    what: Vec<String>,
    /// Clients, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    clients: u32,
    /// Messages of each that may be unanswered
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    window: u32,
    /// How long each of the two is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Messages a second of all clients together, at the modest rate
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// How many db_proxies share the log on Kafka
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    db_proxies: u16,
    /// Members of the group, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..=5_000))]
    members: u32,
    /// Messages that eight of them say together
    #[arg(long, value_name = "N", default_value_t = 40_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    messages: u32,
    /// Users that are listed by the HTTP API
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    users: u32,
}

/// Members of the group who speak.
const SPEAKERS: u32 = 8;

#[expect(clippy::print_stdout, reason = "a program for a person at a terminal")]
fn main() -> ExitCode {
    let args = Args::parse();
    let options = LoadOptions {
        clients: args.clients,
        window: args.window,
        lasts: Duration::from_secs(args.seconds),
        rate: args.rate,
        db_proxies: args.db_proxies,
    };
    let machine = match machine() {
        Ok(machine) => machine,
        Err(error) => {
            say(format_args!("talkhub-load: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let Args { clients, window, seconds, rate, members, messages, users, .. } = args;
    println!("{machine}; messages of 100 bytes");
    let asked = |name: &str| args.what.is_empty() || args.what.iter().any(|asked| asked == name);
    let mut head = Some(format!(
        "{clients} clients, {window} unanswered each, then {rate}/s, for {seconds} s each\n{HEAD}"
    ));
    for behind in Behind::ALL.iter().filter(|behind| asked(behind.name())) {
        if let Some(head) = head.take() {
            println!("{head}");
        }
        if *behind == Behind::Kafka && !cfg!(feature = "kafka") {
            println!("kafka: built without it: `--features kafka`");
            continue;
        }
        println!("{}", measure(*behind, &options));
    }
    if asked("group") {
        let options = FanoutOptions { members, speakers: SPEAKERS, messages };
        println!("{}\n{}", fanout::HEAD, fanout::measure(options));
    }
    if asked("api") {
        let options = ApiOptions { connections: clients, lasts: options.lasts, users };
        println!("{}", api::measure(options));
    }
    ExitCode::SUCCESS
}
