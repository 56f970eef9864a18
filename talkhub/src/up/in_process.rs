//! Every daemon in this process: the same code with the same settings, over the same links.

use std::future::Future;
use std::time::Duration;

use daemon::admin::{self, AdminPage};
use daemon::run::StartRefused;
use daemon::{BoxError, ConfigError, Context, Running, Serving, Settings, Shutdown, config};
use futures_util::future::join_all;

use super::plan::{DRAIN_LIMIT, DaemonKind, DaemonPlan, Plan};
use super::report::ProcessLine;
use crate::failure::Failure;

/// What a start that failed may still leave behind gets this long to go away.
const FAILED_START_LIMIT: Duration = Duration::from_secs(2);

/// The daemons, as parts of this process.
#[derive(Debug)]
pub(super) struct InProcess {
    whole: Shutdown,
    daemons: Vec<(DaemonPlan, Running)>,
}

impl InProcess {
    /// Starts each daemon of the plan.
    pub(super) async fn start(plan: &Plan) -> Result<Self, Failure> {
        let mut started = Self { whole: Shutdown::default(), daemons: Vec::new() };
        let stages = DaemonKind::START_ORDER.into_iter();
        for daemon in stages.flat_map(|stage| plan.of_kinds(stage)) {
            let shutdown = started.whole.child();
            match start(daemon, shutdown.clone()).await {
                Ok(serving) => {
                    started.daemons.push((daemon.clone(), Running { serving, shutdown }));
                }
                Err(error) => {
                    started.whole.begin();
                    // The process is about to end anyway.
                    started.whole.drain(FAILED_START_LIMIT).await.ok();
                    return Err(failure(&daemon.name, &error));
                }
            }
        }
        Ok(started)
    }

    /// Completes when every daemon says that it is ready, or when one has failed.
    pub(super) async fn ready(&self) -> Result<(), Failure> {
        let all_ready = async {
            for (_plan, running) in &self.daemons {
                running.serving.ready.ready().await;
            }
        };
        tokio::select! {
            () = all_ready => Ok(()),
            failure = self.failed() => Err(failure),
        }
    }

    /// What the daemons that are not ready wait for.
    pub(super) fn unready(&self) -> Vec<String> {
        let unmet = |(plan, running): &(DaemonPlan, Running)| {
            let unmet = running.serving.ready.unmet();
            (!unmet.is_empty()).then(|| format!("{}: waiting for: {}", plan.name, unmet.join(", ")))
        };
        self.daemons.iter().filter_map(unmet).collect()
    }

    /// Completes when the daemons cannot go on, and says why.
    pub(super) async fn failed(&self) -> Failure {
        self.whole.begun().await;
        let failed = self.daemons.iter().filter(|(_plan, running)| running.shutdown.failed());
        let names: Vec<_> = failed.map(|(plan, _running)| plan.name.as_str()).collect();
        Failure::new(format!("a vital part has ended: {}", names.join(", ")))
    }

    /// This process, once for each daemon.
    pub(super) fn processes(&self) -> Vec<ProcessLine> {
        let pid = std::process::id();
        self.daemons.iter().map(|(plan, _running)| ProcessLine::new(plan, pid)).collect()
    }

    /// Stops the daemons, those first that the others serve.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        let Self { whole, mut daemons } = self;
        let mut late = Vec::new();
        for stage in DaemonKind::STOP_ORDER {
            let (now, later): (Vec<_>, Vec<_>) =
                daemons.into_iter().partition(|(plan, _running)| stage.contains(&plan.kind));
            daemons = later;
            let stopping = now.into_iter().map(|(plan, running)| async move {
                let stopped = running.stop(DRAIN_LIMIT).await;
                stopped.err().map(|error| format!("{}: {error}", plan.name))
            });
            late.extend(join_all(stopping).await.into_iter().flatten());
        }
        whole.begin();
        // Every task belongs to a daemon that has been stopped, or named as late.
        whole.drain(Duration::from_secs(1)).await.ok();
        match late.as_slice() {
            [] => Ok(()),
            late => Err(Failure::new(format!("stopped by force: {}", late.join("; ")))),
        }
    }
}

