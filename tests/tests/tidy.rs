//! The habits that neither rustfmt nor clippy can check.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, tests and blank lines included. Past this, a file has two subjects.
const FILE_LINES_MAX: usize = 600;

/// Our own crates, and whom each may know. Daemons never know each other: they meet in `proto`.
const MAY_KNOW: [(&str, &[&str]); 10] = [
    ("proto", &[]),
    ("daemon", &["proto"]),
    ("login_server", &["proto", "daemon"]),
    ("msg_server", &["proto", "daemon"]),
    ("route_server", &["proto", "daemon"]),
    // Its tests need real servers.
    ("db_proxy", &["proto", "daemon", "backends"]),
    ("client", &["proto"]),
    (
        "talkhub",
        // Its tests need real servers, too.
        &[
            "proto",
            "daemon",
            "login_server",
            "msg_server",
            "route_server",
            "db_proxy",
            "client",
            "backends",
        ],
    ),
    ("tests/backends", &[]),
    ("tests", &["proto", "client", "backends"]),
];

/// The name of the crate in a folder.
fn crate_in(folder: &str) -> &str {
    folder.rsplit('/').next().unwrap_or(folder)
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{}: begin with a `//!` summary", path.display());
    }
}

#[test]
fn no_source_file_has_two_subjects() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{}: {lines} lines", path.display());
    }
}

#[test]
fn crates_know_only_whom_they_may() {
    let members = text(&root().join("Cargo.toml"));
    let members = members.split("members = [").nth(1).and_then(|rest| rest.split(']').next());
    for member in members.expect("the workspace has members").split('"').skip(1).step_by(2) {
        assert!(MAY_KNOW.iter().any(|(name, _)| *name == member), "whom may {member} know?");
    }
    for (name, allowed) in MAY_KNOW {
        let manifest = text(&root().join(name).join("Cargo.toml"));
        for other in dependencies(&manifest) {
            let is_ours = MAY_KNOW.iter().any(|(ours, _)| crate_in(ours) == other);
            let may = allowed.contains(&other.as_str());
            assert!(!is_ours || may, "{name} must not depend on {other}");
        }
    }
}

/// The crates that a manifest names, in whatever section and under whatever name.
fn dependencies(manifest: &str) -> Vec<String> {
    let manifest: toml::Table = manifest.parse().expect("a manifest can be read");
    let mut found = Vec::new();
    let mut tables = vec![&manifest];
    while let Some(table) = tables.pop() {
        for (key, value) in table {
            let Some(section) = value.as_table() else { continue };
            if !key.ends_with("dependencies") {
                tables.push(section); // `target.'cfg(…)'.dependencies`
                continue;
            }
            let renamed = |value: &toml::Value| Some(value.get("package")?.as_str()?.to_owned());
            found
                .extend(section.iter().map(|(name, value)| renamed(value).unwrap_or(name.clone())));
        }
    }
    found
}

#[test]
fn a_dependency_is_found_wherever_it_stands() {
    let manifest = "[dependencies.one]\nworkspace = true\n\
        [dev-dependencies]\nalias = { package = \"two\" }\n\
        [target.'cfg(unix)'.build-dependencies]\nthree = \"1\"\n";
    let mut found = dependencies(manifest);
    found.sort();
    assert_eq!(found, ["one", "three", "two"]);
}

#[test]
fn every_planted_fault_is_hunted() {
    let planted = text(&root().join("daemon/src/faults.rs"));
    let hunted = text(&root().join("tests/src/fault/mutants.rs"));
    let names: Vec<&str> = planted
        .lines()
        .filter_map(|line| {
            line.trim().strip_prefix("Self::")?.split_once(" => \"")?.1.split('"').next()
        })
        .collect();
    assert!(names.len() > 10, "the names of the faults are found: {names:?}");
    for name in names {
        assert!(hunted.contains(&format!("mutant: \"{name}\"")), "{name} is hunted by nobody");
    }
}

#[test]
fn versions_stand_in_one_place() {
    for (name, _) in MAY_KNOW {
        let manifest = text(&root().join(name).join("Cargo.toml"));
        let own = manifest.lines().find(|line| {
            line.contains("version = \"")
                || line.split_once(" = ").is_some_and(|(_, value)| {
                    value.starts_with('"') && value.contains(|c: char| c.is_ascii_digit())
                })
        });
        assert_eq!(own, None, "{name}: versions belong into the workspace's manifest");
    }
}

#[test]
fn nobody_reaches_into_a_module_folder_by_mod_rs() {
    for (path, _) in sources() {
        assert!(!path.ends_with("mod.rs"), "{}: name it after its module", path.display());
    }
}

#[test]
fn nothing_is_left_to_do_in_comments() {
    // Written so that this file does not find itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    for (path, text) in sources() {
        for mark in marks {
            assert!(!text.contains(mark), "{}: {mark} without an issue", path.display());
        }
    }
}

#[test]
fn every_queue_has_a_bound() {
    // Clippy bans tokio's; this finds the others.
    let unbounded = [concat!("unbounded", "_channel"), concat!("std::sync::mpsc::", "channel(")];
    for (path, text) in sources() {
        for call in unbounded {
            assert!(!text.contains(call), "{}: {call}", path.display());
        }
    }
}

#[test]
fn the_wall_clock_is_read_in_one_place() {
    // Tests move it there, and nothing may depend on another one.
    let clocks = ["SystemTime", "UNIX_EPOCH", "now_v7", "Timestamp::now", "Zoned::now"];
    let daemons = ["daemon", "login_server", "msg_server", "route_server", "db_proxy"];
    let place = root().join("daemon/src/clock.rs");
    for (path, text) in sources() {
        if !daemons.iter().any(|name| path.starts_with(root().join(name))) || path == place {
            continue;
        }
        for clock in clocks {
            assert!(!text.contains(clock), "{}: {clock} instead of daemon::clock", path.display());
        }
    }
}

#[test]
fn faults_are_planted_on_purpose_only() {
    for (name, _) in MAY_KNOW {
        let manifest = text(&root().join(name).join("Cargo.toml"));
        let by_default = manifest.lines().find(|line| line.starts_with("default ="));
        assert_eq!(by_default, None, "{name}: nothing optional is on by default");
        let wanted = manifest.lines().find(|line| {
            line.contains("features = [") && line.contains("faults") && !line.starts_with("faults")
        });
        assert_eq!(wanted, None, "{name}: a dependency with its faults, always");
    }
}

/// Every Rust file of the workspace that a person wrote.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> =
        MAY_KNOW.iter().map(|(name, _)| root().join(name)).chain([root().join("fuzz")]).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = text(&path);
                files.push((path, text));
            }
        }
    }
    assert!(files.len() > 50, "the sources are where they are looked for");
    files
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace")
}
