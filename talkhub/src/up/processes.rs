//! Every daemon as a process of its own, as systemd would run them: started, watched, started again
//! when it dies, and stopped in order.
//!
//! # Invariants
//!
//! - A daemon has at most one process. Its end has been collected before another is started, and
//!   before its number is forgotten, so no signal ever goes to a stranger.
//! - A daemon that says that its settings are wrong (exit code 78) is not started again: everything
//!   stops. So does a start during which a daemon gives up by itself.
//! - When `up` ends, in whatever way, its daemons end ([`super::child`]).

use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info_span, warn};

use super::child;
use super::folder::Folder;
use super::http;
use super::plan::{DRAIN_LIMIT, DaemonKind, DaemonPlan, Plan};
use super::report::ProcessLine;
use crate::failure::{EXIT_CONFIG, Failure};

/// What a daemon gets beyond its own limit to stop before it is killed.
const STOP_MARGIN: Duration = Duration::from_secs(3);
/// How long the processes of an earlier `up`, which were told to stop, may take for it.
const LEFTOVERS_LIMIT: Duration = Duration::from_secs(20);
/// How often a daemon that starts is asked whether it is ready.
const READY_POLL: Duration = Duration::from_millis(20);
/// Ends that wait to be looked at. A full queue holds up their restarts and nothing else.
const EXITS_MAX: usize = 64;

/// A daemon that lived shorter than this died young.
const YOUNG: Duration = Duration::from_secs(1);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(2);

/// The daemons' processes.
#[derive(Debug)]
pub(super) struct Processes {
    shutdown: Shutdown,
    folder: Arc<Folder>,
    talkhub: PathBuf,
    /// Those that have not been started yet, with their programs.
    to_start: Vec<(DaemonPlan, PathBuf)>,
    children: Vec<Supervised>,
    ends: mpsc::Sender<Exit>,
    exits: mpsc::Receiver<Exit>,
}

/// One daemon, as seen from outside its supervisor.
#[derive(Debug)]
struct Supervised {
    daemon: DaemonPlan,
    stop: CancellationToken,
    state: watch::Receiver<State>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Not started yet, or about to be started again.
    Between,
    Running(u32),
    /// For good; with what went wrong on the way out.
    Ended(Option<String>),
}

/// The end of a process that was not told to end.
#[derive(Debug)]
struct Exit {
    name: String,
    status: ExitStatus,
}

/// What one supervisor needs.
struct Supervisor {
    name: String,
    talkhub: PathBuf,
    program: PathBuf,
    folder: Arc<Folder>,
    stop: CancellationToken,
    state: watch::Sender<State>,
    exits: mpsc::Sender<Exit>,
}

impl Processes {
    /// Finds the programs and writes the settings: nothing is started before [`Self::ready`].
    pub(super) fn prepare(plan: &Plan, folder: &Arc<Folder>) -> Result<Self, Failure> {
        let talkhub = env::current_exe()
            .map_err(|error| Failure::new(format!("cannot find my own program: {error}")))?;
        let daemons = plan.daemons.iter().map(|daemon| {
            let program = program_beside(&talkhub, daemon.kind)?;
            folder.write_conf(&daemon.name, &daemon.conf)?;
            Ok((daemon.clone(), program))
        });
        let to_start = daemons.collect::<Result<_, Failure>>()?;
        let (ends, exits) = mpsc::channel(EXITS_MAX);
        Ok(Self {
            shutdown: Shutdown::default(),
            folder: Arc::clone(folder),
            talkhub,
            to_start,
            children: Vec::new(),
            ends,
            exits,
        })
    }

    /// Starts a process for each daemon, those first that the others dial. Completes when every
    /// daemon says that it is ready, or when one has given up.
    pub(super) async fn ready(&mut self) -> Result<(), Failure> {
        for stage in DaemonKind::START_ORDER {
            let (now, later) = self
                .to_start
                .drain(..)
                .partition(|(daemon, _program)| stage.contains(&daemon.kind));
            self.to_start = later;
            let now: Vec<_> = now;
            let pages: Vec<_> = now.iter().map(|(daemon, _program)| daemon.metrics).collect();
            for (daemon, program) in now {
                let child = self.start(daemon, program);
                self.children.push(child);
            }
            self.stage_ready(&pages).await?;
        }
        Ok(())
    }

