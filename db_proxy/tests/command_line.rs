//! The program's own command line: what it says of itself, and of what it does not understand.

use std::process::{Command, Output};

fn db_proxy(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_db_proxy"));
    // What the environment says to tests is no setting.
    for (name, _value) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TALKHUB_") {
            command.env_remove(name);
        }
    }
    command.args(words).output().expect("it runs")
}

#[test]
fn the_help_names_the_commands_and_their_flags() {
    for (words, named) in [
        (&["--help"][..], &["migrate", "create-topic", "log", "--config", "--set", "--check"][..]),
        (&["log", "--help"], &["inspect", "verify", "replay"]),
        (&["log", "inspect", "--help"], &["--from", "--count", "--partition", "--config"]),
        (&["create-topic", "--help"], &["--replicas", "--retention-days", "--set"]),
    ] {
        let output = db_proxy(words);
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        for word in named {
            assert!(text.contains(word), "{words:?} does not name {word}:\n{text}");
        }
    }
}

#[test]
fn what_is_not_understood_is_one_line_and_the_code_of_wrong_settings() {
    for words in [&["repeat"][..], &["log"], &["log", "replay", "--from", "3"], &["--colour"]] {
        let output = db_proxy(words);
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(78), "{words:?}: {text}");
        assert!(text.starts_with("db_proxy: ") && text.lines().count() == 1, "{words:?}: {text}");
    }
}
