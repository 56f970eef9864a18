//! Whatever a client sends gives frames or an error, the same ones however it arrives.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proto::fuzzing::client_frame(data));
