//! Supervisors of daemons that are shell scripts, and of none.

use std::fmt::Write as _;
use std::io::Read;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const SOON: Duration = Duration::from_secs(30);

/// Daemons that are shell scripts: each takes down what happens to it.
struct Site {
    temp: TempDir,
    folder: Arc<Folder>,
    ends: mpsc::Sender<Exit>,
    exits: mpsc::Receiver<Exit>,
}

/// A script that says that it began, and then does this.
fn script(what: &str) -> String {
    format!(
        "name=$(basename \"$2\" .toml)\nsay() {{ echo \"$name $1\" >> \"$(dirname \"$0\")/log\"; }}\n{what}\n"
    )
}

/// Runs until it is told to stop, and then ends with this code.
fn runs(code: u8) -> String {
    script(&format!(
        "trap 'say stops; exit {code}' TERM\nsay runs\nwhile :; do sleep 0.01 & wait; done"
    ))
}

impl Site {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let folder = Arc::new(Folder::open(&temp.path().join("data")).unwrap());
        let (ends, exits) = mpsc::channel(EXITS_MAX);
        let site = Self { temp, folder, ends, exits };
        // In place of `talkhub run-child PID`, which does more than a test can have.
        site.program("talkhub", "shift 2\nexec \"$@\"\n");
        site
    }

    /// Written by a process of its own. A file cannot be run as long as any process has it open to
    /// write, and another test that starts a program would copy an open file of this process into
    /// its child.
    fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.temp.path().join(name);
        let write = "printf '#!/bin/sh\\n%s' \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let mut shell = std::process::Command::new("sh");
        let written = shell.args(["-c", write]).arg(&path).arg(text).status().unwrap();
        assert!(written.success());
        path
    }

    fn processes(self) -> (Processes, TempDir) {
        let Self { temp, folder, ends, exits } = self;
        let talkhub = temp.path().join("talkhub");
        let (shutdown, to_start, children) = <_>::default();
        (Processes { shutdown, folder, talkhub, to_start, children, ends, exits }, temp)
    }

    /// Starts one daemon, with the script as its program.
    fn start(self, script: &str) -> (Processes, TempDir) {
        let program = self.program("program", script);
        let (mut processes, temp) = self.processes();
        let daemon = daemon(DaemonKind::Gateway, "msg_server-1");
        let child = processes.start(daemon, program);
        processes.children.push(child);
        (processes, temp)
    }
}

fn daemon(kind: DaemonKind, name: &str) -> DaemonPlan {
    let metrics = "127.0.0.1:1".parse().unwrap();
    DaemonPlan { kind, name: name.to_owned(), conf: String::new(), metrics, listens: Vec::new() }
}

fn log(temp: &TempDir) -> Vec<String> {
    let log = fs::read_to_string(temp.path().join("log")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

/// Waits until so many lines have been taken down.
async fn logged(temp: &TempDir, count: usize) -> Vec<String> {
    let wait = async {
        while log(temp).len() < count {
            sleep(Duration::from_millis(5)).await;
        }
        log(temp)
    };
    timeout(SOON, wait).await.unwrap_or_else(|_late| panic!("only {:?}", log(temp)))
}

/// The process of the only daemon, once it is another than `last`.
async fn running(processes: &mut Processes, last: Option<u32>) -> u32 {
    let is_next = |state: &State| matches!(state, State::Running(pid) if Some(*pid) != last);
    let state = timeout(SOON, processes.children[0].state.wait_for(is_next)).await;
    let State::Running(pid) = *state.expect("it runs soon").unwrap() else { unreachable!() };
    pid
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn a_daemon_that_is_killed_is_started_again_and_its_file_has_the_new_number() {
    let (mut processes, temp) = Site::new().start(&runs(0));
    let first = running(&mut processes, None).await;
    logged(&temp, 1).await;
    let file = processes.folder.pid_file("msg_server-1");
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), first.to_string());
    kill(first, Signal::KILL);
    let exit = timeout(SOON, processes.exits.recv()).await.unwrap().unwrap();
    assert_eq!((exit.name.as_str(), exit.gave_up()), ("msg_server-1", false));
    let second = running(&mut processes, Some(first)).await;
    logged(&temp, 2).await;
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), second.to_string());
    let lines = processes.processes().await;
    assert_eq!(lines, [ProcessLine::new(&processes.children[0].daemon, second)]);
    processes.stop().await.unwrap();
    assert_eq!(log(&temp), ["msg_server-1 runs", "msg_server-1 runs", "msg_server-1 stops"]);
    assert!(!file.exists(), "nothing is left behind");
}

#[tokio::test]
async fn a_daemon_that_refuses_its_settings_is_not_started_again() {
    let (mut processes, temp) = Site::new().start(&script("say refuses; exit 78"));
    let failure = timeout(SOON, processes.failed()).await.unwrap();
    assert_eq!(failure, Failure::said_by_daemon());
    let ended = |state: &State| matches!(state, State::Ended(None));
    let state = timeout(SOON, processes.children[0].state.wait_for(ended)).await;
    drop(state.expect("it has ended for good").unwrap());
    assert!(processes.processes().await.is_empty());
    processes.stop().await.unwrap();
    assert_eq!(log(&temp), ["msg_server-1 refuses"]);
}

