//! Users: made, listed, disabled, their passwords, sessions and tickets.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use proto::api_key::Scope;
use proto::client::ClientType;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    AdminAnswer, UserAdd, UserDisable, UserFind, UserKick, UserLine, UserList, UserPassword,
    UserSessions, UserTicket,
};
use serde::{Deserialize, Serialize};

use crate::asking::{administer, carry_out};
use crate::input::{Allowed, Json, Number, Query};
use crate::keys::Key;
use crate::paging::{self, Page};
use crate::problem::Problem;
use crate::state::Api;

type Read = Allowed<{ Scope::Read.bit() }>;
type Users = Allowed<{ Scope::Users.bit() }>;

/// A user, as programs see it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct User {
    /// The number of the user.
    id: u32,
    /// What the user logs in with.
    name: String,
    /// What others see.
    nick: String,
    /// The number of the department.
    department: u32,
    /// Whether logins are refused.
    disabled: bool,
}

impl From<UserLine> for User {
    fn from(line: UserLine) -> Self {
        let UserLine { id, name, nick, department, disabled } = line;
        Self { id, name, nick, department, disabled }
    }
}

/// Which users are wanted.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The user of this name alone.
    name: Option<String>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
    /// Lines of the page; 100 if not said.
    #[cfg_attr(test, param(minimum = 1, maximum = 1000))]
    limit: Option<u32>,
}

const LIST: &str = "users";

/// `GET /v1/users`: all, by name, page by page; or the one of a name.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Allowed(key): Read,
    Query(wanted): Query<Wanted>,
) -> Result<Answer<Page<User>>, Problem> {
    let count = Some(paging::limit(wanted.limit)?);
    let after = wanted.cursor.map(|cursor| paging::place(LIST, &cursor)).transpose()?;
    if let Some(name) = wanted.name {
        let found = find(&api, &key, UserFind { id: None, name: Some(name) }).await;
        return match found {
            Ok(user) => Ok(Answer(Page { items: vec![user.into()], next: None })),
            Err(problem) if problem.code() == "not_found" => {
                Ok(Answer(Page { items: Vec::new(), next: None }))
            }
            Err(problem) => Err(problem),
        };
    }
    let page = administer(&api.client, &key, What::UserList(UserList { after, count })).await?;
    let last = page.users.last().filter(|_| page.more());
    let next = last.map(|user| paging::cursor(LIST, &user.name));
    Ok(Answer(Page { items: page.users.into_iter().map(User::from).collect(), next }))
}

/// `GET /v1/users/{user}`.
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Allowed(key): Read,
    Number(id): Number,
) -> Result<Answer<User>, Problem> {
    Ok(Answer(by_id(&api, &key, id).await?.into()))
}

/// A user to be made.
#[derive(Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct NewUser {
    /// What the user logs in with: 1 to 128 bytes.
    #[cfg_attr(test, schema(min_length = 1, max_length = 128, example = "anna"))]
    name: String,
    /// What the user types: 8 to 128 bytes.
    #[cfg_attr(test, schema(min_length = 2, max_length = 128, example = "a long password"))]
    password: String,
    /// What others see: at most 128 bytes; the name if not said.
    #[cfg_attr(test, schema(max_length = 128))]
    nick: Option<String>,
    /// The number of the department; 1 if not said.
    department: Option<u32>,
}

/// `POST /v1/users`.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Allowed(key): Users,
    Json(user): Json<NewUser>,
) -> Result<(StatusCode, Answer<User>), Problem> {
    let NewUser { name, password, nick, department } = user;
    let add = UserAdd { name: name.clone(), password, nick, department };
    administer(&api.client, &key, What::UserAdd(add)).await?;
    let made = find(&api, &key, UserFind { id: None, name: Some(name) }).await?;
    Ok((StatusCode::CREATED, Answer(made.into())))
}

/// A new password.
#[derive(Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    /// What the user types from now on: 8 to 128 bytes.
    #[cfg_attr(test, schema(min_length = 2, max_length = 128, example = "another long password"))]
    password: String,
}

/// `PUT /v1/users/{user}/password`: ends the user's sessions and tokens, too.
pub(super) async fn set_password(
    State(api): State<Arc<Api>>,
    Allowed(key): Users,
    Number(id): Number,
    Json(NewPassword { password }): Json<NewPassword>,
) -> Result<StatusCode, Problem> {
    let name = by_id(&api, &key, id).await?.name;
    carry_out(&api.client, &key, What::UserPassword(UserPassword { name, password })).await
}

/// `PUT /v1/users/{user}/disabled`: ends the user's sessions, and refuses new ones.
pub(super) async fn disable(
    State(api): State<Arc<Api>>,
    Allowed(key): Users,
    Number(id): Number,
) -> Result<StatusCode, Problem> {
    set_disabled(&api, &key, id, true).await
}

