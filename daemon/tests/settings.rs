//! Settings from files, environment and flags, and what is said about wrong ones.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use daemon::config::{self, Loaded, Source, Start};
use daemon::{ClusterConfig, ConfigError, LogFormat, ProcessConfig, Role, Secret, Settings};
use serde::Deserialize;
use tempfile::TempDir;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gateway {
    listen: SocketAddr,
    #[serde(default = "default_clients_max")]
    clients_max: u16,
    #[serde(default)]
    hubs: Vec<String>,
    password: Option<Secret>,
    #[serde(default)]
    shards: Vec<Shard>,
    #[serde(default)]
    process: ProcessConfig,
    #[serde(default)]
    cluster: ClusterConfig,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shard {
    weight: f64,
}

fn default_clients_max() -> u16 {
    100
}

impl Settings for Gateway {
    const NAME: &'static str = "msg_server";

    fn check(&self) -> Result<(), ConfigError> {
        if self.clients_max == 0 {
            return Err(ConfigError::new("clients_max", "must be at least 1"));
        }
        if self.shards.iter().any(|shard| shard.weight < 0.0) {
            return Err(ConfigError::new("shards", "weights must not be negative"));
        }
        Ok(())
    }

    fn process(&self) -> &ProcessConfig {
        &self.process
    }
}

const LISTEN: &str = "listen = '127.0.0.1:8000'\n";

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: TempDir::new().expect("a directory") }
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        path
    }

    fn source(&self, text: &str) -> Source {
        Source::file(self.write("gateway.toml", text, 0o600))
    }

    /// What is said about a file, without the path of the directory.
    fn error(&self, source: &Source) -> String {
        let error = source.load::<Gateway>().expect_err("the settings are wrong").to_string();
        let place = format!("{}/", self.dir.path().display());
        error.replace(&place, "")
    }
}

fn error_of(text: &str) -> String {
    let place = Place::new();
    place.error(&place.source(text))
}

#[test]
fn what_is_not_written_has_its_default() {
    let gateway: Gateway = config::parse(LISTEN).unwrap();
    assert_eq!(gateway.listen.port(), 8000);
    assert_eq!(gateway.clients_max, 100);
    assert_eq!(gateway.process.drain_limit_s, 10);
    assert_eq!(gateway.process.log_format, LogFormat::Text);
    assert!(gateway.process.metrics_addr.is_none());
}

#[test]
fn every_mistake_is_named_with_its_line_and_key() {
    let cases = [
        (
            format!("{LISTEN}\nclient_max = 5\n"),
            "gateway.toml:3: key `client_max`: is unknown here; known are: listen, clients_max, hubs, password, shards, process, cluster",
        ),
        (
            format!("{LISTEN}clients_max = 'many'\n"),
            "gateway.toml:2: key `clients_max`: must be a whole number from 0 to 65535",
        ),
        (
            format!("{LISTEN}clients_max = 70_000\n"),
            "gateway.toml:2: key `clients_max`: must be a whole number from 0 to 65535",
        ),
        (
            format!("# a comment\n{LISTEN}\nclients_max = 0\n"),
            "gateway.toml:4: key `clients_max`: must be at least 1",
        ),
        (
            "listen = 'localhost'\n".to_owned(),
            "gateway.toml:1: key `listen`: must be an address and a port, such as 127.0.0.1:8000",
        ),
        ("clients_max = 1\n".to_owned(), "gateway.toml: key `listen`: must be set"),
        (format!("{LISTEN}hubs = ['a:1', 2]\n"), "gateway.toml:2: key `hubs.1`: must be a string"),
        (
            format!("{LISTEN}[process]\nlog_format = 'xml'\n"),
            "gateway.toml:3: key `process.log_format`: must be one of: text, json",
        ),
        (
            format!("{LISTEN}[process]\nlog_level = 'verbose'\n"),
            "gateway.toml:3: key `process.log_level`: must be error, warn, info, debug or trace, or directives such as info,daemon=debug",
        ),
        (
            format!("{LISTEN}[process]\nmetrics_addr = '0.0.0.0:8172'\n"),
            "gateway.toml:2: key `process.allow_remote_metrics`: must be true if process.metrics_addr can be reached from other machines",
        ),
        (
            format!("{LISTEN}[process]\ncolour = true\n"),
            "gateway.toml:3: key `process.colour`: is unknown here; known are: log_level, log_format, metrics_addr, allow_remote_metrics, drain_limit_s, core_dumps",
        ),
        (
            format!("{LISTEN}[process]\ndrain_limit_s = -1\n"),
            "gateway.toml:3: key `process.drain_limit_s`: must be a whole number, 0 or more",
        ),
        (
            format!("{LISTEN}[[shards]]\nweight = 1\n[[shards]]\nwait = 2\n"),
            "gateway.toml:5: key `shards.1.wait`: is unknown here; known are: weight",
        ),
        (format!("{LISTEN}process = 1\n"), "gateway.toml:2: key `process`: must be a table"),
        (format!("{LISTEN}{LISTEN}"), "gateway.toml:2: duplicate key"),
    ];
    for (text, expected) in cases {
        assert_eq!(error_of(&text), expected, "for\n{text}");
    }
}

