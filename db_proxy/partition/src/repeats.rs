//! Whether a frame that came before on another connection is being repeated, or said anew.
//!
//! Clients of the original protocol name no messages. Of their kinds only Windows repeats a message by
//! itself: once, six seconds after the frame was not answered, on the same connection or the next one,
//! with the same seq (TeamTalk protocol, sending: "repeats the same 0x0301 once after 6 s"). Other
//! programs say that they are Windows clients and number their frames as they like: they may say the
//! same words under the same number again, and mean it. Taken for a repeat, such a message would be
//! acknowledged and not stored; so a frame counts as a repeat only where the earlier answer may not
//! have arrived. The gateway of the earlier connection knows how that ended, and is asked.

use std::time::Duration;

use daemon::Link;
use daemon::faults::{self, Mutant};
use proto::cluster::Kind;
use proto::cluster::wire::frame_fate::{Answered, End};
use proto::cluster::wire::{FrameFate, FrameQuestion};
use tracing::debug;

/// How long a gateway may take to say what became of a frame. The conversation waits meanwhile.
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// The latest repeat: six seconds after the frame, and as long again if there was no connection then;
/// with what clocks and networks add. In milliseconds.
const REPEATS_WITHIN_MS: u64 = 13_000;

/// A client that closes a connection sooner than this after an answer was written has read it, and is
/// done: programs that log in for each message do so. A client that waits for an answer waits longer.
const DONE_AT_ONCE_MS: u64 = 400;

/// A client that closes a connection later than this after an answer was written has read it: one
/// that waits for an answer would have repeated the frame by then. Between the two times the client may
/// have waited for an answer that was lost on the way.
const DONE_LATER_MS: u64 = 8_000;

/// The earliest repeat, in milliseconds after the first frame, less what clocks and networks add.
const REPEATS_AFTER_MS: u64 = 5_000;

/// Asks the gateway of the earlier connection; `age_ms` is how long ago the earlier frame came.
/// Without that gateway, or without an answer of it, the earlier frame counts as not answered: it
/// was killed, or cut off, and the client with it. Takes up to a second.
pub(crate) async fn is_repeat(gateway: Option<Link>, question: FrameQuestion, age_ms: u64) -> bool {
    let Some(gateway) = gateway else { return true };
    match gateway.call::<FrameFate>(Kind::FrameFate.number(), &question, ASK_LIMIT).await {
        Ok(fate) => judge(&fate, age_ms),
        Err(error) => {
            debug!(%error, "a gateway does not say what became of a frame");
            true
        }
    }
}

fn judge(fate: &FrameFate, age_ms: u64) -> bool {
    if faults::planted(Mutant::EqualIsRepeated) {
        return true;
    }
    match fate.answered() {
        Answered::No => return true,
        // The client went on, so it was not waiting for this answer.
        Answered::Earlier => return false,
        Answered::Last => {}
    }
    let kept_ms = fate.kept_ms();
    match fate.end() {
        End::LoggedOut => false,
        End::Closed if kept_ms < DONE_AT_ONCE_MS => false,
        // A program that leaves without reading, or a network that cut it off: by when it comes again.
        End::Reset if kept_ms < DONE_AT_ONCE_MS => {
            (REPEATS_AFTER_MS..=REPEATS_WITHIN_MS).contains(&age_ms)
        }
        End::Closed | End::Reset => kept_ms <= DONE_LATER_MS,
        // The client did not end it, so it may not have heard anything for a while.
        End::Open | End::Other => kept_ms <= REPEATS_WITHIN_MS,
    }
}

#[cfg(test)]
mod habits;

#[cfg(test)]
mod tests {
    use daemon::{Role, Shutdown};
    use tokio::time::timeout;

    use super::*;
    use crate::test::PATIENCE;
    use crate::test::far::{self, Far};

    #[tokio::test]
    async fn a_gateway_that_does_not_say_what_became_of_a_frame_is_not_waited_for_long() {
        let shutdown = Shutdown::default();
        let (mut near, addr) = Far::listen(Role::DbProxy, "db", &shutdown).await;
        let who = far::identity(Role::DbProxy, "gateway", 7);
        // It gets the question, and does not answer.
        let (_gateway, _its_link) = Far::dial(addr, who, &shutdown).await;
        let asked = is_repeat(Some(near.link().await), FrameQuestion::default(), 6_000);
        let is_repeat = timeout(PATIENCE, asked).await.expect("an answer in time");
        assert!(is_repeat, "the earlier frame counts as not answered");
        shutdown.drain(PATIENCE).await.unwrap();
    }

    fn fate(answered: Answered, end: End, kept_ms: u64) -> FrameFate {
        FrameFate { answered: answered.into(), end: end.into(), kept_ms: Some(kept_ms) }
    }

    #[test]
    fn what_was_never_answered_is_repeated_however_the_connection_ended() {
        for end in [End::Open, End::LoggedOut, End::Closed, End::Reset, End::Other] {
            for age_ms in [0, 6_000, 29_000] {
                assert!(judge(&fate(Answered::No, end, 0), age_ms), "{end:?} {age_ms}");
            }
        }
    }

    #[test]
    fn a_client_that_went_on_or_logged_out_has_read_its_answer() {
        for end in [End::Open, End::LoggedOut, End::Closed, End::Reset, End::Other] {
            assert!(!judge(&fate(Answered::Earlier, end, 0), 6_000), "{end:?}");
        }
        for kept_ms in [0, 2_000, 9_000] {
            assert!(!judge(&fate(Answered::Last, End::LoggedOut, kept_ms), 6_000));
        }
    }

    #[test]
    fn a_client_that_closes_at_once_has_read_its_answer() {
        for age_ms in [0, 400, 6_000, 29_000] {
            assert!(!judge(&fate(Answered::Last, End::Closed, 399), age_ms), "{age_ms}");
        }
    }

    #[test]
    fn a_client_that_was_cut_off_at_once_repeats_when_its_time_has_come() {
        let reset = fate(Answered::Last, End::Reset, 399);
        let ages = [(0, false), (4_999, false), (5_000, true), (13_000, true), (13_001, false)];
        for (age_ms, repeats) in ages {
            assert_eq!(judge(&reset, age_ms), repeats, "{age_ms}");
        }
    }

    #[test]
    fn a_client_that_waited_for_an_answer_and_then_closed_repeats() {
        for end in [End::Closed, End::Reset] {
            for (kept_ms, repeats) in [(400, true), (8_000, true), (8_001, false), (60_000, false)]
            {
                let closed = fate(Answered::Last, end, kept_ms);
                assert_eq!(judge(&closed, kept_ms + 100), repeats, "{end:?} {kept_ms}");
            }
        }
    }

    #[test]
    fn an_answer_long_before_a_broken_end_has_arrived() {
        for end in [End::Open, End::Other] {
            for (kept_ms, repeats) in [(0, true), (6_000, true), (13_000, true), (13_001, false)] {
                let broken = fate(Answered::Last, end, kept_ms);
                assert_eq!(judge(&broken, kept_ms + 100), repeats, "{end:?} {kept_ms}");
            }
        }
    }
}
