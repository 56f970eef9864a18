//! Makes the document of what each call is.
//!
//! The schemas come from the structs themselves; what all calls have in common is written once, here.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::input::{BODY_LEN_MAX, IDEMPOTENCY_KEY_MAX};
use crate::paging::Page;

/// One call.
#[derive(Clone)]
pub(super) struct Operation {
    method: &'static str,
    path: &'static str,
    scope: &'static str,
    summary: &'static str,
    description: Option<&'static str>,
    query: Vec<Value>,
    is_named: bool,
    body: Option<Schema>,
    answers: Vec<(u16, Option<Schema>, &'static str)>,
    problems: Vec<(u16, &'static str, &'static str)>,
}

/// A schema with a name, and those that it needs.
#[derive(Clone)]
struct Schema {
    name: String,
    needed: Vec<(String, Value)>,
}

impl Schema {
    fn of<T: ToSchema>(name: &str) -> Self {
        let mut needed = Vec::new();
        T::schemas(&mut needed);
        let json = |schema| {
            let mut json = serde_json::to_value(schema).expect("a schema is JSON");
            bound_numbers(&mut json);
            json
        };
        let mut needed: Vec<_> =
            needed.into_iter().map(|(name, schema)| (name, json(schema))).collect();
        needed.push((name.to_owned(), json(T::schema())));
        Self { name: name.to_owned(), needed }
    }

    /// A page of lines with a schema of their own.
    fn page_of<T: ToSchema>(name: &str) -> Self
    where
        Page<T>: ToSchema,
    {
        let (line, page) = (Self::of::<T>(&T::name()), Self::of::<Page<T>>(name));
        Self { needed: [line.needed, page.needed].concat(), ..page }
    }

    fn content(&self) -> Value {
        let to = format!("#/components/schemas/{}", self.name);
        json!({ "application/json": { "schema": { "$ref": to } } })
    }
}

/// An event that endpoints of webhooks are sent.
pub(super) struct EventKind {
    name: &'static str,
    description: &'static str,
    data: Schema,
}

impl EventKind {
    pub(super) fn of<T: ToSchema>(
        name: &'static str,
        data: &'static str,
        description: &'static str,
    ) -> Self {
        Self { name, description, data: Schema::of::<T>(data) }
    }

    /// The request that an endpoint gets.
    fn json(&self) -> Value {
        let header = |name: &str, description: &str| {
            json!({ "name": name, "in": "header", "required": true, "description": description,
                "schema": { "type": "string" } })
        };
        json!({ "post": {
            "summary": self.description,
            "security": [],
            "parameters": [
                header("webhook-id", "Names the event: the same each time that it is sent."),
                header("webhook-timestamp", "When it was sent this time, in Unix seconds."),
                header("webhook-signature", "`v1,` and the Base64 of HMAC-SHA256 over the id, the \
                    timestamp and the body with dots between; several with spaces between."),
            ],
            "requestBody": { "required": true, "content": { "application/json": { "schema": {
                "type": "object",
                "required": ["type", "timestamp", "data"],
                "properties": {
                    "type": { "type": "string", "const": self.name },
                    "timestamp": { "type": "string", "format": "date-time",
                        "description": "When it happened." },
                    "data": { "$ref": format!("#/components/schemas/{}", self.data.name) },
                },
            } } } },
            "responses": {
                "2XX": { "description": "The event is taken." },
                "410": { "description": "The endpoint is gone: the webhook is switched off." },
                "default": { "description": "The event is sent again later." },
            },
        } })
    }
}

/// Numbers here have 32 bits and no sign, for which there is no format; and a number needs no name.
fn bound_numbers(json: &mut Value) {
    if json["$ref"] == "#/components/schemas/u32" {
        *json = json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX });
    }
    if json["format"] == "int32" {
        let number = json.as_object_mut().expect("a schema is an object");
        number.remove("format");
        number.entry("maximum").or_insert_with(|| u32::MAX.into());
    }
    match json {
        Value::Object(map) => map.values_mut().for_each(bound_numbers),
        Value::Array(list) => list.iter_mut().for_each(bound_numbers),
        _ => {}
    }
}

