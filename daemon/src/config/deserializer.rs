//! From a tree of values to a settings struct, so that every error knows its key and its place.

use std::collections::btree_map;
use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::vec;

use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, Error, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::error::ConfigError;
use super::tree::{Node, Origin, Value};

/// An error on its way up: `path` grows from the inside out.
#[derive(Debug)]
pub(super) struct Problem {
    path: Vec<String>,
    origin: Option<Origin>,
    text: String,
}

impl Problem {
    fn new(text: impl Into<String>) -> Self {
        Self { path: Vec::new(), origin: None, text: text.into() }
    }

    fn within(mut self, name: &str, origin: &Origin) -> Self {
        self.path.push(name.to_owned());
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    pub(super) fn into_error(mut self, whole: &Origin) -> ConfigError {
        self.path.reverse();
        ConfigError {
            place: Some(self.origin.as_ref().unwrap_or(whole).to_string()),
            key: (!self.path.is_empty()).then(|| self.path.join(".")),
            problem: self.text,
        }
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Problem {}

/// None of these repeats the value: it may be a secret.
impl Error for Problem {
    fn custom<T: Display>(text: T) -> Self {
        let text = text.to_string();
        Self::new(match text.as_str() {
            "invalid socket address syntax" => {
                "must be an address and a port, such as 127.0.0.1:8000".to_owned()
            }
            "invalid IP address syntax" => "must be an IP address, such as 127.0.0.1".to_owned(),
            _ => text,
        })
    }

    fn invalid_type(_unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(must_be(expected))
    }

    fn invalid_value(_unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(must_be(expected))
    }

    fn unknown_field(_field: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!("is unknown here; known are: {}", known.join(", ")))
    }

    fn unknown_variant(_variant: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!("must be one of: {}", known.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self { path: vec![field.to_owned()], origin: None, text: "must be set".to_owned() }
    }
}

fn must_be(expected: &dyn Expected) -> String {
    let expected = expected.to_string();
    let allowed = match expected.as_str() {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "socket address" => "an address and a port, such as 127.0.0.1:8000",
        text if text.starts_with("struct ") => "a table",
        text => text,
    };
    format!("must be {allowed}")
}

impl Node {
    fn refuse<'de, V: Visitor<'de>>(visitor: &V) -> Problem {
        Problem::invalid_type(Unexpected::Other("something else"), visitor)
    }

    /// The items of a list, which the environment may write with or without brackets.
    fn items(self) -> Result<Vec<Self>, Self> {
        match self.value {
            Value::List(items) => Ok(items),
            Value::Loose(text) => {
                let text = text.trim();
                let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                let items = inner.unwrap_or(text).split(',').map(str::trim);
                let items = items.filter(|item| !item.is_empty()).map(|item| Self {
                    value: Value::Loose(item.trim_matches(['"', '\'']).to_owned()),
                    origin: self.origin.clone(),
                });
                Ok(items.collect())
            }
            value => Err(Self { value, origin: self.origin }),
        }
    }
}

/// A number that was written as text where the file would have a number.
macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            match &self.value {
                Value::Loose(text) => match text.trim().parse::<i64>() {
                    Ok(number) => visitor.visit_i64(number),
                    Err(_) => Err(Self::refuse(&visitor)),
                },
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Node {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.value {
            Value::Table(table) => visitor.visit_map(Table::new(table)),
            Value::List(items) => visitor.visit_seq(List { items: items.into_iter(), index: 0 }),
            Value::Text(text) | Value::Loose(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Bool(value) => visitor.visit_bool(value),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.value {
            Value::Loose(text) => match text.trim() {
                "true" => visitor.visit_bool(true),
                "false" => visitor.visit_bool(false),
                _ => Err(Self::refuse(&visitor)),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.value {
            Value::Loose(text) => match text.trim().parse() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => Err(Self::refuse(&visitor)),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        if let (Origin::File(file, _line), "Secret") = (&self.origin, name) {
            file.holds_secret.store(true, Ordering::Relaxed);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.items() {
            Ok(items) => visitor.visit_seq(List { items: items.into_iter(), index: 0 }),
            Err(other) => other.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match self.value {
            Value::Text(text) | Value::Loose(text) => {
                visitor.visit_enum(IntoDeserializer::<Problem>::into_deserializer(text))
            }
            Value::Table(table) => {
                visitor.visit_enum(MapAccessDeserializer::new(Table::new(table)))
            }
            _ => Err(Self::refuse(&visitor)),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple_struct map struct
        identifier ignored_any
    }
}

struct Table {
    entries: btree_map::IntoIter<String, Node>,
    value: Option<(String, Node)>,
}

impl Table {
    fn new(table: std::collections::BTreeMap<String, Node>) -> Self {
        Self { entries: table.into_iter(), value: None }
    }
}

impl<'de> MapAccess<'de> for Table {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Problem> {
        let Some((name, node)) = self.entries.next() else { return Ok(None) };
        let key: StringDeserializer<Problem> = name.clone().into_deserializer();
        let key = seed.deserialize(key).map_err(|problem| problem.within(&name, &node.origin))?;
        self.value = Some((name, node));
        Ok(Some(key))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Problem> {
        let Some((name, node)) = self.value.take() else {
            return Err(Problem::new("a value was asked for before its key"));
        };
        let origin = node.origin.clone();
        seed.deserialize(node).map_err(|problem| problem.within(&name, &origin))
    }
}

struct List {
    items: vec::IntoIter<Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for List {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Problem> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let origin = node.origin.clone();
        let name = self.index.to_string();
        self.index += 1;
        seed.deserialize(node).map(Some).map_err(|problem| problem.within(&name, &origin))
    }
}