    fn start(&self, daemon: DaemonPlan, program: PathBuf) -> Supervised {
        let stop = CancellationToken::new();
        let (state, seen) = watch::channel(State::Between);
        let supervisor = Supervisor {
            name: daemon.name.clone(),
            talkhub: self.talkhub.clone(),
            program,
            folder: Arc::clone(&self.folder),
            stop: stop.clone(),
            state,
            exits: self.ends.clone(),
        };
        self.shutdown.spawn(info_span!("child", name = daemon.name), supervisor.run());
        Supervised { daemon, stop, state: seen }
    }

    async fn stage_ready(&mut self, pages: &[SocketAddr]) -> Result<(), Failure> {
        let all_ready = async {
            for page in pages {
                while !http::is_ready(*page).await {
                    sleep(READY_POLL).await;
                }
            }
        };
        tokio::pin!(all_ready);
        loop {
            tokio::select! {
                () = &mut all_ready => return Ok(()),
                exit = self.exits.recv() => match exit {
                    Some(exit) if exit.gave_up() => return Err(exit.failure()),
                    Some(_killed) => {}
                    None => return Err(Failure::new("nobody watches the daemons")),
                },
            }
        }
    }

    /// What the daemons that are not ready wait for.
    pub(super) async fn unready(&self) -> Vec<String> {
        let mut unready = Vec::new();
        for child in &self.children {
            if let Err(why) = http::ready(child.daemon.metrics).await {
                unready.push(format!("{}: {why}", child.daemon.name));
            }
        }
        unready
    }

    /// Completes when the daemons cannot go on, and says why.
    pub(super) async fn failed(&mut self) -> Failure {
        loop {
            match self.exits.recv().await {
                Some(exit) if exit.is_refusal() => return exit.failure(),
                Some(_started_again) => {}
                None => return Failure::new("nobody watches the daemons"),
            }
        }
    }

    /// Which process each daemon is now. Waits for those that are just being started again.
    pub(super) async fn processes(&mut self) -> Vec<ProcessLine> {
        let mut lines = Vec::new();
        for child in &mut self.children {
            let state = child.state.wait_for(|state| *state != State::Between).await;
            if let Ok(State::Running(pid)) = state.as_deref() {
                lines.push(ProcessLine::new(&child.daemon, *pid));
            }
        }
        lines
    }

    /// Stops the daemons, those first that the others serve.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        let mut forced = Vec::new();
        for stage in DaemonKind::STOP_ORDER {
            let of_stage = |child: &&mut Supervised| stage.contains(&child.daemon.kind);
            for child in self.children.iter_mut().filter(|child| of_stage(child)) {
                child.stop.cancel();
            }
            for child in self.children.iter_mut().filter(|child| of_stage(child)) {
                let ended = child.state.wait_for(|state| matches!(state, State::Ended(_))).await;
                match ended.as_deref() {
                    Ok(State::Ended(None)) => {}
                    Ok(State::Ended(Some(why))) => {
                        forced.push(format!("{} {why}", child.daemon.name));
                    }
                    _ => forced.push(format!("{} was lost sight of", child.daemon.name)),
                }
            }
        }
        self.shutdown.begin();
        if let Err(error) = self.shutdown.drain(Duration::from_secs(1)).await {
            warn!(%error, "supervisors");
        }
        match forced.as_slice() {
            [] => Ok(()),
            forced => Err(Failure::new(forced.join("; "))),
        }
    }
}

impl Supervisor {
    /// Keeps the daemon running until it is told to stop, or refuses to run.
    async fn run(self) {
        let ended = self.supervise().await;
        fs::remove_file(self.folder.pid_file(&self.name)).ok();
        self.state.send_replace(State::Ended(ended));
    }

