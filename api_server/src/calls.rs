//! The calls of the API, and what is done for all of them.

mod groups;
mod messages;
mod query;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post, put};
use tokio::time::Instant;

use crate::problem::Problem;
use crate::state::Api;

/// All calls.
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/users", get(users::list).post(users::create))
        .route("/v1/users/{user}", get(users::one))
        .route("/v1/users/{user}/password", put(users::set_password))
        .route("/v1/users/{user}/disabled", put(users::disable).delete(users::enable))
        .route("/v1/users/{user}/sessions", get(users::sessions).delete(users::end_sessions))
        .route("/v1/users/{user}/tickets", post(users::ticket))
        .route("/v1/users/{user}/messages", get(messages::history))
        .route("/v1/users/{user}/unread", get(messages::unread))
        .route("/v1/groups", get(groups::list).post(groups::create))
        .route("/v1/groups/{group}", delete(groups::delete))
        .route("/v1/groups/{group}/members", get(groups::members).post(groups::change))
        .route("/v1/messages", post(messages::send))
        .route("/query/CreateGroup", any(query::create_group))
        .route("/query/ChangeMembers", any(query::change_members))
        .fallback(async || Problem::not_found("there is no such call"))
        .layer(from_fn_with_state(Arc::clone(&api), around))
        .with_state(api)
}

/// What is done for every request: it takes a place, and is counted.
async fn around(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let path = request.extensions().get::<MatchedPath>();
    // Paths that programs make up are no names of calls.
    let path = path.map_or("unknown", MatchedPath::as_str);
    let call = format!("{} {path}", request.method());
    let _counted = api.metrics.is_asked();
    let mut response = match api.place() {
        Ok(_place) => next.run(request).await,
        Err(full) => full.into_response(),
    };
    if response.status() == axum::http::StatusCode::METHOD_NOT_ALLOWED {
        let allowed = response.headers_mut().remove(ALLOW);
        response = Problem::method_not_allowed(allowed).into_response();
    }
    let caching = response.headers_mut().entry(CACHE_CONTROL);
    caching.or_insert(HeaderValue::from_static("no-store"));
    api.metrics.answered(&call, response.status().as_u16(), began.elapsed());
    response
}
