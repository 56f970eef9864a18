//! Groups: made, listed, changed, deleted.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use proto::api_key::Scope;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    GroupChange, GroupCreate, GroupDelete, GroupLine, GroupList, GroupMembers,
};
use serde::{Deserialize, Serialize};

use crate::asking::{administer, carry_out};
use crate::input::{Allowed, Json, Number, Query};
use crate::paging::{self, Page, Wanted};
use crate::problem::Problem;
use crate::state::Api;

type Read = Allowed<{ Scope::Read.bit() }>;
type Groups = Allowed<{ Scope::Groups.bit() }>;

/// Users in one request at most.
pub(super) const MEMBERS_MAX: usize = 1_000;

/// A group, as programs see it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Group {
    /// The number of the group.
    id: u32,
    /// Its name.
    name: String,
    /// The number of the user who made it.
    creator: u32,
    /// How many there are.
    members: u32,
}

impl From<GroupLine> for Group {
    fn from(line: GroupLine) -> Self {
        Self { id: line.id, name: line.name, creator: line.creator, members: line.members }
    }
}

const LIST: &str = "groups";

/// `GET /v1/groups`: all, by number, page by page. A group that was just made may be missing for a moment.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Allowed(key): Read,
    Query(wanted): Query<Wanted>,
) -> Result<Answer<Page<Group>>, Problem> {
    let after = wanted.cursor.map(|cursor| paging::number(LIST, &cursor)).transpose()?;
    let count = Some(paging::limit(wanted.limit)?);
    let page = administer(&api.client, &key, What::GroupList(GroupList { after, count })).await?;
    let last = page.groups.last().filter(|_| page.more());
    let next = last.map(|group| paging::cursor(LIST, &group.id.to_string()));
    Ok(Answer(Page { items: page.groups.into_iter().map(Group::from).collect(), next }))
}

/// A group to be made.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct NewGroup {
    /// Its name: 1 to 256 bytes.
    #[cfg_attr(test, schema(min_length = 1, max_length = 256, example = "on call"))]
    name: String,
    /// Numbers of users; the first is the creator.
    #[cfg_attr(test, schema(min_items = 1, max_items = 1000, example = json!([21, 22])))]
    members: Vec<u32>,
}

/// The number of a group that was made.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = MadeGroup))]
pub(super) struct Made {
    /// The number of the group.
    id: u32,
}

/// `POST /v1/groups`.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Allowed(key): Groups,
    Json(NewGroup { name, members }): Json<NewGroup>,
) -> Result<(StatusCode, Answer<Made>), Problem> {
    check(&members)?;
    let create = GroupCreate { name, member_ids: members, ..GroupCreate::default() };
    let made = administer(&api.client, &key, What::GroupCreate(create)).await?;
    Ok((StatusCode::CREATED, Answer(Made { id: made.id.unwrap_or_default() })))
}

/// `DELETE /v1/groups/{group}`: all members leave, for good.
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Allowed(key): Groups,
    Number(group): Number,
) -> Result<StatusCode, Problem> {
    carry_out(&api.client, &key, What::GroupDelete(GroupDelete { group })).await
}

/// `GET /v1/groups/{group}/members`: the numbers of the present members, in order, page by page.
pub(super) async fn members(
    State(api): State<Arc<Api>>,
    Allowed(key): Read,
    Number(group): Number,
    Query(wanted): Query<Wanted>,
) -> Result<Answer<Page<u32>>, Problem> {
    let list = format!("members {group}");
    let after = wanted.cursor.map(|cursor| paging::number(&list, &cursor)).transpose()?;
    let count = Some(paging::limit(wanted.limit)?);
    let asked = What::GroupMembers(GroupMembers { group, after, count });
    let page = administer(&api.client, &key, asked).await?;
    let last = page.member_ids.last().filter(|_| page.more());
    let next = last.map(|member| paging::cursor(&list, &member.to_string()));
    Ok(Answer(Page { items: page.member_ids, next }))
}

/// Who joins and who leaves.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = MemberChange))]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// Numbers of users who join.
    #[cfg_attr(test, schema(max_items = 1000, example = json!([23])))]
    #[serde(default)]
    add: Vec<u32>,
    /// Numbers of users who leave.
    #[cfg_attr(test, schema(max_items = 1000, example = json!([22])))]
    #[serde(default)]
    remove: Vec<u32>,
}

/// `POST /v1/groups/{group}/members`. Users who are members already stay so, and the same the other way
/// round: it may be asked again.
pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Allowed(key): Groups,
    Number(group): Number,
    Json(Change { add, remove }): Json<Change>,
) -> Result<StatusCode, Problem> {
    check(&add)?;
    check(&remove)?;
    let change = GroupChange { group, add_ids: add, remove_ids: remove, ..GroupChange::default() };
    carry_out(&api.client, &key, What::GroupChange(change)).await
}

fn check(users: &[u32]) -> Result<(), Problem> {
    if users.len() > MEMBERS_MAX {
        return Err(Problem::invalid(format!("at most {MEMBERS_MAX} users in one request")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