async fn start(plan: &DaemonPlan, shutdown: Shutdown) -> Result<Serving, BoxError> {
    match plan.kind {
        DaemonKind::DbProxy => serve(plan, shutdown, db_proxy::run).await,
        DaemonKind::RouteServer => serve(plan, shutdown, route_server::run).await,
        DaemonKind::LoginServer => serve(plan, shutdown, login_server::run).await,
        DaemonKind::Gateway => serve(plan, shutdown, msg_server::serve).await,
        DaemonKind::ApiServer => serve(plan, shutdown, api_server::run).await,
    }
}

/// What `daemon::run` does for a process, done for a part of one.
async fn serve<S, F, R>(plan: &DaemonPlan, shutdown: Shutdown, run: F) -> Result<Serving, BoxError>
where
    S: Settings,
    F: FnOnce(Context<S>) -> R,
    R: Future<Output = Result<Serving, BoxError>>,
{
    let settings: S = config::parse(&plan.conf)?;
    let context = Context::fixed(settings, shutdown.clone());
    let page = AdminPage::new(context.metrics.clone(), shutdown.clone());
    admin::listen(plan.metrics, &page, &shutdown)
        .map_err(|error| format!("metrics_addr {}: {error}", plan.metrics))?;
    let serving = run(context).await?;
    page.serves(&serving.ready);
    Ok(serving)
}

/// Says why a daemon does not start, and whether a restart may help.
pub(super) fn failure(name: &str, error: &BoxError) -> Failure {
    let error: &(dyn std::error::Error + 'static) = error.as_ref();
    let mut text = format!("{name}: {error}");
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<ConfigError>() || error.is::<StartRefused>() {
            return Failure::config(format!("{name}: {error}"));
        }
        cause = error.source();
        if let Some(cause) = cause {
            text = format!("{text}: {cause}");
        }
    }
    Failure::new(text)
}

#[cfg(test)]
mod tests {
    use daemon::Readiness;
    use tokio::time::timeout;

    use super::*;
    use crate::up::folder::Folder;
    use crate::up::tests::parse;
    use crate::up::{Cluster, announce};

    /// A cluster of one daemon, which is as ready as this says.
    fn cluster_of(ready: Readiness) -> Cluster {
        let plan = DaemonPlan {
            kind: DaemonKind::Gateway,
            name: "msg_server-1".to_owned(),
            conf: String::new(),
            metrics: "127.0.0.1:1".parse().unwrap(),
            listens: Vec::new(),
        };
        let whole = Shutdown::default();
        let serving = Serving::new("msg_server").ready(ready);
        let running = Running { serving, shutdown: whole.child() };
        Cluster::InProcess(InProcess { whole, daemons: vec![(plan, running)] })
    }

    #[test]
    fn why_a_daemon_does_not_start_is_told_with_its_causes_and_settings_with_78() {
        #[derive(Debug)]
        struct Because(&'static str, Option<BoxError>);

        impl std::fmt::Display for Because {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.0)
            }
        }

