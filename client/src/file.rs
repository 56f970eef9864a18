//! Replaces a file whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Writes a file with this content, for its owner only, and puts it in the place of the old one: a crash
/// leaves the one or the other. Returns it, open at its end. Blocks on the disk.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut beside = path.to_owned().into_os_string();
    beside.push(".new");
    // A file that was left there would keep its owner and its mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // The new name must survive a power cut as well.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "the old one, which is longer").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        // Left behind by an earlier try, readable by every user.
        let beside = folder.path().join("file.new");
        fs::write(&beside, "half of something that is longer still").unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o644)).unwrap();
        let old = File::open(&path).unwrap();
        let mut file = replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(io::read_to_string(old).unwrap(), "the old one, which is longer", "whole");
        file.write_all(b" and more").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new and more", "it is open at its end");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        fs::create_dir(folder.path().join("file.new")).unwrap();
        replace(&path, b"new").unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        replace(&folder.path().join("nowhere/file"), b"new").unwrap_err();
    }
}
