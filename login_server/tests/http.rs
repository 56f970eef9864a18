//! What clients get, byte by byte, from a login server that runs as in a process.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon::config::parse;
use daemon::link::{self, Identity, Link, LinkFrame, LinkHandler, LinkKey, LinkOptions, Role};
use daemon::{Context, Running, Shutdown};
use login_server::Config;
use proto::cluster::Kind;
use proto::cluster::wire::LoadReport;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const KEY: &str = "sixteen bytes, at least";
const LIMIT: Duration = Duration::from_secs(10);
const GET: &str = "GET /msg_server HTTP/1.1\r\nHost: x\r\n\r\n";

struct Login {
    running: Running,
}

/// A gateway as far as login servers know one.
struct Gateway {
    link: Link,
    shutdown: Shutdown,
}

struct Up(mpsc::Sender<Link>);

impl LinkHandler for Up {
    fn up(&self, link: &Link) {
        // Only the first link is looked at.
        self.0.try_send(link.clone()).ok();
    }

    fn frame(&self, _link: &Link, _frame: LinkFrame) {}

    fn down(&self, _link: &Link) {}
}

impl Login {
    async fn start() -> Self {
        Self::start_with("http_addr = '127.0.0.1:0'", "").await
    }

    async fn start_with(top: &str, tables: &str) -> Self {
        let text = format!(
            "link_addr = '127.0.0.1:0'\n{top}\n[cluster]\nkey = '{KEY}'\nname = 'l1'\n{tables}"
        );
        let settings: Config = parse(&text).unwrap();
        let context = Context::fixed(settings, Shutdown::default());
        let shutdown = context.shutdown.clone();
        let serving = login_server::run(context).await.unwrap();
        Self { running: Running { serving, shutdown } }
    }

    fn addr(&self, whom: &str) -> SocketAddr {
        self.running.serving.addr(whom).unwrap()
    }

    async fn gateway(&self, name: &str) -> Gateway {
        let (links, mut linked) = mpsc::channel(1);
        let (_fixed, targets) = watch::channel(vec![self.addr("links").to_string()]);
        let key = LinkKey::new(KEY.as_bytes());
        let identity =
            Identity { role: Role::MsgServer, name: name.to_owned(), boot: 1, key, tls: None };
        let shutdown = Shutdown::default();
        let options = LinkOptions::default();
        let up = Arc::new(Up(links));
        link::dial(targets, identity, Role::LoginServer, up, options, &shutdown);
        let link = timeout(LIMIT, linked.recv()).await.expect("a link in time").unwrap();
        Gateway { link, shutdown }
    }

    async fn ask(&self, request: &str) -> String {
        let socket = TcpStream::connect(self.addr("http")).await.unwrap();
        ask(socket, request).await
    }

    async fn json(&self) -> Value {
        serde_json::from_str(body(&self.ask(GET).await)).unwrap()
    }

    /// Asks until the answer has this code: a report or a loss takes its time to arrive.
    async fn json_with_code(&self, code: u64) -> Value {
        let ask = async {
            loop {
                let json = self.json().await;
                if json["code"] == code {
                    return json;
                }
            }
        };
        timeout(LIMIT, ask).await.expect("the code in time")
    }
}

impl Gateway {
    fn report(&self, report: &LoadReport) {
        self.link.send(Kind::LoadReport.number(), 0, report).unwrap();
    }
}

/// Sends the request as it is and returns all that comes back.
async fn ask(mut socket: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(LIMIT, socket.read_to_end(&mut answer)).await.expect("an end in time");
    if answer.is_empty() {
        read.unwrap();
    }
    String::from_utf8(answer).unwrap()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

fn load(name: &str) -> LoadReport {
    LoadReport {
        name: name.to_owned(),
        host: "gate.example".to_owned(),
        backup_host: Some("10.0.0.1".to_owned()),
        port: 8000,
        tls_port: None,
        connections: 3,
        connections_max: 10,
        draining: false,
        not_ready: None,
    }
}

#[tokio::test]
async fn the_answer_is_what_every_client_can_read() {
    let pictures = "http_addr = '127.0.0.1:0'
        msfs_prior = 'http://pictures.example/'
        discovery = 'http://discover.example/list'";
    let login = Login::start_with(pictures, "").await;
    let gateway = login.gateway("g1").await;
    gateway.report(&load("g1"));
    let json = login.json_with_code(0).await;
    let expected = json!({
        "code": 0,
        "msg": "",
        "priorIP": "gate.example",
        "backupIP": "10.0.0.1",
        "port": "8000",
        "msfsPrior": "http://pictures.example/",
        "msfsBackup": "http://pictures.example/",
        "discovery": "http://discover.example/list",
    });
    assert_eq!(json, expected);

    let answer = login.ask(GET).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some("HTTP/1.1 200 OK"));
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with("Date: ")).collect();
    assert!(lines.contains(&"Content-Type: text/html;charset=utf-8"), "{head}");
    assert!(lines.contains(&"Connection: close"), "{head}");
    assert!(lines.contains(&format!("Content-Length: {}", body.len()).as_str()), "{head}");
    assert_eq!(lines.len(), 3, "{head}");
}

