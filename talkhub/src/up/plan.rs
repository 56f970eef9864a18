//! What `talkhub up` starts: each daemon with its settings, as the text of its file.
//!
//! Pure: from what was asked for to texts and addresses. Both ways of running use the same texts, so
//! that a cluster in one process and one of many differ in nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use toml::{Table, Value};

use super::ports::Ports;

/// How long a daemon may take to finish what it holds.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// The topic that the log is in, if it is on Kafka.
pub const TOPIC: &str = "talkhub";

/// What every file begins with.
const HEADER: &str = "# Written by `talkhub up` at every start: what is changed here is lost.\n\n";

/// The kinds of daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DaemonKind {
    /// db_proxy.
    DbProxy,
    /// route_server.
    RouteServer,
    /// login_server.
    LoginServer,
    /// msg_server.
    Gateway,
    /// api_server.
    ApiServer,
}

impl DaemonKind {
    /// Those first that the others dial; what stands together starts together.
    pub const START_ORDER: [&'static [Self]; 3] = [
        &[Self::RouteServer, Self::LoginServer],
        &[Self::DbProxy],
        &[Self::Gateway, Self::ApiServer],
    ];

    /// The same the other way round: those first that no others depend on.
    pub const STOP_ORDER: [&'static [Self]; 3] = [
        &[Self::Gateway, Self::ApiServer],
        &[Self::DbProxy],
        &[Self::RouteServer, Self::LoginServer],
    ];

    /// The name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::DbProxy => "db_proxy",
            Self::RouteServer => "route_server",
            Self::LoginServer => "login_server",
            Self::Gateway => "msg_server",
            Self::ApiServer => "api_server",
        }
    }
}

/// A certificate for the ports that clients connect to.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate and its chain, in PEM.
    pub cert: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
}

/// A log on Kafka, shared by several db_proxies.
#[derive(Debug, Clone)]
pub struct KafkaLog {
    /// The brokers to begin with, as `host:port` with commas between.
    pub bootstrap: String,
    /// How many partitions the topic has.
    pub partitions: u32,
    /// Whether a topic is taken that cannot keep the promise.
    pub allow_unsafe: bool,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where everything listens.
    pub ports: Ports,
    /// How many gateways.
    pub gateways: u16,
    /// How many route_servers.
    pub routes: u16,
    /// What clients are told to connect to, if they are not on this machine.
    pub advertise: Option<String>,
    /// Whether clients on other machines may connect without TLS.
    pub allow_plain: bool,
    /// Whether webhooks may be sent to private addresses.
    pub allow_private_webhooks: bool,
    /// The tables of hooks.
    pub hooks: Vec<Value>,
    /// Adds TLS listeners.
    pub tls: Option<TlsFiles>,
    /// The key that the daemons share.
    pub key_file: PathBuf,
    /// The key with which clients encrypt texts, if it is not that of the original ones.
    pub text_key_file: Option<PathBuf>,
    /// How many db_proxies.
    pub db_proxies: u16,
    /// Where the first db_proxy stores; the others beside it, in folders of the same name with a
    /// number at the end.
    pub db_folder: PathBuf,
    /// Databases that it stores in, instead of in its folder.
    pub mysql: Vec<String>,
    /// A Redis for its cache, instead of its own memory.
    pub redis: Option<String>,
    /// A log on Kafka, instead of the one in its folder.
    pub kafka: Option<KafkaLog>,
    /// The level of every daemon's log.
    pub log_level: String,
    /// `text` or `json`.
    pub log_format: String,
}

/// One daemon to start.
#[derive(Debug, Clone)]
pub struct DaemonPlan {
    /// What it is.
    pub kind: DaemonKind,
    /// Its name among all daemons here.
    pub name: String,
    /// The text of its settings.
    pub conf: String,
    /// Its admin page.
    pub metrics: SocketAddr,
    /// What else it listens on, and what connects there.
    pub listens: Vec<(&'static str, SocketAddr)>,
}

/// A cluster to start.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The daemons, as they are listed.
    pub daemons: Vec<DaemonPlan>,
    /// The login endpoint, as clients see it.
    pub login: String,
    /// The same over TLS.
    pub login_tls: Option<String>,
    /// The gateways, as clients see them.
    pub gateways: Vec<String>,
    /// The same over TLS.
    pub gateways_tls: Vec<String>,
    /// The HTTP API, on this machine.
    pub api: String,
    /// The same over TLS, as other programs see it.
    pub api_tls: Option<String>,
    /// Where administrators' links go: the db_proxies.
    pub db: Vec<SocketAddr>,
}

impl Plan {
    /// The daemons of some kinds.
    pub fn of_kinds(&self, kinds: &[DaemonKind]) -> impl Iterator<Item = &DaemonPlan> {
        self.daemons.iter().filter(move |daemon| kinds.contains(&daemon.kind))
    }

