//! What the program can do besides serving: the words before the flags.
//!
//! | Command | |
//! |---|---|
//! | (none) | serves |
//! | `migrate` | brings the databases to the version of this program, and ends |
//! | `log inspect [--from OFFSET] [--count N]` | prints what is in the log, without what people wrote |
//! | `log verify` | reads the whole log; exits with 1 if something is damaged |
//!
//! Those on the log may be used while a db_proxy runs, and change nothing.

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
use crate::inspecting::{self, Health, Shown};

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
            // Nobody is left to tell if that fails.
            writeln!(io::stderr(), "db_proxy log: {why}").ok();
            ExitCode::from(EXIT_CONFIG)
        });
    }
    run_with_args(args, crate::run)
}

fn log(mut args: impl Iterator<Item = OsString>) -> Result<ExitCode, String> {
    match args.next().as_deref().and_then(OsStr::to_str) {
        Some("inspect") => {
            let (shown, flags) = take_shown(args)?;
            Ok(look(flags, move |config, out| inspecting::inspect(config, shown, out)))
        }
        Some("verify") => Ok(look(args, inspecting::verify)),
        _ => Err("there is inspect [--from OFFSET] [--count N], and verify".to_owned()),
    }
}

/// Takes the flags that say what is listed from those that every command has.
fn take_shown(args: impl Iterator<Item = OsString>) -> Result<(Shown, Vec<OsString>), String> {
    let mut args = args.peekable();
    let (mut shown, mut others) = (Shown::default(), Vec::new());
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or_default();
        let (flag, value) = match text.split_once('=') {
            Some((flag, value)) => (flag, Some(OsString::from(value))),
            None => (text, None),
        };
        if !matches!(flag, "--from" | "--count") {
            others.push(arg);
            continue;
        }
        let is_from = flag == "--from";
        let value = value.or_else(|| args.next()).unwrap_or_default();
        let number = value.to_str().and_then(|value| value.parse().ok());
        let number: u64 = number.ok_or_else(|| format!("{flag} needs a number"))?;
        if is_from {
            shown.from = Some(Offset(number));
        } else {
            shown.count = Some(number);
        }
    }
    Ok((shown, others))
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
        assert_eq!(shown, Shown { from: Some(Offset(7)), count: Some(3) });
        assert_eq!(others, ["--set", "a=1", "--config", "x"]);
    }

    #[test]
    fn a_word_or_number_that_means_nothing_is_answered_with_what_there_is() {
        let asked = |words: &[&str]| log(words.iter().map(OsString::from)).unwrap_err();
        assert!(asked(&["replay"]).contains("inspect"));
        assert!(asked(&[]).contains("verify"));
        assert!(asked(&["inspect", "--from"]).contains("--from"));
        assert!(asked(&["inspect", "--count", "many"]).contains("--count"));
    }
}