#[test]
fn a_file_that_is_no_toml_is_refused_in_one_line() {
    let error = error_of("listen = '127.0.0.1:8000'\nthis is no toml\n");
    assert!(error.starts_with("gateway.toml:2: "), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_file_that_is_not_there_is_refused() {
    let place = Place::new();
    let source = Source::file(place.dir.path().join("nowhere.toml"));
    assert!(place.error(&source).starts_with("nowhere.toml: cannot be read: No such file"));
}

#[test]
fn the_environment_goes_over_the_file_and_flags_over_both() {
    let place = Place::new();
    let variables = [
        ("TALKHUB_CLIENTS_MAX", "7"),
        ("TALKHUB_PROCESS__LOG_LEVEL", "debug"),
        ("TALKHUB_PROCESS__DRAIN_LIMIT_S", "20"),
        ("TALKHUB_PROCESS__METRICS_ADDR", ""),
        ("TALKHUB_HUBS", "a:1, b:2"),
        ("TALKHUB_PASSWORD", "12345"),
        ("PATH", "/bin"),
    ];
    let source = place
        .source(&format!("{LISTEN}clients_max = 5\n[process]\nlog_level = 'warn'\n"))
        .with_environment(variables.map(|(name, value)| (name.into(), value.into())).into_iter())
        .with_set("process.drain_limit_s=30")
        .unwrap()
        .with_set("process.core_dumps=true")
        .unwrap();
    let Loaded { settings, warnings, .. } = source.load::<Gateway>().unwrap();
    assert_eq!(settings.clients_max, 7);
    assert_eq!(settings.process.log_level, "debug");
    assert_eq!(settings.process.drain_limit_s, 30);
    assert_eq!(settings.process.metrics_addr, None, "an empty value counts as not set");
    assert!(settings.process.core_dumps);
    assert_eq!(settings.hubs, ["a:1", "b:2"]);
    let password = settings.password.expect("set by the environment");
    assert_eq!(password.expose(), "12345", "digits are a string where a string is asked for");
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn a_mistake_outside_the_file_is_named_with_its_place_too() {
    let place = Place::new();
    let variable = |name: &str, value: &str| {
        let variables = [(name.to_owned(), value.to_owned())];
        place.error(&place.source(LISTEN).with_environment(variables.into_iter()))
    };
    assert_eq!(
        variable("TALKHUB_CLIENTS_MAX", "many"),
        "TALKHUB_CLIENTS_MAX: key `clients_max`: must be a whole number from 0 to 65535"
    );
    assert!(
        variable("TALKHUB_PROCESS__COLOUR", "1")
            .starts_with("TALKHUB_PROCESS__COLOUR: key `process.colour`: is unknown here")
    );
    let flag = place.source(LISTEN).with_set("clients_max=0").unwrap();
    assert_eq!(place.error(&flag), "--set clients_max: key `clients_max`: must be at least 1");
    Source::default().with_set("clients_max").expect_err("a flag needs a value");
}

#[test]
fn no_error_and_no_debug_output_shows_a_secret() {
    let error = error_of(&format!("{LISTEN}password = ['hunter2']\n"));
    assert_eq!(error, "gateway.toml:2: key `password`: must be a string");
    let gateway: Gateway = config::parse(&format!("{LISTEN}password = 'hunter2'\n")).unwrap();
    let shown = format!("{gateway:?}");
    assert!(shown.contains("password: Some(Secret)") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_secret_in_a_file_for_everybody_is_warned_about() {
    let place = Place::new();
    let text = format!("{LISTEN}password = 'hunter2'\n");
    let warnings = |text: &str, mode| {
        let source = Source::file(place.write("gateway.toml", text, mode));
        source.load::<Gateway>().unwrap().warnings
    };
    assert_eq!(warnings(&text, 0o644).len(), 1);
    assert!(warnings(&text, 0o640).is_empty());
    assert!(warnings(LISTEN, 0o644).is_empty(), "there is no secret in it");
}

#[test]
fn the_cluster_key_is_needed_once_and_long_and_for_its_owner_only() {
    let place = Place::new();
    let cluster = |table: String| -> Result<(), String> {
        let gateway: Gateway =
            config::parse(&format!("{LISTEN}[cluster]\nname = 'gw1'\n{table}")).unwrap();
        let identity = gateway.cluster.link_identity(Role::MsgServer, 7);
        let identity = identity.map_err(|error| error.to_string())?;
        assert_eq!((identity.name.as_str(), identity.boot), ("gw1", 7));
        Ok(())
    };
    let file = |key: &str, mode| {
        let path = place.write("key", key, mode);
        format!("key_file = '{}'\n", path.display())
    };
    let long = "0123456789abcdef";

    cluster(format!("key = '{long}'\n")).unwrap();
    cluster(file(&format!("{long}\n"), 0o600)).unwrap();
    cluster(String::new()).expect_err("there is no key");
    cluster("key = 'short'\n".to_owned()).expect_err("the key is short");
    cluster(file("short", 0o600)).expect_err("the key is short");
    cluster(format!("key = '{long}'\n{}", file(long, 0o600))).expect_err("there are two");
    let error = cluster(file(long, 0o644)).expect_err("everybody can read it");
    assert!(error.contains("mode 0600"), "{error}");
}

#[test]
fn flags_are_understood() {
    let place = Place::new();
    let path = place.write("gateway.toml", LISTEN, 0o600);
    let args = |args: &[&str]| {
        let args: Vec<_> =
            args.iter().map(|arg| arg.replace("FILE", &path.to_string_lossy()).into()).collect();
        config::load::<Gateway>(args)
    };
    assert!(matches!(args(&["--config", "FILE", "--check"]), Ok(Start::Done)));
    assert!(matches!(args(&["--version"]), Ok(Start::Done)));
    assert!(matches!(args(&["--help"]), Ok(Start::Done)));
    let Ok(Start::Run(loaded)) = args(&["--config", "FILE", "--set", "clients_max=3"]) else {
        panic!("these flags ask to run");
    };
    assert_eq!(loaded.settings.clients_max, 3);
    let again: Loaded<Gateway> = loaded.source.load().unwrap();
    assert_eq!(again.settings.clients_max, 3, "a reload applies the flags again");
    args(&["--config", "FILE", "--set", "clients_max=0", "--check"]).expect_err("0 is not allowed");
    let error = args(&["--colour"]).expect_err("there is no such flag").to_string();
    assert!(error.contains("--colour") && error.lines().count() == 1, "{error}");
}
