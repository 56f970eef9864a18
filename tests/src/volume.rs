//! A file system of its own, on a file: its power can be cut, and it can be full.
//!
//! ```text
//! target/tmp/volume-<pid>-…/disk     the file that is the disk
//!                          /files    where it is mounted
//! ```
//!
//! # Invariants
//!
//! - What is mounted is unmounted at the end, however that comes, and its loop device goes with it.
//!   What a killed test left behind goes when the next volume is made.
//! - Everything blocks the calling thread.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::cluster::pause;
use crate::programs::scratch;

/// How often unmounting is tried: a process that has just died may still be on its way out.
const UNMOUNTS_MAX: usize = 200;

/// Tells ext4 to go away at once, without writing anything (`EXT4_IOC_SHUTDOWN`, no flush of the
/// journal): what the disk has then is what a power cut leaves.
const CUT: &str = "import fcntl, os, struct, sys\n\
                   folder = os.open(sys.argv[1], os.O_RDONLY)\n\
                   fcntl.ioctl(folder, 0x8004587d, struct.pack('I', 2))\n";

/// A file system on a file.
#[derive(Debug)]
pub struct Volume {
    folder: TempDir,
}

impl Volume {
    /// Makes an ext4 of that many MiB and mounts it. Says why that cannot be done here.
    pub fn make(mib: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("a file system of its own needs root".to_owned());
        }
        sweep();
        let prefix = format!("volume-{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(scratch());
        let volume = Self { folder: folder.expect("make a folder for the volume") };
        let disk = File::create(volume.disk()).expect("make a file for the volume");
        disk.set_len(mib << 20).expect("give the volume its size");
        fs::create_dir(volume.path()).expect("make a folder to mount at");
        let made_now = "lazy_itable_init=0,lazy_journal_init=0";
        run("mkfs.ext4", &["-q", "-m", "0", "-E", made_now], &volume.disk())?;
        volume.mount()?;
        Ok(volume)
    }

    /// Where its files are.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// Writes everything to the disk that is not there yet.
    pub fn sync(&self) {
        run("sync", &["-f"], &self.path()).expect("the volume takes what it is given");
    }

    /// Cuts the power: from now on nothing can be read or written, and what was not flushed is gone.
    pub fn cut(&self) {
        run("python3", &["-c", CUT], &self.path()).expect("the power can be cut");
    }

    /// Brings it back after a cut. No process may have a file of it open.
    pub fn come_back(&self) {
        self.unmount().expect("the volume can be unmounted");
        self.mount().expect("the volume can be mounted again");
    }

    /// Fills it until nothing more fits but `leave` bytes. May be called again, when others have made
    /// room. Returns how much that took.
    pub fn fill(&self, leave: u64) -> u64 {
        const STEP: u64 = 16 << 20;
        const LAST_STEPS: [usize; 2] = [64 << 10, 4 << 10];
        let open = File::options().create(true).append(true).open(self.filler());
        let mut file = open.expect("a file to fill the volume with");
        let length = |file: &File| file.metadata().map_or(0, |metadata| metadata.len());
        let before = length(&file);
        // Blocks that are never written are quick to take.
        let take = |from: u64| {
            let (from, step) = (from.to_string(), STEP.to_string());
            run("fallocate", &["--offset", &from, "--length", &step], &self.filler())
        };
        while take(length(&file)).is_ok() {}
        let zeros = vec![0; LAST_STEPS[0]];
        for step in LAST_STEPS {
            while let Some(bytes) = zeros.get(..step)
                && file.write_all(bytes).is_ok()
            {}
        }
        let kept = length(&file).saturating_sub(leave).max(before);
        file.set_len(kept).expect("a file can be made shorter");
        file.sync_all().expect("there was room for it");
        kept - before
    }

    /// Takes out what [`Self::fill`] put in.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn mount(&self) -> Result<(), String> {
        // The loop device goes with the mount.
        let disk = self.disk().display().to_string();
        run("mount", &["-t", "ext4", "-o", "loop", &disk], &self.path())
    }

    fn unmount(&self) -> Result<(), String> {
        unmount(&self.path())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            // Not by a macro: the panic may be one of printing.
            writeln!(io::stderr(), "{error}").ok();
            run("umount", &["--lazy"], &self.path()).ok();
        }
    }
}

/// Unmounts what tests left mounted that were killed.
fn sweep() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for place in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        let Ok(inside) = Path::new(place).strip_prefix(scratch()) else { continue };
        let folder = inside.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(pid) = folder.strip_prefix("volume-").and_then(|rest| rest.split('-').next())
        else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            unmount(Path::new(place)).ok();
            fs::remove_dir_all(scratch().join(folder)).ok();
        }
    }
}

fn unmount(place: &Path) -> Result<(), String> {
    let mut tried = run("umount", &[], place);
    for _ in 0..UNMOUNTS_MAX {
        if tried.is_ok() {
            break;
        }
        pause();
        tried = run("umount", &[], place);
    }
    tried
}

fn run(program: &str, args: &[&str], path: &Path) -> Result<(), String> {
    let command = Command::new(program).args(args).arg(path).stdin(Stdio::null()).output();
    let output = command.map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} failed with {}: {}", output.status, said.trim()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn volume() -> Option<Volume> {
        match Volume::make(64) {
            Ok(volume) => Some(volume),
            Err(why) => {
                backends::skip(&why);
                None
            }
        }
    }

    #[test]
    fn a_power_cut_takes_what_was_not_flushed_and_nothing_else() {
        let Some(volume) = volume() else { return };
        let path = volume.path().join("file");
        let file = File::create(&path).unwrap();
        file.write_all_at(b"flushed", 0).unwrap();
        file.write_all_at(b"old", 8192).unwrap();
        file.sync_all().unwrap();
        file.write_all_at(b"new", 8192).unwrap();
        volume.cut();
        assert!(file.sync_all().is_err(), "nothing is written any more");
        drop(file);
        volume.come_back();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((&bytes[..7], &bytes[8192..]), (&b"flushed"[..], &b"old"[..]));
    }

    #[test]
    fn a_full_volume_takes_nothing_until_it_is_freed_and_goes_with_its_value() {
        let Some(volume) = volume() else { return };
        assert!(volume.fill(0) > 0);
        let path = volume.path().join("file");
        assert!(fs::write(&path, vec![1; 1 << 20]).is_err());
        volume.free();
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        let place = volume.path().display().to_string();
        assert!(fs::read_to_string("/proc/mounts").unwrap().contains(&place));
        drop(volume);
        assert!(!fs::read_to_string("/proc/mounts").unwrap().contains(&place));
    }
}
