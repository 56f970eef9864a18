//! Log time: what records are stamped with, and what "30 seconds ago" means for a resend.
//!
//! It follows the wall clock as long as that runs evenly. A clock that jumps must not make messages
//! of old clients look like resends, nor resends look new: both are told apart by log time alone
//! ([`fold::window::FINGERPRINT_MS`]), which every replay reads from the records again.
//!
//! - Back: log time goes on at half the pace until the clock has caught up. Standing still instead
//!   would make the 30 seconds last as long as the jump was wide, and would hide new messages from
//!   clients that ask for what came after a time.
//! - Wrong from the start: it is doubted like a jump forward, as far as the last run tells
//!   ([`crate::last_clock`]). Log time begins where it should be by that.
//! - Forward: log time runs on evenly for 30 seconds and jumps then, if the clock is still that far
//!   ahead. Every message whose resend is to be recognised is forgotten by then anyway.
//!
//! # Invariants
//!
//! - It never falls.
//! - In any 30 seconds without a restart it rises by 15 seconds at least.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::last_clock::{BELIEVED_AFTER, JUMP_MS, LastClock, TimeBounds};

/// Log time, as its partition's thread keeps it.
#[derive(Debug)]
pub(super) struct LogClock {
    ms: u64,
    /// When it was `ms`.
    at: Instant,
    /// Since when the wall clock has been far ahead.
    ahead_since: Option<Instant>,
}

impl LogClock {
    /// Goes on after a record of `last_ms`, with a clock that may be doubted.
    pub(super) fn after(last_ms: u64, last_clock: &LastClock) -> Self {
        let (wall_ms, now) = (daemon::clock::unix_ms(), Instant::now());
        if last_ms > wall_ms.saturating_add(JUMP_MS) {
            warn!(
                ahead_s = (last_ms - wall_ms) / 1000,
                "the last record is of the future: the clock was wrong then, or is now. Times run \
                 at half the pace until it has caught up"
            );
        }
        Self::begin(last_ms, wall_ms, last_clock.bounds(now), now)
    }

    /// The time now.
    pub(super) fn now_ms(&mut self) -> u64 {
        self.read(daemon::clock::unix_ms(), Instant::now())
    }

    fn begin(last_ms: u64, wall_ms: u64, bounds: Option<TimeBounds>, now: Instant) -> Self {
        match bounds {
            Some(bounds) if wall_ms > bounds.most_ms => {
                Self { ms: last_ms.max(bounds.least_ms), at: now, ahead_since: Some(now) }
            }
            _ => Self { ms: last_ms.max(wall_ms), at: now, ahead_since: None },
        }
    }