    /// Every port that must be free, and what for.
    pub fn listens(&self) -> impl Iterator<Item = (SocketAddr, String)> + '_ {
        self.daemons.iter().flat_map(|daemon| {
            let own = daemon.listens.iter().map(move |(whom, addr)| (*addr, *whom));
            own.chain([(daemon.metrics, "metrics")])
                .map(|(addr, whom)| (addr, format!("{} of {}", whom, daemon.name)))
        })
    }
}

impl Wanted {
    /// Derives everything.
    pub fn plan(&self) -> Plan {
        let mut daemons = vec![self.login_server()];
        daemons.extend((0..self.routes).map(|index| self.route_server(index)));
        daemons.extend((0..self.db_proxies).map(|index| self.db_proxy(index)));
        daemons.extend((0..self.gateways).map(|index| self.gateway(index)));
        daemons.push(self.api_server());

        let host = self.host_in_url();
        let tls = self.tls.is_some();
        let gateways = 0..self.gateways;
        Plan {
            daemons,
            login: format!("http://{host}:{}", self.ports.http()),
            login_tls: tls.then(|| format!("https://{host}:{}", self.ports.https())),
            gateways: gateways
                .clone()
                .map(|index| format!("{host}:{}", self.ports.gateway(index)))
                .collect(),
            gateways_tls: gateways
                .filter(|_index| tls)
                .map(|index| format!("{host}:{}", self.ports.gateway_tls(index)))
                .collect(),
            api: format!("http://{}", self.api_addr()),
            api_tls: tls.then(|| format!("https://{host}:{}", self.ports.api_tls())),
            db: self.db_links().collect(),
        }
    }

    fn db_proxy(&self, index: u16) -> DaemonPlan {
        let number = if index == 0 { String::new() } else { format!("-{}", index + 1) };
        let name = format!("db_proxy{number}");
        let links = loopback(self.ports.db_links(index));
        let metrics = loopback(self.ports.db_metrics(index));
        let mut conf = self.common(&name, metrics);
        put(&mut conf, "link_addr", links.to_string());
        put(&mut conf, "data_dir", format!("{}{number}", self.db_folder.display()));
        put(&mut conf, "route_servers", self.route_servers());
        if !self.mysql.is_empty() {
            let mut store = Table::new();
            put(&mut store, "mysql", self.mysql.clone());
            put(&mut conf, "store", store);
        }
        if let Some(redis) = &self.redis {
            let mut cache = Table::new();
            put(&mut cache, "redis", redis.clone());
            put(&mut conf, "cache", cache);
        }
        if let Some(log) = &self.kafka {
            let mut kafka = Table::new();
            put(&mut kafka, "bootstrap", log.bootstrap.clone());
            put(&mut kafka, "topic", TOPIC);
            put(&mut kafka, "partitions", i64::from(log.partitions));
            put(&mut kafka, "allow_unsafe_topic", log.allow_unsafe);
            put(&mut conf, "kafka", kafka);
        }
        plan(DaemonKind::DbProxy, name, &conf, metrics, vec![("links", links)])
    }

    fn db_links(&self) -> impl Iterator<Item = SocketAddr> {
        let ports = self.ports;
        (0..self.db_proxies).map(move |index| loopback(ports.db_links(index)))
    }

    fn route_server(&self, index: u16) -> DaemonPlan {
        let name = format!("route_server-{}", index + 1);
        let links = loopback(self.ports.route_links(index));
        let metrics = loopback(self.ports.route_metrics(index));
        let mut conf = self.common(&name, metrics);
        put(&mut conf, "link_addr", links.to_string());
        plan(DaemonKind::RouteServer, name, &conf, metrics, vec![("links", links)])
    }

    fn login_server(&self) -> DaemonPlan {
        let links = loopback(self.ports.login_links());
        let metrics = loopback(self.ports.login_metrics());
        let http = SocketAddr::new(self.plain_ip(), self.ports.http());
        let mut conf = self.common("login_server", metrics);
        put(&mut conf, "link_addr", links.to_string());
        let mut listens = vec![("links", links), ("clients", http)];
        put(&mut conf, "http_addr", http.to_string());
        self.put_access(&mut conf, &mut listens, self.ports.https());
        plan(DaemonKind::LoginServer, "login_server".to_owned(), &conf, metrics, listens)
    }

    fn gateway(&self, index: u16) -> DaemonPlan {
        let name = format!("msg_server-{}", index + 1);
        let metrics = loopback(self.ports.gateway_metrics(index));
        let plain = SocketAddr::new(self.plain_ip(), self.ports.gateway(index));
        let mut conf = self.common(&name, metrics);
        let mut listens = vec![("clients", plain)];
        put(&mut conf, "listen", plain.to_string());
        self.put_access(&mut conf, &mut listens, self.ports.gateway_tls(index));
        put(&mut conf, "advertise_host", self.host());
        put(&mut conf, "login_servers", vec![loopback(self.ports.login_links()).to_string()]);
        put(&mut conf, "route_servers", self.route_servers());
        put(&mut conf, "db_proxies", self.db_proxies());
        self.put_hooks(&mut conf);
        plan(DaemonKind::Gateway, name, &conf, metrics, listens)
    }

