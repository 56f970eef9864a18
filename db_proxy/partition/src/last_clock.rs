//! What time it can be when a db_proxy starts, as its last run has left it.
//!
//! A clock that is wrong from the start looks like a long stop. The last run tells them apart: every few
//! seconds it writes down what time it was, and how long the machine had been up. On the same boot of
//! the machine that says exactly what time it is; after another boot, the earliest that it can be, and
//! about the latest, if the machine was not off for long.
//!
//! # Invariants
//!
//! - A clock is written down only once it has run evenly for as long as a jump is doubted.
//! - Where no last run has left anything the clock is believed: in a new folder, and on a Kafka site.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use daemon::Shutdown;
use daemon::clock::unix_ms;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info_span, warn};

/// How far a clock may be from what it should be. Less is what adjusting a clock does.
pub(crate) const JUMP_MS: u64 = 1_000;

/// How long a clock must stay where it jumped to before it is believed.
pub(crate) const BELIEVED_AFTER: Duration = Duration::from_millis(fold::window::FINGERPRINT_MS);

/// How long a machine that boots again may have been off without the clock being doubted.
const OFF_MS: u64 = 15 * 60_000;

/// How often the time is written down.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// Its name in the data folder.
const FILE: &str = "clock";

/// A moment, as written down.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moment {
    wall_ms: u64,
    /// How long the machine had been up.
    up_ms: u64,
    /// Which boot of the machine that was.
    boot: String,
}

/// What time it was at the start, at least and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeBounds {
    /// Not before this, in Unix milliseconds.
    pub(crate) least_ms: u64,
    /// Not after this.
    pub(crate) most_ms: u64,
}

/// What is known about the clock of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct LastClock {
    bounds: Option<(TimeBounds, Instant)>,
}

impl LastClock {
    /// What time it can be `now`; `None` if that is unknown, or the clock was believed since the start.
    pub(crate) fn bounds(&self, now: Instant) -> Option<TimeBounds> {
        let (bounds, start) = self.bounds?;
        let passed = now.saturating_duration_since(start);
        if passed >= BELIEVED_AFTER {
            return None;
        }
        let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let later = |ms: u64| ms.saturating_add(passed);
        Some(TimeBounds { least_ms: later(bounds.least_ms), most_ms: later(bounds.most_ms) })
    }

    /// Reads what the last run in this folder has left, and goes on writing it.
    pub fn begin(folder: &Path, shutdown: &Shutdown) -> Self {
        let file = folder.join(FILE);
        let Some(boot) = boot() else { return Self::default() };
        let start = Instant::now();
        let last = fs::read_to_string(&file).ok().and_then(|text| Moment::parse(&text));
        let now = Moment { wall_ms: unix_ms(), up_ms: up_ms().unwrap_or(0), boot };
        let bounds = last.map(|last| last.bounds(&now));
        let is_doubted = bounds.is_some_and(|bounds| now.wall_ms > bounds.most_ms);
        if let Some(bounds) = bounds.filter(|_bounds| is_doubted) {
            warn!(
                ahead_s = (now.wall_ms - bounds.most_ms) / 1000,
                "the clock is ahead of what the last run left: not believed for {} s",
                BELIEVED_AFTER.as_secs()
            );
        }
        let steady =
            Steady { at: start, wall_ms: now.wall_ms, uneven: is_doubted.then_some(start) };
        shutdown.spawn(info_span!("clock"), write(file, now.boot, steady, shutdown.clone()));
        Self { bounds: bounds.map(|bounds| (bounds, start)) }
    }
}

impl Moment {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let mut number = || words.next()?.parse().ok();
        let (wall_ms, up_ms) = (number()?, number()?);
        Some(Self { wall_ms, up_ms, boot: words.next()?.to_owned() })
    }

    /// What time it can be `now`, if this was written down before.
    fn bounds(&self, now: &Self) -> TimeBounds {
        if self.boot == now.boot && now.up_ms >= self.up_ms {
            let least_ms = self.wall_ms.saturating_add(now.up_ms - self.up_ms);
            return TimeBounds { least_ms, most_ms: least_ms.saturating_add(JUMP_MS) };
        }
        // It was off for an unknown time, and has been up since.
        let least_ms = self.wall_ms.saturating_add(now.up_ms);
        TimeBounds { least_ms, most_ms: least_ms.saturating_add(OFF_MS) }
    }
}

/// Whether a clock runs evenly. Pure.
#[derive(Debug)]
struct Steady {
    at: Instant,
    wall_ms: u64,
    /// Since when it has not been where it should be.
    uneven: Option<Instant>,
}

impl Steady {
    /// Looks at the clock, and says whether it can be written down.
    fn look(&mut self, wall_ms: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_millis();
        let even = self.wall_ms.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
        (self.at, self.wall_ms) = (now, wall_ms);
        if wall_ms.abs_diff(even) > JUMP_MS {
            // Doubted from here on; a second jump within that begins anew.
            self.uneven = Some(now);
        }
        let doubted = |since: Instant| now.saturating_duration_since(since) < BELIEVED_AFTER;
        self.uneven = self.uneven.filter(|since| doubted(*since));
        self.uneven.is_none()
    }
}

