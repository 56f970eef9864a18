//! Whatever comes as the content of a text message is refused, or is a text that comes back.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proto::fuzzing::text(data));
