//! What an operator sees of a replica.

use daemon::Metrics;
use daemon::metrics::{Counter, Gauge};

use crate::interest::Size;

/// The figures of one replica.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaMetrics {
    pub(crate) publishes: Counter,
    pub(crate) forwards: Counter,
    pub(crate) copies: Counter,
    pub(crate) missed: Counter,
    pub(crate) kicks: Counter,
    pub(crate) tables_asked: Counter,
    pub(crate) presence_changes: Counter,
    gateways_known: Gauge,
    gateways_unknown: Gauge,
    users: Gauge,
    users_online: Gauge,
    groups: Gauge,
}

impl ReplicaMetrics {
    /// Shows the figures on `page`.
    pub(crate) fn register(page: &Metrics) -> Self {
        Self {
            publishes: page.counter("publishes", "Folded records taken from db_proxy."),
            forwards: page.counter("forwards", "Frames taken from gateways for other clients."),
            copies: page.counter("copies", "Copies of publishes and forwards sent to gateways."),
            missed: page.counter(
                "missed",
                "Copies that a gateway should have had and that could not be sent to it.",
            ),
            kicks: page.counter("kicks", "Kicks sent because a user was logged in twice."),
            tables_asked: page.counter(
                "tables_asked",
                "Gateways asked to send their table again because its checksum differed.",
            ),
            presence_changes: page
                .counter("presence_changes", "Users announced as online or offline."),
            gateways_known: page
                .gauge("gateways_known", "Connected gateways whose table is complete."),
            gateways_unknown: page.gauge(
                "gateways_unknown",
                "Connected gateways without a complete table: they are sent everything.",
            ),
            users: page.gauge("users", "Users with a session on any gateway."),
            users_online: page.gauge("users_online", "Users who count as online: on a PC client."),
            groups: page.gauge("groups", "Groups with a member on any gateway."),
        }
    }

    /// Shows how much the tables hold.
    pub(crate) fn show(&self, size: Size, users_online: usize) {
        let Size { gateways_known, gateways_unknown, users, groups } = size;
        set(&self.gateways_known, gateways_known);
        set(&self.gateways_unknown, gateways_unknown);
        set(&self.users, users);
        set(&self.users_online, users_online);
        set(&self.groups, groups);
    }
}

fn set(gauge: &Gauge, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}
