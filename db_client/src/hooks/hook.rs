//! One hook, as it is asked.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use daemon::ConfigError;
use daemon::breaker::{Breaker, Turn};
use daemon::clock::unix_s;
use daemon::http_client::{AnswerLimits, HttpAnswer, HttpClient, HttpClientOptions};
use daemon::webhook_signature::{WebhookSecret, signed_headers};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use super::metrics::{HookEnd, HookMetrics, OneHookMetrics};
use super::question::{self, ANSWER_LEN_MAX, Said};
use super::settings::{HookKind, HookSettings};

/// After so many failures in a row a hook is left alone for a while.
const FAILURES_MAX: u32 = 5;

/// How long. Then one message tries.
const REST: Duration = Duration::from_secs(5);

/// One hook.
#[derive(Debug)]
pub(super) struct Hook {
    pub(super) settings: HookSettings,
    secret: WebhookSecret,
    client: HttpClient,
    places: Semaphore,
    breaker: Breaker,
    failures: AtomicU32,
    metrics: OneHookMetrics,
}

impl Hook {
    pub(super) fn new(settings: HookSettings, metrics: &HookMetrics) -> Result<Self, ConfigError> {
        // Only the operator says where hooks are.
        let options = HttpClientOptions { allow_private: true, ca: settings.ca.clone() };
        Ok(Self {
            secret: settings.read_secret()?,
            client: HttpClient::new(&options)?,
            places: Semaphore::new(settings.at_once),
            breaker: Breaker::new(REST),
            failures: AtomicU32::new(0),
            metrics: metrics.of(&settings.name),
            settings,
        })
    }

    /// Asks about a message; `None` if there is no answer that counts. Takes as long as the limit at most.
    /// Cancel-safe.
    pub(super) async fn ask(&self, id: &str, body: Bytes, may_change: bool) -> Option<Said> {
        let until = Instant::now() + self.settings.limit();
        let Ok(Ok(_place)) = timeout_at(until, self.places.acquire()).await else {
            debug!(hook = self.settings.name, "too many questions are open");
            self.metrics.ended(HookEnd::NotAsked);
            return None;
        };
        if self.breaker.turn(Instant::now().into_std()) == Turn::Leave {
            self.metrics.ended(HookEnd::NotAsked);
            return None;
        }
        let asked = Instant::now();
        let answer = self.post(id, body, until).await;
        self.metrics.seconds.observe(asked.elapsed());
        let said = answer.and_then(|answer| self.read(&answer));
        let said = said.filter(|said| may_change || !matches!(said, Said::Change(_)));
        self.metrics.ended(match &said {
            Some(Said::Allow) => HookEnd::Allowed,
            Some(Said::Change(_)) => HookEnd::Changed,
            Some(Said::Refuse(_)) => HookEnd::Refused,
            None => HookEnd::Failed,
        });
        if said.is_some() {
            self.worked();
        } else {
            self.failed();
        }
        said
    }

    async fn post(&self, id: &str, body: Bytes, until: Instant) -> Option<HttpAnswer> {
        let HookSettings { url, name, .. } = &self.settings;
        let headers =
            signed_headers(std::slice::from_ref(&self.secret), id, unix_s().into(), &body);
        let time = until.saturating_duration_since(Instant::now());
        let limits = AnswerLimits { time, body_len: ANSWER_LEN_MAX };
        match self.client.post(url, headers, body, limits).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                debug!(hook = name, %error, "not answered");
                None
            }
        }
    }

    fn read(&self, answer: &HttpAnswer) -> Option<Said> {
        match self.settings.kind {
            HookKind::Decide => question::said(answer),
            HookKind::Notify => answer.status.is_success().then_some(Said::Allow),
        }
    }

    fn worked(&self) {
        self.failures.store(0, Ordering::Relaxed);
        if self.breaker.answered() {
            self.metrics.resting.set(0);
            info!(hook = self.settings.name, "it answers again");
        }
    }

    fn failed(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures >= FAILURES_MAX && self.breaker.failed(Instant::now().into_std()) {
            self.metrics.resting.set(1);
            warn!(hook = self.settings.name, failures, "it is left alone for a while");
        }
    }
}
