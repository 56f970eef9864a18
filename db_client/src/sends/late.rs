//! Frames that were answered so late that their repeat may be under way.
//!
//! A Windows client repeats a frame that is not answered, once, six seconds after it (TeamTalk protocol,
//! 4 and 10.6). A partition whose owner dies has its next owner after about six seconds as well. So
//! answer and repeat meet on the way: the gateway has answered the frame, and then its repeat comes.
//! Such a repeat is no new message. The answer that is on its way to the client serves both.
//!
//! Nothing that was acknowledged can be lost by this rule, even if the frame is a new message after all:
//! it is not answered, and so it counts as not sent.
//!
//! Pure: time is an argument.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

/// How many sessions are remembered, with one frame each. If more are answered late within
/// [`CROSSES_WITHIN`], those answered first are forgotten: a repeat of such a frame is stored again.
const LATE_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// The earliest repeat of a frame: six seconds, less what networks and clocks add.
const REPEATS_AFTER: Duration = Duration::from_secs(5);

/// How long the answer may take to the client and the repeat to the gateway, together.
const CROSSES_WITHIN: Duration = Duration::from_secs(2);

/// A frame, when it came, and when it was answered.
#[derive(Debug, Clone, Copy)]
struct LateFrame {
    fingerprint: u64,
    came: Instant,
    at: Instant,
}

/// For each session the last frame that was answered late.
#[derive(Debug)]
pub(super) struct LateAnswers(LruCache<u64, LateFrame>);

impl Default for LateAnswers {
    fn default() -> Self {
        // Bounded, but without taking the memory for all of them at once.
        let mut late = LruCache::unbounded();
        late.resize(LATE_MAX);
        Self(late)
    }
}

impl LateAnswers {
    /// A frame that came at `came` is answered now.
    pub(super) fn answered(&mut self, session: u64, fingerprint: u64, came: Instant, now: Instant) {
        // What is answered sooner is never found: by the time of a repeat the answer is too old.
        if now.saturating_duration_since(came) + CROSSES_WITHIN >= REPEATS_AFTER {
            self.0.put(session, LateFrame { fingerprint, came, at: now });
        }
    }

    /// Whether a frame that comes now was sent before the client had the answer to an equal one.
    pub(super) fn is_repeated(&self, session: u64, fingerprint: u64, now: Instant) -> bool {
        self.0.peek(&session).is_some_and(|frame| {
            frame.fingerprint == fingerprint
                && now.saturating_duration_since(frame.came) >= REPEATS_AFTER
                && now.saturating_duration_since(frame.at) <= CROSSES_WITHIN
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: u64 = 7;
    const FRAME: u64 = 9;

    fn at(began: Instant, ms: u64) -> Instant {
        began + Duration::from_millis(ms)
    }

    /// A frame comes at 0 ms and is answered; does an equal one that comes later repeat it?
    fn repeats(answered_ms: u64, again_ms: u64) -> bool {
        let (mut late, began) = (LateAnswers::default(), Instant::now());
        late.answered(SESSION, FRAME, began, at(began, answered_ms));
        late.is_repeated(SESSION, FRAME, at(began, again_ms))
    }

    #[test]
    fn a_repeat_that_meets_its_answer_on_the_way_is_no_new_message() {
        assert!(repeats(5_990, 6_000), "Windows");
        assert!(repeats(3_000, 5_000), "the slowest answer, the earliest repeat");
        assert!(repeats(9_000, 11_000), "a repeat that the network held up");
    }

    #[test]
    fn an_equal_frame_is_a_new_message_if_its_client_had_the_answer() {
        assert!(!repeats(100, 200), "the client says the same words again");
        assert!(!repeats(4_900, 4_999), "before its time nothing is repeated");
        assert!(!repeats(2_999, 5_000), "the answer was read long ago");
        assert!(!repeats(6_000, 8_001), "so was this one");
    }

    #[test]
    fn only_an_equal_frame_of_the_same_session_is_a_repeat() {
        let (mut late, began) = (LateAnswers::default(), Instant::now());
        late.answered(SESSION, FRAME, began, at(began, 5_900));
        assert!(!late.is_repeated(SESSION + 1, FRAME, at(began, 6_000)));
        assert!(!late.is_repeated(SESSION, FRAME + 1, at(began, 6_000)));
        late.answered(SESSION, FRAME + 1, at(began, 100), at(began, 6_050));
        assert!(!late.is_repeated(SESSION, FRAME, at(began, 6_100)), "the client went on");
    }
}