    /// Keys are never sent in plain to another machine: there is TLS for that.
    fn api_addr(&self) -> SocketAddr {
        SocketAddr::new(self.loopback_ip(), self.ports.api())
    }

    fn api_server(&self) -> DaemonPlan {
        let (http, metrics) = (self.api_addr(), loopback(self.ports.api_metrics()));
        let mut conf = self.common("api_server", metrics);
        let mut listens = vec![("programs", http)];
        put(&mut conf, "http_addr", http.to_string());
        self.put_tls(&mut conf, &mut listens, ("programs over TLS", self.ports.api_tls()));
        put(&mut conf, "db_proxies", self.db_proxies());
        if self.allow_private_webhooks {
            let mut webhooks = Table::new();
            put(&mut webhooks, "allow_private", true);
            put(&mut conf, "webhooks", webhooks);
        }
        self.put_hooks(&mut conf);
        plan(DaemonKind::ApiServer, "api_server".to_owned(), &conf, metrics, listens)
    }

    fn put_hooks(&self, conf: &mut Table) {
        if !self.hooks.is_empty() {
            put(conf, "hooks", self.hooks.clone());
        }
    }

    /// How clients may connect, beside the plain port.
    fn put_access(
        &self,
        conf: &mut Table,
        listens: &mut Vec<(&'static str, SocketAddr)>,
        tls_port: u16,
    ) {
        if self.allow_plain {
            put(conf, "allow_plain", true);
        }
        self.put_tls(conf, listens, ("clients over TLS", tls_port));
    }

    fn put_tls(
        &self,
        conf: &mut Table,
        listens: &mut Vec<(&'static str, SocketAddr)>,
        (whom, port): (&'static str, u16),
    ) {
        if let Some(files) = &self.tls {
            let addr = SocketAddr::new(self.outside_ip(), port);
            let mut tls = Table::new();
            put(&mut tls, "listen", addr.to_string());
            put(&mut tls, "cert", files.cert.display().to_string());
            put(&mut tls, "key", files.key.display().to_string());
            put(conf, "tls", tls);
            listens.push((whom, addr));
        }
    }

    fn common(&self, name: &str, metrics: SocketAddr) -> Table {
        let mut process = Table::new();
        put(&mut process, "log_level", self.log_level.clone());
        put(&mut process, "log_format", self.log_format.clone());
        put(&mut process, "metrics_addr", metrics.to_string());
        let seconds = i64::try_from(DRAIN_LIMIT.as_secs()).expect("a few seconds fit");
        put(&mut process, "drain_limit_s", seconds);
        let mut cluster = Table::new();
        put(&mut cluster, "name", name.to_owned());
        put(&mut cluster, "key_file", self.key_file.display().to_string());
        if let Some(file) = &self.text_key_file {
            put(&mut cluster, "text_key_file", file.display().to_string());
        }
        Table::from_iter([
            ("process".to_owned(), Value::Table(process)),
            ("cluster".to_owned(), Value::Table(cluster)),
        ])
    }

    fn db_proxies(&self) -> Vec<String> {
        self.db_links().map(|addr| addr.to_string()).collect()
    }

    fn route_servers(&self) -> Vec<String> {
        (0..self.routes).map(|index| loopback(self.ports.route_links(index)).to_string()).collect()
    }

    fn host(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string())
    }

    fn host_in_url(&self) -> String {
        let host = self.host();
        if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host }
    }

    /// Where clients without TLS are listened for: on this machine only, unless it was asked for.
    fn plain_ip(&self) -> IpAddr {
        if self.allow_plain { self.outside_ip() } else { self.loopback_ip() }
    }

    /// Where clients of other machines are listened for, if there are to be any.
    fn outside_ip(&self) -> IpAddr {
        match self.advertise.as_deref().map(str::parse::<IpAddr>) {
            None => self.loopback_ip(),
            Some(Ok(ip)) if ip.is_loopback() => ip,
            Some(Ok(IpAddr::V6(_))) => Ipv6Addr::UNSPECIFIED.into(),
            Some(_) => Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    fn loopback_ip(&self) -> IpAddr {
        match self.advertise.as_deref().map(str::parse::<IpAddr>) {
            Some(Ok(ip)) if ip.is_loopback() => ip,
            _ => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

fn put(table: &mut Table, key: &str, value: impl Into<Value>) {
    table.insert(key.to_owned(), value.into());
}

fn plan(
    kind: DaemonKind,
    name: String,
    conf: &Table,
    metrics: SocketAddr,
    listens: Vec<(&'static str, SocketAddr)>,
) -> DaemonPlan {
    DaemonPlan { kind, name, conf: format!("{HEADER}{conf}"), metrics, listens }
}

#[cfg(test)]
mod tests;
