//! The life of a process, from `main` to the exit code.
//!
//! Settings come before anything is bound; `serve` binds and returns; then the process waits for a
//! signal or for the end of a vital task; then it drains, with a limit.
//!
//! | Exit code | Meaning |
//! |---|---|
//! | 0 | stopped because it was told to, and nothing was left behind |
//! | 1 | failed, or was stopped by force: a restart may help |
//! | 78 | the settings are wrong: a restart will not help |
//!
//! SIGTERM and SIGINT drain, a second one stops at once. SIGHUP reads the settings again: those that
//! pass the checks are published to the daemon, others are logged and ignored.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use futures_util::future::BoxFuture;
use sd_notify::NotifyState;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, error, info, info_span, warn};

use crate::admin::{self, AdminPage};
use crate::config::{ClusterConfig, ConfigError, Flags, Loaded, NoCommand, Settings, Source};
use crate::link::{self, Identity, Role};
use crate::metrics::Metrics;
use crate::process_limits::{forbid_core_dumps, raise_files_limit};
use crate::ready::Readiness;
use crate::shutdown::{DrainTimedOut, Shutdown};
use crate::{follow, logging};

/// The settings are wrong: restarting will not help.
const EXIT_CONFIG: u8 = 78; // EX_CONFIG of sysexits.h

/// What a start that failed at once may still leave behind gets this long to go away.
const FAILED_START_LIMIT: Duration = Duration::from_secs(2);

/// An error that is only ever shown to a person.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Something about the world that a restart will not change, such as a topic that cannot keep the
/// promise: the process exits with 78.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartRefused(
    /// What is wrong, and what to do about it.
    pub String,
);

/// What a daemon is given to start with.
#[derive(Debug)]
pub struct Context<S> {
    /// The settings, checked.
    pub settings: S,
    /// For spawning tasks, and for stopping.
    pub shutdown: Shutdown,
    /// The settings again, whenever they have changed. Never closed while the daemon runs.
    pub reloads: watch::Receiver<Arc<S>>,
    /// Where the daemon's parts register their metrics.
    pub metrics: Metrics,
    /// A random number of this start alone, which tells it from the start before.
    pub boot: u64,
}

impl<S: Settings> Context<S> {
    /// For running a daemon inside a larger process, with settings that do not change.
    pub fn fixed(settings: S, shutdown: Shutdown) -> Self {
        let (never_sends, reloads) = watch::channel(Arc::new(settings.clone()));
        // Without its sender the channel would be ready at once, for ever.
        shutdown.keep(never_sends);
        Self { settings, shutdown, reloads, metrics: Metrics::new(S::NAME), boot: link::new_boot() }
    }

    /// What the daemon shows to others on its links, as the table of its settings says that `pick`
    /// names. Certificates are read again with each reload; whether there are any does not change, since
    /// both ends must agree on that.
    pub fn link_identity(
        &self,
        role: Role,
        pick: fn(&S) -> &ClusterConfig,
    ) -> Result<Identity, ConfigError> {
        let identity = pick(&self.settings).link_identity(role, self.boot)?;
        if let Some(tls) = identity.tls.clone() {
            let span = info_span!("link_certificate");
            follow::each_reload(span, &self.reloads, &self.shutdown, move |settings| {
                let Some(files) = &pick(settings).tls else { return };
                match tls.renew(&files.cert, &files.key, &files.ca) {
                    Ok(()) => info!("certificate of the links read again"),
                    Err(error) => error!(%error, "the old certificate of the links stays"),
                }
            });
        }
        Ok(identity)
    }
}

/// A daemon that has bound its listeners and started its tasks.
pub struct Serving {
    /// The daemon's name.
    pub name: &'static str,
    /// Where it listens, and what connects there.
    pub addrs: Vec<(&'static str, SocketAddr)>,
    /// Whether it may be given work.
    pub ready: Readiness,
    /// Awaited after shutdown has begun and while the links are still up, for at most the limit.
    pub drain: Option<BoxFuture<'static, ()>>,
}

impl Serving {
    /// A daemon that listens nowhere, is always ready and has nothing to finish.
    pub fn new(name: &'static str) -> Self {
        Self { name, addrs: Vec::new(), ready: Readiness::default(), drain: None }
    }

    /// Adds an address, and what connects there, such as `clients`.
    pub fn listens(mut self, whom: &'static str, addr: SocketAddr) -> Self {
        self.addrs.push((whom, addr));
        self
    }

