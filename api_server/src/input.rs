//! What a request says: its key, its body, its query, its path.
//!
//! # What bounds it
//!
//! A body has at most [`BODY_LEN_MAX`] bytes and comes within [`BODY_LIMIT`]. Its length is refused by its
//! header before anything of it is read, if that says it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use daemon::http::ClientAddr;
use proto::api_key::ApiKey;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::keys::Key;
use crate::problem::Problem;
use crate::state::Api;

/// The longest body, in bytes: a thousand users with all their fields fit.
pub(crate) const BODY_LEN_MAX: usize = 512 << 10;

/// How long a body may take to come.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// The longest `Idempotency-Key`, in bytes.
pub(crate) const IDEMPOTENCY_KEY_MAX: usize = 255;

/// A request with a key that allows what the bits of a scope say.
#[derive(Debug)]
pub(crate) struct Allowed<const SCOPE: u32>(pub(crate) Arc<Key>);

impl<const SCOPE: u32> FromRequestParts<Arc<Api>> for Allowed<SCOPE> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let from = parts.extensions.get::<ClientAddr>().copied();
        let key = api.authenticate(shown_key(&parts.headers), from).await?;
        if !key.allows(SCOPE) {
            let detail = "the key has not the scope that this call needs";
            return Err(Problem::new(StatusCode::FORBIDDEN, "scope_missing", detail));
        }
        Ok(Self(key))
    }
}

/// The key that a program shows.
fn shown_key(headers: &HeaderMap) -> Option<ApiKey> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let (Some(shown), None) = (shown.next(), shown.next()) else { return None };
    let (scheme, key) = shown.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    ApiKey::parse(key.trim())
}

/// A body in JSON. Keys that it should not have, and keys that it has twice, are refused.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _api: &Arc<Api>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        check_headers(&parts.headers)?;
        let bytes = read(body).await?;
        if is_list(&bytes) {
            return Err(Problem::invalid("the body is a list, and must be an object"));
        }
        let read = serde_json::from_slice(&bytes).map_err(|error| {
            if error.is_data() {
                Problem::invalid(error.to_string())
            } else {
                let detail = format!("the body is not JSON: {error}");
                Problem::new(StatusCode::BAD_REQUEST, "not_json", detail)
            }
        })?;
        Ok(Self(read))
    }
}

/// Whether a body is a list: serde would read it as the fields of a struct in their order.
pub(crate) fn is_list(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'[')
}

fn check_headers(headers: &HeaderMap) -> Result<(), Problem> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media_type.and_then(|value| value.split(';').next()).map(str::trim);
    let is_json = essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    if !is_json {
        let detail = "send the body as `Content-Type: application/json`";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail));
    }
    if headers.contains_key(CONTENT_ENCODING) {
        let detail = "send the body without compression";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "compressed", detail));
    }
    Ok(())
}

/// Reads a body, as long as it may be.
pub(crate) async fn read(body: Body) -> Result<axum::body::Bytes, Problem> {
    let too_large = || {
        let detail = format!("a body has at most {BODY_LEN_MAX} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    };
    if body.size_hint().lower() > BODY_LEN_MAX as u64 {
        return Err(too_large());
    }
    match timeout(BODY_LIMIT, axum::body::to_bytes(body, BODY_LEN_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_too_long_or_broken)) => Err(too_large()),
        Err(_elapsed) => {
            let detail = format!("a body comes within {} s", BODY_LIMIT.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail))
        }
    }
}

/// What stands behind the `?`. Names that it should not have are refused.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Api>> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let read = axum::extract::Query::<T>::from_request_parts(parts, api).await;
        let wrong = |error: axum::extract::rejection::QueryRejection| {
            Problem::invalid(format!("the query: {}", error.body_text()))
        };
        read.map(|axum::extract::Query(query)| Self(query)).map_err(wrong)
    }
}

/// The number in the path: of a user or a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number(pub(crate) u32);

impl FromRequestParts<Arc<Api>> for Number {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let none = || Problem::not_found("there is no such number");
        let read = RawPathParams::from_request_parts(parts, api).await.map_err(|_error| none())?;
        let number = read.iter().next().and_then(|(_name, value)| value.parse().ok());
        number.filter(|number| *number != 0).map(Self).ok_or_else(none)
    }
}

