//! What takes long to make and is the same each time: `target/tmp/templates/<name>-<hash>`.
//!
//! # Invariants
//!
//! - A template is complete from the moment that its name is there, and never changes.
//! - Its name has a hash of what it was made from. One of another version is made anew.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use crate::folder;

/// Returns the template, a file or a folder, that `make` makes at the path that it is given, unless
/// it is there. `from` are the programs, and whatever else goes into it.
pub(crate) fn template(
    name: &str,
    from: &[&Path],
    options: impl Hash,
    make: impl FnOnce(&Path),
) -> PathBuf {
    let folder = folder::scratch().join("templates");
    fs::create_dir_all(&folder).expect("make the folder of the templates");
    let mut hasher = DefaultHasher::new();
    options.hash(&mut hasher);
    for path in from {
        let metadata = fs::metadata(path).expect("what a template is made from is there");
        (path, metadata.len(), metadata.modified().ok()).hash(&mut hasher);
    }
    let template = folder.join(format!("{name}-{:016x}", hasher.finish()));
    // A process that comes second waits for the first.
    let lock = File::create(folder.join(format!("{name}.lock"))).expect("make a file to lock");
    lock.lock().expect("lock it");
    if !template.exists() {
        let draft = folder.join(format!("{name}.draft"));
        // A process may have been killed while it made this.
        fs::remove_dir_all(&draft).or_else(|_error| fs::remove_file(&draft)).ok();
        make(&draft);
        fs::rename(&draft, &template).expect("a template gets its name");
    }
    template
}

/// Copies a folder and everything in it.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_made_once_for_the_same_options() {
        let options = (std::process::id(), std::time::SystemTime::now());
        let this = std::env::current_exe().unwrap();
        let get = |version: u32, make: &dyn Fn(&Path)| {
            template("trial", &[&this], (options, version), make)
        };
        let make = |draft: &Path| {
            fs::create_dir(draft).unwrap();
            fs::write(draft.join("file"), "text").unwrap();
        };
        let one = get(1, &make);
        assert_eq!(get(1, &|_draft| panic!("it is there")), one);
        let other = get(2, &make);
        assert_ne!(one, other);
        let copies = tempfile::TempDir::new().unwrap();
        let to = copies.path().join("to");
        copy(&one, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("file")).unwrap(), "text");
        for template in [one, other] {
            fs::remove_dir_all(template).unwrap();
        }
    }
}
