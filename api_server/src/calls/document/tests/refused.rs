//! Requests that are wrong by the document, made of the document: so a new call is tried as all others are.

use serde_json::{Map, Value, json};

use super::document;
use crate::test::{Site, key};

/// A call as the document has it.
struct Call {
    method: String,
    /// With the number 1 in the place of each parameter.
    path: String,
    scope: String,
    operation: Value,
    /// A body that is right, if it has one.
    body: Option<Value>,
}

fn calls() -> Vec<Call> {
    let document = document();
    let paths = document["paths"].as_object().unwrap().iter();
    let calls = paths.flat_map(|(path, methods)| {
        methods.as_object().unwrap().iter().map(move |(method, operation)| {
            let parts = path.split('/').map(|part| if part.starts_with('{') { "1" } else { part });
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let scope = operation["description"].as_str().unwrap().rsplit('`').nth(1);
            Call {
                method: method.to_uppercase(),
                path: parts.collect::<Vec<_>>().join("/"),
                scope: scope.expect("it says which scope it needs").to_owned(),
                operation: operation.clone(),
                body: (!schema.is_null()).then(|| example(schema)),
            }
        })
    });
    let calls: Vec<Call> = calls.collect();
    assert!(calls.len() > 15, "the calls are found");
    calls
}

/// A value that is right by a schema.
fn example(schema: &Value) -> Value {
    let schema = resolved(schema);
    if !schema["example"].is_null() {
        return schema["example"].clone();
    }
    if let Some(first) = schema["oneOf"].get(0) {
        return example(first);
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    let kind = schema["type"].as_str().or(schema["type"][0].as_str());
    match kind.expect("a schema has a type") {
        "object" => {
            let fields = schema["properties"].as_object().unwrap().iter();
            fields.map(|(name, field)| (name.clone(), example(field))).collect::<Map<_, _>>().into()
        }
        "array" => json!([example(&schema["items"])]),
        "integer" => json!(1),
        "boolean" => json!(true),
        _ => json!("text"),
    }
}

fn resolved(schema: &Value) -> Value {
    match schema["$ref"].as_str() {
        Some(to) => document().pointer(to.trim_start_matches('#')).unwrap().clone(),
        None => schema.clone(),
    }
}

/// Bodies with one thing wrong.
fn wrong_bodies(call: &Call, good: &Value) -> Vec<String> {
    let schema = resolved(&call.operation["requestBody"]["content"]["application/json"]["schema"]);
    let fields = good.as_object().expect("a body is an object");
    let with = |name: &str, value: Value| {
        let mut body = fields.clone();
        body.insert(name.to_owned(), value);
        Value::from(body).to_string()
    };
    let mut wrong: Vec<String> =
        ["[]", "null", "1", "\"text\"", "{", "", "{}x"].map(str::to_owned).to_vec();
    wrong.push(with("of_nobody", json!(1)));
    for (name, value) in fields {
        let text = good.to_string();
        wrong.push(text.replacen('{', &format!("{{{}:{value},", json!(name)), 1));
        for other in [json!({ "a": 1 }), json!([[]]), json!(-1), json!(1.5), json!(u64::MAX)] {
            wrong.push(with(name, other));
        }
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        let mut body = fields.clone();
        body.remove(name.as_str().unwrap()).expect("an example has all that is needed");
        wrong.push(Value::from(body).to_string());
        wrong.push(with(name.as_str().unwrap(), Value::Null));
    }
    wrong
}

#[tokio::test]
async fn a_body_that_is_wrong_by_the_document_is_refused_before_anybody_is_asked() {
    let site = Site::start().await;
    let mut tried = 0;
    for call in calls() {
        let Some(good) = &call.body else { continue };
        for body in wrong_bodies(&call, good) {
            let (status, problem) = site.send_text(&call.method, &call.path, &body).await;
            let code = problem["code"].as_str().unwrap_or_default();
            let is_refused = matches!((status, code), (400, "not_json") | (422, "invalid"));
            assert!(is_refused, "{} {} {body}: {status} {problem}", call.method, call.path);
            tried += 1;
        }
        let broken = format!("{good}\u{0}");
        let (status, _problem) = site.send_text(&call.method, &call.path, &broken).await;
        assert_eq!(status, 400, "{} {}", call.method, call.path);
    }
    assert!(tried > 100, "{tried} bodies");
    assert_eq!(site.asked(), []);
    site.stop().await;
}

#[tokio::test]
async fn a_number_in_the_path_that_is_none_is_not_found() {
    let site = Site::start().await;
    for call in calls() {
        if !call.path.contains("/1") {
            continue;
        }
        for wrong in ["0", "-1", "4294967296", "1.0", "x", "%00", "%c3%28", "1%2f2"] {
            let path = call.path.replace("/1", &format!("/{wrong}"));
            let body = call.body.as_ref();
            let (status, problem) = site.call(&call.method, &path, body).await;
            assert_eq!((status, problem["code"].as_str()), (404, Some("not_found")), "{path}");
        }
    }
    assert_eq!(site.asked(), []);
    site.stop().await;
}

#[tokio::test]
async fn a_query_that_is_wrong_by_the_document_is_refused() {
    let site = Site::start().await;
    for call in calls() {
        let parameters = call.operation["parameters"].as_array().unwrap().iter();
        let names: Vec<&str> = parameters
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        if names.is_empty() {
            continue;
        }
        let mut wrong = vec!["of_nobody=1".to_owned(), "%00=1".to_owned()];
        for name in names {
            wrong.push(format!("{name}=1&{name}=1"));
            if name == "limit" {
                wrong.extend(["0", "1001", "x", "", "-1"].map(|value| format!("limit={value}")));
            }
            if name == "cursor" {
                wrong.extend(["x", "", "%ff"].map(|value| format!("cursor={value}")));
            }
        }
        for query in wrong {
            let path = format!("{}?{query}", call.path);
            let (status, problem) = site.call(&call.method, &path, None).await;
            assert_eq!((status, problem["code"].as_str()), (422, Some("invalid")), "{path}");
        }
    }
    assert_eq!(site.asked(), []);
    site.stop().await;
}

#[tokio::test]
async fn every_call_needs_a_key_with_its_scope() {
    let all = ["read", "send", "users", "groups", "admin"];
    for scope in all {
        let others: Vec<&str> = all.into_iter().filter(|other| *other != scope).collect();
        let site = Site::with(&others, "").await;
        for call in calls().iter().filter(|call| call.scope == scope) {
            let (status, problem) = site.call(&call.method, &call.path, call.body.as_ref()).await;
            let told = (status, problem["code"].as_str());
            assert_eq!(told, (403, Some("scope_missing")), "{} {}", call.method, call.path);
        }
        assert_eq!(site.asked(), []);
        site.stop().await;
    }
    let site = Site::start().await;
    let unknown = proto::api_key::ApiKey { secret: [9; 32], ..key() }.to_text();
    let unknown = format!("Authorization: Bearer {unknown}");
    for call in calls() {
        let body = call.body.as_ref();
        // After twenty of them the address is slowed down.
        for lines in [&[][..], &[unknown.as_str()]] {
            let (status, _problem) = site.send(&call.method, &call.path, lines, body).await;
            assert!(status == 401 || status == 429, "{} {}: {status}", call.method, call.path);
        }
    }
    assert_eq!(site.asked(), []);
    site.stop().await;
}
