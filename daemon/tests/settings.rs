//! Settings from files, environment and flags, and what is said about wrong ones.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use daemon::config::{self, Flags, Loaded, NoCommand, Source};
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
    cluster("key = '0123456789abcde'\n".to_owned()).expect_err("a byte is missing");
    cluster(file("0123456789abcde\n", 0o600)).expect_err("the end of the line is no part of it");
    cluster(file(&format!("{long}\n"), 0o600)).unwrap();
    cluster(String::new()).expect_err("there is no key");
    cluster("key = 'short'\n".to_owned()).expect_err("the key is short");
    cluster(file("short", 0o600)).expect_err("the key is short");
    cluster(format!("key = '{long}'\n{}", file(long, 0o600))).expect_err("there are two");
    for mode in [0o644, 0o640, 0o604, 0o620, 0o601] {
        let error = cluster(file(long, mode)).expect_err("others can reach it");
        assert!(error.contains(&format!("(mode 0600), is {mode:04o}")), "{error}");
    }
    cluster(file(long, 0o400)).unwrap();
    let nowhere = place.dir.path().join("nowhere");
    let error = cluster(format!("key_file = '{}'\n", nowhere.display())).expect_err("no file");
    assert!(error.starts_with("key `cluster.key_file`: ") && error.contains("nowhere"), "{error}");
}

#[test]
fn the_key_of_texts_is_32_ascii_characters_that_only_their_owner_reads() {
    let place = Place::new();
    let text_key = |key: &str, mode| {
        let path = place.write("text.key", key, mode);
        let table = format!("[cluster]\ntext_key_file = '{}'\n", path.display());
        let gateway: Gateway = config::parse(&format!("{LISTEN}{table}")).unwrap();
        gateway.cluster.text_key().map_err(|error| error.to_string())
    };
    let key = "the clients of this site have it";
    assert_eq!(text_key(&format!("{key}\n"), 0o600).unwrap().as_ref(), key.as_bytes().as_array());
    for wrong in [
        "",
        "he clients of this site have it",
        "and the clients of this site have it",
        "éééééééééééééééé",
    ] {
        let error = text_key(wrong, 0o600).expect_err(wrong);
        assert!(error.starts_with("key `cluster.text_key_file`: "), "{error}");
    }
    text_key(key, 0o644).expect_err("others can read it");
    let none: Gateway = config::parse(LISTEN).unwrap();
    assert_eq!(none.cluster.text_key().unwrap(), None);
}

#[test]
fn flags_are_understood() {
    let place = Place::new();
    let path = place.write("gateway.toml", LISTEN, 0o600);
    let args = |args: &[&str]| {
        let args: Vec<_> =
            args.iter().map(|arg| arg.replace("FILE", &path.to_string_lossy()).into()).collect();
        let read = Flags::read::<NoCommand>(Gateway::NAME, args)?;
        read.map_or(Ok(None), |(flags, _none)| flags.load::<Gateway>())
    };
    assert!(matches!(args(&["--config", "FILE", "--check"]), Ok(None)));
    assert!(matches!(args(&["--version"]), Ok(None)));
    assert!(matches!(args(&["--help"]), Ok(None)));
    let Ok(Some(loaded)) = args(&["--config", "FILE", "--set", "clients_max=3"]) else {
        panic!("these flags ask to run");
    };
    assert_eq!(loaded.settings.clients_max, 3);
    let again: Loaded<Gateway> = loaded.source.load().unwrap();
    assert_eq!(again.settings.clients_max, 3, "a reload applies the flags again");
    args(&["--config", "FILE", "--set", "clients_max=0", "--check"]).expect_err("0 is not allowed");
    let error = args(&["--colour"]).expect_err("there is no such flag").to_string();
    assert!(error.contains("--colour") && error.lines().count() == 1, "{error}");
}

