//! What `talkhub up` says when everything is ready: a line for programs, or a table for people.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::plan::{DaemonPlan, Plan};

/// A daemon and the process that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLine {
    /// The name of the program.
    pub role: String,
    /// The name of this one.
    pub name: String,
    /// Its process; the same for all if they share one.
    pub pid: u32,
}

impl ProcessLine {
    /// `daemon` runs in the process `pid`.
    pub fn new(daemon: &DaemonPlan, pid: u32) -> Self {
        Self { role: daemon.kind.name().to_owned(), name: daemon.name.clone(), pid }
    }
}

/// Where everything is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The login endpoint.
    pub login: String,
    /// The gateways, as `host:port`.
    pub gateways: Vec<String>,
    /// The HTTP API.
    #[serde(default)]
    pub api: String,
    /// The metrics pages, one for each daemon.
    pub metrics: Vec<String>,
    /// The daemons.
    pub processes: Vec<ProcessLine>,
    /// The login endpoint over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_tls: Option<String>,
    /// The gateways over TLS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways_tls: Vec<String>,
    /// The HTTP API over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_tls: Option<String>,
    /// Where `talkhub admin` connects: the db_proxies; not for standard output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub db: Vec<SocketAddr>,
}

impl Status {
    /// The cluster of `plan`, which runs as `processes`.
    pub fn new(plan: &Plan, mut processes: Vec<ProcessLine>) -> Self {
        // They are listed in the order of the plan, not in the one in which they were started.
        processes.sort_by_key(|process| {
            plan.daemons.iter().position(|daemon| daemon.name == process.name)
        });
        Self {
            login: plan.login.clone(),
            gateways: plan.gateways.clone(),
            api: plan.api.clone(),
            metrics: plan
                .daemons
                .iter()
                .map(|daemon| format!("http://{}/metrics", daemon.metrics))
                .collect(),
            processes,
            login_tls: plan.login_tls.clone(),
            gateways_tls: plan.gateways_tls.clone(),
            api_tls: plan.api_tls.clone(),
            db: Vec::new(),
        }
    }

