//! What is counted of hooks.

use daemon::Metrics;
use daemon::metrics::{Counter, EncodeLabelSet, EncodeLabelValue, Family, Gauge, Histogram};

/// Figures of all hooks of a daemon. The names of hooks come from the settings, so there are few.
#[derive(Debug, Clone, Default)]
pub struct HookMetrics {
    ends: Family<EndLabel, Counter>,
    seconds: Family<HookLabel, Histogram>,
    resting: Family<HookLabel, Gauge>,
}

/// Those of one hook.
#[derive(Debug)]
pub(super) struct OneHookMetrics {
    hook: String,
    ends: Family<EndLabel, Counter>,
    pub(super) seconds: Histogram,
    pub(super) resting: Gauge,
}

/// Which hook.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabel {
    hook: String,
}

/// Which hook, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    hook: String,
    outcome: HookEnd,
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

    /// Those of a hook, which works so far.
    pub(super) fn of(&self, hook: &str) -> OneHookMetrics {
        let label = HookLabel { hook: hook.to_owned() };
        let seconds = self.seconds.get_or_create(&label).clone();
        let resting = self.resting.get_or_create(&label).clone();
        resting.set(0);
        OneHookMetrics { hook: hook.to_owned(), ends: self.ends.clone(), seconds, resting }
    }
}

impl OneHookMetrics {
    /// A question to it has ended.
    pub(super) fn ended(&self, outcome: HookEnd) {
        let label = EndLabel { hook: self.hook.clone(), outcome };
        self.ends.get_or_create(&label).inc();
    }
}