    /// Ready when `ready` says so.
    pub fn ready(mut self, ready: Readiness) -> Self {
        self.ready = ready;
        self
    }

    /// What to finish after shutdown has begun and before the links close.
    pub fn drain(mut self, drain: impl Future<Output = ()> + Send + 'static) -> Self {
        self.drain = Some(Box::pin(drain));
        self
    }

    /// Where `whom` connects.
    pub fn addr(&self, whom: &str) -> Option<SocketAddr> {
        self.addrs.iter().find(|(name, _addr)| *name == whom).map(|(_name, addr)| *addr)
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("name", &self.name)
            .field("addrs", &self.addrs)
            .finish_non_exhaustive()
    }
}

/// A daemon that runs, with what is needed to stop it.
#[derive(Debug)]
pub struct Running {
    /// What `serve` returned.
    pub serving: Serving,
    /// What `serve` was given.
    pub shutdown: Shutdown,
}

impl Running {
    /// Stops the daemon: begins, lets it finish while its links are up, then closes those and waits
    /// for every task, all within `limit`.
    pub async fn stop(self, limit: Duration) -> Result<(), DrainTimedOut> {
        let Self { serving, shutdown } = self;
        let deadline = Instant::now() + limit;
        shutdown.begin();
        if let Some(drain) = serving.drain
            && timeout_at(deadline, drain).await.is_err()
        {
            warn!(daemon = serving.name, "work in flight was not finished in time");
        }
        shutdown.drain(deadline.saturating_duration_since(Instant::now())).await
    }
}

/// Runs the daemon until it fails or is told to stop, and says how that went.
///
/// `serve` binds its listeners, spawns its tasks on the [`Shutdown`] and returns; an error from it
/// means that the daemon never served.
pub fn run<S, F, R>(serve: F) -> ExitCode
where
    S: Settings,
    F: FnOnce(Context<S>) -> R,
    R: Future<Output = Result<Serving, BoxError>>,
{
    match read_arguments::<S, NoCommand>() {
        Ok((flags, _none)) => run_with(flags, serve),
        Err(code) => code,
    }
}

/// Reads the command line of a program that has the commands `C` besides serving; or returns the exit
/// code, if that is all.
pub fn read_arguments<S: Settings, C: Subcommand>() -> Result<(Flags, Option<C>), ExitCode> {
    match Flags::read(S::NAME, std::env::args_os().skip(1)) {
        Ok(Some(read)) => Ok(read),
        Ok(None) => Err(ExitCode::SUCCESS),
        Err(error) => {
            complain(S::NAME, &error);
            Err(ExitCode::from(EXIT_CONFIG))
        }
    }
}

/// As [`run`], with flags that were read before.
pub fn run_with<S, F, R>(flags: Flags, serve: F) -> ExitCode
where
    S: Settings,
    F: FnOnce(Context<S>) -> R,
    R: Future<Output = Result<Serving, BoxError>>,
{
    let (loaded, runtime) = match prepare::<S>(flags) {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let code = runtime.block_on(live(loaded, serve));
    // What still blocks a thread after the drain is not waited for any longer.
    runtime.shutdown_background();
    code
}

/// Runs one command of a program, such as a migration, with the daemon's settings: the same flags, the
/// same logging, the same exit codes, but no signals, no admin page and no drain.
pub fn run_command<S, F, R>(flags: Flags, command: F) -> ExitCode
where
    S: Settings,
    F: FnOnce(S) -> R,
    R: Future<Output = Result<(), BoxError>>,
{
    let (loaded, runtime) = match prepare::<S>(flags) {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let code = match runtime.block_on(command(loaded.settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(S::NAME, &error),
    };
    runtime.shutdown_background();
    code
}

/// Settings, logging, limits of the process, runtime; or the exit code if that is all.
fn prepare<S: Settings>(flags: Flags) -> Result<(Loaded<S>, Runtime), ExitCode> {
    #[cfg(feature = "faults")]
    let mutant = match crate::faults::from_environment() {
        Ok(mutant) => mutant,
        Err(error) => {
            complain(S::NAME, &error);
            return Err(ExitCode::from(EXIT_CONFIG));
        }
    };
    let loaded = match flags.load::<S>() {
        Ok(Some(loaded)) => loaded,
        Ok(None) => return Err(ExitCode::SUCCESS),
        Err(error) => {
            complain(S::NAME, &error);
            return Err(ExitCode::from(EXIT_CONFIG));
        }
    };
    let process = loaded.settings.process();
    logging::init(&process.log_level, process.log_format);
    #[cfg(feature = "faults")]
    if let Some(mutant) = mutant {
        warn!(daemon = S::NAME, mutant = mutant.name(), "a fault is planted in this process");
    }
    for warning in &loaded.warnings {
        warn!(daemon = S::NAME, "{warning}");
    }
    raise_files_limit();
    if !process.core_dumps {
        forbid_core_dumps();
    }

    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(S::NAME).build();
    match runtime {
        Ok(runtime) => Ok((loaded, runtime)),
        Err(error) => {
            error!(daemon = S::NAME, %error, "cannot start a runtime");
            Err(ExitCode::FAILURE)
        }
    }
}

/// One line on standard error, as a shell's own messages are. If that fails, it cannot be reported.
fn complain(name: &str, error: &dyn Error) {
    writeln!(io::stderr(), "{name}: {error}").ok();
}

/// Says why the daemon does not start, and returns whether a restart may help.
fn refuse(name: &str, error: &BoxError) -> ExitCode {
    let error: &(dyn Error + 'static) = error.as_ref();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<ConfigError>() || error.is::<StartRefused>() {
            complain(name, error);
            return ExitCode::from(EXIT_CONFIG);
        }
        cause = error.source();
    }
    error!(daemon = name, error, "cannot serve");
    ExitCode::FAILURE
}

async fn live<S, F, R>(loaded: Loaded<S>, serve: F) -> ExitCode
where
    S: Settings,
    F: FnOnce(Context<S>) -> R,
    R: Future<Output = Result<Serving, BoxError>>,
{
    let Loaded { settings, source, warnings: _ } = loaded;
    let limit = settings.process().drain_limit();
    let shutdown = Shutdown::default();
    let metrics = Metrics::new(S::NAME);
    let page = AdminPage::new(metrics.clone(), shutdown.clone());

    // Before anything can take long, so that a signal never finds the process without a handler.
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return refuse(S::NAME, &error.into()),
    };
    if let Some(addr) = settings.process().metrics_addr {
        match admin::listen(addr, &page, &shutdown) {
            Ok(addr) => info!(daemon = S::NAME, %addr, "metrics"),
            Err(error) => return refuse(S::NAME, &format!("metrics_addr {addr}: {error}").into()),
        }
    }

    let (reloader, reloads) = watch::channel(Arc::new(settings.clone()));
    let context =
        Context { settings, shutdown: shutdown.clone(), reloads, metrics, boot: link::new_boot() };
    let started = tokio::select! {
        started = serve(context) => started,
        signal = signals.stop() => {
            info!(daemon = S::NAME, signal, "told to stop before the start was complete");
            Ok(Serving::new(S::NAME))
        }
    };
    let serving = match started {
        Ok(serving) => serving,
        Err(error) => return give_up(S::NAME, &error, shutdown).await,
    };

    if !signals.stopped {
        page.serves(&serving.ready);
        info!(daemon = S::NAME, addrs = ?serving.addrs, "ready");
        notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
        spawn_watchdog(&shutdown, &serving.ready);
        wait_for_the_end(&shutdown, &mut signals, &source, &reloader).await;
    }
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    tokio::select! {
        stopped = Running { serving, shutdown: shutdown.clone() }.stop(limit) => {
            finish(S::NAME, &shutdown, stopped)
        }
        signal = signals.stop() => {
            error!(daemon = S::NAME, signal, "told to stop again: stopped at once");
            ExitCode::FAILURE
        }
    }
}

/// Ends what a start that failed has begun, and says why it failed.
async fn give_up(name: &'static str, why: &BoxError, shutdown: Shutdown) -> ExitCode {
    let code = refuse(name, why);
    let rest = Running { serving: Serving::new(name), shutdown };
    if let Err(error) = rest.stop(FAILED_START_LIMIT).await {
        debug!(daemon = name, %error, "left behind by a start that failed");
    }
    code
}

/// Waits for a signal to stop or for the end of a vital task; reloads meanwhile.
async fn wait_for_the_end<S: Settings>(
    shutdown: &Shutdown,
    signals: &mut Signals,
    source: &Source,
    reloader: &watch::Sender<Arc<S>>,
) {
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop(signal) => {
                    info!(daemon = S::NAME, signal, "draining");
                    return;
                }
                Asked::Reload => reload(source, reloader),
            },
            () = shutdown.begun() => {
                if shutdown.failed() {
                    error!(daemon = S::NAME, "a vital task has ended: draining");
                } else {
                    info!(daemon = S::NAME, "draining");
                }
                return;
            }
        }
    }
}