    fn read(&mut self, wall_ms: u64, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.at).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let even = self.ms.saturating_add(passed);
        let believed = if wall_ms > even.saturating_add(JUMP_MS) {
            now.saturating_duration_since(*self.ahead_since.get_or_insert(now)) >= BELIEVED_AFTER
        } else {
            self.ahead_since = None;
            wall_ms >= self.ms.saturating_add(passed / 2)
        };
        if believed {
            (self.ms, self.at, self.ahead_since) = (wall_ms, now, None);
        } else if self.ahead_since.is_some() {
            self.go(passed, passed);
        } else {
            self.go(passed / 2, passed / 2 * 2);
        }
        self.ms
    }

    /// Goes on by `ms` for `passed` milliseconds; what is less than one is counted the next time.
    fn go(&mut self, ms: u64, passed: u64) {
        self.ms = self.ms.saturating_add(ms);
        self.at += Duration::from_millis(passed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const START: u64 = 1_800_000_000_000;

    /// Reads the clock every `step` milliseconds from `from` to `to` after the start, with a wall
    /// clock that is off by `off`. Returns the last time read.
    fn run(clock: &mut LogClock, start: Instant, span: (u64, u64), off: i64) -> u64 {
        let mut last = clock.ms;
        for after in (span.0..=span.1).step_by(7) {
            let wall = (START + after).saturating_add_signed(off);
            let ms = clock.read(wall, start + Duration::from_millis(after));
            assert!(ms >= last, "it never falls");
            last = ms;
        }
        last
    }

    #[test]
    fn a_clock_that_runs_evenly_is_followed() {
        let start = Instant::now();
        let mut clock = LogClock::begin(0, START, None, start);
        assert_eq!(run(&mut clock, start, (0, 70), 0), START + 70);
        assert_eq!(run(&mut clock, start, (77, 700), 500), START + 700 + 500, "a small step");
    }

    #[test]
    fn a_jump_back_halves_the_pace_until_the_clock_has_caught_up() {
        let start = Instant::now();
        let mut clock = LogClock::begin(0, START, None, start);
        let before = run(&mut clock, start, (0, 7_000), 0);
        let year = 365 * 24 * HOUR.cast_signed();
        let later = run(&mut clock, start, (7_007, 67_004), -year);
        assert!((29_900..=30_100).contains(&(later - before)), "{}", later - before);
        // Set right again, that is a jump forward.
        let back = run(&mut clock, start, (67_011, 98_000), 0);
        assert!(back + 7 > START + 98_000, "{}", START + 98_000 - back);
    }

    #[test]
    fn a_jump_forward_counts_once_it_has_lasted() {
        let start = Instant::now();
        let mut clock = LogClock::begin(0, START, None, start);
        run(&mut clock, start, (0, 700), 0);
        let early = run(&mut clock, start, (707, 30_000), HOUR.cast_signed());
        assert!(early <= START + 30_000, "a resend is recognised across the jump");
        let late = run(&mut clock, start, (30_007, 31_000), HOUR.cast_signed());
        assert!(late >= START + HOUR + 30_000);
        // And back: the hour is not stood out.
        let back = run(&mut clock, start, (31_003, 91_000), 0);
        assert!((29_900..=30_100).contains(&(back - late)), "{}", back - late);
    }

    #[test]
    fn a_clock_that_jumps_to_and_fro_is_not_followed() {
        let start = Instant::now();
        let mut clock = LogClock::begin(0, START, None, start);
        for round in 0..600_u64 {
            let off = if round % 2 == 0 { HOUR.cast_signed() } else { 0 };
            let ms = run(&mut clock, start, (round * 100, round * 100 + 99), off);
            assert!(ms <= START + round * 100 + 99, "round {round}");
            assert!(ms + 200 >= START + round * 100, "round {round}");
        }
    }

    #[test]
    fn a_restart_goes_on_after_the_last_record() {
        let start = Instant::now();
        let mut clock = LogClock::begin(START + HOUR, START, None, start);
        assert_eq!(clock.read(START, start), START + HOUR);
        assert_eq!(clock.read(START + 10, start + Duration::from_millis(10)), START + HOUR + 5);
    }

    /// The last run says that it is `START`, about.
    fn doubted(wall_ms: u64, start: Instant) -> LogClock {
        let bounds = TimeBounds { least_ms: START, most_ms: START + JUMP_MS };
        LogClock::begin(START - 10 * HOUR, wall_ms, Some(bounds), start)
    }

    #[test]
    fn a_start_with_a_wrong_clock_is_right_before_and_after_it_is_mended() {
        let start = Instant::now();
        let ahead = 5 * HOUR;
        let mut clock = doubted(START + ahead, start);
        let wrong = run(&mut clock, start, (0, 10_000), ahead.cast_signed());
        assert!((START + 9_990..=START + 10_000).contains(&wrong), "{}", wrong - START);
        let mended = run(&mut clock, start, (10_007, 130_000), 0);
        assert!(START + 130_000 - mended < 10, "{}", START + 130_000 - mended);
    }

    #[test]
    fn a_start_with_a_clock_that_stands_by_what_it_says_is_believed_later() {
        let start = Instant::now();
        let ahead = 5 * HOUR;
        let mut clock = doubted(START + ahead, start);
        let later = run(&mut clock, start, (0, 31_000), ahead.cast_signed());
        assert!(later >= START + ahead + 30_000);
        // And one that is where it should be is believed at once.
        let mut clock = doubted(START + 300, start);
        assert_eq!(clock.read(START + 300, start), START + 300);
    }

    #[test]
    fn a_clock_within_what_it_can_be_is_believed_at_once() {
        let start = Instant::now();
        let bounds = TimeBounds { least_ms: START, most_ms: START + HOUR };
        for wall_ms in [START + HOUR / 2, START + HOUR] {
            let mut clock = LogClock::begin(START - HOUR, wall_ms, Some(bounds), start);
            assert_eq!(clock.read(wall_ms, start), wall_ms);
        }
    }

    #[test]
    fn a_doubted_start_goes_on_after_the_last_record_and_ends_with_the_doubt() {
        let start = Instant::now();
        let bounds = TimeBounds { least_ms: START, most_ms: START + JUMP_MS };
        let wall_ms = START + 5 * HOUR;
        let mut clock = LogClock::begin(START + HOUR, wall_ms, Some(bounds), start);
        assert_eq!(clock.read(wall_ms, start), START + HOUR);
        // Also if the clock is not read before the doubt ends.
        let mut clock = LogClock::begin(START + HOUR, wall_ms, Some(bounds), start);
        assert_eq!(clock.read(wall_ms + 30_000, start + BELIEVED_AFTER), wall_ms + 30_000);
    }

    #[test]
    fn each_jump_forward_is_doubted_anew() {
        let start = Instant::now();
        let mut clock = LogClock::begin(0, START, None, start);
        let (hour, minute) = (HOUR.cast_signed(), 60_000);
        // Far ahead for a while, then behind: at half the pace all the same.
        let ahead = run(&mut clock, start, (0, 20_000), hour);
        let behind = run(&mut clock, start, (20_006, 40_000), -minute);
        assert!((9_900..=10_100).contains(&(behind - ahead)), "{}", behind - ahead);
        let again = run(&mut clock, start, (40_005, 60_000), hour);
        assert!(again < START + minute.unsigned_abs(), "not for 30 s on end");
        let believed_at = Duration::from_secs(71);
        let believed = clock.read(START + HOUR + 71_000, start + believed_at);
        assert_eq!(believed, START + HOUR + 71_000);
        let next = clock.read(START + 3 * HOUR, start + believed_at + Duration::from_millis(9));
        assert_eq!(next, believed + 9, "the one before says nothing of this one");
    }

    proptest! {
        #[test]
        fn it_never_falls_and_never_stands_still(
            steps in prop::collection::vec((0_u64..20_000, -HOUR.cast_signed()..HOUR.cast_signed()), 1..60),
        ) {
            let start = Instant::now();
            let mut clock = LogClock::begin(0, START, None, start);
            let (mut after, mut last) = (0, START);
            for (step, off) in steps {
                after += step;
                let wall = (START + after).saturating_add_signed(off);
                let ms = clock.read(wall, start + Duration::from_millis(after));
                prop_assert!(ms >= last + (step / 2).saturating_sub(1), "{ms} after {last} in {step} ms");
                last = ms;
            }
        }
    }
}