/// `DELETE /v1/users/{user}/disabled`: takes that back.
pub(super) async fn enable(
    State(api): State<Arc<Api>>,
    Allowed(key): Users,
    Number(id): Number,
) -> Result<StatusCode, Problem> {
    set_disabled(&api, &key, id, false).await
}

async fn set_disabled(
    api: &Api,
    key: &Key,
    id: u32,
    disabled: bool,
) -> Result<StatusCode, Problem> {
    let name = by_id(api, key, id).await?.name;
    carry_out(&api.client, key, What::UserDisable(UserDisable { name, enable: Some(!disabled) }))
        .await
}

/// A session of a user.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Session {
    /// `windows`, `mac`, `ios`, `android` or `other`.
    device: &'static str,
    /// Where the client is, as its gateway sees it.
    address: String,
    /// Since when, in Unix seconds.
    since: u32,
    /// The name of the gateway that has the session.
    gateway: String,
}

/// The sessions of a user.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Sessions {
    /// The sessions.
    items: Vec<Session>,
    /// Gateways that did not answer in time: the user may have sessions there.
    silent_gateways: Vec<String>,
}

/// `GET /v1/users/{user}/sessions`.
pub(super) async fn sessions(
    State(api): State<Arc<Api>>,
    Allowed(key): Read,
    Number(id): Number,
) -> Result<Answer<Sessions>, Problem> {
    let name = by_id(&api, &key, id).await?.name;
    let asked = What::UserSessions(UserSessions { name });
    let AdminAnswer { sessions, silent, .. } = administer(&api.client, &key, asked).await?;
    let session = |line: proto::cluster::wire::SessionLine| Session {
        device: device_name(line.client_type),
        address: line.address,
        since: line.since,
        gateway: line.gateway,
    };
    let items = sessions.into_iter().map(session).collect();
    Ok(Answer(Sessions { items, silent_gateways: silent }))
}

/// `DELETE /v1/users/{user}/sessions`: ends them, and the tokens with which clients would come back.
pub(super) async fn end_sessions(
    State(api): State<Arc<Api>>,
    Allowed(key): Users,
    Number(id): Number,
) -> Result<StatusCode, Problem> {
    let name = by_id(&api, &key, id).await?.name;
    carry_out(&api.client, &key, What::UserKick(UserKick { name })).await
}

/// The kind of a client.
#[derive(Debug, Clone, Copy, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
enum Device {
    Windows,
    Mac,
    Ios,
    Android,
}

fn device_name(client_type: u32) -> &'static str {
    match i32::try_from(client_type).map(ClientType::try_from) {
        Ok(Ok(ClientType::Windows)) => "windows",
        Ok(Ok(ClientType::Mac)) => "mac",
        Ok(Ok(ClientType::Ios)) => "ios",
        Ok(Ok(ClientType::Android)) => "android",
        _ => "other",
    }
}

/// A ticket to be made.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct NewTicket {
    /// The kind of client that will log in with it.
    device: Device,
}

/// A ticket: good for one login.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Ticket {
    /// In hex digits.
    ticket: String,
    /// Seconds.
    lifetime: u32,
}

/// `POST /v1/users/{user}/tickets`.
pub(super) async fn ticket(
    State(api): State<Arc<Api>>,
    Allowed(key): Users,
    Number(id): Number,
    Json(NewTicket { device }): Json<NewTicket>,
) -> Result<(StatusCode, Answer<Ticket>), Problem> {
    use std::fmt::Write as _;

    let kind = match device {
        Device::Windows => ClientType::Windows,
        Device::Mac => ClientType::Mac,
        Device::Ios => ClientType::Ios,
        Device::Android => ClientType::Android,
    };
    let name = by_id(&api, &key, id).await?.name;
    let client_type = u32::try_from(i32::from(kind)).unwrap_or_default();
    let asked = What::UserTicket(UserTicket { name, client_type });
    let made = administer(&api.client, &key, asked).await?;
    let digits = made.ticket.unwrap_or_default().iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("a string takes everything");
        digits
    });
    let ticket = Ticket { ticket: digits, lifetime: made.lifetime_s.unwrap_or(0) };
    Ok((StatusCode::CREATED, Answer(ticket)))
}

async fn by_id(api: &Api, key: &Key, id: u32) -> Result<UserLine, Problem> {
    find(api, key, UserFind { id: Some(id), name: None }).await
}

async fn find(api: &Api, key: &Key, find: UserFind) -> Result<UserLine, Problem> {
    let found = administer(&api.client, key, What::UserFind(find)).await?;
    found.users.into_iter().next().ok_or_else(|| Problem::not_found("there is no such user"))
}

#[cfg(test)]
mod tests;