#[tokio::test]
async fn one_that_gives_up_is_tried_again_while_the_cluster_runs() {
    let once = "say runs; [ -e \"$0.again\" ] && exec sleep 60; touch \"$0.again\"; exit 1";
    let (mut processes, temp) = Site::new().start(&script(once));
    logged(&temp, 2).await;
    let exit = timeout(SOON, processes.exits.recv()).await.unwrap().unwrap();
    assert!(exit.gave_up() && !exit.is_refusal());
    let failure = exit.failure();
    assert_eq!(failure.code(), 1);
    assert_eq!(failure.to_string(), "msg_server-1 has given up: exit status: 1");
    // It does not listen to SIGTERM in any way of its own, and dies of it.
    running(&mut processes, None).await;
    let failure = processes.stop().await.unwrap_err().to_string();
    assert_eq!(failure, "msg_server-1 did not stop cleanly: signal: 15 (SIGTERM)");
}

#[tokio::test]
async fn a_program_that_cannot_be_run_counts_as_one_that_has_given_up() {
    let site = Site::new();
    fs::remove_file(site.temp.path().join("talkhub")).unwrap();
    let (mut processes, _temp) = site.start("");
    for _try in 0..2 {
        let exit = timeout(SOON, processes.exits.recv()).await.unwrap().unwrap();
        assert!(exit.gave_up() && !exit.is_refusal());
    }
    timeout(SOON, processes.stop()).await.expect("it is between two tries").unwrap();
}

#[tokio::test]
async fn a_daemon_that_stops_badly_is_named_with_its_code() {
    let (mut processes, temp) = Site::new().start(&runs(3));
    running(&mut processes, None).await;
    logged(&temp, 1).await;
    let failure = processes.stop().await.unwrap_err();
    assert_eq!(failure.to_string(), "msg_server-1 did not stop cleanly: exit status: 3");
}

#[tokio::test]
async fn a_daemon_that_does_not_stop_is_killed_eight_seconds_later() {
    let (mut processes, temp) =
        Site::new().start(&script("trap '' TERM\nsay runs\nwhile :; do sleep 0.01; done"));
    let pid = running(&mut processes, None).await;
    logged(&temp, 1).await;
    // From here on time jumps to the next timer, since all tasks only wait.
    tokio::time::pause();
    let began = Instant::now();
    let failure = processes.stop().await.unwrap_err().to_string();
    assert_eq!(failure, "msg_server-1 did not stop in time and was killed");
    assert_eq!(began.elapsed().as_secs(), 8);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "its end has been collected");
}

/// An admin page that says that its daemon is ready, once that has taken down that it runs.
async fn page(log: PathBuf, name: &str, listener: TcpListener) {
    loop {
        let (mut socket, _peer) = listener.accept().await.unwrap();
        if socket.read(&mut [0; 1024]).await.is_ok_and(|len| len == 0) {
            continue; // The caller has stopped asking, since a daemon has given up.
        }
        let log = fs::read_to_string(&log).unwrap_or_default();
        let is_ready = log.lines().any(|line| line == format!("{name} runs"));
        let status = if is_ready { "200 OK" } else { "503 Not Yet" };
        let mut answer = String::new();
        write!(answer, "HTTP/1.1 {status}\r\n\r\nwaiting for: hub\n").unwrap();
        socket.write_all(answer.as_bytes()).await.ok();
    }
}

const KINDS: [(DaemonKind, &str); 4] = [
    (DaemonKind::Gateway, "msg_server-1"),
    (DaemonKind::DbProxy, "db_proxy"),
    (DaemonKind::LoginServer, "login_server"),
    (DaemonKind::RouteServer, "route_server-1"),
];

/// A cluster that is to be started, and the pages of its daemons.
async fn cluster(scripts: [&str; 4]) -> (Processes, TempDir, impl Future<Output = ()>) {
    let site = Site::new();
    let (mut to_start, mut pages) = (Vec::new(), Vec::new());
    for ((kind, name), script) in KINDS.into_iter().zip(scripts) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let metrics = listener.local_addr().unwrap();
        let program = site.program(name, script);
        to_start.push((DaemonPlan { metrics, ..daemon(kind, name) }, program));
        pages.push(page(site.temp.path().join("log"), name, listener));
    }
    let (mut processes, temp) = site.processes();
    processes.to_start = to_start;
    let pages = async { drop(futures_util::future::join_all(pages).await) };
    (processes, temp, pages)
}

