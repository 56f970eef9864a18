//! The wall clock: no other module reads it.
//!
//! It may jump, so nothing may hang on its steadiness: durations are measured with
//! `std::time::Instant`, orders come from the log. What it gives is shown to people, or is the lower
//! bound of something that only rises.
//!
//! A build with the feature `faults` lets a test move the clock of a running process: the environment
//! variable `TALKHUB_CLOCK_FILE` names a file with a signed number of milliseconds, which is added to
//! the real time. It is read again every 10 ms at most; without the file, or with something else in
//! it, the offset stays what it was (0 at first).

use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(feature = "faults")]
mod moved;

#[cfg(feature = "faults")]
pub(crate) use moved::VARIABLE;

/// Unix time in milliseconds.
pub fn unix_ms() -> u64 {
    // A clock before 1970 is no clock.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let real = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    #[cfg(feature = "faults")]
    let real = real.saturating_add_signed(moved::by_ms());
    real
}

/// Unix time in seconds, as the client protocol has it.
pub fn unix_s() -> u32 {
    u32::try_from(unix_ms() / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_units_tell_the_same_time() {
        let before = unix_ms() / 1000;
        let between = u64::from(unix_s());
        let after = unix_ms() / 1000;
        assert!((before..=after).contains(&between));
        assert!(between > 1_700_000_000, "this was written later than that");
    }
}
