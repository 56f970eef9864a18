//! Keys for the HTTP API: what may be asked, and how they are shown.

use clap::{Subcommand, ValueEnum};
use proto::api_key::Scope;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{AdminAnswer, ApiKeyCreate, ApiKeyLine, ApiKeyRevoke};
use serde::Serialize;

use super::sessions::utc;
use crate::terminal::printable;

/// What is done with keys.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Makes a key, and shows it once
    Create {
        /// What the key is called: letters, digits, -, _ and ., at most 64
        name: String,
        /// What it may be used for
        #[arg(long, value_name = "SCOPE", required = true, value_delimiter = ',')]
        scope: Vec<ScopeName>,
        /// How long it is valid; for ever if not given
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
        days: Option<u32>,
        /// Requests a second that it may make, if fewer than the site allows
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rate: Option<u32>,
        /// Shows it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows all keys, without their secrets
    List,
    /// Makes a key unknown, for good
    Revoke {
        /// The key's name
        name: String,
    },
}

/// A scope as it is typed.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScopeName(Scope);

impl ValueEnum for ScopeName {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [ScopeName; Scope::ALL.len()] = [
            ScopeName(Scope::Read),
            ScopeName(Scope::Send),
            ScopeName(Scope::Users),
            ScopeName(Scope::Groups),
            ScopeName(Scope::Admin),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.name()))
    }
}

/// A key to be made.
pub(super) fn wanted(
    name: &str,
    scopes: &[ScopeName],
    (days, rate): (Option<u32>, Option<u32>),
) -> ApiKeyCreate {
    ApiKeyCreate {
        name: name.to_owned(),
        scopes: scopes.iter().map(|scope| scope.0.name().to_owned()).collect(),
        rate,
        lifetime_s: days.map(|days| u64::from(days) * 86_400),
    }
}

/// A key to be revoked, and what is said when it is.
pub(super) fn revoked(name: &str) -> (What, String) {
    let what = What::ApiKeyRevoke(ApiKeyRevoke { name: name.to_owned() });
    (what, format!("key {name} revoked"))
}

/// A key that was made, for programs.
#[derive(Debug, Serialize)]
struct Made<'a> {
    name: &'a str,
    key: &'a str,
    scopes: &'a [String],
    /// Unix seconds; nothing if it is valid for ever.
    expires: Option<u64>,
}

/// The key alone on its line, so that a script can take it; or all of it as JSON.
pub(super) fn shown(answer: &AdminAnswer, json: bool) -> String {
    let key = answer.api_key.as_deref().unwrap_or_default();
    let Some(line) = answer.api_keys.first().filter(|_| json) else { return key.to_owned() };
    let expires = Some(line.expires).filter(|expires| *expires != 0);
    let made = Made { name: &line.name, key, scopes: &line.scopes, expires };
    serde_json::to_string(&made).unwrap_or_default()
}

/// The head of the list.
pub(super) fn head() -> String {
    format!(
        "{:<24} {:<16} {:<24} {:>6}  {:<20} {:<20} last used (UTC)",
        "name", "id", "scopes", "rate", "made (UTC)", "ends (UTC)"
    )
}

/// One key.
pub(super) fn line(key: &ApiKeyLine) -> String {
    let id = data_encoding::HEXLOWER.encode(&key.id);
    let rate = key.rate.filter(|rate| *rate != 0).map_or("-".to_owned(), |rate| rate.to_string());
    let time = |unix_s: u64| match u32::try_from(unix_s) {
        Ok(0) => "never".to_owned(),
        Ok(unix_s) => utc(unix_s),
        Err(_beyond) => "after 2106".to_owned(),
    };
    format!(
        "{:<24} {id:<16} {:<24} {rate:>6}  {:<20} {:<20} {}",
        printable(&key.name),
        key.scopes.join(","),
        time(key.made),
        time(key.expires),
        time(key.used)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ApiKeyLine {
        ApiKeyLine {
            id: vec![0, 0, 0, 0, 0, 0, 0, 0xab].into(),
            name: "hr".to_owned(),
            scopes: vec!["read".to_owned(), "users".to_owned()],
            rate: Some(0),
            made: 1_796_088_571,
            expires: 0,
            used: 0,
            hash: None,
        }
    }

    #[test]
    fn a_key_that_was_made_stands_alone_or_in_json() {
        let answer = AdminAnswer {
            api_key: Some("thk_1_2".to_owned()),
            api_keys: vec![ApiKeyLine { expires: 5, ..key() }],
            ..AdminAnswer::default()
        };
        assert_eq!(shown(&answer, false), "thk_1_2");
        let json = r#"{"name":"hr","key":"thk_1_2","scopes":["read","users"],"expires":5}"#;
        assert_eq!(shown(&answer, true), json);
    }

    #[test]
    fn a_list_shows_when_a_key_was_made_ends_and_was_used() {
        let shown = line(&key());
        let words: Vec<_> = shown.split_whitespace().collect();
        let expected = [
            "hr",
            "00000000000000ab",
            "read,users",
            "-",
            "2026-12-01",
            "01:29:31",
            "never",
            "never",
        ];
        assert_eq!(words, expected);
        let used = ApiKeyLine { rate: Some(20), used: 1_796_088_571, ..key() };
        assert!(line(&used).contains(" 20  "));
        assert!(line(&used).ends_with("2026-12-01 01:29:31"));
    }

    #[test]
    fn every_scope_may_be_typed() {
        let names = ScopeName::value_variants().iter().map(|scope| scope.0);
        assert_eq!(names.collect::<Vec<_>>(), Scope::ALL);
    }
}
