//! What is counted of hooks.

use daemon::Metrics;
use daemon::metrics::{Counter, EncodeLabelSet, EncodeLabelValue, Family, Gauge, Histogram};

/// Figures of all hooks of a daemon. The names of hooks come from the settings, so there are few.
#[derive(Debug, Clone, Default)]
pub struct HookMetrics {
    pub(super) ends: Family<EndLabel, Counter>,
    pub(super) seconds: Family<HookLabel, Histogram>,
    pub(super) resting: Family<HookLabel, Gauge>,
}

/// Which hook.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HookLabel {
    pub(super) hook: String,
}

/// Which hook, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EndLabel {
    pub(super) hook: String,
    pub(super) outcome: HookEnd,
}

/// How a question to a hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum HookEnd {
    Allowed,
    Changed,
    Refused,
    /// It gave no answer, or none that counts.
    Failed,
    /// It was not asked: too many questions were open, or it rests after failures.
    NotAsked,
}

impl HookMetrics {
    /// Shows them.
    pub fn register(page: &Metrics) -> Self {
        let all = Self::default();
        Self {
            ends: page.register(
                "hook_questions",
                "Messages for a hook, by what it said.",
                all.ends,
            ),
            seconds: page.register(
                "hook_seconds",
                "Time that a hook takes to answer.",
                all.seconds,
            ),
            resting: page.register(
                "hook_resting",
                "Whether a hook is left alone after failures in a row.",
                all.resting,
            ),
        }
    }
}
