//! Where a daemon's settings come from: its file, the environment, and single keys on top.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::ConfigError;
use super::settings::Settings;
use super::tree::{File, Node, Origin};
use crate::faults;

/// What every variable that is meant for us begins with.
const PREFIX: &str = "TALKHUB_";

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

/// Settings from a text alone: no environment, no flags. For tests and for built-in defaults.
pub fn parse<S: Settings>(text: &str) -> Result<S, ConfigError> {
    Source::default()
        .settings(Some((Path::new("settings"), text)))
        .map(|(settings, _file)| settings)
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
            let key = name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase();
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