        impl std::error::Error for Because {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.1.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static))
            }
        }

        let around = |cause: BoxError| -> BoxError { Because("cannot serve", Some(cause)).into() };
        let cause = failure("db_proxy", &around(Because("the disk is full", None).into()));
        assert_eq!(
            (cause.code(), &*cause.to_string()),
            (1, "db_proxy: cannot serve: the disk is full")
        );
        let wrong = ConfigError::new("listen", "must be set");
        let refused = StartRefused("no topic".to_owned());
        for (error, text) in [
            (around(wrong.into()), "db_proxy: key `listen`: must be set"),
            (around(around(refused.into())), "db_proxy: no topic"),
        ] {
            let failure = failure("db_proxy", &error);
            assert_eq!((failure.code(), failure.to_string().as_str()), (78, text));
        }
    }

    /// A cluster of these daemons, each of which finishes in a turn of its own, and tells when.
    fn cluster(
        names: &[(&str, DaemonKind)],
        whole: &Shutdown,
        told: &tokio::sync::mpsc::Sender<String>,
    ) -> InProcess {
        let daemons = names.iter().map(|(name, kind)| {
            let plan = DaemonPlan {
                kind: *kind,
                name: (*name).to_owned(),
                conf: String::new(),
                metrics: "127.0.0.1:1".parse().unwrap(),
                listens: Vec::new(),
            };
            let (told, name) = (told.clone(), plan.name.clone());
            let serving = Serving::new("test").drain(async move {
                for what in ["begins", "ends"] {
                    told.send(format!("{name} {what}")).await.unwrap();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
            (plan, Running { serving, shutdown: whole.child() })
        });
        InProcess { whole: whole.clone(), daemons: daemons.collect() }
    }

    const ALL: [(&str, DaemonKind); 4] = [
        ("login", DaemonKind::LoginServer),
        ("route", DaemonKind::RouteServer),
        ("db", DaemonKind::DbProxy),
        ("gateway", DaemonKind::Gateway),
    ];

    /// Time is paused: it jumps to the next timer whenever all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn daemons_stop_when_those_that_need_them_have_stopped() {
        let (told, mut order) = tokio::sync::mpsc::channel(16);
        let whole = Shutdown::default();
        cluster(&ALL, &whole, &told).stop().await.unwrap();
        drop(told);
        let mut lines = Vec::new();
        while let Some(line) = order.recv().await {
            lines.push(line);
        }
        let one = ["gateway begins", "gateway ends", "db begins", "db ends"];
        // These two stop together.
        let two = ["login begins", "route begins", "login ends", "route ends"];
        assert_eq!(lines, [one, two].concat());
        assert!(whole.is_begun());
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_does_not_stop_is_named_and_the_others_stop_all_the_same() {
        let (told, mut order) = tokio::sync::mpsc::channel(16);
        let cluster = cluster(&ALL, &Shutdown::default(), &told);
        let (_plan, gateway) = &cluster.daemons[3];
        gateway.shutdown.spawn(tracing::Span::none(), std::future::pending());
        let failure = cluster.stop().await.unwrap_err().to_string();
        assert!(failure.starts_with("stopped by force: gateway: 1 tasks still ran"), "{failure}");
        assert!(!failure.contains(';'), "only that one: {failure}");
        drop(told);
        let mut count = 0;
        while order.recv().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 8);
    }

    #[tokio::test]
    async fn a_daemon_that_fails_is_named_even_before_all_are_ready() {
        let (told, _order) = tokio::sync::mpsc::channel(16);
        let mut cluster = cluster(&ALL, &Shutdown::default(), &told);
        let readiness = Readiness::default();
        let hub = readiness.condition("hub");
        cluster.daemons[2].1.serving.ready = readiness;
        assert_eq!(cluster.unready(), ["db: waiting for: hub"]);
        let processes = cluster.processes();
        let names: Vec<_> = processes.iter().map(|process| process.name.as_str()).collect();
        assert_eq!(names, ["login", "route", "db", "gateway"]);
        assert!(processes.iter().all(|process| process.pid == std::process::id()));
        let db = cluster.daemons[2].1.shutdown.clone();
        let ready = timeout(Duration::from_secs(10), cluster.ready());
        let (ready, ()) = tokio::join!(ready, async { db.fail() });
        let ready = ready.expect("it is heard of");
        assert_eq!(ready.unwrap_err().to_string(), "a vital part has ended: db");
        hub.set(true);
        assert!(cluster.unready().is_empty());
    }

    /// Time is paused: it jumps to the next timer whenever all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_is_not_ready_after_a_minute_says_what_it_waits_for() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let args = parse("up").unwrap();
        let plan = Plan {
            daemons: Vec::new(),
            login: String::new(),
            login_tls: None,
            gateways: Vec::new(),
            gateways_tls: Vec::new(),
            api: String::new(),
            api_tls: None,
            db: Vec::new(),
        };
        let readiness = Readiness::default();
        let _never_met = readiness.condition("hub");
        let mut cluster = cluster_of(readiness);
        let announced = announce(&args, &plan, &folder, &mut cluster);
        let announced = timeout(Duration::from_mins(5), announced).await;
        let failure = announced.expect("it gives up").unwrap_err().to_string();
        assert_eq!(failure, "not ready after 60s: msg_server-1: waiting for: hub");
    }
}
