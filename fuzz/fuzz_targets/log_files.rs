//! Whatever the files of a log hold, they are served as far as they are whole, or refused and left
//! as they are. With real files, a lock and threads; `log_reader` is many times as fast.
//!
//! The corpus is that of `log_reader`.

#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Where the files are; in memory, where the system has such a folder.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let above = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    above.join(format!("talkhub-fuzz-{}", std::process::id()))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    record_log::embedded::fuzzing::log_files(&FOLDER, data);
});
