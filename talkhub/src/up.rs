//! `talkhub up`: a whole cluster with one command, for trying, for developing and for small sites.
//!
//! ```text
//! arguments ──► plan (ports, settings) ──► in_process   every daemon in this process
//!                 │                   └──► processes    every daemon in one of its own
//!                 └──► folder (lock, key, conf, run)
//! ```
//!
//! # Invariants
//!
//! - When it says that it is ready, every daemon has said so, and the demo users exist.
//! - It ends with the last of its daemons, and 0 means that each of them stopped cleanly.

pub mod child;
pub mod folder;
mod hooks;
mod http;
mod in_process;
mod kafka;
pub mod plan;
pub mod ports;
mod processes;
pub mod report;
pub mod storage;

use std::env;
use std::io::{self, Write};
use std::net::{Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use daemon::process_limits::{forbid_core_dumps, raise_files_limit};
use daemon::{ClusterConfig, LogFormat, Role, config, logging};
use proto::cluster::wire::DemoUsers;
use proto::cluster::wire::admin_request::What;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tracing::warn;

use crate::admin_link::AdminLink;
use crate::demo::DEMO_PASSWORD;
use crate::failure::Failure;
use folder::Folder;
use in_process::InProcess;
use plan::{DaemonKind, Plan, TlsFiles, Wanted};
use ports::{GATEWAYS_MAX, Ports, ROUTES_MAX, SPAN};
use processes::Processes;
use report::{ProcessLine, Status};
use storage::StorageArgs;

/// How long the daemons may take to be ready; on a slow disk, db_proxy reads its log meanwhile.
const READY_LIMIT: Duration = Duration::from_mins(1);

/// The arguments of `talkhub up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Where the data is kept
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data: PathBuf,
    /// Each daemon as a process of its own, started again when it dies
    #[arg(long)]
    pub processes: bool,
    /// The first of the 202 ports that a cluster takes: gateways at N, N+1, …, login at N+80
    #[arg(long, value_name = "N", default_value_t = 8000, value_parser = port_base)]
    pub port_base: u16,
    /// How many gateways
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(GATEWAYS_MAX)))]
    pub gateways: u16,
    /// How many route_servers
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(ROUTES_MAX)))]
    pub routes: u16,
    /// Makes users u1 to uN with ids 1 to N and the password `talkhub-demo`; those there are stay
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub demo_users: u32,
    /// Makes group 1, `everyone`, with the first M demo users
    #[arg(long, value_name = "M", default_value_t = 0, requires = "demo_users")]
    pub demo_group: u32,
    /// What is behind the gateways
    #[command(flatten)]
    pub storage: StorageArgs,
    /// One line of JSON on standard output when ready, instead of a table
    #[arg(long)]
    pub json: bool,
    /// Adds TLS for clients: the certificate and its chain, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Serves clients on other machines too: what they are told to connect to
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// The key with which the clients of this site encrypt texts (32 ASCII characters); without it, that of the
    /// original clients
    #[arg(long, value_name = "FILE")]
    pub text_key_file: Option<PathBuf>,
    /// Lets clients on other machines connect without TLS, as the original ones do
    #[arg(long, requires = "advertise")]
    pub allow_plain: bool,
    /// What other systems are told and asked
    #[command(flatten)]
    pub others: OtherSystemsArgs,
}

/// What other systems are told and asked.
#[derive(Debug, Args)]
pub struct OtherSystemsArgs {
    /// Programs that are asked about messages before they are stored: a file with tables [[hooks]]
    #[arg(long, value_name = "FILE")]
    pub hooks: Option<PathBuf>,
    /// Lets webhooks be sent to this machine and to private networks, for trying them
    #[arg(long, conflicts_with = "advertise")]
    pub allow_private_webhooks: bool,
}

fn port_base(text: &str) -> Result<u16, String> {
    let base = text.parse().ok().and_then(Ports::from_base);
    if base.is_none() {
        let (first, last) = (Ports::BASES.start(), Ports::BASES.end());
        return Err(format!("must be {first} to {last}: a cluster takes {SPAN} ports"));
    }
    text.parse().map_err(|_error| "must be a number".to_owned())
}

