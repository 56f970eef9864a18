//! Tests that cannot be run on this machine.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::Location;

/// With `1` here, a test that cannot be run has failed. `./test` sets it for `TALKHUB_MUST_RUN=1`: what
/// begins with `TALKHUB_` is a setting for daemons, and some tests load settings.
const MUST_RUN: &str = "MUST_RUN";
/// The file that takes a line for each test that was not run; `./test` counts them.
const SKIPS: &str = "SKIPPED_TESTS";

/// The calling test is not run, because this machine lacks something. Panics if every test must run;
/// otherwise the test must return.
#[track_caller]
pub fn skip(why: &str) {
    let place = Location::caller();
    let must_run = std::env::var_os(MUST_RUN).is_some_and(|value| value == "1");
    assert!(!must_run, "{MUST_RUN} is set, and {why}");
    // Not by a macro, whose output is hidden unless a test fails.
    let line = format!("SKIPPED: {}:{}: {why}\n", place.file(), place.line());
    std::io::stderr().write_all(line.as_bytes()).ok();
    if let Some(path) = std::env::var_os(SKIPS) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("what is skipped can be counted");
    }
}