/// Publishes the settings as they are written now, if they are right.
fn reload<S: Settings>(source: &Source, reloader: &watch::Sender<Arc<S>>) {
    match source.load::<S>() {
        Ok(Loaded { settings, .. }) => {
            logging::set_level(&settings.process().log_level);
            reloader.send_replace(Arc::new(settings));
            info!(daemon = S::NAME, "settings read again");
        }
        Err(error) => error!(daemon = S::NAME, %error, "settings not taken up"),
    }
}

fn finish(name: &str, shutdown: &Shutdown, stopped: Result<(), DrainTimedOut>) -> ExitCode {
    match stopped {
        Ok(()) if shutdown.failed() => ExitCode::FAILURE,
        Ok(()) => {
            info!(daemon = name, "stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            warn!(daemon = name, %error, "stopped by force");
            ExitCode::FAILURE
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    stopped: bool,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            stopped: false,
        })
    }

    /// Completes with the next signal. Cancel-safe.
    async fn next(&mut self) -> Asked {
        let name = tokio::select! {
            _signal = self.terminate.recv() => "SIGTERM",
            _signal = self.interrupt.recv() => "SIGINT",
            _signal = self.hangup.recv() => return Asked::Reload,
        };
        self.stopped = true;
        Asked::Stop(name)
    }

    /// Completes with the next signal that asks to stop. Cancel-safe.
    async fn stop(&mut self) -> &'static str {
        loop {
            if let Asked::Stop(name) = self.next().await {
                return name;
            }
        }
    }
}