#[tokio::test]
async fn a_gateway_with_tls_says_so_and_one_without_a_second_address_repeats_the_first() {
    let login = Login::start().await;
    let gateway = login.gateway("g1").await;
    gateway.report(&LoadReport { tls_port: Some(8443), backup_host: None, ..load("g1") });
    let json = login.json_with_code(0).await;
    assert_eq!(json["tlsPort"], "8443");
    assert_eq!(json["backupIP"], "gate.example");
    assert_eq!(json["msfsPrior"], "");
}

#[tokio::test]
async fn only_the_first_letters_of_the_path_count() {
    let login = Login::start().await;
    let gateway = login.gateway("g1").await;
    gateway.report(&LoadReport { connections_max: 1000, ..load("g1") });
    login.json_with_code(0).await;
    for request in [
        "GET /msg_server HTTP/1.1\r\n\r\n",
        "GET /msg_server?x=y HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /msg_serverX HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /msg_server/more HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://x/msg_server HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /msg_server HTTP/1.0\r\n\r\n",
        "GET /msg_server HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nAnything: at all\r\n\r\n",
        "POST /msg_server HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na=b",
    ] {
        let answer = login.ask(request).await;
        let json: Value = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(json["code"], 0, "{request}");
        assert_eq!(answer.to_lowercase().matches("connection: close").count(), 1, "{answer}");
    }
}

#[tokio::test]
async fn without_room_or_gateways_the_answer_is_a_code_and_a_text() {
    let login = Login::start().await;
    let json = login.json().await;
    assert_eq!(json["code"], 1);
    assert!(!json["msg"].as_str().unwrap().is_empty());
    assert_eq!(json.as_object().unwrap().len(), 2);

    let gateway = login.gateway("g1").await;
    gateway.report(&LoadReport { connections: 10, ..load("g1") });
    let json = login.json_with_code(2).await;
    assert!(!json["msg"].as_str().unwrap().is_empty());

    gateway.report(&LoadReport { connections: 9, ..load("g1") });
    login.json_with_code(0).await;
    assert_eq!(login.json().await["code"], 2, "the one that was sent there counts");

    gateway.report(&LoadReport { draining: true, ..load("g1") });
    login.json_with_code(1).await;

    gateway.report(&load("g1"));
    login.json_with_code(0).await;
    gateway.shutdown.close_links();
    // A link that is up and silent keeps its gateway for five seconds.
    let lost = timeout(Duration::from_secs(4), login.json_with_code(1));
    lost.await.expect("a gateway is gone with its link");
}

#[tokio::test]
async fn a_client_that_asks_before_the_first_report_waits_for_it() {
    let login = Login::start().await;
    let gateway = login.gateway("g1").await;
    let mut early = TcpStream::connect(login.addr("http")).await.unwrap();
    early.write_all(GET.as_bytes()).await.unwrap();
    // By the time that another request is answered, the first has been read.
    login.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    gateway.report(&load("g1"));
    let answer = ask(early, "").await;
    let json: Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(json["code"], 0, "{answer}");
}