impl UpArgs {
    /// What the arguments alone cannot rule out.
    fn check(&self) -> Result<(), Failure> {
        if self.demo_group > self.demo_users {
            return Err(Failure::config(
                "--demo-group takes its members from the demo users: it must be at most --demo-users",
            ));
        }
        self.storage.check()?;
        let Some(host) = &self.advertise else { return Ok(()) };
        // A colon belongs to an address of version 6, or to a port, which each daemon has of its own.
        let has_port = host.contains(':') && host.parse::<Ipv6Addr>().is_err();
        if host.is_empty() || has_port || host.contains(['/', ' ', '[']) {
            return Err(Failure::config(
                "--advertise must be a host name or an IP address, without a port",
            ));
        }
        let here = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if self.tls_cert.is_none() && !self.allow_plain && !here {
            return Err(Failure::config(
                "--advertise: clients on other machines would connect unencrypted; give --tls-cert and --tls-key, or say --allow-plain",
            ));
        }
        Ok(())
    }

    fn wanted(&self, folder: &Folder) -> Result<Wanted, Failure> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                Some(TlsFiles { cert: absolute(cert)?, key: absolute(key)? })
            }
            _ => None,
        };
        let setting = |name: &str, default: &str| match env::var(name) {
            Ok(value) if !value.is_empty() => value,
            _ => default.to_owned(),
        };
        Ok(Wanted {
            ports: Ports::from_base(self.port_base).expect("the parser has checked the base"),
            gateways: self.gateways,
            routes: self.routes,
            advertise: self.advertise.clone(),
            allow_plain: self.allow_plain,
            allow_private_webhooks: self.others.allow_private_webhooks,
            hooks: self.others.hooks.as_deref().map(hooks::read).transpose()?.unwrap_or_default(),
            tls,
            key_file: folder.key_file(),
            text_key_file: self.text_key_file.as_deref().map(absolute).transpose()?,
            db_proxies: self.storage.db_proxies,
            db_folder: folder.db(),
            mysql: self.storage.mysql.clone(),
            redis: self.storage.redis.clone(),
            kafka: self.storage.kafka_log(),
            // Starting and stopping is what a person at a terminal sees anyway.
            log_level: setting("TALKHUB_PROCESS__LOG_LEVEL", "warn"),
            log_format: setting("TALKHUB_PROCESS__LOG_FORMAT", "text"),
        })
    }
}

fn absolute(file: &Path) -> Result<PathBuf, Failure> {
    file.canonicalize().map_err(|error| Failure::config(format!("{}: {error}", file.display())))
}

