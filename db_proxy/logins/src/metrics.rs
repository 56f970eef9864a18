//! The numbers that are shown of logins.

use daemon::Metrics;
use daemon::metrics::Counter;

/// The metrics of logins.
#[derive(Debug, Clone)]
pub struct LoginMetrics {
    /// Logins accepted.
    pub logins: Counter,
    /// Logins refused.
    pub logins_refused: Counter,
    /// Logins for which a password hash had to be computed.
    pub hashes: Counter,
    /// Logins with a token or a ticket that were accepted.
    pub resumed: Counter,
    /// The same, while the store was away.
    pub resumed_alone: Counter,
    /// Logins with a token or a ticket that were refused.
    pub resumes_refused: Counter,
    /// Tokens that were shown again after a newer one had taken their place.
    pub tokens_copied: Counter,
}

impl LoginMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            logins: metrics.counter("logins", "Logins accepted"),
            logins_refused: metrics.counter("logins_refused", "Logins refused"),
            hashes: metrics.counter("password_hashes", "Password hashes computed"),
            resumed: metrics.counter("logins_resumed", "Logins accepted by a token or a ticket"),
            resumed_alone: metrics
                .counter("logins_resumed_alone", "Logins accepted by a token, the store away"),
            resumes_refused: metrics
                .counter("logins_resumed_refused", "Logins by a token or a ticket refused"),
            tokens_copied: metrics
                .counter("tokens_copied", "Tokens shown again after they were replaced"),
        }
    }
}