#[tokio::test]
async fn a_report_that_is_none_closes_the_link_and_is_not_taken() {
    let login = Login::start().await;
    let gateway = login.gateway("g1").await;
    gateway.report(&LoadReport { port: 0, ..load("g1") });
    let closed = async {
        while !gateway.link.is_closed() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, closed).await.expect("a close in time");
    assert_eq!(login.json().await["code"], 1);
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_without_being_repeated() {
    let login = Login::start().await;
    for path in ["/", "/secret-word", "/msg_serve", "/x/msg_server", "/metrics"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = login.ask(&request).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert_eq!(body(&answer), "not found\n");
    }
    let answer = login.ask("DELETE /msg_server HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    let answer = login.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_header_or_body_beyond_its_limit_is_refused() {
    let login = Login::start().await;
    let filler = "a".repeat(7000);
    let fits = login.ask(&format!("GET /msg_server HTTP/1.1\r\nX: {filler}\r\n\r\n")).await;
    assert!(fits.starts_with("HTTP/1.1 200 "), "{fits}");
    let filler = "a".repeat(9000);
    let long = login.ask(&format!("GET /msg_server HTTP/1.1\r\nX: {filler}\r\n\r\n")).await;
    assert!(long.starts_with("HTTP/1.1 431 "), "{long}");
    let many = "X: y\r\n".repeat(500);
    let many = login.ask(&format!("GET /msg_server HTTP/1.1\r\n{many}\r\n")).await;
    assert!(many.starts_with("HTTP/1.1 431 "), "{many}");

    let post = |len: usize| {
        let head = format!("POST /msg_server HTTP/1.1\r\nContent-Length: {len}\r\n\r\n");
        head + &"a".repeat(len.min(16 << 10))
    };
    let fits = login.ask(&post(16 << 10)).await;
    assert!(fits.starts_with("HTTP/1.1 200 "), "{fits}");
    let long = login.ask(&post((16 << 10) + 1)).await;
    assert!(long.starts_with("HTTP/1.1 413 "), "{long}");
    let garbage = login.ask("\0\0\0\x10 this is no HTTP\r\n\r\n").await;
    assert!(garbage.starts_with("HTTP/1.1 400 ") || garbage.is_empty(), "{garbage}");
}

/// Time is paused: it jumps to the next timer whenever all tasks wait.
#[tokio::test(start_paused = true)]
async fn a_client_that_dawdles_is_let_go() {
    let login = Login::start().await;
    let begun = tokio::time::Instant::now();
    for beginning in
        ["", "GET /msg_ser", "POST /msg_server HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf"]
    {
        let mut socket = TcpStream::connect(login.addr("http")).await.unwrap();
        socket.write_all(beginning.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(!answer.contains("200"), "{answer}");
    }
    assert!(begun.elapsed() <= Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// More connections that say nothing than there are places.
#[tokio::test]
async fn one_host_that_holds_all_places_keeps_no_other_out() {
    const SILENT: usize = 4_500;
    daemon::process_limits::raise_files_limit();
    let (places, silent) = match daemon::process_limits::files_max() {
        // Both ends of each are files of this process.
        files if files > 4 * SILENT as u64 => (4_096, SILENT),
        _ => (64, 200),
    };
    let top = format!("http_addr = '127.0.0.1:0'\nconnections_max = {places}");
    let login = Login::start_with(&top, "").await;
    let gateway = login.gateway("g1").await;
    gateway.report(&LoadReport { connections_max: 1000, ..load("g1") });
    login.json_with_code(0).await;
    let mut held = Vec::with_capacity(silent);
    for _connection in 0..silent {
        held.push(TcpStream::connect(login.addr("http")).await.unwrap());
    }
    for _next in 0..5 {
        let begun = std::time::Instant::now();
        assert_eq!(login.json().await["code"], 0);
        let took = begun.elapsed();
        println!("{took:?} beside {silent} silent connections");
        // Those that are let go at their limit leave places after seconds only.
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test]
async fn a_listed_proxy_must_introduce_its_clients() {
    let login = Login::start_with("http_addr = '127.0.0.1:0'\nproxies = ['127.0.0.1']", "").await;
    let gateway = login.gateway("g1").await;
    gateway.report(&LoadReport { connections_max: 1000, ..load("g1") });
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x01\0\x05\0\x06";
    for header in [b"PROXY TCP4 192.0.2.7 192.0.2.1 5 6\r\n".as_slice(), binary] {
        let mut socket = TcpStream::connect(login.addr("http")).await.unwrap();
        socket.write_all(header).await.unwrap();
        assert!(ask(socket, GET).await.starts_with("HTTP/1.1 200 "), "{header:?}");
    }
    let socket = TcpStream::connect(login.addr("http")).await.unwrap();
    assert!(ask_bytes(socket, GET).await.is_empty(), "without a header there is no answer");
}

#[tokio::test]
async fn tls_gives_the_same_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(vec!["login.example".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tables = format!(
        "[tls]\nlisten = '127.0.0.1:0'\ncert = '{}'\nkey = '{}'\n",
        cert.display(),
        key.display()
    );
    let login = Login::start_with("", &tables).await;
    let answer = ask(tls(&login, &cert).await, GET).await;
    assert_eq!(serde_json::from_str::<Value>(body(&answer)).unwrap()["code"], 1);

    // Plain HTTP on the TLS port is no handshake.
    let plain = TcpStream::connect(login.addr("https")).await.unwrap();
    let answer = ask_bytes(plain, GET).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

async fn tls(login: &Login, ca: &Path) -> impl AsyncRead + AsyncWrite + Unpin {
    let connector = TlsConnector::from(daemon::tls::client_config(Some(ca)).unwrap());
    let socket = TcpStream::connect(login.addr("https")).await.unwrap();
    connector.connect("login.example".try_into().unwrap(), socket).await.unwrap()
}

async fn ask_bytes(mut socket: TcpStream, request: &str) -> Vec<u8> {
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // How the connection ends is the server's business.
    timeout(LIMIT, socket.read_to_end(&mut answer)).await.expect("an end in time").ok();
    answer
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_client_that_says_nothing() {
    let login = Login::start().await;
    let _silent = TcpStream::connect(login.addr("http")).await.unwrap();
    login.json().await;
    login.running.stop(Duration::from_secs(5)).await.unwrap();
}