impl Operation {
    pub(super) fn new(
        method: &'static str,
        path: &'static str,
        scope: &'static str,
        summary: &'static str,
    ) -> Self {
        Self {
            method,
            path,
            scope,
            summary,
            description: None,
            query: Vec::new(),
            is_named: false,
            body: None,
            answers: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// More than the summary.
    pub(super) fn says(self, description: &'static str) -> Self {
        Self { description: Some(description), ..self }
    }

    /// What may stand behind the `?`.
    pub(super) fn query<T: IntoParams>(self) -> Self {
        let json = |parameter| {
            let mut json = serde_json::to_value(parameter).expect("a parameter is JSON");
            bound_numbers(&mut json);
            json
        };
        Self { query: T::into_params(|| None).into_iter().map(json).collect(), ..self }
    }

    /// It takes an `Idempotency-Key`.
    pub(super) fn named(self) -> Self {
        Self { is_named: true, ..self }
    }

    pub(super) fn body<T: ToSchema>(self) -> Self {
        Self { body: Some(Schema::of::<T>(&T::name())), ..self }
    }

    pub(super) fn answers<T: ToSchema>(
        mut self,
        status: u16,
        name: &str,
        description: &'static str,
    ) -> Self {
        self.answers.push((status, Some(Schema::of::<T>(name)), description));
        self
    }

    /// It is answered with a page of a list.
    pub(super) fn answers_page<T: ToSchema>(mut self, name: &str, description: &'static str) -> Self
    where
        Page<T>: ToSchema,
    {
        self.answers.push((200, Some(Schema::page_of::<T>(name)), description));
        self
    }

    /// It is answered without a body.
    pub(super) fn done(mut self) -> Self {
        self.answers.push((204, None, "It is done."));
        self
    }

    /// An error that other calls do not have, or have for another reason.
    pub(super) fn problem(
        mut self,
        status: u16,
        code: &'static str,
        description: &'static str,
    ) -> Self {
        self.problems.push((status, code, description));
        self
    }

    /// The errors of all calls of its kind, and its own.
    fn all_problems(&self) -> BTreeMap<u16, Vec<(&'static str, &'static str)>> {
        let mut all = vec![
            (401, "unauthorized", "No key, or one that is unknown, revoked or over."),
            (403, "scope_missing", "The key has not the scope of this call."),
            (429, "too_many_requests", "Wait as long as `Retry-After` says."),
            (500, "internal", "A fault of the server."),
            (503, "unavailable", "Ask again after `Retry-After`. A change may have been made."),
        ];
        if self.path.contains('{') {
            all.push((404, "not_found", "There is no such user or group."));
        }
        if self.body.is_some() {
            all.extend([
                (400, "not_json", "The body is not JSON."),
                (408, "too_slow", "The body did not come in time."),
                (413, "too_large", "The body is too long."),
                (415, "not_json", "The body is not sent as `application/json`."),
                (415, "compressed", "The body is compressed."),
            ]);
        }
        if self.body.is_some() || !self.query.is_empty() {
            all.push((422, "invalid", "A value is not allowed, missing or unknown."));
        }
        if self.is_named {
            let text = "The `Idempotency-Key` is not one value of 1 to 255 ASCII characters.";
            all.push((400, "bad_idempotency_key", text));
        }
        all.extend(self.problems.iter().copied());
        let mut by_status: BTreeMap<u16, Vec<_>> = BTreeMap::new();
        for (status, code, text) in all {
            let codes = by_status.entry(status).or_default();
            codes.retain(|(other, _text)| *other != code);
            codes.push((code, text));
        }
        by_status
    }

    fn parameters(&self) -> Vec<Value> {
        let in_path = self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let mut parameters: Vec<Value> = in_path
            .map(|name| {
                json!({
                    "name": name, "in": "path", "required": true,
                    "description": format!("The number of the {name}."),
                    "schema": { "type": "integer", "minimum": 1, "maximum": u32::MAX },
                    "example": 1,
                })
            })
            .collect();
        parameters.extend(self.query.iter().cloned());
        if self.is_named {
            parameters.push(json!({
                "name": "Idempotency-Key", "in": "header", "required": false,
                "description": "The name of the request, with which it may be sent again.",
                "schema": {
                    "type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX,
                    "pattern": "^[\\x20-\\x7e]+$",
                },
                "example": "build-4711",
            }));
        }
        parameters
    }

    fn responses(&self) -> Value {
        let mut responses = Map::new();
        for (status, schema, description) in &self.answers {
            let mut response = json!({ "description": description });
            if let Some(schema) = schema {
                response["content"] = schema.content();
            }
            responses.insert(status.to_string(), response);
        }
        for (status, codes) in self.all_problems() {
            let texts = codes.iter().map(|(code, text)| format!("`{code}`: {text}"));
            let mut response = json!({
                "description": texts.collect::<Vec<_>>().join(" "),
                "content": { "application/problem+json": {
                    "schema": { "$ref": "#/components/schemas/Problem" },
                } },
            });
            if status == 429 || status == 503 {
                response["headers"] = json!({ "Retry-After": {
                    "description": "Seconds.",
                    "schema": { "type": "integer", "minimum": 1 },
                } });
            }
            responses.insert(status.to_string(), response);
        }
        Value::Object(responses)
    }

    fn json(&self) -> Value {
        let needs = format!("Needs the scope `{}`.", self.scope);
        let description =
            self.description.map_or_else(|| needs.clone(), |text| format!("{text} {needs}"));
        let words = self.summary.replace('\'', "");
        let id: String = words
            .split(' ')
            .enumerate()
            .map(|(index, word)| match (index, word.split_at_checked(1)) {
                (1.., Some((first, rest))) => format!("{}{rest}", first.to_uppercase()),
                _ => word.to_lowercase(),
            })
            .collect();
        let mut operation = json!({
            "operationId": id,
            "summary": self.summary,
            "description": description,
            "parameters": self.parameters(),
            "responses": self.responses(),
        });
        if let Some(body) = &self.body {
            let text = format!("At most {BODY_LEN_MAX} bytes.");
            operation["requestBody"] =
                json!({ "required": true, "description": text, "content": body.content() });
        }
        operation
    }
}

fn add(schemas: &mut BTreeMap<String, Value>, schema: &Schema) {
    for (name, json) in &schema.needed {
        let before = schemas.insert(name.clone(), json.clone());
        let is_one = before.as_ref().is_none_or(|before| before == json);
        assert!(is_one, "two schemas named {name}: {before:?} and {json}");
    }
}

/// The whole document.
pub(super) fn document(operations: &[Operation], events: &[EventKind]) -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut schemas: BTreeMap<String, Value> = BTreeMap::new();
    for operation in operations {
        let methods = paths.entry(operation.path).or_default();
        methods.insert(operation.method.to_owned(), operation.json());
        let answers =
            operation.answers.iter().filter_map(|(_status, schema, _text)| schema.as_ref());
        for schema in answers.chain(&operation.body) {
            add(&mut schemas, schema);
        }
    }
    for event in events {
        add(&mut schemas, &event.data);
    }
    schemas.insert("Problem".to_owned(), problem(operations));
    let events: Map<_, _> =
        events.iter().map(|event| (event.name.to_owned(), event.json())).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "TalkHub",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Other programs use the chat through these calls: they make users and groups, send \
                            messages as users, and read histories. What a call answers has happened. Times are Unix \
                            seconds. Errors have a stable `code` (RFC 9457).",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "key": [] }],
        "paths": paths,
        "webhooks": events,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "key": {
                "type": "http", "scheme": "bearer",
                "description": "A key of `talkhub admin key create`.",
            } },
        },
    })
}

/// An error, with all codes that there are.
fn problem(operations: &[Operation]) -> Value {
    let codes = operations.iter().flat_map(|operation| operation.all_problems().into_values());
    let mut codes: Vec<&str> = codes.flatten().map(|(code, _text)| code).collect();
    codes.push("method_not_allowed");
    codes.sort_unstable();
    codes.dedup();
    json!({
        "type": "object",
        "description": "Why a request is not carried out.",
        "required": ["title", "status", "code", "detail"],
        "properties": {
            "title": { "type": "string", "description": "The name of the status." },
            "status": { "type": "integer", "description": "The status." },
            "code": {
                "type": "string", "enum": codes,
                "description": "What programs compare. It does not change.",
            },
            "detail": { "type": "string", "description": "A sentence for people. It may change." },
        },
    })
}
