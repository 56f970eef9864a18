//! The data folder of a cluster, as far as `talkhub up` has a part in it.
//!
//! ```text
//! data/
//!   cluster.key       the key that the daemons share; made at the first start, mode 0600
//!   talkhub.lock      locked while an `up` runs here
//!   db/               what db_proxy stores; only db_proxy uses it. Further ones: db-2/, db-3/ …
//!   conf/NAME.toml    the settings of each daemon; written at every start
//!   run/up.json       which daemon runs where; there while the cluster is ready
//!   run/NAME.pid      the process of each daemon (`--processes`)
//! ```
//!
//! # Invariants
//!
//! - Nothing is written before the lock is held: two clusters cannot mix up one folder.
//! - The key is never replaced.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use daemon::files;
use ring::rand::{SecureRandom, SystemRandom};

use crate::failure::Failure;

/// The data folder of a cluster that is being started or runs.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// Locked until dropped; the kernel lets go of it even if we are killed.
    _lock: File,
}

/// A process of an earlier start that still runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The daemon.
    pub name: String,
    /// Its process.
    pub pid: u32,
}

impl Folder {
    /// Makes the folder where there is none, and locks it.
    pub fn open(root: &Path) -> Result<Self, Failure> {
        let wrong = |path: &Path, error: io::Error| {
            Failure::new(format!("data folder {}: {error}", path.display()))
        };
        // What is stored here is for no other user of this machine.
        private_folder(root).map_err(|error| wrong(root, error))?;
        let root = root.canonicalize().map_err(|error| wrong(root, error))?;
        let lock = lock(&root)?;
        for part in ["conf", "run"] {
            let part = root.join(part);
            private_folder(&part).map_err(|error| wrong(&part, error))?;
        }
        let folder = Self { root, _lock: lock };
        folder.make_key().map_err(|error| wrong(&folder.key_file(), error))?;
        Ok(folder)
    }

    /// The key that the daemons share.
    pub fn key_file(&self) -> PathBuf {
        key_file(&self.root)
    }

    /// Where the first db_proxy stores.
    pub fn db(&self) -> PathBuf {
        self.root.join("db")
    }

    /// The settings of the daemon called `name`.
    pub fn conf_file(&self, name: &str) -> PathBuf {
        self.root.join("conf").join(format!("{name}.toml"))
    }

    /// Writes those settings.
    pub fn write_conf(&self, name: &str, text: &str) -> Result<(), Failure> {
        let file = self.conf_file(name);
        files::replace(&file, text.as_bytes())
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))
    }

    /// Where the number of a daemon's process is written.
    pub fn pid_file(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.pid"))
    }

    /// Says where everything is, for `talkhub admin` and for scripts.
    pub fn write_status(&self, json: &str) -> Result<(), Failure> {
        let file = status_file(&self.root);
        files::replace(&file, json.as_bytes())
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))
    }

    /// Says that nothing runs here from now on.
    pub fn remove_status(&self) {
        // It may not have been written, and the next start replaces it.
        fs::remove_file(status_file(&self.root)).ok();
    }

    /// Processes of an earlier `up --processes` in this folder that have not ended yet.
    pub fn leftovers(&self) -> Vec<Leftover> {
        let files = fs::read_dir(self.root.join("run")).into_iter().flatten().flatten();
        let mut found: Vec<_> = files
            .filter_map(|file| {
                let name = file.file_name().to_str()?.strip_suffix(".pid")?.to_owned();
                let pid: u32 = fs::read_to_string(file.path()).ok()?.trim().parse().ok()?;
                // The number may belong to another process by now; the command line tells.
                let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let command = String::from_utf8_lossy(&command).into_owned();
                let conf = self.conf_file(&name).display().to_string();
                command.split('\0').any(|word| word == conf).then_some(Leftover { name, pid })
            })
            .collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }

    fn make_key(&self) -> io::Result<()> {
        let file = self.key_file();
        if file.exists() {
            return Ok(());
        }
        let mut key = [0; 16];
        SystemRandom::new().fill(&mut key).map_err(|_unspecified| {
            io::Error::other("the system gives no random numbers for the cluster's key")
        })?;
        let hex = u128::from_be_bytes(key);
        files::replace(&file, format!("{hex:032x}\n").as_bytes())
    }
}

/// The cluster's key in the data folder `root`.
pub fn key_file(root: &Path) -> PathBuf {
    root.join("cluster.key")
}

/// What [`Folder::write_status`] writes in the data folder `root`.
pub fn status_file(root: &Path) -> PathBuf {
    root.join("run").join("up.json")
}

