//! A private Redis server.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::folder;
use crate::ports::Port;
use crate::process::{self, Process};

const PACKAGE: &str = "redis-tools";
/// What it keeps a snapshot in.
const SNAPSHOT: &str = "dump.rdb";

/// A Redis server of its own. It keeps nothing on disk, unless its options say so.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: Port,
    /// Where the servers of a cluster talk with each other, if it is one. Without it that is 10,000 ports above its
    /// own, among those that the system takes for outgoing connections.
    bus: Option<Port>,
    args: Vec<String>,
    folder: TempDir,
}

impl Redis {
    /// Starts a server.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more options, such as `--appendonly yes` or `--requirepass secret`, one
    /// word each. They come last, and so win.
    pub fn start_with(args: &[&str]) -> Self {
        let folder = folder::new("redis");
        let process = Process::new("Redis", folder.path().join("log"));
        let bus = args.contains(&"--cluster-enabled").then(Port::take);
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let server = Self { process, port: Port::take(), bus, args, folder };
        server.run();
        server
    }

    /// The server that all tests of this process share: no test may stop, pause, flush or reconfigure
    /// it, and each test takes keys of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// The port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its URL, with the password if it has one.
    pub fn url(&self) -> String {
        let login = self.password().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{login}127.0.0.1:{}/", self.port())
    }

    /// Runs one command, which must succeed, through the command-line client. Returns what it said,
    /// without the last end of line.
    pub fn command(&self, args: &[&str]) -> String {
        let said = process::run(self.client().arg("-e").args(args), "");
        let said = said.unwrap_or_else(|why| panic!("`{}` succeeds: {why}", args.join(" ")));
        said.strip_suffix('\n').map(str::to_owned).unwrap_or(said)
    }

    /// Forgets everything.
    pub fn flush(&self) {
        self.command(&["FLUSHALL"]);
    }

    /// Everything that it knows now, for [`Self::restore`].
    pub fn dump(&self) -> Vec<u8> {
        let file = self.folder.path().join("copy");
        let said = process::run(self.client().arg("--rdb").arg(&file), "");
        said.unwrap_or_else(|why| panic!("a copy is made: {why}"));
        fs::read(file).expect("read the copy")
    }

    /// Kills it and starts it again with what an earlier [`Self::dump`] gave. Not for a server with
    /// `--appendonly yes`, which believes its own log.
    pub fn restore(&self, dump: &[u8]) {
        self.kill();
        let snapshot = self.data().join(SNAPSHOT);
        fs::write(&snapshot, dump).expect("write the copy");
        self.run();
        if !self.args.iter().any(|arg| arg == "--save") {
            // The next start is an empty one again.
            fs::remove_file(snapshot).expect("remove the copy");
        }
    }

    /// Ends it in good order, if it runs.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Kills it as `kill -9` does, if it runs.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts it again on the same port; in good order, if it runs. It knows what it has kept on
    /// disk: nothing, unless its options said so.
    pub fn restart(&self) {
        self.stop();
        self.run();
    }

    /// Stops it in its tracks (SIGSTOP): connections stay open, and no request gets an answer.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on after [`Self::pause`].
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Whether it was started and not ended since.
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    fn password(&self) -> Option<&str> {
        let option = self.args.iter().position(|arg| arg == "--requirepass")?;
        self.args.get(option + 1).map(String::as_str)
    }

    fn client(&self) -> Command {
        let mut client = Command::new(process::installed("redis-cli", PACKAGE));
        client.args(["-h", "127.0.0.1", "-p", &self.port().to_string()]);
        client.envs(self.password().map(|password| ("REDISCLI_AUTH", password)));
        client
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn run(&self) {
        fs::create_dir_all(self.data()).expect("make the folder of the data");
        let mut command = process::server(self.program());
        command
            .args(["--port", &self.port().to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--dir")
            .arg(self.data())
            .args(&self.args);
        if let Some(bus) = &self.bus {
            command.args(["--cluster-port", &bus.number.to_string()]);
        }
        self.process.start(command, || answers(self.port()));
    }

    /// Debian's `redis-server` would start a service. The same program is in `redis-tools` under
    /// another name, and is the server if it is called so.
    fn program(&self) -> PathBuf {
        process::find("redis-server").unwrap_or_else(|| {
            let program = self.folder.path().join("redis-server");
            if !program.exists() {
                let other = process::installed("redis-check-rdb", PACKAGE);
                symlink(other, &program).expect("make a link");
            }
            program
        })
    }
}

/// Whether a server answers as one that has read its data.
fn answers(port: u16) -> bool {
    let Ok(mut socket) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let mut answer = [0; 7];
    socket.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && socket.write_all(b"PING\r\n").is_ok()
        && socket.read_exact(&mut answer).is_ok()
        && matches!(&answer, b"+PONG\r\n" | b"-NOAUTH")
}
