//! The programs under test.
//!
//! Built once per test program, with the profile of the test itself, unless `TALKHUB_PROGRAMS` names
//! a folder with others. Each cluster runs them from
//! links of its own, so that a build in between does not give it a program of another version when
//! a daemon is started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The programs.
const NAMES: [&str; 6] =
    ["talkhub", "login_server", "msg_server", "route_server", "db_proxy", "api_server"];

/// Names a folder with programs to test instead of those that would be built.
const PROGRAMS: &str = "TALKHUB_PROGRAMS";

/// The same for those with the build feature `faults`.
const FAULTY_PROGRAMS: &str = "TALKHUB_FAULTY_PROGRAMS";

/// A folder with the programs in it.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds the programs, unless this process has done so, and links them into `folder`. With
    /// `faults`, those that can be told to do things wrong.
    pub fn link_into(folder: &Path, faults: bool) -> Self {
        let built = if faults { built_with_faults() } else { built() };
        fs::create_dir_all(folder).expect("make the folder of the programs");
        for name in NAMES {
            let (from, to) = (built.join(name), folder.join(name));
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).expect("copy a program");
            }
        }
        Self { folder: folder.to_owned() }
    }

    /// Builds them now: later the network that a build may need could be out of reach.
    pub fn build() {
        built();
    }

    /// The folder with those that can be told to do things wrong.
    pub fn built_with_faults() -> &'static Path {
        built_with_faults()
    }

    /// The file of an example.
    pub fn example(name: &str) -> PathBuf {
        built();
        profile_folder().join("examples").join(name)
    }

    /// The file of the program `name`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The folder that cargo keeps what it builds in, for files that belong to a test.
pub(crate) fn scratch() -> PathBuf {
    let scratch = profile_folder().parent().expect("a profile is in the target folder").join("tmp");
    fs::create_dir_all(&scratch).expect("make target/tmp");
    scratch
}

fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(folder) = std::env::var_os(PROGRAMS) {
            return PathBuf::from(folder);
        }
        build();
        profile_folder()
    })
}

fn built_with_faults() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(folder) = std::env::var_os(FAULTY_PROGRAMS) {
            return PathBuf::from(folder);
        }
        // A folder of its own, or the programs would take each other's place.
        let target =
            profile_folder().parent().expect("a profile is in the target folder").join("faults");
        let mut command = cargo_build();
        command.args(["--features", "faults"]).arg("--target-dir").arg(&target);
        // They are not debugged, and the tables take longest to write.
        command.env("CARGO_PROFILE_DEV_DEBUG", "false");
        run(command);
        target.join("debug")
    })
}

/// `target/<profile>`: tests are in `target/<profile>/deps`, programs one above.
fn profile_folder() -> PathBuf {
    let this = std::env::current_exe().expect("this program's own file");
    let folder = this.parent().expect("a file is in a folder");
    let is_test = folder.ends_with("deps");
    if is_test { folder.parent().expect("target/<profile>").to_owned() } else { folder.to_owned() }
}

/// Waits for other builds by itself: cargo locks the target folder.
fn build() {
    let profile = profile_folder();
    let target = profile.parent().expect("a profile is in the target folder");
    let profile = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut command = cargo_build();
    command.args(["--examples", "--profile", profile]);
    command.args(["--features", if cfg!(feature = "kafka") { "kafka" } else { "mysql" }]);
    if target.join("CACHEDIR.TAG").exists() {
        command.arg("--target-dir").arg(target);
    } else {
        let triple = target.file_name().expect("a folder of the target folder");
        let target = target.parent().expect("the folder of a triple is in the target folder");
        command.arg("--target-dir").arg(target).arg("--target").arg(triple);
    }
    run(command);
}

fn cargo_build() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--workspace", "--bins", "--quiet"]);
    command
}

fn run(mut command: Command) {
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).stdin(Stdio::null());
    let status = command.status().expect("cargo can be run");
    assert!(status.success(), "the programs under test are built: {status}");
}
