//! Tests that cannot be run on this machine.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::Location;

/// With this in the environment, a test that cannot be run has failed.
const MUST_RUN: &str = "TALKHUB_MUST_RUN";
/// The file that takes a line for each test that was not run, for whoever counts them.
const SKIPS: &str = "TALKHUB_SKIPS";

/// The calling test is not run, because this machine lacks something. Panics with
/// `TALKHUB_MUST_RUN=1` in the environment; otherwise the test must return.
#[track_caller]
pub fn skip(why: &str) {
    let place = Location::caller();
    let must_run = std::env::var_os(MUST_RUN).is_some_and(|value| value == "1");
    assert!(!must_run, "{MUST_RUN} is set, and {why}");
    // Not by a macro, whose output nobody sees unless a test fails.
    let line = format!("SKIPPED: {}:{}: {why}\n", place.file(), place.line());
    std::io::stderr().write_all(line.as_bytes()).ok();
    if let Some(path) = std::env::var_os(SKIPS) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("what is skipped can be counted");
    }
}
