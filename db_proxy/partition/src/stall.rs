//! Notices that this process was stalled, so that an owner that was replaced meanwhile answers nothing.
//!
//! Where partitions move, others take those of a process that is silent for some seconds
//! (`log/kafka/ownership.rs`). A process that was stalled for longer, and goes on, finds that in the log;
//! but a question may be waiting that is answered before the log is read, from a state to which
//! others have added since. So a task notes the time ten times a second, and after a stall nothing is
//! answered of a partition before its log has been read again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use daemon::{Shutdown, ticks};
use tracing::info_span;

/// How often the time is noted.
const BEAT_EVERY: Duration = Duration::from_millis(100);

/// Longer pauses are stalls: a third of the time after which others take what was owned here.
const PAUSE: Duration = Duration::from_secs(2);

/// Notices stalls of this process. Clones are the same one.
#[derive(Debug, Clone)]
pub struct StallDetector {
    began: Instant,
    /// When the time was noted last, in milliseconds since `began`.
    beat: Arc<AtomicU64>,
    /// When the last stall was found to be over.
    resumed: Arc<AtomicU64>,
}

/// When a log was last read, as of the time when the read began. Clones share it.
#[derive(Debug, Clone)]
pub struct Confirmed {
    began: Instant,
    at: Arc<AtomicU64>,
}

impl Default for StallDetector {
    fn default() -> Self {
        Self { began: Instant::now(), beat: Arc::default(), resumed: Arc::default() }
    }
}

impl StallDetector {
    /// Notes the time until the links close.
    pub fn start(&self, shutdown: &Shutdown) {
        let stalls = self.clone();
        stalls.beat(Instant::now());
        let beat = move || stalls.beat(Instant::now());
        ticks::spawn(info_span!("pulse"), BEAT_EVERY, shutdown, beat);
    }

    /// For a log that is read now.
    pub fn confirmed(&self) -> Confirmed {
        let confirmed = Confirmed { began: self.began, at: Arc::default() };
        confirmed.set(Instant::now());
        confirmed
    }

    /// Whether a log was read after the last stall, as of now, so that its partition may answer.
    pub fn may_answer(&self, log: &Confirmed) -> bool {
        self.may_answer_at(log, Instant::now())
    }

    fn may_answer_at(&self, log: &Confirmed, now: Instant) -> bool {
        let beat = self.beat.load(Ordering::Acquire);
        let is_beating = millis(self.began, now).saturating_sub(beat) <= pause_ms();
        is_beating && log.at.load(Ordering::Acquire) >= self.resumed.load(Ordering::Acquire)
    }

    fn beat(&self, now: Instant) {
        let now = millis(self.began, now);
        if now.saturating_sub(self.beat.load(Ordering::Acquire)) > pause_ms() {
            // Before the beat: or a reader could see the beat, and not that there was a stall.
            self.resumed.store(now, Ordering::Release);
        }
        self.beat.store(now, Ordering::Release);
    }
}

impl Confirmed {
    /// The log has answered what was asked at `asked`.
    pub(crate) fn set(&self, asked: Instant) {
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
    fn after_a_stall_a_log_counts_once_it_was_read_again() {
        let stalls = StallDetector::default();
        let at = |seconds: u64| stalls.began + Duration::from_secs(seconds);
        let log = stalls.confirmed();
        stalls.beat(at(1));
        assert!(stalls.may_answer_at(&log, at(2)), "it beats");
        // The process is stalled from 2 to 9; then the first request must not be answered.
        assert!(!stalls.may_answer_at(&log, at(9)), "nobody has noticed yet");
        log.set(at(2));
        assert!(
            !stalls.may_answer_at(&log, at(9)),
            "what was asked before the pause came in after it"
        );
        stalls.beat(at(9));
        assert!(!stalls.may_answer_at(&log, at(9)), "noticed, and not heard again");
        log.set(at(10));
        assert!(stalls.may_answer_at(&log, at(10)));
    }
}
