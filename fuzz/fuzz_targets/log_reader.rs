//! Whatever the files of a log hold, they are served as far as they are whole, or refused and left
//! as they are. Scanning, repair and reading alone, in memory.

#![no_main]

#[path = "../../db_proxy/src/folder_lock.rs"]
#[expect(dead_code, reason = "only files in memory are read")]
mod folder_lock;
mod log;

libfuzzer_sys::fuzz_target!(|data: &[u8]| log::embedded::check(data));
