//! docs/PROTOCOL.md says what the code does: every byte of its examples, every number of its tables, and
//! the dialogue that the examples make, which is held with a cluster.

#![expect(clippy::indexing_slicing, reason = "an index out of range fails the test")]

mod document;
mod example;
mod number;
mod replay;
mod schema;

use std::fs;
use std::path::{Path, PathBuf};

use client::password_field;
use proto::text::{decrypt, encrypt};
use proto::{Command, Direction, State};
use tests::Cluster;

use document::{Table, blocks, quoted, sentences, tables};
use example::{Example, explain};
use number::{Quantity, in_code, in_words};
use replay::Dialogue;
use schema::Schema;

/// The table of commands begins with these.
const COMMAND: [&str; 5] = ["Number", "Command", "Sent by", "Before the login", "Longest frame"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text() -> String {
    fs::read_to_string(root().join("docs/PROTOCOL.md")).expect("the document can be read")
}

fn examples() -> Vec<Example> {
    let found: Vec<_> = blocks(&text(), "frame").iter().map(Example::read).collect();
    assert!(found.len() >= 20, "the examples are found: {}", found.len());
    found
}

#[test]
fn every_example_is_what_is_made_of_its_bytes() {
    let schema = Schema::read();
    let mut wrong = Vec::new();
    for example in examples() {
        let (frame, command) = example.frame();
        let expected = explain(&schema, &frame, command);
        if example.shown != expected {
            wrong.push(format!("line {}:\n{}\n", example.line, expected.join("\n")));
        }
        // The names are those of the fields that the program knows.
        let described = command.describe(frame.body).expect("the body can be read");
        for line in expected.iter().skip(1) {
            // Lines without a note have more bytes of the same field.
            let note = line.split_once("  ").map(|(_hex, note)| note.trim());
            let field = note.and_then(|note| note.split([' ', ':']).nth(1));
            let is_known = |field| described.contains(&format!("{field}: "));
            assert!(field.is_none_or(is_known), "{line}: not in {described}");
        }
    }
    assert!(wrong.is_empty(), "docs/PROTOCOL.md must say:\n{}", wrong.join("\n"));
}

#[test]
fn a_cluster_holds_the_dialogue_of_the_examples() {
    let cluster = Cluster::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut dialogue = Dialogue::begin(&cluster.login);
        for example in examples() {
            dialogue.take(&example).await;
        }
        dialogue.end();
    });
}

#[test]
fn every_number_is_that_of_the_code() {
    let mut checked = 0;
    for table in tables(&text()) {
        let Some(place) = table.column("In the code") else { continue };
        let value = ["Value", "Code"].into_iter().find_map(|name| table.column(name));
        let value = value.unwrap_or_else(|| panic!("line {}: a column of values", table.line));
        for row in &table.rows {
            let [name, path] = quoted(&row[place])[..] else {
                panic!("{row:?}: a name and a file in backticks")
            };
            assert_eq!(in_words(&row[value]), in_code(name, path), "{row:?}");
            checked += 1;
        }
    }
    assert!(checked >= 50, "the tables are found: {checked}");
}

/// What is said in sentences is said in a table, too, where it is held to the code. Small counts are left
/// out: they are bytes of a field and the like.
#[test]
fn no_sentence_has_a_number_of_its_own() {
    let text = text();
    let mut known: Vec<Quantity> = tables(&text)
        .iter()
        .filter_map(|table| table.column("In the code").map(|_place| &table.rows))
        .flatten()
        .flat_map(|row| row.iter().flat_map(|cell| in_words(cell)))
        .collect();
    // Roughly how many members fit a frame, which `proto::lists` tries.
    known.push(Quantity::Count(80_000));
    let is_large = |quantity: &Quantity| match quantity {
        Quantity::Count(count) => *count >= 1_000,
        Quantity::Ms(_) => true,
    };
    for line in sentences(&text) {
        for quantity in in_words(&line).into_iter().filter(is_large) {
            assert!(known.contains(&quantity), "{quantity:?} is in no table: {line}");
        }
    }
}

