//! Signatures of requests to other systems, as Standard Webhooks 1.0.0 has them: the receiver knows by one
//! that the request comes from here, when it was sent, and that nobody has changed it.

use std::fmt;
use std::str::FromStr;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::hmac;
use serde::Deserialize;
use zeroize::Zeroize;

use crate::random::random_bytes;

/// Before the Base64 of a secret.
const PREFIX: &str = "whsec_";

/// Bytes of a secret, as the standard has them.
const LEN: std::ops::RangeInclusive<usize> = 24..=64;

/// Bytes of a secret that is made here.
const NEW_LEN: usize = 32;

/// A secret that the receiver knows as well. It is never shown but by [`WebhookSecret::expose`].
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct WebhookSecret(Vec<u8>);

/// A text that is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no secret (whsec_ and the Base64 of 24 to 64 bytes)")]
pub struct BadSecret;

impl WebhookSecret {
    /// A new one, of 32 random bytes.
    pub fn random() -> Self {
        Self(random_bytes::<NEW_LEN>().to_vec())
    }

    /// The secret as text: `whsec_` and Base64.
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(&self.0))
    }

    /// The signature of a request: `v1,` and the Base64 of HMAC-SHA256 over `id.timestamp.body`.
    pub fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let mut signed = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        signed.update(format!("{id}.{timestamp_s}.").as_bytes());
        signed.update(body);
        format!("v1,{}", BASE64_STANDARD.encode(signed.sign()))
    }
}

/// The headers of a JSON request signed with each of the secrets: two of them while one takes the place of the
/// other.
///
/// # Panics
///
/// If the id has characters that a header cannot have.
pub fn signed_headers(
    secrets: &[WebhookSecret],
    id: &str,
    timestamp_s: u64,
    body: &[u8],
) -> HeaderMap {
    let signatures: Vec<String> =
        secrets.iter().map(|secret| secret.sign(id, timestamp_s, body)).collect();
    let value = |text: &str| HeaderValue::from_str(text).expect("printable ASCII");
    HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (HeaderName::from_static("webhook-id"), value(id)),
        (HeaderName::from_static("webhook-timestamp"), HeaderValue::from(timestamp_s)),
        (HeaderName::from_static("webhook-signature"), value(&signatures.join(" "))),
    ])
}

impl FromStr for WebhookSecret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(BadSecret)?;
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_error| BadSecret)?;
        if LEN.contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(BadSecret) }
    }
}

impl TryFrom<String> for WebhookSecret {
    type Error = BadSecret;

    fn try_from(mut text: String) -> Result<Self, BadSecret> {
        let secret = text.parse();
        text.zeroize();
        secret
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

impl Drop for WebhookSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the standard.
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const TIMESTAMP_S: u64 = 1_649_367_553;
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

    #[test]
    fn the_example_of_the_standard_is_signed_as_it_says() {
        let secret: WebhookSecret = SECRET.parse().unwrap();
        assert_eq!(secret.sign(ID, TIMESTAMP_S, BODY), SIGNATURE);
        assert_eq!(secret.expose(), SECRET);
    }

    #[test]
    fn a_request_has_a_signature_of_each_secret() {
        let (one, other) = (SECRET.parse().unwrap(), WebhookSecret::random());
        let headers = signed_headers(&[one, other.clone()], ID, TIMESTAMP_S, BODY);
        assert_eq!(headers["webhook-id"], ID);
        assert_eq!(headers["webhook-timestamp"], "1649367553");
        assert_eq!(headers["content-type"], "application/json");
        let both = format!("{SIGNATURE} {}", other.sign(ID, TIMESTAMP_S, BODY));
        assert_eq!(headers["webhook-signature"], both.as_str());
    }

    #[test]
    fn a_secret_has_a_prefix_and_24_to_64_bytes() {
        let of = |len: usize| format!("{PREFIX}{}", BASE64_STANDARD.encode(vec![7; len]));
        for len in [24, 64] {
            assert!(of(len).parse::<WebhookSecret>().is_ok());
        }
        for text in
            [of(23), of(65), String::new(), SECRET.replace("whsec_", ""), format!("{SECRET}!")]
        {
            assert_eq!(text.parse::<WebhookSecret>(), Err(BadSecret), "{text}");
        }
        assert_ne!(WebhookSecret::random(), WebhookSecret::random());
        assert_eq!(format!("{:?}", WebhookSecret::random()), "WebhookSecret");
    }
}
