//! How far something long is: a bar that is drawn again and again on a terminal, and a line now and
//! then anywhere else.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use db_proxy::transfer::{Phase, Step};

/// Between two pictures on a terminal, and between two lines elsewhere.
const REDRAWN_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(10);

const WIDTH: u64 = 30;

/// Says on standard error how far it is.
#[derive(Debug)]
pub(super) struct Bar {
    is_terminal: bool,
    now: Mutex<Option<Now>>,
}

#[derive(Debug)]
struct Now {
    phase: Phase,
    /// When this phase began, and with how many rows done.
    began: (Instant, u64),
    shown: Instant,
    last: Step,
}

impl Bar {
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), now: Mutex::default() }
    }

    /// Something more is done.
    pub(super) fn show(&self, step: Step) {
        let at = Instant::now();
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.as_ref().is_some_and(|now| now.phase != step.phase) {
            self.finish(now.take());
        }
        let is_new = now.is_none();
        let now = now.get_or_insert_with(|| Now {
            phase: step.phase,
            began: (at, step.done),
            shown: at,
            last: step,
        });
        now.last = step;
        let pause = if self.is_terminal { REDRAWN_EVERY } else { LINE_EVERY };
        if at - now.shown >= pause || (is_new && self.is_terminal) {
            now.shown = at;
            self.write(now, at);
        }
    }

    /// Nothing more comes.
    pub(super) fn end(&self) {
        self.finish(self.now.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn finish(&self, now: Option<Now>) {
        let Some(now) = now else { return };
        self.write(&now, Instant::now());
        if self.is_terminal {
            // If that fails, it cannot be reported.
            writeln!(io::stderr()).ok();
        }
    }

    fn write(&self, now: &Now, at: Instant) {
        let (began, before) = now.began;
        let line = line(now.last, before, at - began);
        let mut to = io::stderr().lock();
        if self.is_terminal {
            write!(to, "\r{line}\u{1b}[K").and_then(|()| to.flush()).ok();
        } else {
            writeln!(to, "{line}").ok();
        }
    }
}

/// One picture, `elapsed` after the first one, which had `before` rows done.
fn line(step: Step, before: u64, elapsed: Duration) -> String {
    let Step { phase, table, done, total } = step;
    let what = match phase {
        Phase::Exporting => "exporting",
        Phase::Importing => "importing",
        Phase::Checking => "comparing",
    };
    let of = |whole: u64| {
        let part = u128::from(done.min(total)) * u128::from(whole);
        u64::try_from(part / u128::from(total.max(1))).unwrap_or(whole)
    };
    let filled = usize::try_from(of(WIDTH)).unwrap_or_default();
    let empty = usize::try_from(WIDTH).unwrap_or_default().saturating_sub(filled);
    let line = format!(
        "{what} [{}{}] {:>3} %  {} of {} rows ({table})",
        "#".repeat(filled),
        ".".repeat(empty),
        of(100),
        grouped(done),
        grouped(total),
    );
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_sub(before).saturating_mul(1_000) / millis;
    match total.saturating_sub(done).checked_div(rate) {
        Some(left) => {
            let (minutes, seconds) = (left / 60, left % 60);
            format!("{line}  {} rows/s  {minutes}:{seconds:02} left", grouped(rate))
        }
        None => line,
    }
}

/// A number as people read it: 1,234,567.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_is_done_how_fast_and_how_long_it_takes() {
        let step =
            Step { phase: Phase::Importing, table: "message", done: 500_000, total: 1_000_000 };
        assert_eq!(
            line(step, 300_000, Duration::from_secs(2)),
            "importing [###############...............]  50 %  500,000 of 1,000,000 rows (message)  \
             100,000 rows/s  0:05 left"
        );
    }

    #[test]
    fn a_line_never_says_more_than_all_and_minutes_are_minutes() {
        let step = |done| Step { phase: Phase::Exporting, table: "message", done, total: 120_000 };
        let full = line(step(120_001), 0, Duration::from_secs(1));
        assert!(full.contains(&format!("[{}] 100 %", "#".repeat(30))), "{full}");
        assert!(full.ends_with("120,001 rows/s  0:00 left"), "{full}");
        // 1,000 of 119,000 rows in ten seconds.
        let slow = line(step(2_000), 1_000, Duration::from_secs(10));
        assert!(slow.starts_with("exporting [..............................]   1 %"), "{slow}");
        assert!(slow.ends_with("  100 rows/s  19:40 left"), "{slow}");
        let none = line(step(1_000), 1_000, Duration::from_secs(10));
        assert!(none.ends_with("rows (message)"), "nothing is known yet: {none}");
    }

    #[test]
    fn nothing_to_do_is_no_error() {
        let step = Step { phase: Phase::Checking, table: "mark", done: 0, total: 0 };
        let line = line(step, 0, Duration::ZERO);
        assert!(line.ends_with("  0 %  0 of 0 rows (mark)"), "{line}");
    }

    #[test]
    fn digits_stand_in_groups() {
        let numbers = [0, 12, 999, 1_000, 12_345_678].map(grouped);
        assert_eq!(numbers, ["0", "12", "999", "1,000", "12,345,678"]);
    }
}
