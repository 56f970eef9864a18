//! A private MariaDB server; MySQL's own, if `TALKHUB_MYSQL` names a folder with its `mysqld` and `mysql`.

use std::env;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::folder;
use crate::ports::Port;
use crate::process::{self, Process};
use crate::template::{self, template};

mod replication;

const SERVER_PACKAGE: &str = "mariadb-server-core";
const CLIENT_PACKAGE: &str = "mariadb-client-core";
/// Names the folder of MySQL's programs. Debian has none that runs beside its MariaDB, so the tests
/// do not install it.
const MYSQL: &str = "TALKHUB_MYSQL";
/// In the data folder, and named as seen from there: the whole path may be too long for a socket.
const SOCKET: &str = "socket";
/// How an empty data folder of MariaDB is made.
const INSTALL: [&str; 4] = [
    "--skip-test-db",
    "--auth-root-authentication-method=normal",
    // A folder that a power cut has left half made is not needed.
    "--innodb-flush-method=nosync",
    // Less to copy. The server that runs makes itself a log of the usual size.
    "--innodb-log-file-size=8M",
];

/// A MariaDB server of its own, with its usual durability.
#[derive(Debug)]
pub struct MariaDb {
    process: Process,
    port: Port,
    args: Vec<String>,
    databases: AtomicU64,
    folder: TempDir,
}

impl MariaDb {
    /// Starts a server.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more options, such as `--sql-mode=`. They come last, and so win.
    pub fn start_with(args: &[&str]) -> Self {
        let folder = folder::new("mariadb");
        let process = Process::new("MariaDB", folder.path().join("log"));
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let server =
            Self { process, port: Port::take(), args, databases: AtomicU64::new(0), folder };
        server.install();
        server.run();
        server.sql(
            "CREATE USER admin@'%' IDENTIFIED BY 'admin'; \
             GRANT ALL ON *.* TO admin@'%' WITH GRANT OPTION",
        );
        server
    }

    /// The server that all tests of this process share: no test may stop, pause or reconfigure it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<MariaDb> = OnceLock::new();
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

    /// The URL of a database, as a user who may do everything with every database.
    pub fn url(&self, database: &str) -> String {
        format!("{}{database}", self.admin_url())
    }

    /// The URL of no database in particular, as that user. Ends with a slash.
    pub fn admin_url(&self) -> String {
        format!("mysql://admin:admin@127.0.0.1:{}/", self.port())
    }

    /// Makes an empty database of utf8mb4 and a user who may do everything with it and nothing else.
    /// Returns its URL.
    pub fn fresh_database(&self) -> String {
        let name = format!("db{}", self.databases.fetch_add(1, Ordering::Relaxed) + 1);
        self.sql(&format!("CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"));
        self.user(&format!("{name}_owner"), &name, "ALL")
    }

    /// Makes a user who may read and write the rows of a database and nothing else; `database` is
    /// its name or its URL. Returns the URL with that user.
    pub fn run_user(&self, database: &str) -> String {
        let name = name_of(database);
        self.user(&format!("{name}_run"), name, "SELECT, INSERT, UPDATE, DELETE")
    }

    fn user(&self, user: &str, database: &str, rights: &str) -> String {
        self.sql(&format!(
            "CREATE USER IF NOT EXISTS {user}@'%' IDENTIFIED BY 'secret'; \
             GRANT {rights} ON {database}.* TO {user}@'%'"
        ));
        format!("mysql://{user}:secret@127.0.0.1:{}/{database}", self.port())
    }

    /// Runs statements, which must succeed, through the command-line client as a user who may do
    /// everything. Returns the rows, one a line, with tabs between the columns.
    pub fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap_or_else(|why| panic!("`{statements}` succeeds: {why}"))
    }

    /// The same for statements that may fail: then with what the client said.
    pub fn try_sql(&self, statements: &str) -> Result<String, String> {
        let mut client = client();
        client
            .args(["--no-defaults", "--batch", "--skip-column-names", "--user=root"])
            .args(["--default-character-set=utf8mb4", "--protocol=socket"])
            .arg(format!("--socket={SOCKET}"))
            .current_dir(self.data());
        process::run(&mut client, statements)
    }

    /// Ends it in good order, if it runs.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Kills it as `kill -9` does, if it runs.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts it again with the same data on the same port; in good order, if it runs. Returns when
    /// it has recovered.
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

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A server that starts removes the temporary tables of all others from the usual place.
    fn tmpdir(&self) -> String {
        let folder = self.folder.path().join("tmp");
        fs::create_dir_all(&folder).expect("make the folder of the temporary tables");
        format!("--tmpdir={}", folder.display())
    }

    fn install(&self) {
        let options = (INSTALL, as_root());
        let template = template("mariadb", &[&server()], options, |draft| self.install_at(draft));
        template::copy(&template, &self.data()).expect("copy an empty data folder");
        // Its identity among other servers. It makes itself a new one.
        fs::remove_file(self.data().join("auto.cnf")).ok();
    }

    fn install_at(&self, data: &Path) {
        let (program, options) = if mysql().is_some() {
            (server(), ["--initialize-insecure"].as_slice())
        } else {
            (process::installed("mariadb-install-db", SERVER_PACKAGE), INSTALL.as_slice())
        };
        let mut command = Command::new(&program);
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", data.display()))
            .arg(self.tmpdir())
            .args(options)
            .args(as_root());
        let said = process::run(&mut command, "");
        said.unwrap_or_else(|why| panic!("{} succeeds: {why}", program.display()));
    }

    fn run(&self) {
        let mut command = process::server(server());
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", self.data().display()))
            .arg(self.tmpdir())
            .arg(format!("--port={}", self.port()))
            .arg(format!("--socket={SOCKET}"))
            .args(["--bind-address=127.0.0.1", "--pid-file=pid", "--skip-name-resolve"])
            .args(["--innodb-buffer-pool-size=128M", "--innodb-flush-log-at-trx-commit=1"])
            .args(
                mysql()
                    .map(|_folder| ["--mysqlx=OFF", "--secure-file-priv=NULL"])
                    .into_iter()
                    .flatten(),
            )
            .args(as_root())
            .args(&self.args);
        // A killed one leaves it behind, and the port says that the new one is ready, not this.
        fs::remove_file(self.data().join(SOCKET)).ok();
        self.process.start(command, || greets(self.port()));
    }
}

/// Where MySQL's programs are, if they are wanted.
fn mysql() -> Option<PathBuf> {
    env::var_os(MYSQL).map(PathBuf::from)
}

fn server() -> PathBuf {
    mysql().map_or_else(
        || process::installed("mariadbd", SERVER_PACKAGE),
        |folder| folder.join("mysqld"),
    )
}

fn client() -> Command {
    Command::new(mysql().map_or_else(
        || process::installed("mariadb", CLIENT_PACKAGE),
        |folder| folder.join("mysql"),
    ))
}

/// It does not run as root unless it is told to.
fn as_root() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("--user=root")
}

/// The name of a database in its URL, or as it is.
fn name_of(database: &str) -> &str {
    let name = database.rsplit('/').next().unwrap_or_default();
    name.split('?').next().unwrap_or_default()
}

/// Whether a server greets a client that connects, as it does when it has recovered.
fn greets(port: u16) -> bool {
    let Ok(mut socket) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    socket.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && matches!(socket.read(&mut [0; 64]), Ok(1..))
}
