//! What `deploy/` holds is what the daemons take: the sample settings are the reference, so they are
//! complete and say the truth, and the units are what systemd understands.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use daemon::Settings;
use daemon::config::parse;

const DAEMONS: [&str; 5] = ["login_server", "route_server", "db_proxy", "msg_server", "api_server"];

/// Settings that take the place of others: both together are refused.
const ALTERNATIVES: [&str; 2] = ["#key = \"\"", "#secret = \"\""];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn sample(daemon: &str) -> String {
    let file = deploy().join("config").join(format!("{daemon}.toml"));
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// A commented-out setting begins with `#` and its name; a comment has a space there.
fn is_setting(line: &str) -> bool {
    line.starts_with('#') && !line.starts_with("# ") && line.len() > 1
}

/// The sample with every setting in it, but for the tables called `without`.
fn uncommented(sample: &str, without: &[&str]) -> String {
    let mut is_left_out = false;
    let lines = sample.lines().map(|line| {
        let bare = line.trim_start_matches('#');
        if let Some(table) = bare.strip_prefix('[') {
            is_left_out = without.contains(&table.trim_end_matches(']'));
        }
        if is_setting(line) && !ALTERNATIVES.contains(&line) && !is_left_out {
            bare.to_owned()
        } else {
            line.to_owned()
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Each table of a text, the outermost being called "", with the names of its settings.
fn tables(text: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut tables = vec![(String::new(), BTreeSet::new())];
    for line in text.lines() {
        let line = if is_setting(line) { line.trim_start_matches('#') } else { line };
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            tables.push((name.to_owned(), BTreeSet::new()));
        } else if let Some((key, _value)) = line.split_once(" = ")
            && !line.starts_with('#')
        {
            tables.last_mut().unwrap().1.insert(key.to_owned());
        }
    }
    tables
}

/// What the daemon knows in `table`: it says so when it finds something else there.
fn known<S: Settings + Debug>(whole: &str, table: &str) -> BTreeSet<String> {
    let stranger = "stranger = 1";
    let text = if table.is_empty() {
        format!("{stranger}\n{whole}")
    } else {
        whole.replace(&format!("\n[{table}]\n"), &format!("\n[{table}]\n{stranger}\n"))
    };
    let error = parse::<S>(&text).expect_err("a stranger is refused").to_string();
    let known = error.split_once("known are: ").unwrap_or_else(|| panic!("{table}: {error}")).1;
    known.split(", ").map(str::to_owned).collect()
}

fn check<S: Settings + Debug>() {
    let name = S::NAME;
    let sample = sample(name);
    parse::<S>(&sample).unwrap_or_else(|error| panic!("{name}: {error}"));

    let whole = uncommented(&sample, &[]);
    parse::<S>(&whole).unwrap_or_else(|error| panic!("{name}, all settings: {error}"));

    let tables = tables(&sample);
    let names: Vec<_> = tables.iter().map(|(table, _keys)| table.as_str()).collect();
    for (table, keys) in &tables {
        for key in known::<S>(&whole, table) {
            let path = if table.is_empty() { key.clone() } else { format!("{table}.{key}") };
            let tables = [path.clone(), format!("[{path}]")];
            let is_table = tables.iter().any(|table| names.contains(&table.as_str()));
            let is_there = keys.contains(&key) || is_table;
            assert!(is_there, "{name}: the reference does not mention {path}");
        }
    }
}

/// Settings that are commented out show what is taken without them; these only show their shape.
fn check_defaults<S: Settings + Debug>(shapes: &[&str]) {
    let sample = sample(S::NAME);
    let as_it_is = parse::<S>(&sample).unwrap();
    let spelled_out = uncommented(&sample, &["tls", "cluster.tls", "[hooks"]);
    let shapes = [shapes, &["text_key_file"]].concat();
    let is_shape = |line: &str| shapes.iter().any(|key| line.starts_with(&format!("{key} = ")));
    let lines: Vec<_> = spelled_out.lines().filter(|line| !is_shape(line)).collect();
    let spelled_out = parse::<S>(&lines.join("\n")).unwrap();
    let (as_it_is, spelled_out) = (format!("{as_it_is:#?}"), format!("{spelled_out:#?}"));
    for (real, shown) in as_it_is.lines().zip(spelled_out.lines()) {
        assert_eq!(real, shown, "{}: the real default and the one in the sample", S::NAME);
    }
    assert_eq!(as_it_is, spelled_out);
}

#[test]
fn every_setting_of_every_daemon_is_in_its_sample() {
    check::<login_server::Config>();
    check::<route_server::Config>();
    check::<db_proxy::Config>();
    check::<msg_server::Config>();
    check::<api_server::Config>();
}

#[test]
fn the_samples_show_the_real_defaults() {
    check_defaults::<login_server::Config>(&[]);
    check_defaults::<route_server::Config>(&[]);
    check_defaults::<db_proxy::Config>(&[
        "mysql",
        "mysql_replicas",
        "mysql_logins",
        "mysql_ca",
        "pepper_file",
        "token_keys_file",
        "redis",
        "settings",
    ]);
    check_defaults::<api_server::Config>(&["ca"]);
    check_defaults::<msg_server::Config>(&[
        "advertise_host",
        "advertise_backup_host",
        "advertise_port",
    ]);
}

fn unit(daemon: &str) -> String {
    let file = deploy().join("systemd").join(format!("{daemon}.service"));
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn value<'a>(unit: &'a str, key: &str) -> Option<&'a str> {
    unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

#[test]
fn a_unit_starts_its_daemon_with_its_sample_and_gives_it_time_to_drain() {
    for daemon in DAEMONS {
        let unit = unit(daemon);
        let start = format!("/usr/lib/talkhub/{daemon} --config /etc/talkhub/{daemon}.toml");
        assert_eq!(value(&unit, "ExecStart"), Some(start.as_str()));
        assert_eq!(value(&unit, "RestartPreventExitStatus"), Some("78"), "{daemon}");
        assert_eq!(value(&unit, "Type"), Some("notify"), "{daemon}");

        let drain_s = tables(&sample(daemon)).iter().any(|(table, _keys)| table == "process");
        assert!(drain_s, "{daemon} has a table process");
        let text = uncommented(&sample(daemon), &[]);
        let drain_s: u64 =
            value(&text.replace(" = ", "="), "drain_limit_s").unwrap().parse().unwrap();
        let stop_s: u64 = value(&unit, "TimeoutStopSec").unwrap().parse().unwrap();
        assert!(stop_s >= drain_s + 5, "{daemon}: {stop_s} s to stop, {drain_s} s to drain");
    }
}

#[test]
fn systemd_understands_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        backends::skip("there is no systemd-analyze here");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for entry in fs::read_dir(deploy().join("systemd")).unwrap() {
        let from = entry.unwrap().path();
        // The programs are not installed here, which is not the unit's fault.
        let text = fs::read_to_string(&from).unwrap();
        let lines = text.lines().map(|line| match line.strip_prefix("ExecStart=") {
            Some(_program) => "ExecStart=/bin/true",
            None => line,
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        let file = temp.path().join(from.file_name().unwrap());
        fs::write(&file, text).unwrap();
        files.push(file);
    }
    assert_eq!(files.len(), DAEMONS.len() + 1, "a unit for each daemon, and their target");
    let output = Command::new("systemd-analyze").arg("verify").args(&files).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