    /// One line of JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are always JSON")
    }

    /// A table, and what to try next.
    pub fn table(&self, data: &Path, demo_users: bool) -> String {
        let mut text = String::from("\nTalkHub is running; Ctrl-C stops it.\n\n");
        let line = |text: &mut String, name: &str, value: &str| {
            writeln!(text, "  {name:<16}{value}").expect("a string takes everything");
        };
        line(&mut text, "login", &self.login);
        line(&mut text, "gateways", &self.gateways.join("  "));
        if let Some(login) = &self.login_tls {
            line(&mut text, "login, TLS", login);
            line(&mut text, "gateways, TLS", &self.gateways_tls.join("  "));
        }
        line(&mut text, "API", &self.api);
        if let Some(api) = &self.api_tls {
            line(&mut text, "API, TLS", api);
        }
        line(&mut text, "data", &data.display().to_string());
        text.push('\n');
        line(&mut text, "daemon", &format!("{:<10}metrics", "process"));
        for (process, metrics) in self.processes.iter().zip(&self.metrics) {
            line(&mut text, &process.name, &format!("{:<10}{metrics}", process.pid));
        }
        text.push_str(&self.next_steps(data, demo_users));
        text
    }

    fn next_steps(&self, data: &Path, demo_users: bool) -> String {
        let login = &self.login;
        let steps = if demo_users {
            vec![
                format!("talkhub chat --login {login} --user u1 --to u2"),
                format!("talkhub chat --login {login} --user u2 --to u1"),
            ]
        } else {
            let data = data.display();
            vec![
                format!("talkhub admin --data {data} user add anna"),
                format!("talkhub admin --data {data} user add ben"),
                format!("talkhub chat --login {login} --user anna --to ben"),
            ]
        };
        format!("\nTry next, each in a terminal of its own:\n\n  {}\n", steps.join("\n  "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::DaemonKind;
    use super::*;

    fn status() -> Status {
        Status {
            login: "http://127.0.0.1:8080".to_owned(),
            gateways: vec!["127.0.0.1:8000".to_owned()],
            api: "http://127.0.0.1:8082".to_owned(),
            metrics: vec!["http://127.0.0.1:8172/metrics".to_owned()],
            processes: vec![ProcessLine {
                role: "msg_server".to_owned(),
                name: "msg_server-1".to_owned(),
                pid: 7,
            }],
            login_tls: None,
            gateways_tls: Vec::new(),
            api_tls: None,
            db: Vec::new(),
        }
    }

    #[test]
    fn the_line_for_programs_has_the_promised_shape() {
        assert_eq!(
            status().json(),
            r#"{"login":"http://127.0.0.1:8080","gateways":["127.0.0.1:8000"],"api":"http://127.0.0.1:8082","metrics":["http://127.0.0.1:8172/metrics"],"processes":[{"role":"msg_server","name":"msg_server-1","pid":7}]}"#
        );
    }

    #[test]
    fn tls_addresses_are_named_only_where_there_are_some() {
        let mut status = status();
        status.login_tls = Some("https://chat.example:8081".to_owned());
        status.gateways_tls = vec!["chat.example:8030".to_owned()];
        let json: serde_json::Value = serde_json::from_str(&status.json()).unwrap();
        assert_eq!(json["login_tls"], "https://chat.example:8081");
        assert_eq!(json["gateways_tls"][0], "chat.example:8030");
    }

    #[test]
    fn the_table_says_where_everything_is_and_what_to_try() {
        let table = status().table(Path::new("data"), true);
        for part in ["http://127.0.0.1:8080", "msg_server-1", "--user u1 --to u2"] {
            assert!(table.contains(part), "{part} is missing in:\n{table}");
        }
        assert!(status().table(Path::new("data"), false).contains("admin --data data user add"));
    }

    #[test]
    fn processes_are_listed_as_planned_whatever_order_they_were_started_in() {
        let daemon = |kind: DaemonKind, name: &str, port: u16| DaemonPlan {
            kind,
            name: name.to_owned(),
            conf: String::new(),
            metrics: SocketAddr::from(([127, 0, 0, 1], port)),
            listens: Vec::new(),
        };
        let daemons = vec![
            daemon(DaemonKind::LoginServer, "login_server", 1),
            daemon(DaemonKind::DbProxy, "db_proxy", 2),
            daemon(DaemonKind::Gateway, "msg_server-1", 3),
        ];
        let processes = [2, 0, 1].map(|at| ProcessLine::new(&daemons[at], 70)).to_vec();
        let plan = Plan {
            daemons,
            login: "http://h:1".to_owned(),
            login_tls: Some("https://h:2".to_owned()),
            gateways: vec!["h:3".to_owned(), "h:4".to_owned()],
            gateways_tls: vec!["h:5".to_owned()],
            api: "http://h:6".to_owned(),
            api_tls: Some("https://h:7".to_owned()),
            db: vec![SocketAddr::from(([127, 0, 0, 1], 9))],
        };
        let status = Status::new(&plan, processes);
        let listed: Vec<_> = status.processes.iter().map(|process| process.name.as_str()).collect();
        assert_eq!(listed, ["login_server", "db_proxy", "msg_server-1"]);
        assert_eq!(status.processes[2].role, "msg_server");
        assert!(status.db.is_empty(), "it is not for standard output");
        let table = status.table(Path::new("/d"), false);
        for line in [
            "  login           http://h:1",
            "  gateways        h:3  h:4",
            "  login, TLS      https://h:2",
            "  gateways, TLS   h:5",
            "  API             http://h:6",
            "  API, TLS        https://h:7",
            "  data            /d",
            "  daemon          process   metrics",
            "  db_proxy        70        http://127.0.0.1:2/metrics",
            "  talkhub chat --login http://h:1 --user anna --to ben",
        ] {
            assert!(table.lines().any(|shown| shown == line), "{line:?} in\n{table}");
        }
        let back: Status = serde_json::from_str(&status.json()).unwrap();
        assert_eq!(back, status);
    }
}