    async fn supervise(&self) -> Option<String> {
        let mut wait = None;
        loop {
            let born = Instant::now();
            let status = match self.spawn() {
                Ok(mut child) => {
                    self.running(&child);
                    tokio::select! {
                        status = child.wait() => match status {
                            Ok(status) => status,
                            Err(error) => return Some(format!("cannot be waited for: {error}")),
                        },
                        () = self.stop.cancelled() => return end(child).await,
                    }
                }
                Err(error) => {
                    warn!(name = self.name, %error, "cannot be started");
                    // As if it had given up: a start fails, a running cluster tries again.
                    ExitStatus::from_raw(1 << 8)
                }
            };
            self.state.send_replace(State::Between);
            let exit = Exit { name: self.name.clone(), status };
            let refused = exit.is_refusal();
            warn!(name = self.name, %status, "has ended");
            if self.exits.send(exit).await.is_err() || refused {
                return None;
            }
            wait = next_wait(wait, born.elapsed());
            tokio::select! {
                () = sleep(wait.unwrap_or_default()) => {}
                () = self.stop.cancelled() => return None,
            }
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let conf = self.folder.conf_file(&self.name);
        let mut command = Command::from(child::command(&self.talkhub, &self.program, &conf));
        // What our environment sets is in the file already; the rest of it is not for daemons.
        for (name, _value) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("TALKHUB_") && !daemon::faults::is_variable(&text) {
                command.env_remove(&name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn()
    }

    fn running(&self, child: &Child) {
        let Some(pid) = child.id() else { return };
        if let Err(error) = fs::write(self.folder.pid_file(&self.name), format!("{pid}\n")) {
            warn!(name = self.name, %error, "cannot write the pid file");
        }
        self.state.send_replace(State::Running(pid));
    }
}

/// Asks a daemon to stop, and kills it if that takes too long. Returns what went wrong.
async fn end(mut child: Child) -> Option<String> {
    // Without a number it has ended already.
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        return Some(format!("cannot be told to stop: {error}"));
    }
    match timeout(DRAIN_LIMIT + STOP_MARGIN, child.wait()).await {
        Ok(Ok(status)) if status.success() => None,
        Ok(Ok(status)) => Some(format!("did not stop cleanly: {status}")),
        Ok(Err(error)) => Some(format!("cannot be waited for: {error}")),
        Err(_elapsed) => {
            child.kill().await.ok();
            Some("did not stop in time and was killed".to_owned())
        }
    }
}

impl Exit {
    /// Whether a restart will not help.
    fn is_refusal(&self) -> bool {
        self.status.code() == Some(i32::from(EXIT_CONFIG))
    }

    /// Whether it ended by itself and not by a signal.
    fn gave_up(&self) -> bool {
        self.status.code().is_some()
    }

    /// The daemon has said why, on the same standard error.
    fn failure(&self) -> Failure {
        if self.is_refusal() {
            return Failure::said_by_daemon();
        }
        Failure::new(format!("{} has given up: {}", self.name, self.status))
    }
}

/// How long to wait before the next start of a daemon that lived for `lived`, after `last`.
fn next_wait(last: Option<Duration>, lived: Duration) -> Option<Duration> {
    match last {
        _ if lived >= YOUNG => None,
        None => Some(FIRST_WAIT),
        Some(last) => Some((last * 2).min(LAST_WAIT)),
    }
}

/// The daemon's program, which is built into the same folder as this one.
fn program_beside(talkhub: &Path, kind: DaemonKind) -> Result<PathBuf, Failure> {
    let program = talkhub.with_file_name(kind.name());
    if program.is_file() {
        return Ok(program);
    }
    let release = talkhub.parent().is_some_and(|folder| folder.ends_with("release"));
    let command =
        if release { "cargo build --workspace --release" } else { "cargo build --workspace" };
    Err(Failure::config(format!(
        "{} is missing: --processes needs the daemons' programs; build them with `{command}`",
        program.display()
    )))
}

/// Waits until the processes of an earlier `up` in this folder, which died without a word, are gone.
pub(super) async fn wait_for_leftovers(folder: &Folder) -> Result<(), Failure> {
    let deadline = Instant::now() + LEFTOVERS_LIMIT;
    let mut told = false;
    loop {
        let left = folder.leftovers();
        if left.is_empty() {
            return Ok(());
        }
        let names: Vec<_> =
            left.iter().map(|left| format!("{} (pid {})", left.name, left.pid)).collect();
        let names = names.join(", ");
        if Instant::now() > deadline {
            return Err(Failure::new(format!(
                "processes of an earlier `up` still run here: {names}; end them first"
            )));
        }
        if !told {
            eprintln!("talkhub: waiting for the processes of an earlier `up` to end: {names}");
            told = true;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests;
