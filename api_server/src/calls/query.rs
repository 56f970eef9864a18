//! The two calls of TeamTalk's http_msg_server, as programs that were written for it make them.
//!
//! The body is the whole authentication: `app_key` is a key of the API with the scope `groups`. The
//! status is 200 whatever happens, the error a number in the body, and the connection is closed. Only a body that
//! is no JSON is answered 400: the original closes the connection without a word.

use std::fmt::Write;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use daemon::http::ClientAddr;
use proto::api_key::{ApiKey, Scope};
use proto::client::GroupType;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{GroupChange, GroupCreate};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::asking::administer;
use crate::calls::groups::MEMBERS_MAX;
use crate::input::{is_list, read};
use crate::keys::Key;
use crate::problem::Problem;
use crate::state::Api;

/// The numbers of http_msg_server that are answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Parameter = 1,
    KeyUnknown = 2,
    CallNotAllowed = 5,
    Server = 10,
    CreateFailed = 11,
    ChangeFailed = 12,
}

/// Why a call is not carried out.
#[derive(Debug)]
struct Failed {
    status: StatusCode,
    code: Code,
    text: String,
}

impl Failed {
    fn new(code: Code, text: impl Into<String>) -> Self {
        Self { status: StatusCode::OK, code, text: text.into() }
    }

    /// What was asked of storage has failed; `code` says which call that was.
    fn of(problem: &Problem, code: Code) -> Self {
        let code = match problem.code() {
            "unauthorized" => Code::KeyUnknown,
            "unavailable" | "too_many_requests" | "internal" => Code::Server,
            _ => code,
        };
        Self::new(code, problem.detail())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        answer(self.status, self.code as u8, &self.text, None)
    }
}

/// A group to be made. What else stands in the body is ignored, as the original does.
#[derive(Debug, Deserialize)]
struct NewGroup {
    req_user_id: u32,
    app_key: String,
    group_name: String,
    group_type: u32,
    group_avatar: String,
    user_id_list: Vec<u32>,
}

/// `/query/CreateGroup`. The user who asks becomes the creator; with `req_user_id` 0 the first of the list does.
pub(super) async fn create_group(
    State(api): State<Arc<Api>>,
    from: Option<Extension<ClientAddr>>,
    body: Body,
) -> Response {
    let made = async {
        let group: NewGroup = parse(body).await?;
        let key = allowed(&api, &group.app_key, from).await?;
        let kind =
            i32::try_from(group.group_type).ok().and_then(|kind| GroupType::try_from(kind).ok());
        let kind = kind.ok_or_else(|| Failed::new(Code::Parameter, "group_type must be 1 or 2"))?;
        check(&group.user_id_list)?;
        let mut members = group.user_id_list;
        if group.req_user_id != 0 {
            members.retain(|member| *member != group.req_user_id);
            members.insert(0, group.req_user_id);
        }
        let create = GroupCreate {
            name: group.group_name,
            group_type: u32::try_from(i32::from(kind)).ok(),
            avatar: Some(group.group_avatar),
            member_ids: members,
            ..GroupCreate::default()
        };
        let made = administer(&api.client, &key, What::GroupCreate(create)).await;
        let made = made.map_err(|problem| Failed::of(&problem, Code::CreateFailed))?;
        Ok::<_, Failed>(made.id.unwrap_or_default())
    };
    match made.await {
        Ok(group) => answer(StatusCode::OK, 0, "", Some(group)),
        Err(failed) => failed.into_response(),
    }
}

/// Who joins or leaves a group.
#[derive(Debug, Deserialize)]
struct MemberChange {
    #[expect(
        dead_code,
        reason = "it must be there, and changes nothing: the key says what is allowed"
    )]
    req_user_id: u32,
    app_key: String,
    group_id: u32,
    modify_type: u32,
    user_id_list: Vec<u32>,
}

/// `/query/ChangeMembers`.
pub(super) async fn change_members(
    State(api): State<Arc<Api>>,
    from: Option<Extension<ClientAddr>>,
    body: Body,
) -> Response {
    let changed = async {
        let change: MemberChange = parse(body).await?;
        let key = allowed(&api, &change.app_key, from).await?;
        check(&change.user_id_list)?;
        let (users, group) = (change.user_id_list, change.group_id);
        let change = match change.modify_type {
            1 => GroupChange { group, add_ids: users, ..GroupChange::default() },
            2 => GroupChange { group, remove_ids: users, ..GroupChange::default() },
            _ => return Err(Failed::new(Code::Parameter, "modify_type must be 1 or 2")),
        };
        let changed = administer(&api.client, &key, What::GroupChange(change)).await;
        changed.map_err(|problem| Failed::of(&problem, Code::ChangeFailed))
    };
    match changed.await {
        Ok(_done) => answer(StatusCode::OK, 0, "", None),
        Err(failed) => failed.into_response(),
    }
}

/// Reads a body, whatever its `Content-Type` says.
async fn parse<T: DeserializeOwned>(body: Body) -> Result<T, Failed> {
    let bytes = read(body).await.map_err(|problem| Failed {
        status: problem.status(),
        ..Failed::new(Code::Parameter, problem.detail())
    })?;
    if is_list(&bytes) {
        return Err(Failed::new(Code::Parameter, "the body must be an object"));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let status = if error.is_data() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        Failed { status, ..Failed::new(Code::Parameter, error.to_string()) }
    })
}

async fn allowed(
    api: &Api,
    app_key: &str,
    from: Option<Extension<ClientAddr>>,
) -> Result<Arc<Key>, Failed> {
    let key = api.authenticate(ApiKey::parse(app_key), from.map(|Extension(from)| from)).await;
    let key = key.map_err(|problem| Failed::of(&problem, Code::Server))?;
    if key.allows(Scope::Groups.bit()) {
        return Ok(key);
    }
    Err(Failed::new(Code::CallNotAllowed, "the key has not the scope `groups`"))
}

fn check(users: &[u32]) -> Result<(), Failed> {
    if (1..=MEMBERS_MAX).contains(&users.len()) {
        return Ok(());
    }
    Err(Failed::new(Code::Parameter, format!("user_id_list has 1 to {MEMBERS_MAX} users")))
}

/// An answer in the form of the original: three spaces, keys in the order of the alphabet.
fn answer(status: StatusCode, code: u8, text: &str, group: Option<u32>) -> Response {
    let text = serde_json::Value::from(text);
    let mut body = format!("{{\n   \"error_code\" : {code},\n   \"error_msg\" : {text}");
    if let Some(group) = group {
        write!(body, ",\n   \"group_id\" : {group}").expect("a string takes everything");
    }
    body.push_str("\n}\n");
    let headers = [
        (CONTENT_TYPE, "text/html;charset=utf-8"),
        (CACHE_CONTROL, "no-cache"),
        (CONNECTION, "close"),
    ];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests;
