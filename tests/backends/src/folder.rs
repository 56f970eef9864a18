//! A folder for each server: `target/tmp/backends/<kind>-<pid>-…`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use tempfile::TempDir;

/// Makes an empty folder for a server. What dead processes left behind is removed before the first.
pub(crate) fn new(kind: &str) -> TempDir {
    static SWEPT: Once = Once::new();
    let parent = scratch().join("backends");
    fs::create_dir_all(&parent).expect("make the folder of the servers");
    SWEPT.call_once(|| sweep(&parent));
    let prefix = format!("{kind}-{}-", std::process::id());
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent);
    folder.expect("make a folder for a server")
}

/// `target/tmp`, or the system's own folder for such things if this program is not in a target
/// folder.
pub(crate) fn scratch() -> PathBuf {
    let this = std::env::current_exe().expect("this program's own file");
    let target = this.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    target.map_or_else(std::env::temp_dir, |target| target.join("tmp"))
}

fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.split('-').nth(1));
        let dead = owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        if dead {
            // Another process may be at it as well.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_dead_owners_are_swept() {
        let parent = TempDir::new().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = parent.path().join(format!("redis-{}-abc", child.id()));
        let alive = parent.path().join(format!("redis-{}-abc", std::process::id()));
        fs::create_dir(&dead).unwrap();
        fs::create_dir(&alive).unwrap();
        sweep(parent.path());
        assert!(!dead.exists() && alive.exists());
    }
}
