//! The schemas of the client protocol, as far as an example needs them: the fields of each message by
//! number, and the numbers of each enum by name.
//!
//! Read from the files that the program is compiled from, which have one field in a line.

use std::collections::BTreeMap;
use std::fs;

use crate::root;

/// The files of the client protocol; the others are the cluster's and the log's.
const FILES: [&str; 9] =
    ["base", "buddy", "extension", "file", "group", "login", "message", "other", "switch"];

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Number,
    Bool,
    Text,
    Bytes,
    /// An enum or a message, of this name.
    Named(String),
}

/// A field of a message.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// All messages and enums.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    messages: BTreeMap<String, BTreeMap<u32, Field>>,
    enums: BTreeMap<String, BTreeMap<u64, String>>,
}

impl Schema {
    /// Reads the files.
    pub(crate) fn read() -> Self {
        let mut schema = Self::default();
        for file in FILES {
            let path = root().join("proto/schema").join(file).with_extension("proto");
            let text = fs::read_to_string(&path).expect("a schema can be read");
            schema.take(&text);
        }
        assert!(schema.messages.len() > 60 && schema.enums.len() > 10, "the schemas are read");
        schema
    }

    fn take(&mut self, text: &str) {
        let mut inside: Option<(&str, &str)> = None;
        for line in text.lines().map(|line| line.split("//").next().unwrap_or_default().trim()) {
            let words: Vec<&str> = line.split([' ', ';']).filter(|word| !word.is_empty()).collect();
            match (words.as_slice(), inside) {
                (&[kind @ ("message" | "enum"), name, ..], None) => {
                    match kind {
                        "message" => drop(self.messages.insert(name.to_owned(), BTreeMap::new())),
                        _ => drop(self.enums.insert(name.to_owned(), BTreeMap::new())),
                    }
                    inside = Some((kind, name)).filter(|_open| !line.ends_with('}'));
                }
                (["}"], Some(_)) => inside = None,
                (&[_rule, kind, field, "=", number, ..], Some(("message", name))) => {
                    let number = number.parse().expect("a field has a number");
                    let field = Field { name: field.to_owned(), kind: Kind::read(kind) };
                    self.messages.entry(name.to_owned()).or_default().insert(number, field);
                }
                (&[value, "=", number], Some(("enum", name))) => {
                    let value = short(name, value).to_owned();
                    let names = self.enums.entry(name.to_owned()).or_default();
                    names.insert(read_number(number), value);
                }
                ([] | ["syntax" | "package" | "import", ..], _) => {}
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    /// A field of a message.
    pub(crate) fn field(&self, message: &str, number: u32) -> Option<&Field> {
        self.messages.get(message)?.get(&number)
    }

    /// The values of an enum by number, without what all names begin with.
    pub(crate) fn values(&self, name: &str) -> Option<&BTreeMap<u64, String>> {
        self.enums.get(name)
    }
}

impl Kind {
    fn read(word: &str) -> Self {
        match word {
            "uint32" | "uint64" => Self::Number,
            "bool" => Self::Bool,
            "string" => Self::Text,
            "bytes" => Self::Bytes,
            name => Self::Named(name.to_owned()),
        }
    }
}

fn read_number(text: &str) -> u64 {
    let read = text
        .strip_prefix("0x")
        .map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16));
    read.expect("an enum has numbers")
}

/// `REFUSE_REASON_FULL` of `RefuseReason` is `FULL`.
fn short<'a>(of: &str, value: &'a str) -> &'a str {
    let words = of.chars().enumerate().map(|(at, letter)| {
        let gap = if at > 0 && letter.is_uppercase() { "_" } else { "" };
        format!("{gap}{}", letter.to_ascii_uppercase())
    });
    value.strip_prefix(&format!("{}_", words.collect::<String>())).unwrap_or(value)
}
