//! The URL of another system.

use std::fmt;
use std::str::FromStr;

use axum::http::Uri;
use serde::Deserialize;

/// The longest URL, in bytes.
const URL_LEN_MAX: usize = 2_048;

/// An absolute `http` or `https` URL, without a user or a fragment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HttpUrl(Uri);

/// A text that is no [`HttpUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no http or https URL (at most 2048 bytes; no user, password or fragment)")]
pub struct BadUrl;

impl HttpUrl {
    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether what is sent there is encrypted on the way.
    pub fn is_tls(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

impl FromStr for HttpUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        if text.len() > URL_LEN_MAX || text.contains('#') {
            return Err(BadUrl);
        }
        let uri: Uri = text.parse().map_err(|_error| BadUrl)?;
        let authority = uri.authority().ok_or(BadUrl)?;
        let port = authority.as_str().strip_prefix(authority.host()).ok_or(BadUrl)?;
        let has_port = match port.strip_prefix(':') {
            Some(port) => port.parse::<u16>().is_ok_and(|port| port > 0),
            // Nothing stands behind the host; before it, a user may.
            None => port.is_empty(),
        };
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_right = is_http && !authority.host().is_empty() && has_port;
        if is_right { Ok(Self(uri)) } else { Err(BadUrl) }
    }
}

impl TryFrom<String> for HttpUrl {
    type Error = BadUrl;

    fn try_from(text: String) -> Result<Self, BadUrl> {
        text.parse()
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_other_systems_are_read() {
        for text in [
            "http://127.0.0.1:8080/hook",
            "https://example.com/a/b?c=d&e",
            "https://[2001:db8::1]:8443/",
            "HTTPS://EXAMPLE.COM/",
        ] {
            let url: HttpUrl = text.parse().unwrap();
            assert_eq!(url.to_string().to_lowercase(), text.to_lowercase());
            assert_eq!(url.is_tls(), text.to_lowercase().starts_with("https"));
        }
    }

    #[test]
    fn what_is_no_url_of_another_system_is_refused() {
        let long = format!("http://example.com/{}", "a".repeat(URL_LEN_MAX));
        for text in [
            "",
            "example.com",
            "/hook",
            "ftp://example.com/",
            "http://",
            "http:///hook",
            "http://user:password@example.com/",
            "http://user@example.com/",
            "http://a b/",
            "http://example.com/#part",
            "http://example.com:0/",
            "http://example.com:99999/",
            "http://example.com:/",
            "file:///etc/passwd",
            long.as_str(),
        ] {
            assert_eq!(text.parse::<HttpUrl>(), Err(BadUrl), "{text}");
        }
        let edge = format!("http://e/{}", "a".repeat(URL_LEN_MAX - "http://e/".len()));
        assert!(edge.parse::<HttpUrl>().is_ok());
    }
}
