//! One try: the request, and what its answer means.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use daemon::clock::{unix_ms, unix_s};
use daemon::http_client::{AnswerLimits, HttpAnswer, HttpClient, HttpClientError};
use daemon::webhook_signature::signed_headers;
use tracing::debug;

use super::endpoint::Endpoint;
use super::event::Event;

/// How long an endpoint may take to answer, and how much of its answer is read: nothing that it says is used but
/// its status, and an answer that ends lets the connection be used again.
pub(super) const LIMITS: AnswerLimits =
    AnswerLimits { time: Duration::from_secs(15), body_len: 16 << 10 };

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The endpoint has taken the event.
    Taken,
    /// The endpoint is gone for good.
    Gone,
    /// It has not.
    Failed {
        /// The status; 0 if there was no answer.
        status: u16,
        /// How long the endpoint asks to be left alone.
        retry_after: Option<Duration>,
    },
}

impl Outcome {
    fn of_answer(answer: &HttpAnswer) -> Self {
        let status = answer.status.as_u16();
        match status {
            200..=299 => Self::Taken,
            410 => Self::Gone,
            // A redirect too: it is not followed.
            _ => Self::Failed { status, retry_after: retry_after(&answer.headers, unix_ms()) },
        }
    }
}

/// Sends an event once.
pub(super) async fn send(
    client: HttpClient,
    endpoint: Arc<Endpoint>,
    event: &Event,
    limits: AnswerLimits,
) -> Outcome {
    let now_s = u64::from(unix_s());
    let mut headers = signed_headers(&endpoint.secrets(now_s), &event.id, now_s, &event.body);
    headers.insert(USER_AGENT, HeaderValue::from_static("TalkHub-Webhooks/1"));
    let answer = client.post(&endpoint.url, headers, event.body.clone(), limits).await;
    if let Err(error) = &answer {
        debug!(webhook = endpoint.number, event = event.id, why = why(error), "not delivered");
    }
    answer.map_or(Outcome::Failed { status: 0, retry_after: None }, |answer| {
        Outcome::of_answer(&answer)
    })
}

/// What the log may say: nothing that the endpoint has sent.
fn why(error: &HttpClientError) -> String {
    match error {
        HttpClientError::Connect(error) => format!("cannot connect: {:?}", error.kind()),
        other => other.to_string(),
    }
}

/// How long the endpoint asks to be left alone: in seconds, or until a time (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now_ms: u64) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    let at = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(Duration::from_millis(now_ms)))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_time_to_be_left_alone_is_said_in_seconds_or_as_a_date() {
        let of = |value| retry_after(&headers(value), 784_111_777_000);
        assert_eq!(of("125"), Some(Duration::from_secs(125)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:27 GMT"), Some(Duration::ZERO), "it is over");
        for wrong in ["", "soon", "-5", "1.5", "18446744073709551616"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), 0), None);
    }

    #[test]
    fn only_2xx_is_a_success_and_only_410_is_for_good() {
        let of = |status, headers| {
            let status = StatusCode::from_u16(status).unwrap();
            Outcome::of_answer(&HttpAnswer { status, headers, body: None })
        };
        for status in [200, 201, 204, 299] {
            assert_eq!(of(status, HeaderMap::new()), Outcome::Taken, "{status}");
        }
        assert_eq!(of(410, HeaderMap::new()), Outcome::Gone);
        for status in [300, 301, 308, 400, 404, 429, 500, 503] {
            let failed = Outcome::Failed { status, retry_after: Some(Duration::from_secs(7)) };
            assert_eq!(of(status, headers("7")), failed, "{status}");
        }
    }
}
