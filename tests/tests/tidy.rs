//! The habits that neither rustfmt nor clippy can check.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, tests and blank lines included. Past this, a file has two subjects.
const FILE_LINES_MAX: usize = 600;

/// Our own crates: the folder, the name, and the crates each may know. Daemons never know each
/// other: they meet in `proto`. The tests of some need real servers, which `backends` starts.
const CRATES: [(&str, &str, &[&str]); 18] = [
    ("proto", "proto", &[]),
    ("daemon", "daemon", &["proto"]),
    ("db_client", "db_client", &["proto", "daemon"]),
    ("login_server", "login_server", &["proto", "daemon"]),
    ("msg_server", "msg_server", &["proto", "daemon", "db_client"]),
    ("route_server", "route_server", &["proto", "daemon"]),
    ("api_server", "api_server", &["proto", "daemon", "db_client"]),
    // Pure: it knows no daemon.
    ("db_proxy/fold", "fold", &["proto"]),
    ("db_proxy/log", "record_log", &["proto", "daemon", "backends"]),
    ("db_proxy/store", "store", &["proto", "daemon", "fold", "backends"]),
    ("db_proxy/cache", "cache", &["proto", "daemon", "fold", "backends"]),
    ("db_proxy/logins", "logins", &["proto", "daemon", "fold", "store", "cache"]),
    (
        "db_proxy/partition",
        "partition",
        &["proto", "daemon", "fold", "record_log", "store", "cache"],
    ),
    (
        "db_proxy",
        "db_proxy",
        &[
            "proto",
            "daemon",
            "fold",
            "record_log",
            "store",
            "cache",
            "logins",
            "partition",
            "backends",
        ],
    ),
    ("client", "client", &["proto"]),
    (
        "talkhub",
        "talkhub",
        &[
            "proto",
            "daemon",
            "login_server",
            "api_server",
            "msg_server",
            "route_server",
            "record_log",
            "store",
            "db_proxy",
            "db_client",
            "client",
            "backends",
        ],
    ),
    ("tests/backends", "backends", &[]),
    ("tests", "tests", &["proto", "client", "backends"]),
];

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
        assert!(CRATES.iter().any(|(folder, ..)| *folder == member), "whom may {member} know?");
    }
    for (folder, name, allowed) in CRATES {
        let manifest = text(&root().join(folder).join("Cargo.toml"));
        for other in dependencies(&manifest) {
            let is_ours = other != name && CRATES.iter().any(|(_, ours, _)| *ours == other);
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
    let planted = text(&root().join("daemon/src/faults/mutant.rs"));
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
    for (name, ..) in CRATES {
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

/// Endings of the names of constants that bound something.
const BOUNDS: [&str; 4] = ["_MAX", "_LIMIT", "_WITHIN", "_EVERY"];

/// A bound that no test names must be in the list beside this file, with the test that tries it all the
/// same, or the reason why none does.
#[test]
fn every_bound_is_tried_by_a_test_or_says_why_it_need_not_be() {
    let list = text(&root().join("tests/bounds.txt"));
    let mut listed = BTreeMap::new();
    for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [path, name, how, what] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else {
            panic!("{line}: a path, a name, `test` or `because`, and which or why")
        };
        listed.insert((path.to_owned(), name.to_owned()), (how, what));
    }
    let (mut bounds, mut tests) = (Vec::new(), String::new());
    for (path, text) in sources() {
        let path = path.strip_prefix(root()).expect("a source is in the project");
        let path = path.to_str().expect("paths are text").to_owned();
        let (code, of_tests) = parts(&path, &text);
        bounds.extend(constants(code).map(|name| (path.clone(), name.to_owned())));
        tests.push_str(of_tests);
    }
    assert!(bounds.len() > 150, "they are found: {}", bounds.len());
    let named = words(&tests);
    let mut wrong = Vec::new();
    for bound in &bounds {
        let is_listed = listed.remove(bound);
        let (path, name) = bound;
        match is_listed {
            None if named.contains(&**name) => {}
            None => wrong.push(format!("{path} {name}: no test names it, and it is not listed")),
            Some(("test", function)) if is_function(&tests, function) => {}
            Some(("because", reason)) if reason.len() > 20 && reason.ends_with('.') => {}
            Some((how, what)) => wrong.push(format!("{path} {name}: {how} {what}?")),
        }
    }
    let gone = listed.keys().map(|(path, name)| format!("{path} {name}: there is no such bound"));
    wrong.extend(gone);
    assert!(wrong.is_empty(), "tests/bounds.txt:\n{}", wrong.join("\n"));
}

/// The code of a file, and what of it is tests.
fn parts<'a>(path: &str, text: &'a str) -> (&'a str, &'a str) {
    let is_test = |part: &str| {
        part.starts_with("conformance") || ["test", "test.rs", "tests", "tests.rs"].contains(&part)
    };
    if path.split('/').any(is_test) {
        return ("", text);
    }
    text.split_at(text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len()))
}

/// The names of the constants of a module that bound something.
fn constants(code: &str) -> impl Iterator<Item = &str> {
    let names = code.lines().filter_map(|line| {
        let (before, after) = line.split_once("const ")?;
        let is_item = before.is_empty() || before.starts_with("pub");
        let name = after.split_once(':')?.0;
        is_item.then_some(name)
    });
    names.filter(|name| BOUNDS.iter().any(|ending| name.ends_with(ending)))
}

fn is_function(text: &str, name: &str) -> bool {
    ["(", "<"].iter().any(|begin| text.contains(&format!("fn {name}{begin}")))
}

fn words(text: &str) -> HashSet<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').collect()
}

#[test]
fn the_wall_clock_is_read_in_one_place() {
    // Tests move it there, and nothing may depend on another one.
    let clocks = ["SystemTime", "UNIX_EPOCH", "now_v7", "Timestamp::now", "Zoned::now"];
    let daemons = ["daemon", "login_server", "msg_server", "route_server", "db_proxy"];
    let place = root().join("daemon/src/clock.rs");
    // A planted fault forgets by the wall clock.
    let planted = root().join("db_proxy/fold/src/faults.rs");
    for (path, text) in sources() {
        if !daemons.iter().any(|name| path.starts_with(root().join(name)))
            || path == place
            || path == planted
        {
            continue;
        }
        for clock in clocks {
            assert!(!text.contains(clock), "{}: {clock} instead of daemon::clock", path.display());
        }
    }
}

#[test]
fn faults_are_planted_on_purpose_only() {
    for (name, ..) in CRATES {
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
    let is_inner = |folder: &str| {
        folder.split_once('/').is_some_and(|(outer, _)| CRATES.iter().any(|(it, ..)| *it == outer))
    };
    let outer = CRATES.iter().map(|(folder, ..)| *folder).filter(|folder| !is_inner(folder));
    let mut folders: Vec<PathBuf> =
        outer.chain(["fuzz"]).map(|folder| root().join(folder)).collect();
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