#[test]
fn every_enum_is_that_of_the_schema() {
    let schema = Schema::read();
    let mut checked = 0;
    for table in tables(&text()) {
        let Some(values) = quoted(&table.header[0]).first().and_then(|name| schema.values(name))
        else {
            continue;
        };
        let said: Vec<(u64, String)> = table
            .rows
            .iter()
            .map(|row| (row[0].parse().expect("a number"), quoted(&row[1])[0].to_owned()))
            .collect();
        let known: Vec<_> = values.iter().map(|(number, name)| (*number, name.clone())).collect();
        assert_eq!(said, known, "line {}", table.line);
        checked += 1;
    }
    assert!(checked >= 8, "the tables are found: {checked}");
}

#[test]
fn every_command_is_there_as_the_code_has_it() {
    let is_it = |table: &Table| COMMAND.iter().zip(&table.header).all(|(one, other)| one == other);
    let said: Vec<Vec<String>> = tables(&text())
        .into_iter()
        .filter(is_it)
        .flat_map(|table| table.rows)
        .map(|row| row[..COMMAND.len()].to_vec())
        .collect();
    let known: Vec<Vec<String>> = Command::ALL.iter().map(|command| row_of(*command)).collect();
    let rows = |rows: &[Vec<String>]| {
        rows.iter().map(|row| format!("| {} |", row.join(" | "))).collect::<Vec<_>>().join("\n")
    };
    assert!(said == known, "docs/PROTOCOL.md must say:\n{}", rows(&known));
}

fn row_of(command: Command) -> Vec<String> {
    let sender = match command.direction() {
        Direction::ClientToServer => "client",
        Direction::ServerToClient => "server",
        Direction::Both => "both",
    };
    let is_first = command.accepted(State::Any, true).is_some();
    vec![
        format!("{:#06x}", command.number()),
        format!("`{}`", command.name()),
        sender.to_owned(),
        if is_first { "yes" } else { "no" }.to_owned(),
        with_commas(command.size_limit()),
    ]
}

fn with_commas(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).expect("digits"))
        .collect();
    groups.join(",")
}

#[test]
fn every_reason_for_a_close_is_there() {
    let path = root().join("msg_server/src/client/closing.rs");
    let source = fs::read_to_string(path).expect("the reasons can be read");
    let known: Vec<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.strip_suffix(','))
        .filter(|name| name.chars().all(char::is_alphanumeric))
        .collect();
    let text = text();
    let tables = tables(&text);
    let table = tables.iter().find(|table| table.header[0] == "`CloseReason`");
    let rows = &table.expect("there is a table of reasons").rows;
    let said: Vec<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(said, known);
}

#[test]
fn texts_and_passwords_are_encoded_as_the_tables_say() {
    let text = text();
    let rows = |header: [&str; 2]| {
        let is_it = |table: &Table| table.header == header;
        let rows: Vec<_> =
            tables(&text).into_iter().filter(is_it).flat_map(|table| table.rows).collect();
        assert!(!rows.is_empty(), "there is a table of {header:?}");
        rows.into_iter()
            .map(|row| {
                let quoted: Vec<String> =
                    row.iter().flat_map(|cell| quoted(cell)).map(Into::into).collect();
                let [from, to] = <[String; 2]>::try_from(quoted).expect("two in backticks");
                (from, to)
            })
            .collect::<Vec<_>>()
    };
    for (plain, data) in rows(["Text", "`msg_data`"]) {
        assert_eq!(encrypt(&plain), data, "{plain}");
        assert_eq!(decrypt(data.as_bytes()).as_deref(), Ok(&*plain));
    }
    for (typed, sent) in rows(["Typed", "Sent"]) {
        assert_eq!(password_field(&typed), sent, "{typed}");
    }
}
