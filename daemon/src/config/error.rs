//! What is wrong with settings, in one line.

use std::fmt;

/// What is wrong with the settings: restarting will not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// File and line, variable or flag.
    pub(super) place: Option<String>,
    pub(super) key: Option<String>,
    pub(super) problem: String,
}

impl ConfigError {
    /// `key` is written as in the file, after its tables, as in `process.log_level`; `allowed` says
    /// what it may be.
    pub fn new(key: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { place: None, key: Some(key.into()), problem: allowed.into() }
    }

    /// Something that is wrong with the settings as a whole, or with how they were given.
    pub(crate) fn general(place: Option<String>, problem: impl Into<String>) -> Self {
        Self { place, key: None, problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "key `{key}`: ")?;
        }
        // One line, whatever the problem was made of.
        let mut lines = self.problem.lines().map(str::trim).filter(|line| !line.is_empty());
        f.write_str(lines.next().unwrap_or("is wrong"))?;
        lines.try_for_each(|line| write!(f, "; {line}"))
    }
}
