//! What the program can do besides serving: its commands.
//!
//! Those on the log may be used while a db_proxy runs, and change nothing of it.

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use daemon::BoxError;
use daemon::config::Flags;
use daemon::run::{read_arguments, run_command, run_with};
use proto::ids::Offset;

use crate::config::Config;
use crate::log_tools;
use crate::log_tools::health::Health;
use crate::log_tools::records::{Replay, Shown};

#[derive(Debug, PartialEq, Eq, Subcommand)]
enum Command {
    /// Brings the databases to the version of this program, and ends
    Migrate,
    /// Makes the topic in Kafka, if it is not there
    CreateTopic(TopicArgs),
    /// Looks into the log, whether a db_proxy runs or not, and changes nothing of it
    #[command(subcommand)]
    Log(LogCommand),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
struct TopicArgs {
    /// How many brokers have each record; 3 if not given
    #[arg(long, value_name = "N")]
    replicas: Option<usize>,
    /// How long a record stays; 7 if not given
    #[arg(long, value_name = "N")]
    retention_days: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
enum LogCommand {
    /// Prints what is in the log, without what people wrote
    Inspect {
        /// The first record that is listed
        #[arg(long, value_name = "OFFSET")]
        from: Option<u64>,
        /// How many records are listed
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// Of this partition of a topic alone
        #[arg(long, value_name = "N")]
        partition: Option<u32>,
    },
    /// Reads the whole log; exits with 1 if something is damaged
    Verify {
        /// Of this partition of a topic alone
        #[arg(long, value_name = "N")]
        partition: Option<u32>,
    },
    /// Lets another consumer of the topic go on from there
    Replay {
        /// Its consumer group
        #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        consumer: String,
        /// The next record that it reads
        #[arg(long, value_name = "OFFSET")]
        from: u64,
        /// In this partition of the topic alone
        #[arg(long, value_name = "N")]
        partition: Option<u32>,
    },
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    match read_arguments::<Config, Command>() {
        Ok((flags, None)) => run_with(flags, crate::run),
        Ok((flags, Some(Command::Migrate))) => run_command(flags, crate::migrate),
        Ok((flags, Some(Command::CreateTopic(new)))) => create_topic(flags, new),
        Ok((flags, Some(Command::Log(command)))) => log(flags, command),
        Err(code) => code,
    }
}

#[cfg(feature = "kafka")]
fn create_topic(flags: Flags, args: TopicArgs) -> ExitCode {
    use std::time::Duration;

    use record_log::kafka::NewTopic;

    let mut new = NewTopic::default();
    if let Some(replicas) = args.replicas {
        new.replicas = replicas;
    }
    if let Some(days) = args.retention_days {
        new.retention = Duration::from_hours(days.saturating_mul(24));
    }
    run_command(flags, move |config: Config| crate::site::create_topic(config, new))
}

#[cfg(not(feature = "kafka"))]
fn create_topic(flags: Flags, _args: TopicArgs) -> ExitCode {
    run_command(flags, async |_config: Config| {
        let why = "this db_proxy was built without Kafka: build it with `--features kafka`";
        Err(daemon::StartRefused(why.to_owned()).into())
    })
}

fn log(flags: Flags, command: LogCommand) -> ExitCode {
    match command {
        LogCommand::Inspect { from, count, partition } => {
            let shown = Shown { from: from.map(Offset), count, partition };
            look(flags, move |config, out| log_tools::inspect(config, shown, out))
        }
        LogCommand::Verify { partition } => {
            let shown = Shown { partition, ..Shown::default() };
            look(flags, move |config, out| log_tools::verify(config, shown, out))
        }
        LogCommand::Replay { consumer, from, partition } => look(flags, move |config, out| {
            let replay = Replay { consumer: &consumer, from: Offset(from), partition };
            log_tools::replay(config, replay, out)
        }),
    }
}

/// Runs a command that prints something, and says by its exit code what it has found.
fn look(
    flags: Flags,
    command: impl FnOnce(&Config, &mut dyn Write) -> Result<Health, BoxError> + Send + 'static,
) -> ExitCode {
    let damaged = Arc::new(AtomicBool::new(false));
    let found = Arc::clone(&damaged);
    let code = run_command(flags, |config: Config| async move {
        let work = move || {
            let mut out = BufWriter::new(io::stdout().lock());
            let health = command(&config, &mut out)?;
            out.flush()?;
            Ok(health)
        };
        match tokio::task::spawn_blocking(work).await? {
            Ok(health) => found.store(health == Health::Damaged, Ordering::Relaxed),
            Err(error) if is_enough(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    });
    if damaged.load(Ordering::Relaxed) { ExitCode::FAILURE } else { code }
}

/// Whether the reader of the output has gone: it has seen what it wanted.
fn is_enough(error: &BoxError) -> bool {
    let error: &(dyn Error + 'static) = error.as_ref();
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn read(words: &[&str]) -> Result<Option<Command>, String> {
        let read = Flags::read::<Command>("db_proxy", words.iter().map(OsString::from));
        let read = read.map_err(|error| error.to_string())?;
        let (_flags, command) = read.expect("it asks for more than a text");
        Ok(command)
    }

    #[test]
    fn every_command_is_understood_with_its_own_flags_among_those_of_the_settings() {
        let topic =
            |replicas, retention_days| Command::CreateTopic(TopicArgs { replicas, retention_days });
        let inspect = LogCommand::Inspect { from: Some(7), count: Some(3), partition: None };
        let consumer = "push".to_owned();
        let replay = LogCommand::Replay { consumer, from: 9, partition: Some(2) };
        for (words, expected) in [
            ("", None),
            ("--config x --set a=1", None),
            ("migrate", Some(Command::Migrate)),
            ("migrate --set a=1 --config x --check", Some(Command::Migrate)),
            ("create-topic", Some(topic(None, None))),
            (
                "create-topic --replicas 3 --set a=1 --retention-days=9",
                Some(topic(Some(3), Some(9))),
            ),
            ("log inspect --set a=1 --from 7 --count=3 --config x", Some(Command::Log(inspect))),
            (
                "log verify --partition 4",
                Some(Command::Log(LogCommand::Verify { partition: Some(4) })),
            ),
            ("log replay --from 9 --consumer push --partition 2", Some(Command::Log(replay))),
        ] {
            let words: Vec<&str> = words.split_whitespace().collect();
            assert_eq!(read(&words), Ok(expected), "{words:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_in_one_line() {
        for (words, named) in [
            ("repeat", "'repeat'"),
            ("log", "inspect"),
            ("log repeat", "'repeat'"),
            ("log inspect --from", "--from"),
            ("log inspect --count many", "--count"),
            ("log replay --from 3", "--consumer"),
            ("log replay --consumer push", "--from"),
            ("log replay --from 3 --consumer=", "--consumer"),
            ("migrate --from 3", "--from"),
            // It would be without effect there.
            ("--config x migrate", "migrate"),
        ] {
            let split: Vec<&str> = words.split_whitespace().collect();
            let why = read(&split).expect_err(words);
            assert!(why.contains(named) && why.lines().count() == 1, "{words}: {why}");
        }
    }
}
