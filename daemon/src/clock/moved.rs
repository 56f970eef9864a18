//! By how much a test has moved the clock. Compiled with the feature `faults` only.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub(crate) const VARIABLE: &str = "TALKHUB_CLOCK_FILE";

/// How often the file is read at most.
const READ_EVERY: Duration = Duration::from_millis(10);

/// What is added to the real time, in milliseconds.
pub(super) fn by_ms() -> i64 {
    static MOVED: OnceLock<Option<Moved>> = OnceLock::new();
    let moved = MOVED.get_or_init(|| env::var_os(VARIABLE).map(|file| Moved::by(file.into())));
    moved.as_ref().map_or(0, |moved| moved.ms(Instant::now()))
}

struct Moved {
    file: PathBuf,
    /// The offset, and when it was read.
    known: Mutex<(i64, Option<Instant>)>,
}

impl Moved {
    fn by(file: PathBuf) -> Self {
        Self { file, known: Mutex::new((0, None)) }
    }

    fn ms(&self, now: Instant) -> i64 {
        let mut known = self.known.lock();
        if known.1.is_none_or(|read| now.saturating_duration_since(read) >= READ_EVERY) {
            // A file that is just being written again holds nothing for a moment.
            known.0 = read(&self.file).unwrap_or(known.0);
            known.1 = Some(now);
        }
        known.0
    }
}

fn read(file: &Path) -> Option<i64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn the_offset_follows_the_file_and_survives_its_rewriting() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("offset");
        let moved = Moved::by(file.clone());
        let mut now = Instant::now();
        let mut later = || {
            now += READ_EVERY;
            moved.ms(now)
        };
        assert_eq!(later(), 0, "no file yet");
        fs::write(&file, "-3600000\n").unwrap();
        assert_eq!(later(), -3_600_000);
        fs::write(&file, "").unwrap();
        assert_eq!(later(), -3_600_000, "it is being written");
        fs::write(&file, "250").unwrap();
        assert_eq!(later(), 250);
    }
}
