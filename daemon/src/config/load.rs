//! Where a daemon's settings come from: its file, the environment, and flags.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Arg, ArgAction, Command, value_parser};

use super::error::ConfigError;
use super::settings::Settings;
use super::tree::{File, Node, Origin};
use crate::faults;

/// What every variable that is meant for us begins with.
const PREFIX: &str = "TALKHUB_";

/// What the arguments ask for.
#[derive(Debug)]
pub enum Start<S> {
    /// To run, with these settings.
    Run(Loaded<S>),
    /// Nothing more: what was asked for has been printed.
    Done,
}

/// Settings that have passed every check.
#[derive(Debug)]
pub struct Loaded<S> {
    /// The settings.
    pub settings: S,
    /// Where they came from, to read them again.
    pub source: Source,
    /// What an operator should know, but what does not keep the daemon from running.
    pub warnings: Vec<String>,
}

/// The places that settings are read from.
#[derive(Debug, Clone, Default)]
pub struct Source {
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    sets: Vec<(String, String)>,
}

/// Reads the settings that `args` (without the program's name) and the environment point to.
///
/// `--config FILE` names the file, by default `/etc/talkhub/<name>.toml` if that exists;
/// `--set key.sub=value` sets single keys; `--check` validates, and is [`Start::Done`] if all is well.
pub fn load<S: Settings>(
    args: impl IntoIterator<Item = OsString>,
) -> Result<Start<S>, ConfigError> {
    let program = std::iter::once(OsString::from(S::NAME));
    let matches = match command(S::NAME).try_get_matches_from(program.chain(args)) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => {
            say(&error.to_string());
            return Ok(Start::Done);
        }
        Err(error) => {
            let text = error.to_string();
            let problem = text.lines().next().unwrap_or("wrong arguments");
            return Err(ConfigError::general(None, problem.trim_start_matches("error: ")));
        }
    };

    let standard = PathBuf::from(format!("/etc/talkhub/{}.toml", S::NAME));
    let file = match matches.get_one::<PathBuf>("config") {
        Some(file) => Some(file.clone()),
        None => standard.exists().then_some(standard),
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut source = Source::default().with_environment(environment);
    source.file = file;
    for set in matches.get_many::<String>("set").unwrap_or_default() {
        source = source.with_set(set)?;
    }

    let loaded = source.load()?;
    if matches.get_flag("check") {
        for warning in &loaded.warnings {
            say(&format!("warning: {warning}\n"));
        }
        say(&format!("{}: the settings are fine\n", S::NAME));
        return Ok(Start::Done);
    }
    Ok(Start::Run(loaded))
}

/// Settings from a text alone: no environment, no flags. For tests and for built-in defaults.
pub fn parse<S: Settings>(text: &str) -> Result<S, ConfigError> {
    Source::default()
        .settings(Some((Path::new("settings"), text)))
        .map(|(settings, _file)| settings)
}

fn command(name: &'static str) -> Command {
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(
            "A variable TALKHUB_TABLE__KEY=value in the environment sets a key on top of the file, \
             and --set on top of that. Exit codes: 0 stopped, 1 failed, 78 wrong settings.",
        )
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

/// Prints what was asked for. Nobody is left to tell if standard output is closed.
fn say(text: &str) {
    io::stdout().write_all(text.as_bytes()).ok();
}

impl Source {
    /// Settings from `file`.
    pub fn file(file: impl Into<PathBuf>) -> Self {
        Self { file: Some(file.into()), ..Self::default() }
    }

    /// Adds those of the variables that are meant for us and not empty.
    pub fn with_environment(mut self, all: impl Iterator<Item = (String, String)>) -> Self {
        let ours = all.filter(|(name, value)| {
            name.starts_with(PREFIX) && !value.is_empty() && !faults::is_variable(name)
        });
        self.environment.extend(ours);
        self.environment.sort();
        self
    }

    /// Adds a flag's `table.key=value`.
    pub fn with_set(mut self, set: &str) -> Result<Self, ConfigError> {
        match set.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                self.sets.push((key.trim().to_owned(), value.to_owned()));
                Ok(self)
            }
            _ => Err(ConfigError::general(Some("--set".to_owned()), "must be TABLE.KEY=VALUE")),
        }
    }

    /// Reads and checks the settings; again at each call.
    pub fn load<S: Settings>(&self) -> Result<Loaded<S>, ConfigError> {
        let text = match &self.file {
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|error| {
                    let place = path.display().to_string();
                    ConfigError::general(Some(place), format!("cannot be read: {error}"))
                })?;
                Some((path.as_path(), text))
            }
            None => None,
        };
        let text = text.as_ref().map(|(path, text)| (*path, text.as_str()));
        let (settings, file) = self.settings(text)?;

        let mut warnings = Vec::new();
        if file.holds_secret.load(Ordering::Relaxed)
            && fs::metadata(&file.path).is_ok_and(|data| data.permissions().mode() & 0o007 != 0)
        {
            warnings.push(format!(
                "{} holds a secret and is open to everybody: chmod 640, or keep the secret in a file of its own",
                file.path.display()
            ));
        }
        Ok(Loaded { settings, source: self.clone(), warnings })
    }

    fn settings<S: Settings>(
        &self,
        text: Option<(&Path, &str)>,
    ) -> Result<(S, Arc<File>), ConfigError> {
        let (path, text) = text.unwrap_or((Path::new("settings"), ""));
        let file = Arc::new(File { path: path.into(), holds_secret: AtomicBool::new(false) });
        let mut tree = Node::parse(text, &file)?;
        for (name, value) in &self.environment {
            let key = name.trim_start_matches(PREFIX).to_ascii_lowercase();
            let path: Vec<&str> = key.split("__").collect();
            tree.put(&path, value, &Origin::Environment(name.clone()));
        }
        for (key, value) in &self.sets {
            let path: Vec<&str> = key.split('.').collect();
            tree.put(&path, value, &Origin::Flag(key.clone()));
        }

        let settings =
            S::deserialize(tree.clone()).map_err(|problem| problem.into_error(&tree.origin))?;
        settings.process().check().and_then(|()| settings.check()).map_err(|mut error| {
            if let (None, Some(key)) = (&error.place, &error.key) {
                error.place = Some(tree.origin_of(key).to_string());
            }
            error
        })?;
        Ok((settings, file))
    }
}
