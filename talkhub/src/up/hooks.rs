//! The hooks of a cluster that one command starts: a file with tables `[[hooks]]`.

use std::fs;
use std::path::Path;

use db_client::hooks::{self, HookSettings};
use serde::Deserialize;
use toml::{Table, Value};

use crate::failure::Failure;

/// What the file may have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    hooks: Vec<HookSettings>,
}

/// The tables, as they go into the settings of every daemon that takes messages in.
///
/// # Errors
///
/// If the file cannot be read, or a hook in it cannot work.
pub(super) fn read(file: &Path) -> Result<Vec<Value>, Failure> {
    let wrong = |problem: &str| Failure::config(format!("{}: {problem}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| wrong(&error.to_string()))?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.message()))?;
    let tables = table.get("hooks").and_then(Value::as_array).cloned().unwrap_or_default();
    let read: File = table.try_into().map_err(|error| wrong(error.message()))?;
    hooks::check(&read.hooks).map_err(|error| wrong(&error.to_string()))?;
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_read_and_a_wrong_one_is_refused_with_the_files_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hooks.toml");
        let told = |text: &str| {
            fs::write(&file, text).unwrap();
            read(&file).map_err(|failure| failure.to_string())
        };
        let hook =
            "[[hooks]]\nname = \"words\"\nurl = \"http://127.0.0.1:9/\"\nsecret_file = \"s\"\n";
        assert_eq!(told("").unwrap(), []);
        assert_eq!(told(hook).unwrap()[0]["name"].as_str(), Some("words"));
        for (wrong, why) in [
            (hook.repeat(2), "`words` is there twice"),
            (format!("{hook}colour = 1\n"), "unknown field `colour`"),
            ("[hook]\n".to_owned(), "unknown field `hook`"),
            ("[[hooks".to_owned(), "unclosed"),
        ] {
            let told = told(&wrong).unwrap_err();
            assert!(told.contains(why) && told.contains("hooks.toml"), "{told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
        fs::remove_file(&file).unwrap();
        read(&file).unwrap_err();
    }
}