async fn write(file: PathBuf, boot: String, mut steady: Steady, shutdown: Shutdown) {
    let mut ticks = interval(WRITE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _tick = ticks.tick() => {}
        }
        let wall_ms = unix_ms();
        if !steady.look(wall_ms, Instant::now()) {
            continue;
        }
        let Some(up_ms) = up_ms() else { continue };
        let moment = format!("{wall_ms} {up_ms} {boot}\n");
        if let Err(error) = put(&file, &moment).await {
            // The next start believes its clock, or doubts it, by what was written before.
            debug!(%error, file = %file.display(), "the time is not written down");
        }
    }
}

/// Replaces a file as a whole. It need not outlive a loss of power: an older one says little less.
async fn put(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("new");
    tokio::fs::write(&new, text).await?;
    tokio::fs::rename(&new, file).await
}

fn boot() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

/// How long the machine has been up, suspended or not.
fn up_ms() -> Option<u64> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, rest) = text.split_once('.')?;
    let hundredths: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(seconds.parse::<u64>().ok()? * 1000 + hundredths * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn moment(wall_ms: u64, up_ms: u64, boot: &str) -> Moment {
        Moment { wall_ms, up_ms, boot: boot.to_owned() }
    }

    #[test]
    fn on_the_same_boot_the_time_is_known_however_long_the_stop_was() {
        let last = moment(100 * HOUR, HOUR, "a");
        let bounds = last.bounds(&moment(0, 8 * HOUR, "a"));
        assert_eq!(bounds, TimeBounds { least_ms: 107 * HOUR, most_ms: 107 * HOUR + JUMP_MS });
    }

    #[test]
    fn after_another_boot_it_is_later_than_before_and_not_by_much() {
        let last = moment(100 * HOUR, HOUR, "a");
        let bounds = last.bounds(&moment(0, 60_000, "b"));
        let least_ms = 100 * HOUR + 60_000;
        assert_eq!(bounds, TimeBounds { least_ms, most_ms: least_ms + OFF_MS });
        // Also if it has been up for longer by now, or says less of the same boot than it did.
        for (up_ms, boot) in [(3 * HOUR, "b"), (60_000, "a")] {
            let bounds = last.bounds(&moment(0, up_ms, boot));
            assert_eq!(bounds.least_ms, 100 * HOUR + up_ms, "{boot}");
        }
    }

    #[test]
    fn bounds_go_on_with_time_and_end_when_the_clock_has_stood_by_what_it_says() {
        let start = Instant::now();
        let bounds = TimeBounds { least_ms: 7, most_ms: 8 };
        let last_clock = LastClock { bounds: Some((bounds, start)) };
        let later = last_clock.bounds(start + Duration::from_secs(1));
        assert_eq!(later, Some(TimeBounds { least_ms: 1_007, most_ms: 1_008 }));
        assert_eq!(last_clock.bounds(start + BELIEVED_AFTER), None);
        assert_eq!(LastClock::default().bounds(start), None);
    }

    #[test]
    fn a_clock_that_has_jumped_is_not_written_down_for_a_while() {
        let start = Instant::now();
        let mut steady = Steady { at: start, wall_ms: HOUR, uneven: None };
        let mut look = |s: u64, ahead: u64| {
            steady.look(HOUR + s * 1000 + ahead, start + Duration::from_secs(s))
        };
        assert!(look(5, 0) && look(10, 300), "adjusted");
        assert!(!look(15, 5 * HOUR) && !look(40, 5 * HOUR));
        assert!(!look(44, 0), "and back");
        assert!(!look(73, 0), "which is a jump as well");
        assert!(look(74, 0));
        // A clock that stays there is believed.
        assert!(!look(80, HOUR) && !look(109, HOUR) && look(110, HOUR));
    }

    #[tokio::test]
    async fn a_clock_that_the_last_run_contradicts_is_not_written_down() {
        let (doubted, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (up_ms, boot) = (up_ms().unwrap(), boot().unwrap());
        let earlier = format!("{} {up_ms} {boot}\n", unix_ms() - 5 * HOUR);
        fs::write(doubted.path().join(FILE), &earlier).unwrap();
        let shutdown = Shutdown::default();
        let last_clock = LastClock::begin(doubted.path(), &shutdown);
        assert!(last_clock.bounds(Instant::now()).unwrap().most_ms < unix_ms() - 4 * HOUR);
        // One that begins later is written down.
        LastClock::begin(fresh.path(), &shutdown);
        let written = async {
            while !fresh.path().join(FILE).exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
        assert_eq!(fs::read_to_string(doubted.path().join(FILE)).unwrap(), earlier);
        shutdown.begin();
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn the_next_run_finds_what_this_one_has_written() {
        let folder = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::default();
        let first = LastClock::begin(folder.path(), &shutdown);
        assert!(first.bounds.is_none(), "nobody was here before");
        let file = folder.path().join(FILE);
        let written = async {
            while Moment::parse(&fs::read_to_string(&file).unwrap_or_default()).is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
        let second = LastClock::begin(folder.path(), &shutdown);
        let bounds = second.bounds(Instant::now()).unwrap();
        assert!(unix_ms().abs_diff(bounds.least_ms) <= JUMP_MS, "{bounds:?}");
        shutdown.begin();
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }
}