/// What a signal asks for.
enum Asked {
    Stop(&'static str),
    Reload,
}

/// Tells the service manager. Without one nothing is done.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "cannot tell the service manager");
    }
}

/// Shows the service manager twice in each of its periods that the daemon still moves.
fn spawn_watchdog(shutdown: &Shutdown, ready: &Readiness) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let (stopping, ready) = (shutdown.clone(), ready.clone());
    shutdown.spawn_link(info_span!("watchdog"), async move {
        let mut tick = tokio::time::interval((period / 2).max(Duration::from_millis(1)));
        loop {
            tokio::select! {
                () = stopping.closing_links() => return,
                _tick = tick.tick() => match ready.stalled().as_slice() {
                    [] => notify(&[NotifyState::Watchdog]),
                    stalled => error!(?stalled, "no sign of life from a part of the daemon"),
                },
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::config::testing::TestConfig;

    /// Time is paused: it jumps to the limit when nothing happens.
    #[tokio::test(start_paused = true)]
    async fn inside_a_larger_process_no_change_of_settings_comes_and_no_end_of_them() {
        let Context { shutdown, mut reloads, boot, .. } =
            Context::fixed(TestConfig::default(), Shutdown::default());
        timeout(Duration::from_mins(1), reloads.changed()).await.expect_err("nothing changes");
        let other = Context::fixed(TestConfig::default(), shutdown.child());
        assert_ne!(boot, other.boot, "each start has a number of its own");
    }

    #[test]
    fn a_start_that_a_restart_will_not_help_is_told_from_others_however_deep_the_reason_is() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot serve clients")]
        struct Around(#[source] BoxError);

        let code = |error: BoxError| {
            let around: BoxError = Around(Around(error).into()).into();
            format!("{:?}", refuse("test", &around))
        };
        let (failure, config) =
            (format!("{:?}", ExitCode::FAILURE), format!("{:?}", ExitCode::from(78)));
        assert_ne!(failure, config);
        assert_eq!(code(ConfigError::new("listen", "must be set").into()), config);
        assert_eq!(code(StartRefused("no topic".to_owned()).into()), config);
        assert_eq!(code("the port is taken".into()), failure);
    }

    #[test]
    fn a_daemon_says_what_connects_where() {
        let addr = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let serving = Serving::new("test").listens("clients", addr(1)).listens("links", addr(2));
        assert_eq!(serving.addr("links"), Some(addr(2)));
        assert_eq!(serving.addr("nobody"), None);
    }
}