/// Starts the cluster, and runs it until it is told to stop or fails.
pub fn run(args: &UpArgs) -> Result<(), Failure> {
    args.check()?;
    let mut builder = if args.processes {
        // One thread starts every child: the kernel tells children when their thread dies.
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start a runtime: {error}")))?;
    let result = runtime.block_on(live(args));
    // What still blocks a thread after the drain is not waited for any longer.
    runtime.shutdown_background();
    result
}

async fn live(args: &UpArgs) -> Result<(), Failure> {
    // Before anything can take long, so that a signal never finds us without a handler.
    let mut signals = Signals::new()?;
    let folder = Arc::new(Folder::open(&args.data)?);
    let wanted = args.wanted(&folder)?;
    let format = if wanted.log_format == "json" { LogFormat::Json } else { LogFormat::Text };
    logging::init(&wanted.log_level, format);
    #[cfg(feature = "faults")]
    warn_of_mutant()?;
    raise_files_limit();
    forbid_core_dumps();

    let plan = wanted.plan();
    let mut cluster = tokio::select! {
        started = start(args, &wanted, (&plan, &folder)) => started?,
        _signal = signals.stop() => return Ok(()),
    };
    let failure = tokio::select! {
        failure = serve(args, &plan, &folder, &mut cluster) => failure,
        signal = signals.stop() => {
            eprintln!("talkhub: {signal}: draining; once more stops at once");
            return stop(cluster, &folder, &mut signals).await;
        }
    };
    if let Err(also) = stop(cluster, &folder, &mut signals).await {
        warn!(%also, "while stopping");
    }
    Err(failure)
}

#[cfg(feature = "faults")]
fn warn_of_mutant() -> Result<(), Failure> {
    match daemon::faults::from_environment() {
        Ok(Some(mutant)) => warn!(mutant = mutant.name(), "a fault is planted in this process"),
        Ok(None) => {}
        Err(error) => return Err(Failure::config(error.to_string())),
    }
    Ok(())
}

async fn start(
    args: &UpArgs,
    wanted: &Wanted,
    (plan, folder): (&Plan, &Arc<Folder>),
) -> Result<Cluster, Failure> {
    processes::wait_for_leftovers(folder).await?;
    for (addr, what) in plan.listens() {
        // Bound and let go: a daemon that finds it taken would say less clearly what to do.
        if let Err(error) = TcpListener::bind(addr) {
            return Err(Failure::new(format!(
                "cannot listen on {addr} ({what}): {error}; choose other ports with --port-base"
            )));
        }
    }
    if let Some(log) = &wanted.kafka {
        kafka::make_topic(log).await?;
    }
    if !args.storage.mysql.is_empty() {
        // The embedded store does the same when it is opened.
        migrate(plan).await?;
    }
    Ok(if args.processes {
        Cluster::Processes(Processes::prepare(plan, folder)?)
    } else {
        Cluster::InProcess(InProcess::start(plan).await?)
    })
}

/// Brings the databases to the version of this program.
async fn migrate(plan: &Plan) -> Result<(), Failure> {
    // All db_proxies have the same.
    if let Some(daemon) = plan.of_kinds(&[DaemonKind::DbProxy]).next() {
        let settings: db_proxy::Config =
            config::parse(&daemon.conf).map_err(|error| Failure::config(error.to_string()))?;
        let migrated = db_proxy::migrate(settings).await;
        migrated.map_err(|error| in_process::failure(&daemon.name, &error))?;
    }
    Ok(())
}

/// Completes when the cluster has failed, at the start or later, and says why.
async fn serve(args: &UpArgs, plan: &Plan, folder: &Folder, cluster: &mut Cluster) -> Failure {
    match announce(args, plan, folder, cluster).await {
        Ok(()) => cluster.failed().await,
        Err(failure) => failure,
    }
}

/// Waits until the cluster is ready, makes the demo users, and says where everything is.
async fn announce(
    args: &UpArgs,
    plan: &Plan,
    folder: &Folder,
    cluster: &mut Cluster,
) -> Result<(), Failure> {
    if let Ok(ready) = timeout(READY_LIMIT, cluster.ready()).await {
        ready?;
    } else {
        let unready = cluster.unready().await.join("; ");
        return Err(Failure::new(format!("not ready after {READY_LIMIT:?}: {unready}")));
    }
    if args.demo_users > 0 {
        tokio::select! {
            made = make_demo_users(args, plan, folder) => made?,
            failure = cluster.failed() => return Err(failure),
        }
    }
    let mut status = Status::new(plan, cluster.processes().await);
    let text = if args.json {
        format!("{}\n", status.json())
    } else {
        status.table(&args.data, args.demo_users > 1)
    };
    status.db.clone_from(&plan.db);
    folder.write_status(&status.json())?;
    let mut stdout = io::stdout();
    // If standard output was closed, nothing reads this; the cluster runs all the same.
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).ok();
    Ok(())
}

async fn make_demo_users(args: &UpArgs, plan: &Plan, folder: &Folder) -> Result<(), Failure> {
    let cluster = ClusterConfig {
        key_file: Some(folder.key_file()),
        name: format!("talkhub-{}", std::process::id()),
        ..ClusterConfig::default()
    };
    let identity = cluster.link_identity(Role::Admin, daemon::link::new_boot())?;
    let addrs: Vec<String> = plan.db.iter().map(ToString::to_string).collect();
    let link = AdminLink::connect(&addrs, identity).await?;
    let asked = link
        .ask(What::DemoUsers(DemoUsers {
            count: args.demo_users,
            password: DEMO_PASSWORD.to_owned(),
            group_members: Some(args.demo_group),
        }))
        .await;
    link.close().await;
    asked.map(|_answer| ()).map_err(|failure| Failure::new(format!("demo users: {failure}")))
}