/// Settings from a text, with one variable of the environment.
fn with_variable(name: &str, value: &str) -> Result<Gateway, String> {
    let place = Place::new();
    let variables = [(name.to_owned(), value.to_owned())];
    let source = place.source(LISTEN).with_environment(variables.into_iter());
    match source.load::<Gateway>() {
        Ok(loaded) => Ok(loaded.settings),
        Err(_) => Err(place.error(&source)),
    }
}

#[test]
fn a_list_in_the_environment_may_be_written_in_two_ways() {
    for text in ["a:1,b:2", " a:1 , b:2 ", "['a:1', \"b:2\"]", "[a:1,b:2,]"] {
        assert_eq!(with_variable("TALKHUB_HUBS", text).unwrap().hubs, ["a:1", "b:2"], "{text}");
    }
    assert!(with_variable("TALKHUB_HUBS", "[]").unwrap().hubs.is_empty());
    assert_eq!(with_variable("TALKHUB_HUBS", "a:1").unwrap().hubs, ["a:1"]);
}

#[test]
fn a_value_in_the_environment_is_of_the_type_that_the_key_asks_for() {
    let dumps = |text| with_variable("TALKHUB_PROCESS__CORE_DUMPS", text);
    assert!(dumps(" true ").unwrap().process.core_dumps);
    assert!(!dumps("false").unwrap().process.core_dumps);
    for text in ["yes", "1", "True"] {
        let error = dumps(text).unwrap_err();
        assert!(error.ends_with("key `process.core_dumps`: must be true or false"), "{error}");
    }
    assert_eq!(with_variable("TALKHUB_CLIENTS_MAX", " 7 ").unwrap().clients_max, 7);
    for text in ["7.5", "0x10", "-1", "65536", "9223372036854775808"] {
        let error = with_variable("TALKHUB_CLIENTS_MAX", text).unwrap_err();
        assert!(error.ends_with("must be a whole number from 0 to 65535"), "{text}: {error}");
    }
    let format = |text| with_variable("TALKHUB_PROCESS__LOG_FORMAT", text);
    assert_eq!(format("json").unwrap().process.log_format, LogFormat::Json);
    assert!(format("JSON").unwrap_err().ends_with("must be one of: text, json"));
    // A table cannot be one word.
    let error = with_variable("TALKHUB_PROCESS", "x").unwrap_err();
    assert_eq!(error, "TALKHUB_PROCESS: key `process`: must be a table");
}

#[test]
fn a_variable_that_only_looks_like_a_setting_is_refused_with_its_name() {
    for name in ["TALKHUB_TALKHUB_LISTEN", "TALKHUB__LISTEN", "TALKHUB_LISTEN__PORT", "TALKHUB_"] {
        let error = with_variable(name, "127.0.0.1:1").unwrap_err();
        assert!(error.starts_with(&format!("{name}: key `")), "{error}");
    }
    for name in ["TALKHUBLISTEN", "XTALKHUB_LISTEN", "talkhub_listen"] {
        let settings = with_variable(name, "127.0.0.1:1").expect("it is not meant for us");
        assert_eq!(settings.listen.port(), 8000);
    }
}

