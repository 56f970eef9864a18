//! What an operator sees of webhooks.

use daemon::Metrics;
use daemon::metrics::{Counter, Family, Gauge};

/// The number of a webhook.
type Labels = [(&'static str, String); 1];

/// The figures of all webhooks.
#[derive(Debug, Clone)]
pub(crate) struct WebhookMetrics {
    delivered: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    given_up: Family<Labels, Counter>,
    gaps: Family<Labels, Counter>,
    oldest_s: Family<Labels, Gauge>,
}

/// Those of one webhook.
#[derive(Debug, Clone)]
pub(super) struct OneMetrics {
    pub(super) delivered: Counter,
    pub(super) failed: Counter,
    pub(super) given_up: Counter,
    pub(super) gaps: Counter,
    pub(super) oldest_s: Gauge,
}

impl WebhookMetrics {
    /// Shows the figures on `page`.
    pub(crate) fn register(page: &Metrics) -> Self {
        let counters = |name, help| page.register(name, help, Family::default());
        Self {
            delivered: counters("webhook_delivered", "Events that an endpoint has taken."),
            failed: counters("webhook_failed_tries", "Tries that an endpoint has not taken."),
            given_up: counters("webhook_given_up", "Events that were given up."),
            gaps: counters("webhook_gaps", "Times that records of the log were lost."),
            oldest_s: page.register(
                "webhook_oldest_seconds",
                "Age of the oldest event that is neither delivered nor given up.",
                Family::default(),
            ),
        }
    }

    /// Those of one webhook.
    pub(super) fn of(&self, webhook: u32) -> OneMetrics {
        let labels = labels(webhook);
        let counter = |family: &Family<Labels, Counter>| family.get_or_create(&labels).clone();
        OneMetrics {
            delivered: counter(&self.delivered),
            failed: counter(&self.failed),
            given_up: counter(&self.given_up),
            gaps: counter(&self.gaps),
            oldest_s: self.oldest_s.get_or_create(&labels).clone(),
        }
    }

    /// Shows nothing of a webhook any longer.
    pub(super) fn forget(&self, webhook: u32) {
        let labels = labels(webhook);
        for counters in [&self.delivered, &self.failed, &self.given_up, &self.gaps] {
            counters.remove(&labels);
        }
        self.oldest_s.remove(&labels);
    }
}

fn labels(webhook: u32) -> Labels {
    [("webhook", webhook.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_that_is_gone_is_not_shown() {
        let page = Metrics::new("api_server");
        let metrics = WebhookMetrics::register(&page);
        metrics.of(7).delivered.inc();
        metrics.of(7).oldest_s.set(3);
        metrics.of(7).delivered.inc();
        let shown = page.encode().unwrap();
        assert!(shown.contains("talkhub_api_server_webhook_delivered_total{webhook=\"7\"} 2"));
        assert!(shown.contains("talkhub_api_server_webhook_oldest_seconds{webhook=\"7\"} 3"));
        metrics.forget(7);
        assert!(!page.encode().unwrap().contains("webhook=\"7\""));
    }
}