async fn stop(cluster: Cluster, folder: &Folder, signals: &mut Signals) -> Result<(), Failure> {
    folder.remove_status();
    tokio::select! {
        stopped = cluster.stop() => stopped,
        signal = signals.stop() => Err(Failure::new(format!("{signal} again: stopped at once"))),
    }
}

/// A cluster that runs, in either way.
#[derive(Debug)]
enum Cluster {
    InProcess(InProcess),
    Processes(Processes),
}

impl Cluster {
    async fn ready(&mut self) -> Result<(), Failure> {
        match self {
            Self::InProcess(cluster) => cluster.ready().await,
            Self::Processes(cluster) => cluster.ready().await,
        }
    }

    async fn unready(&self) -> Vec<String> {
        match self {
            Self::InProcess(cluster) => cluster.unready(),
            Self::Processes(cluster) => cluster.unready().await,
        }
    }

    async fn failed(&mut self) -> Failure {
        match self {
            Self::InProcess(cluster) => cluster.failed().await,
            Self::Processes(cluster) => cluster.failed().await,
        }
    }

    async fn processes(&mut self) -> Vec<ProcessLine> {
        match self {
            Self::InProcess(cluster) => cluster.processes(),
            Self::Processes(cluster) => cluster.processes().await,
        }
    }

    async fn stop(self) -> Result<(), Failure> {
        match self {
            Self::InProcess(cluster) => cluster.stop().await,
            Self::Processes(cluster) => cluster.stop().await,
        }
    }
}

