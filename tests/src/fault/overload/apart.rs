//! A site whose db_proxies have one role each: one owns the conversations, with the log in its folder,
//! the other checks logins.
//!
//! # Invariants
//!
//! - The second db_proxy ends with its value; the kernel ends it if the test is killed.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use toml::{Table, Value};

use crate::cluster::{command, get, pid_of};
use crate::fault::Run;
use crate::{PATIENCE, Site, SiteOptions, sum_of, wait_until};

/// How long it may take to stop by itself.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// From the port of a cluster's first db_proxy to that of its second one, and from there to its page.
const NEXT_LINKS: u16 = 1;
const NEXT_PAGE: u16 = 20;

/// The site. Its own db_proxy has the role `message`.
pub(super) struct Apart {
    pub(super) site: Site,
    logins: LoginSide,
}

/// The db_proxy with the role `login`.
struct LoginSide {
    child: Child,
    page: SocketAddr,
}

impl Apart {
    /// Starts a site, which must store in a database.
    pub(super) fn start(run: &Run, options: &SiteOptions) -> Self {
        let mut options = options.clone();
        options.settings.push(("db_proxy", "", "roles", "[\"message\"]".to_owned()));
        let mut site = run.prepare(&options);
        let data = site.db_folder().parent().expect("it is in the site's folder").to_owned();
        let (links, conf) = second_of(&data);
        let addresses = links.map(|link| format!("\"{link}\"")).join(", ");
        site.set("msg_server", "", "db_proxies", &format!("[{addresses}]"));

        let names = site.names();
        let logins = LoginSide::launch(&site, &data, &conf);
        for name in &names {
            site.launch(name);
        }
        for name in &names {
            site.wait_ready(name);
        }
        wait_until("the db_proxy for logins is ready", PATIENCE, || {
            get(logins.page, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        Self { site, logins }
    }

    /// One number of the page of the db_proxy for logins.
    pub(super) fn of_logins(&self, metric: &str) -> u64 {
        sum_of(&get(self.logins.page, "/metrics").unwrap_or_default(), metric)
    }

    /// What each daemon has in memory, in bytes.
    pub(super) fn resident(&self) -> Vec<(String, u64)> {
        let of_site = self.site.names().into_iter().map(|name| {
            let bytes = self.site.resident_bytes(&name);
            (name, bytes)
        });
        let status = format!("/proc/{}/status", self.logins.child.id());
        let status = fs::read_to_string(status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        let own = ("db_proxy-login".to_owned(), kib.unwrap_or(0) * 1024);
        of_site.chain([own]).collect()
    }

    /// Whether all daemons live.
    pub(super) fn lives(&mut self) -> bool {
        let names = self.site.names();
        let of_site = names.iter().all(|name| self.site.lives(name));
        of_site && self.logins.child.try_wait().expect("it was started").is_none()
    }

    /// Stops the db_proxy for logins in order, and lets the rest go.
    pub(super) fn stop(mut self) {
        kill_process(pid_of(&self.logins.child), Signal::TERM).expect("it is ours");
        let child = &mut self.logins.child;
        let mut status = None;
        wait_until("the db_proxy for logins ends", STOP_LIMIT, || {
            status = child.try_wait().expect("it was started");
            status.is_some()
        });
        let status = status.expect("it was waited for");
        assert!(status.success(), "the db_proxy for logins ends well, not {status}");
    }
}

impl LoginSide {
    fn launch(site: &Site, data: &Path, conf: &Path) -> Self {
        let log = File::options().create(true).append(true).open(data.join("site.log"));
        let child = command(site.programs(), "talkhub")
            .args(["run-child", &std::process::id().to_string()])
            .arg(site.programs().path("db_proxy"))
            .arg("--config")
            .arg(conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("open the log"))
            .spawn();
        let page = address(&read(conf), &["process", "metrics_addr"]);
        Self { child: child.expect("a daemon can be started"), page }
    }
}

impl Drop for LoginSide {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Writes the settings of the second db_proxy: those of the first, with addresses and a role of its
/// own. Returns where the links of both go, and the file.
fn second_of(data: &Path) -> ([SocketAddr; 2], std::path::PathBuf) {
    let mut conf = read(&data.join("conf").join("db_proxy.toml"));
    let first = address(&conf, &["link_addr"]);
    let mut second = first;
    second.set_port(first.port() + NEXT_LINKS);
    let mut page = second;
    page.set_port(second.port() + NEXT_PAGE);
    let folder = data.join("db-login").display().to_string();
    let new: [(&[&str], Value); 5] = [
        (&["link_addr"], second.to_string().into()),
        (&["process", "metrics_addr"], page.to_string().into()),
        (&["cluster", "name"], "db_proxy-login".into()),
        (&["data_dir"], folder.into()),
        (&["roles"], vec!["login"].into()),
    ];
    for (place, value) in new {
        put(&mut conf, place, value);
    }
    let file = data.join("conf").join("db_proxy-login.toml");
    fs::write(&file, conf.to_string()).expect("write the settings");
    ([first, second], file)
}

fn read(conf: &Path) -> Table {
    let text = fs::read_to_string(conf).expect("the settings are there");
    text.parse().expect("the settings are TOML")
}

fn put(table: &mut Table, place: &[&str], value: Value) {
    match place {
        [key] => drop(table.insert((*key).to_owned(), value)),
        [key, rest @ ..] => {
            let empty = || Value::Table(Table::new());
            let inner = table.entry((*key).to_owned()).or_insert_with(empty);
            put(inner.as_table_mut().expect("it is a table"), rest, value);
        }
        [] => {}
    }
}

fn address(table: &Table, place: &[&str]) -> SocketAddr {
    let value = match place {
        [outer, key] => table.get(*outer).and_then(|inner| inner.get(*key)),
        _ => place.first().and_then(|key| table.get(*key)),
    };
    let text = value.and_then(Value::as_str).expect("the settings name it");
    text.parse().expect("it is an address")
}
