//! The document in the repository is the one that the code makes, and nothing is missing in it.

mod made;
mod operations;
mod refused;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::super::CALLS;
use super::*;
use crate::test::Site;

/// With this variable set, the document in the repository is written anew.
const WRITE: &str = "WRITE_OPENAPI";

#[test]
fn the_document_in_the_repository_is_made_from_the_code() {
    let made = format!("{:#}\n", made::document(&operations::all(), &operations::events()));
    if std::env::var_os(WRITE).is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        std::fs::write(file, &made).expect("the repository can be written");
        return;
    }
    assert!(
        made == OPENAPI,
        "the calls have changed: {WRITE}=1 cargo test -p api_server --lib made_from_the_code"
    );
}

#[test]
fn every_call_stands_in_the_document_and_nothing_else() {
    let served = CALLS.iter().flat_map(|(path, methods)| {
        methods.iter().map(move |method| ((*path).to_owned(), (*method).to_owned()))
    });
    let served: BTreeSet<(String, String)> = served.collect();
    let paths = document()["paths"].as_object().unwrap().iter();
    let described = paths.flat_map(|(path, methods)| {
        methods.as_object().unwrap().keys().map(move |method| (path.clone(), method.clone()))
    });
    assert_eq!(served, described.collect());
}

/// The pieces of a JSON document: what stands at each place.
fn places(value: &Value, at: &str, found: &mut Vec<(String, Value)>) {
    found.push((at.to_owned(), value.clone()));
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            places(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
        }),
        Value::Array(list) => list.iter().enumerate().for_each(|(index, value)| {
            places(value, &format!("{at}/{index}"), found);
        }),
        _ => {}
    }
}

/// The document.
fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(OPENAPI).unwrap());
    &DOCUMENT
}

/// Fails if a call was answered with a status that the document does not have for it.
pub(crate) fn assert_documented(method: &str, path: &str, status: u16) {
    let asked: Vec<&str> = path.split('?').next().unwrap_or_default().split('/').collect();
    let is_asked = |template: &str| {
        let template: Vec<&str> = template.split('/').collect();
        let fits = |(part, asked): (&&str, &&str)| part == asked || part.starts_with('{');
        template.len() == asked.len() && template.iter().zip(&asked).all(fits)
    };
    let mut paths = document()["paths"].as_object().unwrap().iter();
    let Some((_path, methods)) = paths.find(|(template, _methods)| is_asked(template)) else {
        return;
    };
    let Some(operation) = methods.get(method.to_lowercase()) else { return };
    let is_documented = operation["responses"].get(status.to_string()).is_some();
    assert!(is_documented, "{method} {path} answers {status}, which is not in the document");
}

#[test]
fn what_is_referred_to_is_there_and_every_field_says_what_it_is() {
    let mut found = Vec::new();
    places(document(), "", &mut found);
    for (at, value) in &found {
        if at.ends_with("/$ref") {
            let to = value.as_str().unwrap().strip_prefix('#').unwrap();
            assert!(document().pointer(to).is_some(), "{at} refers to {to}");
        }
        let is_field =
            at.starts_with("/components/schemas/") && at.rsplit('/').nth(1) == Some("properties");
        if is_field {
            // What tells alternatives apart is named by its one value.
            if value["enum"].as_array().is_some_and(|values| values.len() == 1) {
                continue;
            }
            let described = value["description"].as_str().is_some_and(|text| text.len() > 5);
            assert!(described, "{at} has no description: {value}");
        }
    }
    assert!(found.len() > 500, "the document is not empty");
}

#[tokio::test]
async fn the_document_and_the_page_are_served_without_a_key_and_load_nothing_from_elsewhere() {
    let site = Site::start().await;
    let (status, served) = site.send("GET", "/v1/openapi.json", &[], None).await;
    assert_eq!((status, &served), (200, document()));
    assert_eq!(served["openapi"], "3.1.0");
    for (path, kind) in [
        ("/v1/docs", "text/html"),
        ("/v1/docs/page.js", "text/javascript"),
        ("/v1/docs/page.css", "text/css"),
    ] {
        let answer =
            site.raw(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head = head.to_lowercase();
        assert!(
            head.starts_with("http/1.1 200 ") && head.contains(&format!("content-type: {kind}"))
        );
        assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
        assert!(
            !body.contains("http://") && !body.contains("https://"),
            "{path} loads from elsewhere"
        );
        assert!(!body.contains("innerHTML") && !body.contains("style="), "{path}");
    }
    site.stop().await;
}
