//! What the program can do besides serving: the words before the flags.
//!
//! | Command | |
//! |---|---|
//! | (none) | serves |
//! | `migrate` | brings the databases to the version of this program, and ends |
//! | `create-topic [--replicas N] [--retention-days N]` | makes the topic in Kafka, if it is not there |
//! | `log inspect [--from OFFSET] [--count N] [--partition N]` | prints what is in the log, without what people wrote |
//! | `log verify [--partition N]` | reads the whole log; exits with 1 if something is damaged |
//! | `log replay --consumer NAME --from OFFSET [--partition N]` | lets another consumer of the topic go on from there |
//!
//! Those on the log may be used while a db_proxy runs, and change nothing of it.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use daemon::BoxError;
use daemon::run::{run_command, run_with_args};
use proto::ids::Offset;

use crate::config::Config;
use crate::log_tools;
use crate::log_tools::health::Health;
use crate::log_tools::records::{Replay, Shown};

/// The command line is wrong: trying again will not help.
const EXIT_CONFIG: u8 = 78; // EX_CONFIG of sysexits.h

/// Runs what the arguments, without the program's name, ask for.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter().peekable();
    if args.next_if(|word| word == "migrate").is_some() {
        return run_command(args, crate::migrate);
    }
    if args.next_if(|word| word == "log").is_some() {
        return log(args).unwrap_or_else(|why| {
            // If that fails, there is no other place to write to.
            writeln!(io::stderr(), "db_proxy log: {why}").ok();
            ExitCode::from(EXIT_CONFIG)
        });
    }
    if args.next_if(|word| word == "create-topic").is_some() {
        return create_topic(args).unwrap_or_else(|why| {
            writeln!(io::stderr(), "db_proxy create-topic: {why}").ok();
            ExitCode::from(EXIT_CONFIG)
        });
    }
    run_with_args(args, crate::run)
}

#[cfg(feature = "kafka")]
fn create_topic(args: impl Iterator<Item = OsString>) -> Result<ExitCode, String> {
    use std::time::Duration;

    use record_log::kafka::NewTopic;

    let (numbers, flags) = take_numbers(args, ["--replicas", "--retention-days"])?;
    let mut new = NewTopic::default();
    let [replicas, days] = numbers;
    if let Some(replicas) = replicas {
        new.replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
    }
    if let Some(days) = days {
        new.retention = Duration::from_hours(days.saturating_mul(24));
    }
    Ok(run_command(flags, move |config: Config| crate::site::create_topic(config, new)))
}

#[cfg(not(feature = "kafka"))]
fn create_topic(_args: impl Iterator<Item = OsString>) -> Result<ExitCode, String> {
    Err("this db_proxy was built without Kafka: build it with `--features kafka`".to_owned())
}

fn log(mut args: impl Iterator<Item = OsString>) -> Result<ExitCode, String> {
    match args.next().as_deref().and_then(OsStr::to_str) {
        Some("inspect") => {
            let (shown, flags) = take_shown(args)?;
            Ok(look(flags, move |config, out| log_tools::inspect(config, shown, out)))
        }
        Some("verify") => {
            let (shown, flags) = take_shown(args)?;
            Ok(look(flags, move |config, out| log_tools::verify(config, shown, out)))
        }
        Some("replay") => replay(args),
        _ => {
            Err("there is inspect [--from OFFSET] [--count N], verify, and replay --consumer NAME \
                  --from OFFSET; each for one partition of a topic with --partition N"
                .to_owned())
        }
    }
}

fn replay(args: impl Iterator<Item = OsString>) -> Result<ExitCode, String> {
    let ([consumer], others) = take_flags(args, ["--consumer"]);
    let (shown, flags) = take_shown(others.into_iter())?;
    let consumer =
        consumer.filter(|name| !name.is_empty()).ok_or("replay needs --consumer NAME")?;
    let from = shown.from.ok_or("replay needs --from OFFSET")?;
    Ok(look(flags, move |config, out| {
        let replay = Replay { consumer: &consumer, from, partition: shown.partition };
        log_tools::replay(config, replay, out)
    }))
}

/// Takes the flags that say what is listed from those that every command has.
fn take_shown(args: impl Iterator<Item = OsString>) -> Result<(Shown, Vec<OsString>), String> {
    let ([from, count, partition], others) =
        take_numbers(args, ["--from", "--count", "--partition"])?;
    let partition = partition.map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    Ok((Shown { from: from.map(Offset), count, partition }, others))
}

/// As [`take_flags`], of flags that have numbers.
fn take_numbers<const N: usize>(
    args: impl Iterator<Item = OsString>,
    names: [&str; N],
) -> Result<([Option<u64>; N], Vec<OsString>), String> {
    let (values, others) = take_flags(args, names);
    let mut numbers = [None; N];
    for ((number, value), name) in numbers.iter_mut().zip(values).zip(names) {
        let Some(value) = value else { continue };
        *number = Some(value.parse().map_err(|_| format!("{name} needs a number"))?);
    }
    Ok((numbers, others))
}

/// Takes the flags `names`, which have values, from the others. The last of each counts.
fn take_flags<const N: usize>(
    mut args: impl Iterator<Item = OsString>,
    names: [&str; N],
) -> ([Option<String>; N], Vec<OsString>) {
    let (mut values, mut others) = ([const { None }; N], Vec::new());
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or_default();
        let (flag, value) = match text.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (text, None),
        };
        let named = names.iter().zip(&mut values).find(|(name, _value)| **name == flag);
        let Some((_name, place)) = named else {
            others.push(arg);
            continue;
        };
        let next = || args.next().and_then(|value| value.into_string().ok());
        *place = value.or_else(next).or_else(|| Some(String::new()));
    }
    (values, others)
}

/// Runs a command that prints something, and says by its exit code what it has found.
fn look(
    args: impl IntoIterator<Item = OsString>,
    command: impl FnOnce(&Config, &mut dyn Write) -> Result<Health, BoxError> + Send + 'static,
) -> ExitCode {
    let damaged = Arc::new(AtomicBool::new(false));
    let found = Arc::clone(&damaged);
    let code = run_command(args, |config: Config| async move {
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
    use super::*;

    #[test]
    fn the_flags_of_a_list_may_stand_among_the_others() {
        let args = ["--set", "a=1", "--from", "7", "--count=3", "--config", "x"];
        let (shown, others) = take_shown(args.into_iter().map(OsString::from)).unwrap();
        assert_eq!(shown, Shown { from: Some(Offset(7)), count: Some(3), partition: None });
        assert_eq!(others, ["--set", "a=1", "--config", "x"]);
    }

    #[test]
    fn a_word_or_number_that_means_nothing_is_answered_with_what_there_is() {
        let asked = |words: &[&str]| log(words.iter().map(OsString::from)).unwrap_err();
        assert!(asked(&["repeat"]).contains("inspect"));
        assert!(asked(&["replay"]).contains("--consumer"));
        assert!(asked(&["replay", "--consumer", "push"]).contains("--from"));
        assert!(asked(&[]).contains("verify"));
        assert!(asked(&["inspect", "--from"]).contains("--from"));
        assert!(asked(&["inspect", "--count", "many"]).contains("--count"));
    }
}
