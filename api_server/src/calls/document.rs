//! The description of the calls: for programs as OpenAPI 3.1, for people as a page.
//!
//! `openapi.json` is made from the code by a test, which also holds it to the code. Both can be read without a
//! key: there is nothing of the site in them.

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::state::Api;

const OPENAPI: &str = include_str!("../../openapi.json");

/// The page has its own script and style, shows text as text, and loads nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What describes the calls.
pub(super) fn routes() -> Router<Arc<Api>> {
    let html = "text/html; charset=utf-8";
    let page = async || file(html, include_str!("../../page/index.html"));
    let script = async || file("text/javascript", include_str!("../../page/page.js"));
    let style = async || file("text/css", include_str!("../../page/page.css"));
    Router::new()
        .route("/v1/openapi.json", get(async || file("application/json", OPENAPI)))
        .route("/v1/docs", get(page))
        .route("/v1/docs/page.js", get(script))
        .route("/v1/docs/page.css", get(style))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::assert_documented;
