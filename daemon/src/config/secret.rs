//! Strings that are never shown, and the files that hold them.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Deserialize;
use zeroize::Zeroize;

use super::error::ConfigError;

/// The shortest key that links accept: 16 random bytes are beyond guessing, a word is not.
const KEY_LEN_MIN: usize = 16;

/// A string that is never shown: a key, a password, a URL with a password in it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret that did not come from the settings.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Refuses a key that is too short; `named` is the setting that has it.
pub(super) fn check_key(named: &str, key: &Secret) -> Result<(), ConfigError> {
    if key.expose().len() < KEY_LEN_MIN {
        return Err(ConfigError::new(named, format!("must be at least {KEY_LEN_MIN} bytes long")));
    }
    Ok(())
}

/// Reads a secret from a file that only its owner may read; `named` is the setting that names the file.
/// Refused if it is shorter than a cluster's key may be.
pub fn read_secret(named: &str, file: &Path) -> Result<Secret, ConfigError> {
    let refuse =
        |problem: String| ConfigError::new(named, format!("{}: {problem}", file.display()));

    let mode = fs::metadata(file).map_err(|error| refuse(error.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(refuse(format!(
            "must be for its owner only (mode 0600), is {:04o}",
            mode & 0o7777
        )));
    }
    let mut text = fs::read_to_string(file).map_err(|error| refuse(error.to_string()))?;
    let key = Secret::new(text.trim());
    text.zeroize();
    check_key(named, &key)?;
    Ok(key)
}
