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

/// A time in UTC, as RFC 3339 has it: `2026-12-01T01:29:31.045Z`.
pub fn rfc3339(unix_ms: u64) -> String {
    let (unix_s, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (day, of_day) = (unix_s / 86_400, unix_s % 86_400);
    let (year, month, day) = date(i64::try_from(day).unwrap_or(i64::MAX));
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day, so many days after 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
pub fn date(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(719_468);
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_rfc_3339_has_it() {
        for (unix_ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_007, "2000-02-29T00:00:00.007Z"),
            (1_795_996_799_999, "2026-11-29T23:59:59.999Z"),
            (253_402_300_799_000, "9999-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(unix_ms), expected);
        }
        assert!(rfc3339(u64::MAX).ends_with('Z'));
    }

    #[test]
    fn both_units_tell_the_same_time() {
        let before = unix_ms() / 1000;
        let between = u64::from(unix_s());
        let after = unix_ms() / 1000;
        assert!((before..=after).contains(&between));
        assert!(between > 1_700_000_000, "this was written later than that");
    }
}