#[test]
fn the_environment_makes_the_tables_that_the_file_does_not_have() {
    let variables = [
        ("TALKHUB_CLUSTER__TLS__CERT", "/c.pem"),
        ("TALKHUB_CLUSTER__TLS__KEY", "/k.pem"),
        ("TALKHUB_CLUSTER__TLS__CA", "/ca.pem"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let all = Source::default().with_set("listen=127.0.0.1:1").unwrap();
    let source = all.clone().with_environment(variables.clone().into_iter());
    let settings = source.load::<Gateway>().unwrap().settings;
    let tls = settings.cluster.tls.expect("it was made");
    assert_eq!((tls.cert.to_str(), tls.ca.to_str()), (Some("/c.pem"), Some("/ca.pem")));

    let incomplete = all.with_environment(variables.into_iter().take(2));
    let error = incomplete.load::<Gateway>().unwrap_err().to_string();
    assert!(error.ends_with("key `cluster.tls.ca`: must be set"), "{error}");
}

#[test]
fn of_two_values_for_one_key_the_later_one_counts() {
    let place = Place::new();
    let source = place.source(&format!("{LISTEN}clients_max = 5\n"));
    let twice = source.with_set("clients_max=6").unwrap().with_set("clients_max = 7").unwrap();
    let settings = twice.load::<Gateway>().expect("blanks around the sign mean nothing").settings;
    assert_eq!(settings.clients_max, 7);
    for wrong in ["=7", " =7", "", "clients_max"] {
        let error = Source::default().with_set(wrong).unwrap_err().to_string();
        assert_eq!(error, "--set: must be TABLE.KEY=VALUE", "{wrong:?}");
    }
    let equals = Source::default().with_set("listen=127.0.0.1:1").unwrap();
    let equals = equals.with_set("password=a=b").unwrap().load::<Gateway>().unwrap();
    assert_eq!(equals.settings.password.expect("it is set").expose(), "a=b");
}

#[test]
fn the_limit_to_drain_is_a_second_to_an_hour() {
    let limit = |seconds| {
        let text = format!("{LISTEN}[process]\ndrain_limit_s = {seconds}\n");
        config::parse::<Gateway>(&text).map(|gateway| gateway.process.drain_limit().as_secs())
    };
    assert_eq!((limit(1), limit(3600)), (Ok(1), Ok(3600)));
    for seconds in [0, 3601] {
        let error = limit(seconds).unwrap_err().to_string();
        assert!(error.ends_with("key `process.drain_limit_s`: must be 1 to 3600"), "{error}");
    }
}

#[test]
fn metrics_are_for_this_machine_unless_that_was_said() {
    let addr = |addr: &str, more: &str| {
        let text = format!("{LISTEN}[process]\nmetrics_addr = '{addr}'\n{more}");
        config::parse::<Gateway>(&text)
    };
    for local in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        addr(local, "").unwrap_or_else(|error| panic!("{local}: {error}"));
    }
    for remote in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
        addr(remote, "").expect_err("it can be reached from other machines");
        addr(remote, "allow_remote_metrics = true\n").unwrap();
    }
}

#[test]
fn numbers_in_a_file_are_numbers_however_they_are_written() {
    let max = |number: &str| {
        let gateway = config::parse::<Gateway>(&format!("{LISTEN}clients_max = {number}\n"));
        gateway.map(|gateway| gateway.clients_max).map_err(|error| error.to_string())
    };
    assert_eq!((max("0x1F"), max("0b11"), max("1_000")), (Ok(31), Ok(3), Ok(1_000)));
    for number in ["1.0", "'7'", "true", "99999999999999999999", "2026-11-30"] {
        let error = max(number).unwrap_err();
        assert!(error.ends_with("must be a whole number from 0 to 65535"), "{number}: {error}");
    }
    let weight = |number: &str| {
        let text = format!("{LISTEN}[[shards]]\nweight = {number}\n");
        let gateway = config::parse::<Gateway>(&text).map_err(|error| error.to_string())?;
        Ok::<f64, String>(gateway.shards[0].weight)
    };
    assert_eq!((weight("2"), weight("0.5")), (Ok(2.0), Ok(0.5)));
    assert!(weight("'0.5'").unwrap_err().ends_with("key `shards.0.weight`: must be a number"));
}

#[test]
fn a_name_that_is_not_set_is_the_hosts() {
    let key = "key = '0123456789abcdef'\n";
    let text = format!("{LISTEN}[cluster]\n{key}");
    let gateway: Gateway = config::parse(&text).unwrap();
    let identity = gateway.cluster.link_identity(Role::MsgServer, 1).unwrap();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(identity.name, host.trim());

    let tls = "[cluster.tls]\ncert = '/nowhere/c.pem'\nkey = '/k.pem'\nca = '/ca.pem'\n";
    let gateway: Gateway = config::parse(&format!("{text}{tls}")).unwrap();
    let error = gateway.cluster.link_identity(Role::MsgServer, 1).unwrap_err().to_string();
    assert!(error.contains("/ca.pem") || error.contains("/nowhere/c.pem"), "{error}");
}
