//! Programs under test.

use std::ffi::OsStr;
use std::process::Command;

/// What begins like this is a setting for our programs, or something that tests are told.
const PREFIX: &str = "TALKHUB_";

/// One of our programs, to be run. What the environment says to tests is not for it: daemons take every
/// variable of theirs for a setting, and refuse what they do not know.
pub fn program(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    for (name, _value) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(PREFIX) {
            command.env_remove(name);
        }
    }
    command
}
