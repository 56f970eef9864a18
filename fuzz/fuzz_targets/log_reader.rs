//! Whatever the files of a log hold, they are served as far as they are whole, or refused and left
//! as they are. Scanning, repair and reading alone, in memory.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| record_log::embedded::fuzzing::log_reader(data));
