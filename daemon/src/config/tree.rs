//! Settings as a tree of values that know where they were written.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;

/// A file that settings were read from.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    /// Set when a secret was found in this file.
    pub(super) holds_secret: AtomicBool,
}

/// Where a value was written.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    File(Arc<File>, usize),
    Environment(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file, 0) => write!(f, "{}", file.path.display()),
            Self::File(file, line) => write!(f, "{}:{line}", file.path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(key) => write!(f, "--set {key}"),
        }
    }
}

/// One value with its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// What a setting may be.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Table(BTreeMap<String, Node>),
    List(Vec<Node>),
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    /// Text from the environment or a flag: its type is what the setting asks for.
    Loose(String),
}

impl Node {
    /// Reads a file's text.
    pub(super) fn parse(text: &str, file: &Arc<File>) -> Result<Self, ConfigError> {
        let lines = Lines { text, file };
        let table = DeTable::parse(text).map_err(|error| {
            let origin = lines.origin(error.span().unwrap_or_default());
            ConfigError::general(Some(origin.to_string()), error.message())
        })?;
        // Line 0: what is wrong with the whole file has no line.
        let origin = Origin::File(Arc::clone(file), 0);
        Ok(Self { value: lines.table(table.into_inner()), origin })
    }

    /// Puts a value at `path`, on top of what is there; makes the tables on the way.
    pub(super) fn put(&mut self, path: &[&str], text: &str, origin: &Origin) {
        let Some((first, rest)) = path.split_first() else {
            *self = Self { value: Value::Loose(text.to_owned()), origin: origin.clone() };
            return;
        };
        if !matches!(self.value, Value::Table(_)) {
            *self = Self { value: Value::Table(BTreeMap::new()), origin: origin.clone() };
        }
        if let Value::Table(table) = &mut self.value {
            let empty = || Self { value: Value::Table(BTreeMap::new()), origin: origin.clone() };
            table.entry((*first).to_owned()).or_insert_with(empty).put(rest, text, origin);
        }
    }

    /// Where `key` was written, or the closest table around it.
    pub(super) fn origin_of(&self, key: &str) -> &Origin {
        let mut node = self;
        for name in key.split('.') {
            match &node.value {
                Value::Table(table) if table.contains_key(name) => node = &table[name],
                _ => break,
            }
        }
        &node.origin
    }
}

/// Turns places in a text into lines.
struct Lines<'a> {
    text: &'a str,
    file: &'a Arc<File>,
}

impl Lines<'_> {
    fn origin(&self, span: Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        Origin::File(Arc::clone(self.file), line)
    }

    fn table(&self, table: DeTable<'_>) -> Value {
        let entries = table.into_iter().map(|(key, value)| {
            let origin = self.origin(key.span());
            let value = self.value(value.into_inner());
            (key.into_inner().into_owned(), Node { value, origin })
        });
        Value::Table(entries.collect())
    }

    fn value(&self, value: DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(digits) => {
                match i64::from_str_radix(digits.as_str(), digits.radix()) {
                    Ok(number) => Value::Integer(number),
                    // Beyond 64 bits: as text it is refused wherever a number is asked for.
                    Err(_) => Value::Text(digits.as_str().to_owned()),
                }
            }
            DeValue::Float(digits) => match digits.as_str().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => Value::Text(digits.as_str().to_owned()),
            },
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(time) => Value::Text(time.to_string()),
            DeValue::Array(items) => {
                let items = items.into_iter().map(|item| {
                    let origin = self.origin(item.span());
                    Node { value: self.value(item.into_inner()), origin }
                });
                Value::List(items.collect())
            }
            DeValue::Table(table) => self.table(table),
        }
    }
}
