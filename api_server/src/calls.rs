//! The calls of the API, and what is done for all of them.

mod document;
mod groups;
mod messages;
mod query;
mod users;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use tokio::time::Instant;

use crate::problem::Problem;
use crate::state::Api;
#[cfg(test)]
pub(crate) use document::assert_documented;

/// Makes the router of the calls, and for the tests a list of them.
macro_rules! calls {
    ($($path:literal: $($method:ident $handler:path),+;)*) => {
        fn calls() -> Router<Arc<Api>> {
            Router::new()$(.route($path, MethodRouter::new()$(.$method($handler))+))*
        }

        #[cfg(test)]
        const CALLS: &[(&str, &[&str])] = &[$(($path, &[$(stringify!($method)),+])),*];
    };
}

calls! {
    "/v1/users": get users::list, post users::create;
    "/v1/users/{user}": get users::one;
    "/v1/users/{user}/password": put users::set_password;
    "/v1/users/{user}/disabled": put users::disable, delete users::enable;
    "/v1/users/{user}/sessions": get users::sessions, delete users::end_sessions;
    "/v1/users/{user}/tickets": post users::ticket;
    "/v1/users/{user}/messages": get messages::history;
    "/v1/users/{user}/unread": get messages::unread;
    "/v1/groups": get groups::list, post groups::create;
    "/v1/groups/{group}": delete groups::delete;
    "/v1/groups/{group}/members": get groups::members, post groups::change;
    "/v1/messages": post messages::send;
    "/v1/webhooks": get webhooks::list, post webhooks::create;
    "/v1/webhooks/{webhook}": get webhooks::one, delete webhooks::remove;
    "/v1/webhooks/{webhook}/disabled": put webhooks::disable, delete webhooks::enable;
    "/v1/webhooks/{webhook}/secrets": post webhooks::rotate;
    "/v1/webhooks/{webhook}/failures": get webhooks::failures;
    "/v1/webhooks/{webhook}/replays": post webhooks::replay;
}

/// All calls, and what describes them.
pub(crate) fn router(api: Arc<Api>) -> Router {
    calls()
        .merge(document::routes())
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