#[tokio::test]
async fn daemons_start_when_those_they_dial_are_ready_and_stop_the_other_way_round() {
    let runs = runs(0);
    let (mut processes, temp, pages) = cluster([&runs; 4]).await;
    let lives = async {
        timeout(SOON, processes.ready()).await.expect("they are ready soon").unwrap();
        assert!(processes.unready().await.is_empty());
        let mut lines = logged(&temp, 4).await;
        lines[..2].sort();
        let order = ["login_server", "route_server-1", "db_proxy", "msg_server-1"];
        assert_eq!(lines, order.map(|name| format!("{name} runs")));
        processes.stop().await.unwrap();
        let mut lines = log(&temp).split_off(4);
        lines[2..].sort();
        let order = ["msg_server-1", "db_proxy", "login_server", "route_server-1"];
        assert_eq!(lines, order.map(|name| format!("{name} stops")));
    };
    tokio::select! {
        () = lives => {}
        () = pages => {}
    }
}

#[tokio::test]
async fn a_start_during_which_a_daemon_gives_up_is_over_and_what_is_not_ready_is_named() {
    let (runs, gives_up) = (runs(0), script("exit 1"));
    let (mut processes, temp, pages) = cluster([&runs, &gives_up, &runs, &runs]).await;
    let lives = async {
        let ready = timeout(SOON, processes.ready()).await.expect("it is over soon");
        assert_eq!(ready.unwrap_err().to_string(), "db_proxy has given up: exit status: 1");
        assert_eq!(processes.unready().await, ["db_proxy: waiting for: hub"]);
        // The stop may find it in the middle of another try, which it then ends.
        drop(processes.stop().await);
        let stops = log(&temp).iter().filter(|line| line.ends_with(" stops")).count();
        assert_eq!(stops, 2, "those that ran, and no gateway was started: {:?}", log(&temp));
    };
    tokio::select! {
        () = lives => {}
        () = pages => {}
    }
}

#[tokio::test]
async fn one_that_is_killed_during_the_start_does_not_end_it() {
    let runs = runs(0);
    let dies_once =
        "[ -e \"$0.again\" ] || { touch \"$0.again\"; kill -9 $$; }\n".to_owned() + &runs;
    let (mut processes, temp, pages) = cluster([&runs, &dies_once, &runs, &runs]).await;
    let lives = async {
        timeout(SOON, processes.ready()).await.expect("they are ready soon").unwrap();
        assert_eq!(processes.processes().await.len(), 4);
        logged(&temp, 4).await;
        processes.stop().await.unwrap();
    };
    tokio::select! {
        () = lives => {}
        () = pages => {}
    }
}

#[test]
fn only_a_daemon_that_dies_young_is_waited_with() {
    let (young, old) = (Duration::ZERO, YOUNG);
    let mut waits = Vec::new();
    let mut last = None;
    for _death in 0..7 {
        last = next_wait(last, young);
        waits.push(last.unwrap().as_millis());
    }
    assert_eq!(waits, [100, 200, 400, 800, 1_600, 2_000, 2_000]);
    assert_eq!(next_wait(last, old), None, "at once, after a life of its own");
    assert_eq!(next_wait(None, young), Some(FIRST_WAIT));
}

#[test]
fn wrong_settings_are_no_reason_to_start_again() {
    let exit = |raw| Exit { name: "x".to_owned(), status: ExitStatus::from_raw(raw) };
    assert!(exit(78 << 8).is_refusal());
    assert!(!exit(1 << 8).is_refusal() && exit(1 << 8).gave_up());
    assert!(!exit(9).is_refusal() && !exit(9).gave_up(), "killed");
}

#[test]
fn a_missing_program_names_the_command_that_builds_it() {
    let text = program_beside(Path::new("/nowhere/release/talkhub"), DaemonKind::DbProxy)
        .unwrap_err()
        .to_string();
    assert!(text.contains("/nowhere/release/db_proxy is missing"), "{text}");
    assert!(text.contains("cargo build --workspace --release"), "{text}");
}

/// Time is paused: it jumps to the next look.
#[tokio::test(start_paused = true)]
async fn a_process_of_an_earlier_start_that_stays_is_waited_for_for_twenty_seconds() {
    let temp = tempfile::tempdir().unwrap();
    let folder = Folder::open(temp.path()).unwrap();
    let mut child = std::process::Command::new("sh")
        .args(["-c", "echo up; read _line", "sh", "--config"])
        .arg(folder.conf_file("msg_server-1"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It has its command line before it says anything.
    child.stdout.take().unwrap().read_exact(&mut [0; 3]).unwrap();
    fs::write(folder.pid_file("msg_server-1"), child.id().to_string()).unwrap();

    let began = Instant::now();
    let waited = timeout(Duration::from_mins(1), wait_for_leftovers(&folder)).await;
    let failure = waited.expect("it gives up").unwrap_err().to_string();
    assert!(failure.contains("still run here: msg_server-1 (pid "), "{failure}");
    assert_eq!(began.elapsed().as_secs(), 20);

    drop(child.stdin.take());
    child.wait().unwrap();
    wait_for_leftovers(&folder).await.unwrap();
}
