//! Whatever is in the log, the fold takes it, and comes to the same every time.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fold::fuzzing::log_record(data));
