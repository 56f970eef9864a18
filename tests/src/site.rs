//! A cluster whose daemons the test starts itself, one by one, as an operator with systemd would:
//! each may be killed, stopped, paused, kept away for a while, and started again, with its links
//! through [`Wires`] that can be cut.
//!
//! The settings and the demo users come from [`Cluster`]: `talkhub up` is run once, stopped, and the
//! files that it wrote are taken over.
//!
//! # Invariants
//!
//! - A daemon has at most one process, whose end is collected before another is started. No process
//!   outlives the site: the kernel ends the daemons if the test is killed. For that they must all be
//!   started from one thread that lives as long as the site.
//! - Everything blocks the calling thread.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, Ended, Options, administer, command, get, pause, pid_of};
use crate::wire::{Ends, Wires};
use crate::{PATIENCE, Programs};

/// How long a daemon may take to stop by itself.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Those first that the others dial.
const START_ORDER: [&str; 5] =
    ["route_server", "login_server", "db_proxy", "msg_server", "api_server"];

/// A setting to change: daemon (the beginning of its name), table, key, and value as in TOML. An empty
/// table is the top of the file.
pub(crate) type Setting = (&'static str, &'static str, &'static str, String);

/// What a site is made of.
#[derive(Debug, Clone, Default)]
pub struct SiteOptions {
    /// The cluster.
    pub cluster: Options,
    /// Lays every link between daemons, and the clients' way to each gateway, through wires.
    pub wires: bool,
    /// Settings to change.
    pub settings: Vec<Setting>,
    /// Variables of every daemon's environment.
    pub env: Vec<(&'static str, String)>,
    /// Where db_proxy keeps its data, if not in the site's own folder: on a volume of its own. Only
    /// where there is one db_proxy.
    pub db_folder: Option<PathBuf>,
}

/// A cluster of daemons that the test starts and stops.
#[derive(Debug)]
pub struct Site {
    /// The login endpoint.
    pub login: String,
    /// The gateways as clients reach them, through wires if there are any.
    pub gateways: Vec<String>,
    /// The HTTP API.
    pub api: String,
    daemons: Vec<Daemon>,
    wires: Option<Wires>,
    env: Vec<(&'static str, String)>,
    data: PathBuf,
    db_folder: PathBuf,
    /// The first start, whose folder this is.
    first: Ended,
}

#[derive(Debug)]
struct Daemon {
    name: String,
    program: PathBuf,
    conf: PathBuf,
    admin: std::net::SocketAddr,
    child: Option<Child>,
}

impl Site {
    /// Starts a site. Blocks until it is ready.
    pub fn start(options: &SiteOptions) -> Self {
        let mut site = Self::prepare(options);
        for name in site.names() {
            site.launch(&name);
        }
        for name in site.names() {
            site.wait_ready(&name);
        }
        site
    }

    /// Makes everything ready for a start: the demo users are there, no daemon runs.
    pub fn prepare(options: &SiteOptions) -> Self {
        let cluster = Cluster::start_with(&options.cluster);
        let (login, gateways) = (cluster.login.clone(), cluster.gateways.clone());
        let api = cluster.api.clone();
        let pages = cluster.pages();
        let ended = cluster.stop();
        assert!(ended.status.success(), "the first start ends well:\n{}", ended.log);
        let data = ended.data();
        let db_folder = match &options.db_folder {
            None => data.join("db"),
            Some(folder) => {
                move_folder(&data.join("db"), folder);
                folder.clone()
            }
        };
        let daemons = daemons_in_order(&pages, &data, ended.programs());
        let mut site = Self {
            login,
            gateways,
            api,
            daemons,
            wires: None,
            env: options.env.clone(),
            data,
            db_folder,
            first: ended,
        };
        if options.db_folder.is_some() {
            let folder = site.db_folder.display().to_string();
            site.set("db_proxy", "", "data_dir", &toml_text(&folder));
        }
        // People of tests make groups and add members faster than a person may.
        site.set("msg_server", "limits", "group_changes_per_minute", "1000000");
        for (daemon, table, key, value) in &options.settings {
            site.set(daemon, table, key, value);
        }
        if options.wires {
            site.lay_wires();
        }
        site
    }

    /// The names of the daemons, those first that the others dial.
    pub fn names(&self) -> Vec<String> {
        self.daemons.iter().map(|daemon| daemon.name.clone()).collect()
    }

    /// The wires; there must be some.
    pub fn wires(&self) -> &Wires {
        self.wires.as_ref().expect("the site was asked for with wires")
    }

    /// What an administrator reads, who succeeds. Blocks.
    pub fn admin(&self, args: &[&str]) -> String {
        let db_proxy = self.daemons.iter().find(|daemon| daemon.name.starts_with("db_proxy"));
        let conf = &db_proxy.expect("there is a db_proxy").conf;
        let text = fs::read_to_string(conf).expect("the settings are there");
        let settings: toml::Table = text.parse().expect("the settings are TOML");
        let db = settings.get("link_addr").and_then(toml::Value::as_str).expect("it listens");
        let key = self.data.join("cluster.key").display().to_string();
        let place = ["--db", db, "--cluster-key-file", &key];
        let said = administer(self.programs(), &place, args);
        said.unwrap_or_else(|why| panic!("talkhub admin {}: {why}", args.join(" ")))
    }

    /// Where db_proxy keeps its data.
    pub fn db_folder(&self) -> &Path {
        &self.db_folder
    }

    /// Sets a variable of the environment of the daemons that are started from now on.
    pub fn set_env(&mut self, name: &'static str, value: String) {
        self.env.retain(|(other, _value)| *other != name);
        self.env.push((name, value));
    }

    /// Changes one setting of the daemons whose names begin like this; they take it up with their
    /// next start.
    pub fn set(&self, daemon: &str, table: &str, key: &str, value: &str) {
        for daemon in self.daemons.iter().filter(|other| other.name.starts_with(daemon)) {
            let text = fs::read_to_string(&daemon.conf).expect("the settings are there");
            fs::write(&daemon.conf, with_setting(&text, table, key, value)).expect("change them");
        }
    }

    /// Starts a daemon, and returns when it says that it is ready.
    pub fn start_daemon(&mut self, name: &str) {
        self.launch(name);
        self.wait_ready(name);
    }

    /// Starts a daemon, and returns at once.
    pub fn launch(&mut self, name: &str) {
        let programs = self.programs().clone();
        let env = self.env.clone();
        let log = File::options().create(true).append(true).open(self.log_file());
        let log = log.expect("open the log");
        let daemon = self.daemon_mut(name);
        assert!(daemon.child.is_none(), "{name} does not run yet");
        let child = command(&programs, "talkhub")
            .args(["run-child", &std::process::id().to_string()])
            .arg(&daemon.program)
            .arg("--config")
            .arg(&daemon.conf)
            .envs(env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        daemon.child = Some(child.expect("a daemon can be started"));
    }

    /// Returns when the daemon says that it is ready.
    pub fn wait_ready(&mut self, name: &str) {
        let daemon = self.daemon_mut(name);
        let admin = daemon.admin;
        let began = Instant::now();
        loop {
            if get(admin, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return;
            }
            let ended = daemon.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(
                ended.is_none(),
                "{name} becomes ready, not: {ended:?} {}",
                self.last_words(name)
            );
            assert!(began.elapsed() < PATIENCE, "{name} is ready within {PATIENCE:?}");
            pause();
        }
    }

    /// Kills a daemon as `kill -9` does, and collects it.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.take_child(name);
        child.kill().expect("it is ours");
        child.wait().expect("it was started");
    }

    /// Kills it, starts it again, and returns when it is ready.
    pub fn kill_and_restart(&mut self, name: &str) {
        self.kill(name);
        self.start_daemon(name);
    }

    /// Stops a daemon as systemd does: SIGTERM, and then it is waited for.
    pub fn stop(&mut self, name: &str) -> (ExitStatus, Duration) {
        let began = Instant::now();
        self.signal(name, Signal::TERM);
        let status = self.wait_end(name, STOP_LIMIT);
        (status, began.elapsed())
    }

    /// Waits for the end of a daemon that has been told to end, or was hurt.
    pub fn wait_end(&mut self, name: &str, limit: Duration) -> ExitStatus {
        let mut child = self.take_child(name);
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("it was started") {
                return status;
            }
            if began.elapsed() > limit {
                child.kill().ok();
                child.wait().ok();
                panic!("{name} ends within {limit:?}");
            }
            pause();
        }
    }

    /// Whether the process of a daemon lives.
    pub fn lives(&mut self, name: &str) -> bool {
        let child = self.daemon_mut(name).child.as_mut();
        child.is_some_and(|child| child.try_wait().expect("it was started").is_none())
    }

    /// Lets a daemon stand still, or go on: SIGSTOP, SIGCONT.
    pub fn signal(&self, name: &str, signal: Signal) {
        kill_process(self.pid(name), signal).expect("it is ours");
    }

    /// The process of a daemon, which must run.
    pub fn pid(&self, name: &str) -> Pid {
        let child = self.daemon(name).child.as_ref();
        pid_of(child.unwrap_or_else(|| panic!("{name} runs")))
    }

    /// The metrics page of a daemon; `None` if there is no answer.
    pub fn metrics(&self, name: &str) -> Option<String> {
        get(self.daemon(name).admin, "/metrics")
    }

    /// What a daemon's admin page answers to this path, with the head; `None` if there is no answer.
    pub fn page(&self, name: &str, path: &str) -> Option<String> {
        get(self.daemon(name).admin, path)
    }

    /// What the login endpoint answers to a client: the port that it is sent to, or the code of the
    /// refusal.
    pub fn ask_login(&self) -> Result<u16, u64> {
        let addr = self.login.trim_start_matches("http://").parse().expect("it is at an address");
        let answer = get(addr, "/msg_server").expect("the login endpoint answers");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_head, body)| body);
        let json: serde_json::Value = serde_json::from_str(body).expect("the answer is JSON");
        match json["port"].as_str().and_then(|port| port.parse().ok()) {
            Some(port) => Ok(port),
            None => Err(json["code"].as_u64().expect("the answer has a code")),
        }
    }

    /// One number of that page, or their sum where it has labels; 0 if there is no answer, or
    /// nothing was counted. A daemon that has just started has not all of its metrics yet: they are
    /// waited for.
    pub fn metric(&self, name: &str, metric: &str) -> u64 {
        let began = Instant::now();
        loop {
            let page = self.metrics(name).unwrap_or_default();
            if has_metric(&page, metric) || began.elapsed() > PATIENCE {
                return sum_of(&page, metric);
            }
            pause();
        }
    }

    /// The sum of a metric over its labels, of all daemons whose names begin like this.
    pub fn metric_sum(&self, daemons: &str, metric: &str) -> u64 {
        let named = self.daemons.iter().filter(|daemon| daemon.name.starts_with(daemons));
        named.map(|daemon| self.metric(&daemon.name, metric)).sum()
    }

    /// What a daemon has in memory, in bytes.
    pub fn resident_bytes(&self, name: &str) -> u64 {
        let pid = self.pid(name).as_raw_nonzero();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }

    /// Everything that the daemons have logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// What a daemon that would not start has said: the one line that is no line of its log.
    fn last_words(&self, name: &str) -> String {
        let log = self.log();
        let said = log.lines().rfind(|line| line.starts_with(&format!("{name}: ")));
        said.unwrap_or_default().to_owned()
    }

    /// The programs that this site runs.
    pub fn programs(&self) -> &Programs {
        self.first.programs()
    }

    fn log_file(&self) -> PathBuf {
        self.data.join("site.log")
    }

    fn daemon(&self, name: &str) -> &Daemon {
        let daemon = self.daemons.iter().find(|daemon| daemon.name == name);
        daemon.unwrap_or_else(|| panic!("there is a daemon {name}"))
    }

    fn daemon_mut(&mut self, name: &str) -> &mut Daemon {
        let daemon = self.daemons.iter_mut().find(|daemon| daemon.name == name);
        daemon.unwrap_or_else(|| panic!("there is a daemon {name}"))
    }

    fn take_child(&mut self, name: &str) -> Child {
        let child = self.daemon_mut(name).child.take();
        child.unwrap_or_else(|| panic!("{name} runs"))
    }

    /// Puts a wire between each two daemons that talk, and between the clients and each gateway.
    fn lay_wires(&mut self) {
        let mut wires = Wires::default();
        for index in 0..self.daemons.len() {
            let Some(daemon) = self.daemons.get(index) else { continue };
            let mut text = fs::read_to_string(&daemon.conf).expect("the settings are there");
            for (key, kind) in [
                ("route_servers", "route_server"),
                ("db_proxies", "db_proxy"),
                ("login_servers", "login_server"),
            ] {
                let targets = targets_of(&text, key);
                // Settings list daemons of a kind in the order of their names.
                let names = self.daemons.iter().filter(|other| other.name.starts_with(kind));
                let laid: Vec<String> = (names.zip(&targets))
                    .map(|(to, target)| wires.lay(Ends::new(&daemon.name, &to.name), target))
                    .map(|address| toml_text(&address))
                    .collect();
                if !laid.is_empty() {
                    text = with_setting(&text, "", key, &format!("[{}]", laid.join(", ")));
                }
            }
            fs::write(&daemon.conf, text).expect("change the settings");
        }
        let names: Vec<String> =
            self.names().into_iter().filter(|name| name.starts_with("msg_server")).collect();
        for (gateway, name) in self.gateways.iter_mut().zip(names) {
            *gateway = wires.lay(Ends::new("clients", &name), gateway);
        }
        self.wires = Some(wires);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            if let Some(mut child) = daemon.child.take() {
                child.kill().ok();
                child.wait().ok();
            }
        }
        if std::thread::panicking() {
            crate::cluster::show_log_tail(&self.log());
        }
    }
}

