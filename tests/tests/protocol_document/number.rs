//! The numbers of the document, and those that stand in the code.
//!
//! A number of the document names its constant and the file of that. The constant is looked up in the
//! source, so that it need not be public; what it is set to is computed here if it is a product, a shift
//! or the like of numbers.

use std::fs;

use crate::root;

/// Where constants are looked up that are not in the file itself.
const SHARED: &str = "proto/src/limits.rs";

/// A count, or a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantity {
    Count(u64),
    Ms(u64),
}

/// The quantities in a text for people: `4,096 bytes`, `100 ms to 5 s`, `30 days`.
pub(crate) fn in_words(text: &str) -> Vec<Quantity> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let quantity = |(at, word): (usize, &&str)| {
        let digits = word.trim_end_matches(['.', ',', ';', ':']).replace(',', "");
        let number: u64 = digits.parse().ok()?;
        let unit = words.get(at + 1).copied().unwrap_or_default();
        Some(match unit.trim_end_matches([',', '.', ';']) {
            "ms" => Quantity::Ms(number),
            "s" => Quantity::Ms(number * 1_000),
            "min" => Quantity::Ms(number * 60_000),
            "days" => Quantity::Ms(number * 86_400_000),
            _ => Quantity::Count(number),
        })
    };
    words.iter().enumerate().filter_map(quantity).collect()
}

/// What a constant, a field of defaults or a setting is, as its file says.
pub(crate) fn in_code(name: &str, path: &str) -> Vec<Quantity> {
    let last = name.rsplit([':', '.']).next().unwrap_or(name);
    let Some(expression) = value_of(last, path) else {
        panic!("{path} does not say what {last} is")
    };
    let values = evaluate(&expression, path);
    values
        .unwrap_or_else(|| panic!("{path}: {last} = {expression} is no number"))
        .into_iter()
        .map(|value| with_unit(last, value))
        .collect()
}

/// What a name is set to.
fn value_of(name: &str, path: &str) -> Option<String> {
    let file = root().join(path);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
    let of_setting = |line: &str| {
        let value = line.trim_start_matches('#').strip_prefix(name)?.strip_prefix(" = ")?;
        Some(value.to_owned())
    };
    if file.extension().is_some_and(|kind| kind == "toml") {
        return text.lines().find_map(of_setting);
    }
    let of_constant = |line: &str| {
        let (_before, after) = line.split_once("const ")?;
        let (_type, value) = after.strip_prefix(name)?.strip_prefix(": ")?.split_once(" = ")?;
        Some(value.split(';').next()?.to_owned())
    };
    // Where the field is declared, `pub` stands before it.
    let of_default = |line: &str| {
        let value = line.trim().strip_prefix(name)?.strip_prefix(": ")?.strip_suffix(',')?;
        Some(value.to_owned())
    };
    text.lines().find_map(of_constant).or_else(|| text.lines().find_map(of_default))
}

/// A number whose name says what it counts.
fn with_unit(name: &str, value: Quantity) -> Quantity {
    let name = name.to_ascii_lowercase();
    match value {
        Quantity::Count(number) if name.ends_with("_ms") => Quantity::Ms(number),
        Quantity::Count(number) if name.ends_with("_days") => Quantity::Ms(number * 86_400_000),
        Quantity::Count(number) if name.ends_with("_s") && !name.ends_with("_per_s") => {
            Quantity::Ms(number * 1_000)
        }
        value => value,
    }
}

fn evaluate(expression: &str, path: &str) -> Option<Vec<Quantity>> {
    let expression = expression.trim();
    if let Some(inner) = inside(expression, "Backoff::new(") {
        let (first, longest) = inner.split_once(", ")?;
        return Some([evaluate(first, path)?, evaluate(longest, path)?].concat());
    }
    if let Some((first, last)) = expression.split_once("..=") {
        return Some([evaluate(first, path)?, evaluate(last, path)?].concat());
    }
    for (call, ms) in [("from_millis(", 1), ("from_secs(", 1_000), ("from_mins(", 60_000)] {
        if let Some(inner) = inside(expression, &format!("Duration::{call}")) {
            return Some(vec![Quantity::Ms(count(inner, path)? * ms)]);
        }
    }
    let wraps = ["Self(", "Price::Question("];
    let inner = wraps.iter().find_map(|wrap| inside(expression, wrap)).unwrap_or(expression);
    Some(vec![Quantity::Count(count(inner, path)?)])
}

fn inside<'a>(expression: &'a str, call: &str) -> Option<&'a str> {
    expression.strip_prefix(call)?.strip_suffix(')')
}

/// A number, a name that stands for one, or two of them with an operator between; what binds least is
/// looked for first.
fn count(expression: &str, path: &str) -> Option<u64> {
    for operator in [" << ", " - ", " + ", " / ", " * "] {
        if let Some((left, right)) = expression.rsplit_once(operator) {
            let (left, right) = (count(left, path)?, count(right, path)?);
            return match operator {
                " << " => left.checked_shl(u32::try_from(right).ok()?),
                " - " => left.checked_sub(right),
                " + " => left.checked_add(right),
                " / " => left.checked_div(right),
                _ => left.checked_mul(right),
            };
        }
    }
    let digits = expression.replace('_', "");
    if let Ok(number) = digits.parse() {
        return Some(number);
    }
    let found =
        [path, SHARED].into_iter().find_map(|path| Some((value_of(expression, path)?, path)));
    let (found, path) = found?;
    count(&found, path)
}
