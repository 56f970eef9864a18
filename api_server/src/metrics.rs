//! What an operator sees of an API server.

use std::time::Duration;

use daemon::Metrics;
use daemon::metrics::{Counter, Family, Gauge, Histogram};

/// The figures of one API server.
#[derive(Debug, Clone)]
pub(crate) struct ApiMetrics {
    requests: Family<[(&'static str, String); 2], Counter>,
    at_once: Gauge,
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

    /// Counts a request for as long as this is kept: also one whose program goes away before the answer.
    pub(crate) fn is_asked(&self) -> BeingAnswered {
        self.at_once.inc();
        BeingAnswered(self.at_once.clone())
    }

    /// How many requests are being answered.
    #[cfg(test)]
    pub(crate) fn being_answered(&self) -> i64 {
        self.at_once.get()
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, call: &str, status: u16, took: Duration) {
        let labels = [("call", call.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
        self.took.observe(took);
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct BeingAnswered(Gauge);

impl Drop for BeingAnswered {
    fn drop(&mut self) {
        self.0.dec();
    }
}
