//! A frame of which only the beginning has come: until when the rest must be here.
//!
//! Pure: time is an argument.
//!
//! What counts is the last byte that came, not the first: a voice message of 400,000 bytes takes 100
//! seconds on a line of 4 KB/s. A frame as a whole has a bound that grows with the length that its
//! header promises, so that nobody keeps a small frame open by a byte now and then. Before the login
//! frames are small and nobody has vouched for the sender: there the first byte counts.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::LimitsConfig;

/// A frame that has begun to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Partial {
    began_at: Instant,
    progress_at: Instant,
}

impl Partial {
    /// Its first bytes have come.
    pub(crate) const fn begin(now: Instant) -> Self {
        Self { began_at: now, progress_at: now }
    }

    /// More of it has come.
    pub(crate) const fn progress(&mut self, now: Instant) {
        self.progress_at = now;
    }

    /// When it has taken too long, if nothing more comes. `begun` is what there is of it.
    pub(crate) fn deadline(&self, begun: &[u8], limits: &LimitsConfig, logged_in: bool) -> Instant {
        let pause = limits.partial_frame_limit();
        if !logged_in {
            return self.began_at + pause;
        }
        let promised = begun.first_chunk().map_or(0, |length| u32::from_be_bytes(*length));
        let whole = pause + Duration::from_secs(u64::from(promised / limits.frame_bytes_per_s_min));
        (self.progress_at + pause).min(self.began_at + whole)
    }
}

#[cfg(test)]
mod tests {
    use proto::limits::LIMIT_AFTER_LOGIN;

    use super::*;

    /// How long a frame may take that comes in pieces of `piece` bytes each `pause_ms`; `None` if it
    /// comes through.
    fn cut_after(len: usize, piece: usize, pause_ms: u64, logged_in: bool) -> Option<Duration> {
        let (start, limits) = (Instant::now(), LimitsConfig::default());
        let length = u32::try_from(len).unwrap().to_be_bytes();
        let (mut now, mut partial) = (start, Partial::begin(start));
        let mut come = piece;
        while come < len {
            let deadline = partial.deadline(&length[..come.min(4)], &limits, logged_in);
            now += Duration::from_millis(pause_ms);
            if deadline <= now {
                return Some(deadline - start);
            }
            partial.progress(now);
            come += piece;
        }
        None
    }

    #[test]
    fn the_largest_frame_comes_through_a_line_of_four_kilobytes_a_second() {
        assert_eq!(cut_after(LIMIT_AFTER_LOGIN, 4_000, 1_000, true), None);
        // In bursts, with silence between them.
        assert_eq!(cut_after(400_000, 36_000, 9_000, true), None);
    }

    #[test]
    fn a_frame_that_stands_still_is_given_up() {
        let after = cut_after(400_000, 100_000, 3_600_000, true);
        assert_eq!(after, Some(Duration::from_secs(10)));
    }

    #[test]
    fn nobody_keeps_a_frame_open_by_a_byte_now_and_then() {
        for (len, most) in [(16, 11), (1_000, 11), (LIMIT_AFTER_LOGIN, 10 + 256)] {
            let after = cut_after(len, 1, 5_000, true).expect("it is given up");
            assert!(after <= Duration::from_secs(most), "{len} bytes: {after:?}");
        }
    }

    #[test]
    fn before_the_login_the_first_byte_counts() {
        // After it, a frame of that length would have two seconds more.
        assert_eq!(cut_after(4_096, 4, 5_000, false), Some(Duration::from_secs(10)));
        assert_eq!(cut_after(4_096, 4, 5_000, true), Some(Duration::from_secs(12)));
        assert_eq!(cut_after(4_096, 1_000, 2_000, false), None);
    }
}
