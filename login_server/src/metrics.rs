//! What an operator sees of a login server.

use daemon::Metrics;
use daemon::metrics::{Counter, Family, Gauge};

use crate::gateways::{Choice, Totals};

/// The figures of one login server.
#[derive(Debug, Clone)]
pub(crate) struct LoginMetrics {
    pub(crate) connections: Counter,
    pub(crate) reports: Counter,
    pub(crate) refused_reports: Counter,
    pub(crate) other_requests: Counter,
    answers: Family<[(&'static str, &'static str); 1], Counter>,
    given: Family<[(&'static str, String); 1], Counter>,
    gateways: Gauge,
    gateways_open: Gauge,
    gateways_not_ready: Gauge,
    gateway_connections: Gauge,
    gateway_connections_max: Gauge,
}

impl LoginMetrics {
    /// Shows the figures on `page`.
    pub(crate) fn register(page: &Metrics) -> Self {
        Self {
            connections: page.counter("connections", "Connections of clients that were served."),
            reports: page.counter("reports", "Load reports taken from gateways."),
            refused_reports: page.counter(
                "refused_reports",
                "Load reports of gateways whose name another gateway has.",
            ),
            other_requests: page
                .counter("other_requests", "Requests that did not ask for a gateway."),
            answers: page.register(
                "answers",
                "Answers to clients that asked for a gateway, by result: given, full, nowhere.",
                Family::default(),
            ),
            given: page.register("given", "Clients sent to each gateway.", Family::default()),
            gateways: page.gauge("gateways", "Gateways that report. None: nobody can log in."),
            gateways_open: page.gauge(
                "gateways_open",
                "Gateways that are given to clients: ready, and neither full nor draining.",
            ),
            gateways_not_ready: page.gauge(
                "gateways_not_ready",
                "Gateways on which nobody can log in, as they say: /readyz there says why.",
            ),
            gateway_connections: page
                .gauge("gateway_connections", "Clients on all gateways, as they report."),
            gateway_connections_max: page
                .gauge("gateway_connections_max", "Clients that all gateways can hold."),
        }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, choice: &Choice<'_>) {
        let result = match choice {
            Choice::Given { name, .. } => {
                self.given.get_or_create(&[("gateway", (*name).to_owned())]).inc();
                "given"
            }
            Choice::Full => "full",
            Choice::Nowhere => "nowhere",
        };
        self.answers.get_or_create(&[("result", result)]).inc();
    }

    /// Shows what the gateways have reported.
    pub(crate) fn show(&self, totals: &Totals) {
        let Totals { gateways, open, not_ready, connections, connections_max } = *totals;
        self.gateways.set(i64::try_from(gateways).unwrap_or(i64::MAX));
        self.gateways_open.set(i64::try_from(open).unwrap_or(i64::MAX));
        self.gateways_not_ready.set(i64::try_from(not_ready).unwrap_or(i64::MAX));
        self.gateway_connections.set(i64::try_from(connections).unwrap_or(i64::MAX));
        self.gateway_connections_max.set(i64::try_from(connections_max).unwrap_or(i64::MAX));
    }
}