/// What names a request, so that it may be repeated.
#[derive(Debug)]
pub(crate) struct IdempotencyKey(pub(crate) Option<String>);

impl FromRequestParts<Arc<Api>> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _api: &Arc<Api>) -> Result<Self, Problem> {
        name_of(&parts.headers).map(Self)
    }
}

fn name_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut named = headers.get_all("idempotency-key").iter();
    let Some(name) = named.next() else { return Ok(None) };
    let name = name
        .to_str()
        .ok()
        .filter(|name| named.next().is_none() && (1..=IDEMPOTENCY_KEY_MAX).contains(&name.len()));
    let wrong = || {
        let detail =
            format!("Idempotency-Key is one value of 1 to {IDEMPOTENCY_KEY_MAX} ASCII signs");
        Problem::new(StatusCode::BAD_REQUEST, "bad_idempotency_key", detail)
    };
    name.map(|name| Some(name.to_owned())).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(values: &[&str]) -> Option<ApiKey> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        shown_key(&headers)
    }

    #[test]
    fn a_key_is_shown_as_a_bearer_token_and_once() {
        let key = ApiKey { id: [1; 8], secret: [2; 32] };
        let text = key.to_text();
        for value in [format!("Bearer {text}"), format!("bearer   {text}")] {
            assert_eq!(shown(&[&value]), Some(key.clone()), "{value}");
        }
        let good = format!("Bearer {text}");
        let (text, good) = (text.as_str(), good.as_str());
        for values in [&[][..], &[text], &["Basic x"], &["Bearer"], &["Bearer x"], &[good, good]] {
            assert_eq!(shown(values), None, "{values:?}");
        }
    }

    #[test]
    fn a_request_has_one_name_of_so_many_signs() {
        let name = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                let value = axum::http::HeaderValue::from_bytes(value).unwrap();
                headers.append("idempotency-key", value);
            }
            name_of(&headers).map_err(|problem| problem.code())
        };
        assert_eq!(name(&[]), Ok(None));
        let longest = "k".repeat(IDEMPOTENCY_KEY_MAX);
        for good in ["7", "build 7", longest.as_str()] {
            assert_eq!(name(&[good.as_bytes()]), Ok(Some(good.to_owned())));
        }
        let longer = "k".repeat(IDEMPOTENCY_KEY_MAX + 1);
        for bad in [&[&b""[..]][..], &[longer.as_bytes()], &["\u{e9}".as_bytes()], &[b"a", b"a"]] {
            assert_eq!(name(bad), Err("bad_idempotency_key"), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_body_has_so_many_bytes() {
        let long = |len| Body::from("x".repeat(len));
        assert_eq!(read(long(BODY_LEN_MAX)).await.unwrap().len(), BODY_LEN_MAX);
        assert_eq!(read(long(BODY_LEN_MAX + 1)).await.unwrap_err().code(), "too_large");
        // Its header does not say how long it is.
        let pieces = (0..600).map(|_| Ok::<_, std::io::Error>("x".repeat(1_000)));
        let stream = Body::from_stream(futures_util::stream::iter(pieces));
        assert_eq!(read(stream).await.unwrap_err().code(), "too_large");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let began = tokio::time::Instant::now();
        let stream = futures_util::stream::pending::<Result<String, std::io::Error>>();
        assert_eq!(read(Body::from_stream(stream)).await.unwrap_err().code(), "too_slow");
        assert_eq!(began.elapsed().as_secs(), BODY_LIMIT.as_secs());
    }

    #[test]
    fn a_body_is_json_that_is_not_compressed() {
        let check = |pairs: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                let name: axum::http::HeaderName = name.parse().unwrap();
                headers.insert(name, value.parse().unwrap());
            }
            check_headers(&headers).map_err(|problem| problem.code())
        };
        for kind in ["application/json", "Application/JSON; charset=utf-8"] {
            assert_eq!(check(&[("content-type", kind)]), Ok(()));
        }
        assert_eq!(check(&[]), Err("not_json"));
        assert_eq!(check(&[("content-type", "text/plain")]), Err("not_json"));
        let gzip = [("content-type", "application/json"), ("content-encoding", "gzip")];
        assert_eq!(check(&gzip), Err("compressed"));
    }
}
