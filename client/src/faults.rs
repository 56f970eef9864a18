//! A mutant of the client: a fault of our own that a build may carry, so that tests can prove that
//! they would notice.
//!
//! Compiled with the feature `faults` only, which is never on by default. The fault lives in a process
//! whose environment variable `TALKHUB_MUTANT` says `watermark-max`, or that has called
//! [`plant_watermark_max`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static CALLED_FOR: AtomicBool = AtomicBool::new(false);

/// From now on every client of this process takes the highest number it has seen for its mark: what
/// lies below and has not come yet is never fetched.
pub fn plant_watermark_max() {
    CALLED_FOR.store(true, Ordering::Relaxed);
}

pub(crate) fn watermark_max() -> bool {
    static NAMED: OnceLock<bool> = OnceLock::new();
    let named = || std::env::var_os("TALKHUB_MUTANT").is_some_and(|name| name == "watermark-max");
    CALLED_FOR.load(Ordering::Relaxed) || *NAMED.get_or_init(named)
}
