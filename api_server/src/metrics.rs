//! What an operator sees of an API server.

use std::time::Duration;

use daemon::Metrics;
use daemon::metrics::{Counter, Family, Gauge, Histogram};

/// The figures of one API server.
#[derive(Debug, Clone)]
pub(crate) struct ApiMetrics {
    requests: Family<[(&'static str, String); 2], Counter>,
    pub(crate) at_once: Gauge,
    pub(crate) wrong_keys: Counter,
    pub(crate) slowed_down: Counter,
    took: Histogram,
}

impl ApiMetrics {
    /// Shows the figures on `page`.
    pub(crate) fn register(page: &Metrics) -> Self {
        Self {
            requests: page.register(
                "requests",
                "Requests that were answered, by call and status.",
                Family::default(),
            ),
            at_once: page.gauge("requests_at_once", "Requests that are being answered."),
            wrong_keys: page
                .counter("wrong_keys", "Requests with no key or one that is not valid."),
            slowed_down: page.counter(
                "slowed_down",
                "Requests refused because their key or their address made too many.",
            ),
            took: page.seconds("request", "From the header of a request to its answer."),
        }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, call: &str, status: u16, took: Duration) {
        let labels = [("call", call.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
        self.took.observe(took);
    }
}
