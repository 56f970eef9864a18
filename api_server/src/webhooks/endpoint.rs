//! A webhook as a db_proxy describes it.

use daemon::http_client::HttpUrl;
use daemon::webhook_signature::WebhookSecret;
use proto::cluster::wire::{WebhookLine, WebhookState};
use proto::webhook::{EventType, consumer_name};

/// Where events are sent, and which.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) number: u32,
    /// Which state of its settings this is.
    pub(super) version: u64,
    pub(super) url: HttpUrl,
    /// One bit for each type of event.
    pub(super) events: u32,
    /// What happened before is not sent, Unix milliseconds.
    pub(super) from_ms: u64,
    /// How long events have been tried counts from here, Unix milliseconds.
    pub(super) begun_ms: u64,
    /// Under which name the log is read.
    pub(super) consumer: String,
    secret: WebhookSecret,
    /// The secret before, and until when it signs as well, Unix seconds.
    old: Option<(WebhookSecret, u64)>,
}

impl Endpoint {
    /// The endpoint, if it is switched on and this release can serve it; else why not.
    pub(super) fn read(line: &WebhookLine) -> Result<Self, &'static str> {
        if line.state() != WebhookState::On {
            return Err("it is off");
        }
        let events = line.events.iter().filter_map(|event| EventType::named(event));
        let secret = line.secret.as_deref().and_then(|secret| secret.parse().ok());
        let old = line.old_secret.as_deref().and_then(|secret| secret.parse().ok());
        Ok(Self {
            number: line.number,
            version: line.version,
            url: line.url.parse().map_err(|_error| "its URL cannot be read")?,
            events: events.fold(0, |bits, event| bits | event.bit()),
            from_ms: line.from_ms,
            begun_ms: line.begun_ms,
            consumer: consumer_name(line.number, line.run),
            secret: secret.ok_or("its secret cannot be read")?,
            old: old.map(|secret| (secret, line.old_until_s)),
        })
    }

    /// What an event is signed with now.
    pub(super) fn secrets(&self, now_s: u64) -> Vec<WebhookSecret> {
        let old = self.old.as_ref().filter(|(_secret, until_s)| now_s < *until_s);
        let old = old.map(|(secret, _until)| secret);
        [&self.secret].into_iter().chain(old).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> WebhookLine {
        WebhookLine {
            number: 7,
            name: "hr".to_owned(),
            url: "https://example.com/".to_owned(),
            events: vec!["message.created".to_owned(), "of a newer release".to_owned()],
            state: WebhookState::On.into(),
            run: 2,
            secret: Some(WebhookSecret::random().expose()),
            ..WebhookLine::default()
        }
    }

    #[test]
    fn an_endpoint_that_is_on_is_read() {
        let endpoint = Endpoint::read(&line()).unwrap();
        assert_eq!((endpoint.number, endpoint.consumer.as_str()), (7, "webhook.7.2"));
        assert_eq!(endpoint.events, EventType::MessageCreated.bit());
        for wrong in [
            WebhookLine { state: WebhookState::Off.into(), ..line() },
            WebhookLine { state: WebhookState::Gone.into(), ..line() },
            WebhookLine { secret: None, ..line() },
            WebhookLine { url: "ftp://example.com/".to_owned(), ..line() },
        ] {
            assert!(Endpoint::read(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_secret_before_signs_until_its_time() {
        let old_secret = Some(WebhookSecret::random().expose());
        let both = WebhookLine { old_secret: old_secret.clone(), old_until_s: 100, ..line() };
        let endpoint = Endpoint::read(&both).unwrap();
        let secrets = |now_s| -> Vec<_> {
            endpoint.secrets(now_s).iter().map(|secret| Some(secret.expose())).collect()
        };
        assert_eq!(secrets(99), [both.secret.clone(), old_secret]);
        assert_eq!(secrets(100), [both.secret]);
    }
}
