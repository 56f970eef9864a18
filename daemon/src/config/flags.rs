//! The command line of a daemon: the flags that say where its settings come from, and the commands of a
//! program that can do more than serve.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, Subcommand, value_parser};

use super::error::ConfigError;
use super::load::{Loaded, Source};
use super::settings::Settings;

/// The commands of a program that only serves.
#[derive(Debug, Subcommand)]
pub enum NoCommand {}

/// What the flags say.
#[derive(Debug)]
pub struct Flags {
    file: Option<PathBuf>,
    sets: Vec<String>,
    checks: bool,
}

impl Flags {
    /// Reads the arguments, without the program's name, of the program `name`, whose commands are `C`.
    /// `None` if nothing more is asked for than what has been printed, such as the help.
    ///
    /// `--config FILE` names the file of the settings, by default `/etc/talkhub/<name>.toml` if that
    /// exists; `--set key.sub=value` sets single keys; `--check` validates, and is the end. They stand
    /// behind the command, if there is one.
    pub fn read<C: Subcommand>(
        name: &'static str,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<Option<(Self, Option<C>)>, ConfigError> {
        let program = std::iter::once(OsString::from(name));
        let read = command::<C>(name).try_get_matches_from(program.chain(args));
        let read = read.and_then(|matches| {
            let asked = matches.subcommand().map(|_named| C::from_arg_matches(&matches));
            Ok((Self::of(innermost(&matches)), asked.transpose()?))
        });
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if !error.use_stderr() => {
                say(&error.to_string());
                Ok(None)
            }
            Err(error) => Err(ConfigError::general(None, problem(&error))),
        }
    }

    fn of(matches: &ArgMatches) -> Self {
        Self {
            file: matches.get_one::<PathBuf>("config").cloned(),
            sets: matches.get_many::<String>("set").unwrap_or_default().cloned().collect(),
            checks: matches.get_flag("check"),
        }
    }

    /// Reads the settings that the flags and the environment point to. `None` if they were only to be
    /// checked: what was found is printed.
    pub fn load<S: Settings>(self) -> Result<Option<Loaded<S>>, ConfigError> {
        let standard = PathBuf::from(format!("/etc/talkhub/{}.toml", S::NAME));
        let file = self.file.or_else(|| standard.exists().then_some(standard));
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let mut source = file.map_or_else(Source::default, Source::file);
        source = source.with_environment(environment);
        for set in &self.sets {
            source = source.with_set(set)?;
        }
        let loaded = source.load()?;
        if !self.checks {
            return Ok(Some(loaded));
        }
        for warning in &loaded.warnings {
            say(&format!("warning: {warning}\n"));
        }
        say(&format!("{}: the settings are fine\n", S::NAME));
        Ok(None)
    }
}

/// The flags of the command that was named, or of the program if none was.
fn innermost(mut matches: &ArgMatches) -> &ArgMatches {
    while let Some((_name, inner)) = matches.subcommand() {
        matches = inner;
    }
    matches
}

/// What is wrong with the arguments, without how they should be.
fn problem(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let problem = lines.collect::<Vec<_>>().join(" ");
    problem.trim_start_matches("error: ").to_owned()
}

fn command<C: Subcommand>(name: &'static str) -> Command {
    let program = Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        // A flag before a command would else be taken for the program's own, and be without effect.
        .args_conflicts_with_subcommands(true)
        .after_help(
            "A variable TALKHUB_TABLE__KEY=value in the environment sets a key on top of the file, \
             and --set on top of that. Exit codes: 0 stopped, 1 failed, 78 wrong settings.",
        );
    // What is written about the type is not about the program.
    let program = C::augment_subcommands(program).about(None::<&str>).long_about(None::<&str>);
    with_flags(program.mut_subcommands(|command| with_flags_inside(command, name)), name)
}

/// Adds the flags to a command, or to those that it consists of.
fn with_flags_inside(command: Command, name: &'static str) -> Command {
    if command.has_subcommands() {
        // By itself it is a mistake, which is told in one line as others are.
        let command = command.disable_help_subcommand(true).arg_required_else_help(false);
        command.mut_subcommands(|inner| with_flags_inside(inner, name))
    } else {
        with_flags(command, name)
    }
}

fn with_flags(command: Command, name: &'static str) -> Command {
    command
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help(format!("The settings; by default /etc/talkhub/{name}.toml if it exists")),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("TABLE.KEY=VALUE")
                .action(ArgAction::Append)
                .help("Sets one key; may be repeated"),
        )
        .arg(
            Arg::new("check")
                .long("check")
                .action(ArgAction::SetTrue)
                .help("Checks the settings and exits"),
        )
}

/// Prints what was asked for. If standard output is closed, there is no place to report that to.
fn say(text: &str) {
    io::stdout().write_all(text.as_bytes()).ok();
}
