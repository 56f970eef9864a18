//! Replaces a file whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Puts a file with this content, readable by its owner only, in the place of the old one: after a crash
/// or a power cut there is the one or the other. What it is made of is beside it until then, with `.new`
/// behind its name; one writer at a time. Blocks on the disk.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    // A file that was left there would keep its owner and its mode.
    if let Err(error) = fs::remove_file(&beside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // A name is in its folder, which is flushed by itself.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let (path, beside) = (folder.path().join("a.toml"), folder.path().join("a.toml.new"));
        for left in [&path, &beside] {
            fs::write(left, "an older one, which is longer").unwrap();
            fs::set_permissions(left, fs::Permissions::from_mode(0o644)).unwrap();
        }
        let old = File::open(&path).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(io::read_to_string(old).unwrap(), "an older one, which is longer", "whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error_and_the_old_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        replace(&path, b"old").unwrap();
        // In the way of what is written first.
        fs::create_dir(folder.path().join("a.toml.new")).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(fs::read(path).unwrap(), b"old");
        assert!(replace(&folder.path().join("none/a.toml"), b"new").is_err());
    }
}
