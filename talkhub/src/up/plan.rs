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
}

impl DaemonKind {
    /// Those first that the others dial; what stands together starts together.
    pub const START_ORDER: [&'static [Self]; 3] =
        [&[Self::RouteServer, Self::LoginServer], &[Self::DbProxy], &[Self::Gateway]];

    /// The same the other way round: those first that no others depend on.
    pub const STOP_ORDER: [&'static [Self]; 3] =
        [&[Self::Gateway], &[Self::DbProxy], &[Self::RouteServer, Self::LoginServer]];

    /// The name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::DbProxy => "db_proxy",
            Self::RouteServer => "route_server",
            Self::LoginServer => "login_server",
            Self::Gateway => "msg_server",
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
    /// Adds TLS listeners.
    pub tls: Option<TlsFiles>,
    /// The key that the daemons share.
    pub key_file: PathBuf,
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
        let db_proxies: Vec<String> = self.db_links().map(|addr| addr.to_string()).collect();
        put(&mut conf, "db_proxies", db_proxies);
        plan(DaemonKind::Gateway, name, &conf, metrics, listens)
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
        if let Some(files) = &self.tls {
            let addr = SocketAddr::new(self.outside_ip(), tls_port);
            let mut tls = Table::new();
            put(&mut tls, "listen", addr.to_string());
            put(&mut tls, "cert", files.cert.display().to_string());
            put(&mut tls, "key", files.key.display().to_string());
            put(conf, "tls", tls);
            listens.push(("clients over TLS", addr));
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
        Table::from_iter([
            ("process".to_owned(), Value::Table(process)),
            ("cluster".to_owned(), Value::Table(cluster)),
        ])
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
mod tests {
    use daemon::config::parse;
    use daemon::{Secret, Settings};

    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            ports: Ports::from_base(8000).unwrap(),
            gateways: 2,
            routes: 2,
            advertise: None,
            allow_plain: false,
            tls: None,
            key_file: PathBuf::from("/d/\"quoted\"/cluster.key"),
            db_proxies: 1,
            db_folder: PathBuf::from("/d/db"),
            mysql: Vec::new(),
            redis: None,
            kafka: None,
            log_level: "warn".to_owned(),
            log_format: "text".to_owned(),
        }
    }

    fn tls() -> TlsFiles {
        TlsFiles { cert: PathBuf::from("/c.pem"), key: PathBuf::from("/k.pem") }
    }

    fn parsed<S: Settings>(plan: &Plan, name: &str) -> S {
        let daemon = plan.daemons.iter().find(|daemon| daemon.name == name).unwrap();
        parse(&daemon.conf).unwrap_or_else(|error| panic!("{name}: {error}\n{}", daemon.conf))
    }

    fn assert_all_parse(plan: &Plan) {
        for daemon in &plan.daemons {
            match daemon.kind {
                DaemonKind::DbProxy => drop(parsed::<db_proxy::Config>(plan, &daemon.name)),
                DaemonKind::RouteServer => drop(parsed::<route_server::Config>(plan, &daemon.name)),
                DaemonKind::LoginServer => drop(parsed::<login_server::Config>(plan, &daemon.name)),
                DaemonKind::Gateway => drop(parsed::<msg_server::Config>(plan, &daemon.name)),
            }
        }
    }

    #[test]
    fn databases_are_named_in_the_settings_of_db_proxy_alone() {
        let url = "mysql://talkhub:a\"b@db.example/talkhub";
        let asked = Wanted {
            mysql: vec![url.to_owned()],
            redis: Some("redis://cache.example".to_owned()),
            ..wanted()
        };
        let plan = asked.plan();
        assert_all_parse(&plan);
        let db_proxy: db_proxy::Config = parsed(&plan, "db_proxy");
        assert_eq!(db_proxy.store.mysql.iter().map(Secret::expose).collect::<Vec<_>>(), [url]);
        assert_eq!(
            db_proxy.cache.redis.as_ref().map(Secret::expose),
            Some("redis://cache.example")
        );
    }

    #[test]
    fn db_proxies_that_share_a_log_differ_in_name_folder_and_ports() {
        let kafka = KafkaLog {
            bootstrap: "kafka.example:9092".to_owned(),
            partitions: 12,
            allow_unsafe: true,
        };
        let mysql = vec!["mysql://talkhub:secret@db.example/talkhub".to_owned()];
        let plan = Wanted { db_proxies: 3, kafka: Some(kafka), mysql, ..wanted() }.plan();
        assert_all_parse(&plan);
        let names: Vec<_> =
            plan.of_kinds(&[DaemonKind::DbProxy]).map(|daemon| daemon.name.as_str()).collect();
        assert_eq!(names, ["db_proxy", "db_proxy-2", "db_proxy-3"]);
        let settings: Vec<db_proxy::Config> =
            names.iter().map(|name| parsed(&plan, name)).collect();
        for settings in &settings {
            assert_eq!(settings.kafka.bootstrap, "kafka.example:9092");
            assert_eq!((settings.kafka.topic.as_str(), settings.kafka.partitions), (TOPIC, 12));
            assert!(settings.kafka.allow_unsafe_topic);
        }
        let folders: Vec<_> = settings.iter().map(|one| one.data_dir.to_str().unwrap()).collect();
        assert_eq!(folders, ["/d/db", "/d/db-2", "/d/db-3"]);
        let gateway: msg_server::Config = parsed(&plan, "msg_server-1");
        assert_eq!(gateway.db_proxies, ["127.0.0.1:8120", "127.0.0.1:8121", "127.0.0.1:8122"]);
    }

    #[test]
    fn the_daemons_take_their_settings_and_find_each_other() {
        let plan = wanted().plan();
        assert_all_parse(&plan);
        let gateway: msg_server::Config = parsed(&plan, "msg_server-2");
        assert_eq!(gateway.listen, Some("127.0.0.1:8001".parse().unwrap()));
        let db: db_proxy::Config = parsed(&plan, "db_proxy");
        assert_eq!(gateway.db_proxies, [db.link_addr.to_string()]);
        let login: login_server::Config = parsed(&plan, "login_server");
        assert_eq!(gateway.login_servers, [login.link_addr.to_string()]);
        assert_eq!(gateway.route_servers, ["127.0.0.1:8100", "127.0.0.1:8101"]);
        assert_eq!(db.route_servers, gateway.route_servers);
        assert_eq!(gateway.cluster.key_file, Some(wanted().key_file));
        assert_eq!((plan.login.as_str(), plan.login_tls), ("http://127.0.0.1:8080", None));
        assert_eq!(plan.gateways, ["127.0.0.1:8000", "127.0.0.1:8001"]);
    }

    #[test]
    fn with_a_certificate_clients_elsewhere_get_tls_and_the_plain_ports_stay_here() {
        let asked =
            Wanted { advertise: Some("chat.example".to_owned()), tls: Some(tls()), ..wanted() };
        let plan = asked.plan();
        assert_all_parse(&plan);
        let gateway: msg_server::Config = parsed(&plan, "msg_server-1");
        assert!(gateway.listen.unwrap().ip().is_loopback());
        assert_eq!(gateway.tls.unwrap().listen, "0.0.0.0:8030".parse().unwrap());
        assert_eq!(gateway.advertise_host.as_deref(), Some("chat.example"));
        assert_eq!(plan.login_tls.as_deref(), Some("https://chat.example:8081"));
        assert_eq!(plan.gateways_tls, ["chat.example:8030", "chat.example:8031"]);
    }

    #[test]
    fn plain_ports_are_open_to_others_only_if_that_was_said() {
        let open =
            Wanted { advertise: Some("2001:db8::1".to_owned()), allow_plain: true, ..wanted() };
        let plan = open.plan();
        assert_all_parse(&plan);
        let login: login_server::Config = parsed(&plan, "login_server");
        assert_eq!(login.http_addr, Some("[::]:8080".parse().unwrap()));
        assert_eq!(plan.login, "http://[2001:db8::1]:8080");
        let links = plan.listens().filter(|(_addr, what)| what.starts_with("links"));
        assert!(links.into_iter().all(|(addr, _what)| addr.ip().is_loopback()));
    }

    #[test]
    fn tls_without_other_machines_stays_on_this_one() {
        let plan = Wanted { tls: Some(tls()), ..wanted() }.plan();
        assert_all_parse(&plan);
        assert!(plan.listens().all(|(addr, _what)| addr.ip().is_loopback()));
        assert_eq!(plan.gateways_tls, ["127.0.0.1:8030", "127.0.0.1:8031"]);
    }

    #[test]
    fn every_daemon_has_its_name_its_page_and_the_same_key_limit_and_log() {
        let asked =
            Wanted { log_level: "debug".to_owned(), log_format: "json".to_owned(), ..wanted() };
        let plan = asked.plan();
        let names: Vec<_> = plan.daemons.iter().map(|daemon| daemon.name.as_str()).collect();
        let routes_and_db = ["route_server-1", "route_server-2", "db_proxy"];
        let gateways = ["msg_server-1", "msg_server-2"];
        assert_eq!(names, [&["login_server"][..], &routes_and_db, &gateways].concat());
        for daemon in &plan.daemons {
            let conf: Table = daemon.conf.parse().unwrap();
            let (process, cluster) = (&conf["process"], &conf["cluster"]);
            assert_eq!(process["metrics_addr"].as_str(), Some(&*daemon.metrics.to_string()));
            assert_eq!(process["log_level"].as_str(), Some("debug"));
            assert_eq!(process["log_format"].as_str(), Some("json"));
            assert_eq!(process["drain_limit_s"].as_integer(), Some(5));
            assert_eq!(cluster["name"].as_str(), Some(daemon.name.as_str()));
            assert_eq!(cluster["key_file"].as_str(), wanted().key_file.to_str());
            assert!(daemon.conf.starts_with("# Written by `talkhub up`"), "{}", daemon.conf);
        }
        let what: Vec<_> = plan.listens().map(|(addr, what)| (addr.port(), what)).collect();
        assert!(what.contains(&(8080, "clients of login_server".to_owned())), "{what:?}");
        assert!(what.contains(&(8152, "metrics of route_server-1".to_owned())), "{what:?}");
        assert_eq!(what.len(), 2 * plan.daemons.len() + 1, "login_server has one more");
    }

    #[test]
    fn daemons_start_before_those_that_dial_them_and_stop_after_them() {
        let all = |order: [&[DaemonKind]; 3]| order.concat();
        let mut stop = all(DaemonKind::STOP_ORDER);
        assert_eq!(stop.len(), 4);
        let start = all(DaemonKind::START_ORDER);
        let place = |kind| start.iter().position(|one| *one == kind);
        // db_proxy dials route_servers, and a gateway all the others.
        assert!(place(DaemonKind::RouteServer) < place(DaemonKind::DbProxy));
        assert!(start.ends_with(&[DaemonKind::Gateway]));
        assert!(stop.starts_with(&[DaemonKind::Gateway, DaemonKind::DbProxy]));
        stop.retain(|kind| !start.contains(kind));
        assert!(stop.is_empty());
    }

    #[test]
    fn where_clients_are_listened_for_follows_from_what_they_are_told() {
        let listens = |advertise: Option<&str>, allow_plain| {
            let advertise = advertise.map(str::to_owned);
            let plan = Wanted { advertise, allow_plain, tls: Some(tls()), ..wanted() }.plan();
            let gateway: msg_server::Config = parsed(&plan, "msg_server-1");
            let (plain, tls) = (gateway.listen.unwrap().ip(), gateway.tls.unwrap().listen.ip());
            (plain.to_string(), tls.to_string(), plan.gateways[0].clone())
        };
        let here = "127.0.0.1";
        for (advertise, allow_plain, plain, tls, told) in [
            (None, false, here, here, "127.0.0.1:8000"),
            (None, true, here, here, "127.0.0.1:8000"),
            (Some("127.0.0.2"), false, "127.0.0.2", "127.0.0.2", "127.0.0.2:8000"),
            (Some("::1"), false, "::1", "::1", "[::1]:8000"),
            (Some("192.0.2.1"), false, here, "0.0.0.0", "192.0.2.1:8000"),
            (Some("192.0.2.1"), true, "0.0.0.0", "0.0.0.0", "192.0.2.1:8000"),
            (Some("2001:db8::1"), false, here, "::", "[2001:db8::1]:8000"),
            (Some("chat.example"), true, "0.0.0.0", "0.0.0.0", "chat.example:8000"),
        ] {
            let expected = (plain.to_owned(), tls.to_owned(), told.to_owned());
            assert_eq!(listens(advertise, allow_plain), expected, "{advertise:?} {allow_plain}");
        }
    }

    #[test]
    fn the_most_that_can_be_asked_for_fits() {
        let most = Wanted { gateways: 30, routes: 20, db_proxies: 8, tls: Some(tls()), ..wanted() };
        let plan = most.plan();
        assert_all_parse(&plan);
        let ports: std::collections::HashSet<_> =
            plan.listens().map(|(addr, _what)| addr.port()).collect();
        assert_eq!(ports.len(), plan.listens().count());
    }
}