fn lock(root: &Path) -> Result<File, Failure> {
    let path = root.join("talkhub.lock");
    let wrong = |error: io::Error| Failure::new(format!("cannot lock {}: {error}", path.display()));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(wrong)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let by = match file.read_to_string(&mut pid) {
                Ok(_len) if !pid.trim().is_empty() => format!(" (pid {})", pid.trim()),
                _ => String::new(),
            };
            let root = root.display();
            return Err(Failure::config(format!(
                "data folder {root} is in use by another `talkhub up`{by}: choose another with --data"
            )));
        }
        Err(TryLockError::Error(error)) => return Err(wrong(error)),
    }
    // Only a help for the next `up` that finds it locked: it can name the process.
    let told = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "{}", std::process::id()));
    told.map_err(wrong)?;
    Ok(file)
}

fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_key_is_made_once_and_for_its_owner_only() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("a/b");
        let folder = Folder::open(&root).unwrap();
        let key = fs::read_to_string(folder.key_file()).unwrap();
        assert_eq!(key.trim().len(), 32);
        assert_eq!(fs::metadata(folder.key_file()).unwrap().permissions().mode() & 0o777, 0o600);
        drop(folder);
        let folder = Folder::open(&root).unwrap();
        assert_eq!(fs::read_to_string(folder.key_file()).unwrap(), key);
    }

    #[test]
    fn a_folder_in_use_is_refused_and_the_process_that_uses_it_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let _first = Folder::open(temp.path()).unwrap();
        let failure = Folder::open(temp.path()).unwrap_err();
        assert_eq!(failure.code(), crate::failure::EXIT_CONFIG);
        let text = failure.to_string();
        assert!(text.contains("is in use"), "{text}");
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    }

    #[test]
    fn a_process_of_an_earlier_start_is_found_by_its_settings() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "echo up; read _line", "sh", "--config"])
            .arg(folder.conf_file("gateway-1"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It has its command line before it says anything.
        child.stdout.take().unwrap().read_exact(&mut [0; 3]).unwrap();
        fs::write(folder.pid_file("gateway-1"), child.id().to_string()).unwrap();
        // Alive, but not ours.
        fs::write(folder.pid_file("db_proxy"), std::process::id().to_string()).unwrap();
        let found = folder.leftovers();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(found, [Leftover { name: "gateway-1".to_owned(), pid: child.id() }]);
        assert_eq!(folder.leftovers(), [], "it has ended");
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn whatever_is_in_a_folder_is_for_its_owner_only() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("data");
        let folder = Folder::open(&root).unwrap();
        folder.write_conf("db_proxy", "key = 'secret'").unwrap();
        folder.write_status("{}").unwrap();
        for part in [&root, &root.join("conf"), &root.join("run")] {
            assert_eq!(mode(part), 0o700, "{}", part.display());
        }
        let status = status_file(&root);
        for file in [&folder.conf_file("db_proxy"), &status, &root.join("talkhub.lock")] {
            assert_eq!(mode(file), 0o600, "{}", file.display());
        }
        assert_eq!(fs::read_to_string(folder.conf_file("db_proxy")).unwrap(), "key = 'secret'");
        assert_eq!(folder.db(), root.canonicalize().unwrap().join("db"));
        folder.remove_status();
        assert!(!status.exists());
        folder.remove_status();
    }

    #[test]
    fn settings_that_cannot_be_written_are_named() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        folder.write_conf("db_proxy", "old").unwrap();
        fs::create_dir(temp.path().join("conf/db_proxy.toml.new")).unwrap();
        let failure = folder.write_conf("db_proxy", "new").unwrap_err().to_string();
        assert!(failure.starts_with("cannot write ") && failure.contains("db_proxy.toml: "));
        assert_eq!(fs::read_to_string(folder.conf_file("db_proxy")).unwrap(), "old");
    }

    #[test]
    fn a_key_is_never_replaced_and_two_folders_have_two() {
        let temp = tempfile::tempdir().unwrap();
        let (one, other) = (temp.path().join("one"), temp.path().join("other"));
        let keys = [&one, &other].map(|root| {
            let folder = Folder::open(root).unwrap();
            fs::read_to_string(folder.key_file()).unwrap()
        });
        assert_ne!(keys[0], keys[1]);
        assert!(keys[0].trim().bytes().all(|digit| digit.is_ascii_hexdigit()));
        fs::write(key_file(&one), "a key of one's own").unwrap();
        drop(Folder::open(&one).unwrap());
        assert_eq!(fs::read_to_string(key_file(&one)).unwrap(), "a key of one's own");
    }

    #[test]
    fn what_is_no_folder_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        let failure = Folder::open(&file).unwrap_err();
        assert_eq!(failure.code(), 1);
        assert!(failure.to_string().contains(&file.display().to_string()), "{failure}");
    }

    #[test]
    fn what_is_no_number_of_a_process_is_no_leftover() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        for (name, text) in [("a", ""), ("b", "x"), ("c", "-1"), ("d", "4294967295")] {
            fs::write(folder.pid_file(name), text).unwrap();
        }
        fs::write(temp.path().join("run/e.txt"), std::process::id().to_string()).unwrap();
        fs::create_dir(folder.pid_file("f")).unwrap();
        assert_eq!(folder.leftovers(), []);
    }
}
