//! Notices that this process stood still, so that an owner that was left behind says nothing.
//!
//! Where partitions move, others take those of a process that is silent for some seconds
//! (`log/kafka/ownership.rs`). A process that stood still for longer, and goes on, finds that in the log;
//! but a question may be waiting that is answered before the log is looked at, from a state to which
//! others have added since. So a pulse beats, and after a pause nothing is answered of a partition
//! before its log has been heard again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use daemon::Shutdown;
use tokio::time::{MissedTickBehavior, interval};
use tracing::info_span;

/// How often it beats.
const BEAT_EVERY: Duration = Duration::from_millis(100);

/// Longer pauses count: a third of the time after which others take what was owned here.
const PAUSE: Duration = Duration::from_secs(2);

/// The pulse of this process. Clones are of the same one.
#[derive(Debug, Clone)]
pub struct Pulse {
    began: Instant,
    /// When it last beat, in milliseconds since `began`.
    beat: Arc<AtomicU64>,
    /// When the last pause was found to be over.
    resumed: Arc<AtomicU64>,
}

/// When a log was last heard, by a question that was put to it at that time. Clones share it.
#[derive(Debug, Clone)]
pub struct Confirmed {
    began: Instant,
    at: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { began: Instant::now(), beat: Arc::default(), resumed: Arc::default() }
    }
}

impl Pulse {
    /// Lets it beat until the links close.
    pub fn start(&self, shutdown: &Shutdown) {
        let (pulse, stop) = (self.clone(), shutdown.clone());
        pulse.beat(Instant::now());
        shutdown.spawn_link(info_span!("pulse"), async move {
            let mut ticks = interval(BEAT_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _tick = ticks.tick() => pulse.beat(Instant::now()),
                    () = stop.closing_links() => return,
                }
            }
        });
    }

    /// A log that is heard now.
    pub fn confirmed(&self) -> Confirmed {
        let confirmed = Confirmed { began: self.began, at: Arc::default() };
        confirmed.set(Instant::now());
        confirmed
    }

    /// Whether a log was heard after the last pause, as of now.
    pub fn vouches_for(&self, log: &Confirmed) -> bool {
        self.vouches(log, Instant::now())
    }

    fn vouches(&self, log: &Confirmed, now: Instant) -> bool {
        let beat = self.beat.load(Ordering::Acquire);
        let is_beating = millis(self.began, now).saturating_sub(beat) <= pause_ms();
        is_beating && log.at.load(Ordering::Acquire) >= self.resumed.load(Ordering::Acquire)
    }

    fn beat(&self, now: Instant) {
        let now = millis(self.began, now);
        if now.saturating_sub(self.beat.load(Ordering::Acquire)) > pause_ms() {
            // Before the beat: or somebody could see that it beats, and not that it had paused.
            self.resumed.store(now, Ordering::Release);
        }
        self.beat.store(now, Ordering::Release);
    }
}

impl Confirmed {
    /// The log has answered what was asked at `asked`.
    pub fn set(&self, asked: Instant) {
        self.at.fetch_max(millis(self.began, asked), Ordering::AcqRel);
    }
}

fn pause_ms() -> u64 {
    millis_of(PAUSE)
}

fn millis(began: Instant, at: Instant) -> u64 {
    millis_of(at.saturating_duration_since(began))
}

fn millis_of(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_pause_a_log_counts_once_it_was_heard_again() {
        let pulse = Pulse::default();
        let at = |seconds: u64| pulse.began + Duration::from_secs(seconds);
        let log = pulse.confirmed();
        pulse.beat(at(1));
        assert!(pulse.vouches(&log, at(2)), "it beats");
        // The process stands still from 2 to 9; then whoever is first must not be answered.
        assert!(!pulse.vouches(&log, at(9)), "nobody has noticed yet");
        log.set(at(2));
        assert!(!pulse.vouches(&log, at(9)), "what was asked before the pause came in after it");
        pulse.beat(at(9));
        assert!(!pulse.vouches(&log, at(9)), "noticed, and not heard again");
        log.set(at(10));
        assert!(pulse.vouches(&log, at(10)));
    }
}