/// The signals that ask to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let wrong = |error: io::Error| Failure::new(format!("cannot wait for signals: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(wrong)?,
            interrupt: signal(SignalKind::interrupt()).map_err(wrong)?,
        })
    }

    /// Completes with the next one. Cancel-safe.
    async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _signal = self.terminate.recv() => "SIGTERM",
            _signal = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: UpArgs,
    }

    pub(super) fn parse(line: &str) -> Result<UpArgs, String> {
        Cli::try_parse_from(line.split(' '))
            .map(|cli| cli.args)
            .map_err(|error| error.render().to_string())
    }

    fn refusal(line: &str) -> String {
        match parse(line) {
            Ok(args) => args.check().unwrap_err().to_string(),
            Err(error) => error,
        }
    }

    #[test]
    fn without_arguments_it_is_two_gateways_and_two_hubs_on_the_usual_ports() {
        let args = parse("up").unwrap();
        args.check().unwrap();
        assert_eq!((args.gateways, args.routes, args.port_base), (2, 2, 8000));
        assert_eq!((args.demo_users, args.processes, args.json), (0, false, false));
        assert_eq!(args.data, Path::new("data"));
    }

    #[test]
    fn what_cannot_be_is_refused_and_says_what_can() {
        assert!(refusal("up --gateways 0").contains("1..=30"));
        assert!(refusal("up --gateways 31").contains("1..=30"));
        assert!(refusal("up --routes 21").contains("1..=20"));
        assert!(refusal("up --port-base 65500").contains("must be 1 to"));
        assert!(refusal("up --port-base x").contains("must be 1 to"));
        assert!(refusal("up --tls-cert c.pem").contains("--tls-key"));
        assert!(refusal("up --demo-group 3").contains("--demo-users"));
        assert!(refusal("up --demo-users 2 --demo-group 3").contains("--demo-group"));
        assert!(refusal("up --advertise a/b --allow-plain").contains("--advertise"));
    }

    #[test]
    fn a_log_that_is_shared_needs_kafka_and_a_database() {
        assert!(refusal("up --kafka k:9092").contains("needs --mysql"));
        assert!(refusal("up --db-proxies 2").contains("needs --kafka"));
        assert!(refusal("up --db-proxies 2 --mysql mysql://a:b@c/d").contains("has one owner"));
        assert!(refusal("up --db-proxies 9").contains("1..=8"));
        assert!(refusal("up --kafka-partitions 4").contains("--kafka"));
        assert!(refusal("up --kafka-unsafe").contains("--kafka"));
        let all = "up --kafka k:9092 --kafka-partitions 4 --mysql mysql://a:b@c/d --db-proxies 3";
        parse(all).unwrap().check().unwrap();
    }

    #[test]
    fn clients_elsewhere_get_no_plain_port_that_was_not_asked_for() {
        assert!(refusal("up --advertise chat.example").contains("--allow-plain"));
        parse("up --advertise chat.example --allow-plain").unwrap().check().unwrap();
        let tls = "up --advertise chat.example --tls-cert c.pem --tls-key k.pem";
        parse(tls).unwrap().check().unwrap();
        for here in ["localhost", "127.0.0.2", "::1"] {
            parse(&format!("up --advertise {here}")).unwrap().check().unwrap();
        }
    }

    #[test]
    fn what_clients_are_told_is_a_host_and_no_port() {
        for wrong in ["chat.example:8000", "192.0.2.1:8000", "[2001:db8::1]", "h/x", "::1:x"] {
            let refusal = refusal(&format!("up --advertise {wrong} --allow-plain"));
            assert!(refusal.contains("without a port"), "{wrong}: {refusal}");
        }
        for right in ["chat.example", "192.0.2.1", "2001:db8::1"] {
            parse(&format!("up --advertise {right} --allow-plain")).unwrap().check().unwrap();
        }
    }

    #[test]
    fn what_was_asked_for_is_what_is_planned() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(&temp.path().join("data")).unwrap();
        for file in ["cert.pem", "key.pem"] {
            std::fs::write(temp.path().join(file), "").unwrap();
        }
        let at = temp.path().display();
        let line = format!(
            "up --port-base 9000 --gateways 3 --routes 4 --db-proxies 2 --mysql m1 --mysql m2 \
             --redis r --kafka k:1 --kafka-unsafe --advertise chat.example --allow-plain \
             --tls-cert {at}/../{}/cert.pem --tls-key {at}/key.pem",
            temp.path().file_name().unwrap().display(),
        );
        let wanted = parse(&line).unwrap().wanted(&folder).unwrap();
        assert_eq!((wanted.ports, wanted.gateways), (Ports::from_base(9000).unwrap(), 3));
        assert_eq!((wanted.routes, wanted.db_proxies), (4, 2));
        assert_eq!(
            (wanted.mysql, wanted.redis.as_deref()),
            (vec!["m1".into(), "m2".into()], Some("r"))
        );
        let kafka = wanted.kafka.unwrap();
        assert_eq!(
            (kafka.bootstrap.as_str(), kafka.partitions, kafka.allow_unsafe),
            ("k:1", 8, true)
        );
        assert_eq!((wanted.advertise.as_deref(), wanted.allow_plain), (Some("chat.example"), true));
        // A daemon may run elsewhere, so that a path must not hang on where `up` does.
        let real = temp.path().canonicalize().unwrap();
        assert_eq!(wanted.tls.unwrap().cert, real.join("cert.pem"));
        assert_eq!((wanted.key_file, wanted.db_folder), (folder.key_file(), folder.db()));

        let missing = parse("up --tls-cert /nowhere/c.pem --tls-key /nowhere/k.pem").unwrap();
        let failure = missing.wanted(&folder).unwrap_err();
        assert_eq!(failure.code(), crate::failure::EXIT_CONFIG);
        assert!(failure.to_string().starts_with("/nowhere/c.pem: "), "{failure}");
        let few = parse("up --mysql m --kafka k:1 --kafka-partitions 4").unwrap();
        let kafka = few.wanted(&folder).unwrap().kafka.unwrap();
        assert_eq!((kafka.partitions, kafka.allow_unsafe), (4, false));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_what_it_was_for() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Arc::new(Folder::open(temp.path()).unwrap());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        // The port of its first gateway.
        let ports = Ports::from_base(addr.port()).expect("the kernel gives out no such high ports");
        let args = parse("up").unwrap();
        let mut wanted = args.wanted(&folder).unwrap();
        wanted.ports = ports;
        let mut plan = wanted.plan();
        plan.daemons.retain(|daemon| daemon.name == "msg_server-1");
        let failure = start(&args, &wanted, (&plan, &folder)).await.unwrap_err().to_string();
        let expected = format!("cannot listen on {addr} (clients of msg_server-1): ");
        assert!(failure.starts_with(&expected), "{failure}");
        assert!(failure.ends_with("choose other ports with --port-base"), "{failure}");
    }
}
