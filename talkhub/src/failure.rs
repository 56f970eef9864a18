//! How a command ends that did not do what it was asked for: one line for a person, and an exit
//! code for a program.

use std::fmt;
use std::process::ExitCode;

/// What the arguments or the settings ask for cannot be: a restart will not help.
pub const EXIT_CONFIG: u8 = 78; // EX_CONFIG of sysexits.h

/// The end of a command that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    /// Empty if it has been printed already.
    text: String,
}

impl Failure {
    /// It did not work this time.
    pub fn new(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }

    /// It will not work until something is changed.
    pub fn config(text: impl Into<String>) -> Self {
        Self { code: EXIT_CONFIG, text: text.into() }
    }

    /// Ends with 78, and says nothing: a daemon has said it on the same standard error.
    pub fn said_by_daemon() -> Self {
        Self { code: EXIT_CONFIG, text: String::new() }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Says what went wrong, in one line on standard error.
    pub(crate) fn complain(&self) -> ExitCode {
        if !self.text.is_empty() {
            eprintln!("talkhub: {self}");
        }
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever the text was made of.
        let mut lines = self.text.lines().map(str::trim).filter(|line| !line.is_empty());
        f.write_str(lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| write!(f, "; {line}"))
    }
}

impl std::error::Error for Failure {}

impl From<daemon::ConfigError> for Failure {
    fn from(error: daemon::ConfigError) -> Self {
        Self::config(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_whatever_it_is_made_of() {
        let shown = Failure::new("  first\n\n  second \r\nthird\n").to_string();
        assert_eq!(shown, "first; second; third");
        assert_eq!(Failure::said_by_daemon().to_string(), "");
    }

    #[test]
    fn only_what_a_restart_will_not_help_ends_with_78() {
        assert_eq!(Failure::new("x").code(), 1);
        let wrong = daemon::ConfigError::new("listen", "must be set");
        for failure in [Failure::config("x"), Failure::said_by_daemon(), wrong.into()] {
            assert_eq!(failure.code(), 78, "{failure:?}");
        }
    }
}