fn daemons_in_order(
    pages: &[(String, std::net::SocketAddr)],
    data: &Path,
    programs: &Programs,
) -> Vec<Daemon> {
    let mut daemons: Vec<Daemon> = pages
        .iter()
        .map(|(name, admin)| {
            let program = START_ORDER.iter().find(|program| name.starts_with(**program));
            Daemon {
                name: name.clone(),
                program: programs.path(program.expect("a daemon is named after its program")),
                conf: data.join("conf").join(format!("{name}.toml")),
                admin: *admin,
                child: None,
            }
        })
        .collect();
    let rank = |daemon: &Daemon| START_ORDER.iter().position(|kind| daemon.name.starts_with(kind));
    daemons.sort_by_key(|daemon| (rank(daemon), daemon.name.clone()));
    daemons
}

/// The addresses that a list of the settings names.
fn targets_of(text: &str, key: &str) -> Vec<String> {
    let table: toml::Table = text.parse().expect("the settings are TOML");
    let list = table.get(key).and_then(toml::Value::as_array);
    let texts = list.into_iter().flatten().filter_map(toml::Value::as_str);
    texts.map(str::to_owned).collect()
}

fn with_setting(text: &str, table: &str, key: &str, value: &str) -> String {
    let mut settings: toml::Table = text.parse().expect("the settings are TOML");
    let value: toml::Table = format!("{key} = {value}").parse().expect("the value is TOML");
    if table.is_empty() {
        settings.extend(value);
    } else {
        let empty = || toml::Value::Table(toml::Table::new());
        let inner = settings.entry(table).or_insert_with(empty);
        inner.as_table_mut().expect("it is a table").extend(value);
    }
    settings.to_string()
}

fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Moves a folder to another file system, if need be.
fn move_folder(from: &Path, to: &Path) {
    let copy = || -> io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                move_folder(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), &target)?;
            }
        }
        fs::remove_dir_all(from)
    };
    copy().unwrap_or_else(|error| panic!("move {} to {}: {error}", from.display(), to.display()));
}

/// Whether a page has a metric, counted or not. The empty page, when there was no answer, has all.
fn has_metric(page: &str, metric: &str) -> bool {
    let name = metric.split_once('{').map_or(metric, |(name, _labels)| name);
    let parts = ["_total", "_count", "_sum", "_bucket"];
    let family = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
    page.is_empty() || page.contains(&format!("# TYPE {family} "))
}

/// The sum of a metric over its labels on one page. Panics if the page does not have it.
pub fn sum_of(page: &str, metric: &str) -> u64 {
    let is_known = has_metric(page, metric);
    assert!(is_known, "there is no metric {metric}: a misspelled name would count nothing");
    let lines = page.lines().filter_map(|line| line.strip_prefix(metric));
    let numbers = lines.filter_map(|rest| match rest.split_once(' ') {
        Some((labels, number)) if labels.is_empty() || labels.starts_with('{') => {
            number.parse::<f64>().ok()
        }
        _ => None,
    });
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "they count things"
    )]
    let sum = numbers.sum::<f64>() as u64;
    sum
}

/// Waits for something of a site that has no event, for at most `limit`. Returns how long it took.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < limit, "{what} within {limit:?}");
        pause();
    }
    began.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_changed_and_the_others_stay() {
        let text = "a = 1\n[log]\nb = 2\n";
        let changed = with_setting(&with_setting(text, "log", "b", "3"), "", "c", "[\"x\"]");
        let table: toml::Table = changed.parse().unwrap();
        assert_eq!(table["a"].as_integer(), Some(1));
        assert_eq!(table["log"]["b"].as_integer(), Some(3));
        assert_eq!(targets_of(&changed, "c"), ["x"]);
    }

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let page = "# TYPE x counter\nx_total 1\nx_total{a=\"b\"} 2\nx_other 7\n";
        assert_eq!(sum_of(page, "x_total"), 3);
        assert_eq!(sum_of(page, "x_total{a=\"b\"}"), 2);
        assert_eq!(sum_of("", "x_total"), 0, "of a daemon that says nothing");
    }

    #[test]
    #[should_panic(expected = "there is no metric y_total")]
    fn a_metric_that_is_misspelled_is_an_error() {
        sum_of("# TYPE x counter\nx_total 1\n# TYPE y_totals counter\n", "y_total");
    }
}
