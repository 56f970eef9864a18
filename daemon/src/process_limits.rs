//! The limits that the kernel sets to this process: open files, and core files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// The most file descriptors that this process may open.
pub fn files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit of open files as far as it may be: a connection is a descriptor, and the usual
/// soft limit is 1,024.
pub fn raise_files_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        warn!(%error, ?current, "cannot raise the limit of open files");
    }
}

/// Forbids core files of this process: they would hold keys and messages.
pub fn forbid_core_dumps() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Core);
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum }) {
        warn!(%error, "cannot forbid core files");
    }
}
