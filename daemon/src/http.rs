//! HTTP ports, with TLS and without: the admin page, the answers of login servers, APIs.
//!
//! What is asked and answered is an [`axum::Router`]; how a connection lives is decided here. Handlers
//! find the address of the client as an extension of the request, [`ClientAddr`].
//!
//! # What bounds it
//!
//! - Connections: the places of the port ([`crate::places`]). A connection makes way for others if it is
//!   silent for longer than all others.
//! - Time and the size of headers: [`HttpLimits`]. The size of a body is up to the handlers; axum's
//!   extractors take 2 MB at most.

mod ports;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing::{Span, debug};

use crate::accept::{self, Acceptor, Doors, Guest};
use crate::metrics::Counter;
use crate::places::Heard;
use crate::shutdown::{Group, Shutdown};
use crate::tls::RenewedTls;

pub use ports::HttpPorts;

/// What one connection may take.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// For the TLS handshake; and for the header of each request, the silence before it included.
    pub part: Duration,
    /// For a whole connection, however slowly its client reads.
    pub connection: Duration,
    /// For requests in flight when the port closes.
    pub last_requests: Duration,
    /// Bytes of a request before its body. At least 8 KiB.
    pub header_len: usize,
    /// Requests on one connection: one, or as many as come.
    pub one_request: bool,
}

impl Default for HttpLimits {
    /// For programs that ask again and again: 3 s for a header, a minute for a connection, 16 KiB.
    fn default() -> Self {
        Self {
            part: Duration::from_secs(3),
            connection: Duration::from_mins(1),
            last_requests: Duration::from_millis(500),
            header_len: 16 << 10,
            one_request: false,
        }
    }
}

/// Where the client of a request is, as far as is known: what a listed proxy says, or the other end of
/// the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddr(pub SocketAddr);

/// A port that is bound and answers nobody yet.
#[derive(Debug)]
pub struct HttpPort {
    listener: TcpListener,
    doors: Doors,
    talk: Talk,
}

/// How connections are served. Clones serve alike.
#[derive(Debug, Clone)]
struct Talk {
    tls: Option<Arc<RenewedTls>>,
    limits: HttpLimits,
    connections: Counter,
}

impl HttpPort {
    /// Binds a port; port 0 is a free one. Must be called inside the runtime.
    pub fn bind(addr: SocketAddr, doors: Doors, limits: HttpLimits) -> io::Result<Self> {
        let talk = Talk { tls: None, limits, connections: Counter::default() };
        Ok(Self { listener: accept::bind(addr)?, doors, talk })
    }

    /// Serves with TLS alone. The certificate is what `tls` has at each handshake.
    #[must_use]
    pub fn with_tls(mut self, tls: Arc<RenewedTls>) -> Self {
        self.talk.tls = Some(tls);
        self
    }

    /// Counts each connection that is served.
    #[must_use]
    pub fn counted(mut self, connections: Counter) -> Self {
        self.talk.connections = connections;
        self
    }

    /// Where it listens.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until shutdown begins. An accept loop that ends before that ends the daemon.
    pub fn spawn(self, span: Span, shutdown: &Shutdown, router: Router) {
        shutdown.spawn_vital(span, self.run(Group::Tasks, shutdown.clone(), router));
    }

    /// Answers until the links close, also while the daemon drains.
    pub(crate) fn spawn_as_link(self, span: Span, shutdown: &Shutdown, router: Router) {
        let vital = shutdown.vital();
        let run = self.run(Group::Links, shutdown.clone(), router);
        shutdown.spawn_link(span, async move {
            let _ends_with_the_loop = vital;
            run.await;
        });
    }

    async fn run(self, group: Group, shutdown: Shutdown, router: Router) {
        let Self { listener, doors, talk } = self;
        let ending = shutdown.clone();
        let serve = move |guest| {
            let (talk, router, shutdown) = (talk.clone(), router.clone(), ending.clone());
            async move {
                let ends = shutdown.ends(group);
                talk.serve(guest, router, ends).await;
            }
        };
        Acceptor::new(listener, doors).run_in(group, shutdown, serve).await;
    }
}

impl Talk {
    async fn serve(self, guest: Guest, router: Router, ends: impl Future<Output = ()>) {
        self.connections.inc();
        let Guest { socket, peer, place } = guest;
        let socket = Heard::new(socket, place.clone());
        let talk = async {
            match &self.tls {
                None => self.talk(socket, peer, router, ends).await,
                Some(tls) => match timeout(self.limits.part, tls.acceptor().accept(socket)).await {
                    Ok(Ok(socket)) => self.talk(socket, peer, router, ends).await,
                    Ok(Err(error)) => debug!(%error, "no TLS"),
                    Err(_elapsed) => debug!("no TLS in time"),
                },
            }
        };
        match timeout(self.limits.connection, place.unless_told(talk)).await {
            Ok(Some(())) => {}
            Ok(None) => debug!("made way for others"),
            Err(_elapsed) => debug!("took too long"),
        }
    }

    async fn talk(
        &self,
        socket: impl AsyncRead + AsyncWrite + Unpin,
        peer: SocketAddr,
        router: Router,
        ends: impl Future<Output = ()>,
    ) {
        let router = TowerToHyperService::new(router);
        let answer = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ClientAddr(peer));
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.part)
            .max_buf_size(self.limits.header_len)
            .keep_alive(!self.limits.one_request)
            // Some clients compare the names of headers letter by letter.
            .title_case_headers(true)
            .serve_connection(TokioIo::new(socket), answer);
        let mut connection = std::pin::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => Some(served),
            () = ends => None,
        };
        let served = if let Some(served) = served {
            Ok(served)
        } else {
            connection.as_mut().graceful_shutdown();
            timeout(self.limits.last_requests, connection).await
        };
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "gone before the answer"),
            Err(_elapsed) => debug!("not done when the port closed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Extension;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::mpsc;
    use tokio::time::Instant;
    use tokio_rustls::TlsConnector;
    use tracing::info_span;

    use super::*;
    use crate::config::ListenTlsConfig;
    use crate::tls;

    const LIMITS: HttpLimits = HttpLimits {
        part: Duration::from_secs(3),
        connection: Duration::from_mins(1),
        last_requests: Duration::from_secs(2),
        header_len: 8 << 10,
        one_request: false,
    };

    fn bind(limits: HttpLimits) -> HttpPort {
        HttpPort::bind("127.0.0.1:0".parse().unwrap(), Doors::new(8), limits).unwrap()
    }

    /// Answers `/where` with the address of the client.
    fn router() -> Router {
        let whence = async |Extension(ClientAddr(addr)): Extension<ClientAddr>| addr.to_string();
        Router::new().route("/where", get(whence))
    }

    /// A port that is served, and what ends it.
    fn served(port: HttpPort, router: Router) -> (SocketAddr, Shutdown) {
        let (addr, shutdown) = (port.addr().unwrap(), Shutdown::default());
        port.spawn(info_span!("http"), &shutdown, router);
        (addr, shutdown)
    }

    async fn end(shutdown: Shutdown) {
        shutdown.begin();
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }

    /// What comes until the other side closes.
    async fn rest(socket: &mut (impl AsyncRead + Unpin)) -> String {
        let mut all = Vec::new();
        // A client that is let go in the middle of what it writes is reset.
        socket.read_to_end(&mut all).await.ok();
        String::from_utf8(all).unwrap()
    }

    const ASK: &str = "GET /where HTTP/1.1\r\nhost: x\r\n\r\n";
    const ASK_LAST: &str = "GET /where HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn a_connection_has_as_many_requests_as_come_or_one_and_each_connection_is_counted() {
        for (one_request, answers) in [(false, 2), (true, 1)] {
            let counter = Counter::default();
            let port = bind(HttpLimits { one_request, ..LIMITS }).counted(counter.clone());
            let (addr, shutdown) = served(port, router());
            let mut socket = TcpStream::connect(addr).await.unwrap();
            socket.write_all(format!("{ASK}{ASK_LAST}").as_bytes()).await.unwrap();
            let answer = rest(&mut socket).await;
            assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), answers, "{answer}");
            assert_eq!(counter.get(), 1);
            end(shutdown).await;
        }
    }

    #[tokio::test]
    async fn a_handler_knows_where_the_client_is_behind_a_proxy_too() {
        let doors = Doors { proxies: vec!["127.0.0.0/8".parse().unwrap()], ..Doors::new(8) };
        for (doors, header, expected) in [
            (Doors::new(8), "", "127.0.0.1:"),
            (doors, "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n", "192.0.2.7:4711"),
        ] {
            let port = HttpPort::bind("127.0.0.1:0".parse().unwrap(), doors, LIMITS).unwrap();
            let (addr, shutdown) = served(port, router());
            let mut socket = TcpStream::connect(addr).await.unwrap();
            socket.write_all(format!("{header}{ASK_LAST}").as_bytes()).await.unwrap();
            let answer = rest(&mut socket).await;
            assert!(answer.contains(&format!("\r\n\r\n{expected}")), "{answer}");
            end(shutdown).await;
        }
    }

    #[tokio::test]
    async fn a_port_with_tls_answers_with_tls_alone() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["gate.example".to_owned()]).unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let files = ListenTlsConfig { listen, cert: cert.clone(), key };
        let port = bind(LIMITS).with_tls(RenewedTls::read(&files).unwrap());
        let (addr, shutdown) = served(port, router());

        let mut plain = TcpStream::connect(addr).await.unwrap();
        plain.write_all(ASK.as_bytes()).await.unwrap();
        assert!(!rest(&mut plain).await.contains("HTTP"), "nothing is answered in plain");

        let connector = TlsConnector::from(tls::client_config(Some(&cert)).unwrap());
        let socket = TcpStream::connect(addr).await.unwrap();
        let name = "gate.example".try_into().unwrap();
        let mut secure = connector.connect(name, socket).await.unwrap();
        secure.write_all(ASK_LAST.as_bytes()).await.unwrap();
        let answer = rest(&mut secure).await;
        assert!(answer.contains("\r\n\r\n127.0.0.1:"), "{answer}");

        // A client that does not begin with TLS is let go. Time jumps to the limit.
        let mut silent = TcpStream::connect(addr).await.unwrap();
        tokio::time::pause();
        let begun = Instant::now();
        assert_eq!(rest(&mut silent).await, "");
        assert!(begun.elapsed() <= LIMITS.part + Duration::from_millis(100));
        tokio::time::resume();
        end(shutdown).await;
    }

    #[tokio::test]
    async fn headers_longer_than_the_limit_are_refused() {
        let (addr, shutdown) = served(bind(LIMITS), router());
        for (len, expected) in [(7 << 10, "200 OK"), (9 << 10, "431 ")] {
            let mut socket = TcpStream::connect(addr).await.unwrap();
            let long = "x".repeat(len);
            let request = ASK_LAST.replace("host: x", &format!("host: x\r\nlong: {long}"));
            socket.write_all(request.as_bytes()).await.unwrap();
            let answer = rest(&mut socket).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{len}: {answer}");
        }
        end(shutdown).await;
    }

    /// Time is paused: it jumps to the next timer whenever all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_dawdles_is_let_go_within_seconds() {
        let (addr, shutdown) = served(bind(LIMITS), router());
        for beginning in ["", "GET /whe", ASK] {
            let begun = Instant::now();
            let mut socket = TcpStream::connect(addr).await.unwrap();
            socket.write_all(beginning.as_bytes()).await.unwrap();
            rest(&mut socket).await;
            let took = begun.elapsed();
            assert!(took <= LIMITS.part + Duration::from_millis(100), "{beginning:?}: {took:?}");
        }
        end(shutdown).await;
    }

    /// A client that has asked for what never comes. Time stands still from there on.
    async fn hanging_request(spawn: impl FnOnce(HttpPort, Router)) -> TcpStream {
        let (ask, mut asked) = mpsc::channel(1);
        let never = move || {
            let ask = ask.clone();
            async move {
                ask.send(()).await.expect("the test waits");
                std::future::pending::<&'static str>().await
            }
        };
        let port = bind(LIMITS);
        let addr = port.addr().unwrap();
        spawn(port, Router::new().route("/", get(never)));
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        asked.recv().await.unwrap();
        tokio::time::pause();
        socket
    }

    #[tokio::test]
    async fn a_request_that_hangs_holds_up_the_end_of_the_daemon_for_its_limit_alone() {
        let shutdown = Shutdown::default();
        let spawn = |port: HttpPort, router| port.spawn(info_span!("http"), &shutdown, router);
        let _socket = hanging_request(spawn).await;
        let begun = Instant::now();
        shutdown.begin();
        shutdown.drain(LIMITS.connection).await.unwrap();
        let took = begun.elapsed();
        assert!(took >= LIMITS.last_requests, "{took:?}");
        assert!(took < LIMITS.last_requests + Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test]
    async fn a_port_that_is_a_link_answers_while_the_daemon_drains() {
        let shutdown = Shutdown::default();
        let port = bind(LIMITS);
        let addr = port.addr().unwrap();
        port.spawn_as_link(info_span!("http"), &shutdown, router());
        shutdown.begin();
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(ASK_LAST.as_bytes()).await.unwrap();
        assert!(rest(&mut socket).await.contains("200 OK"));
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn no_connection_stays_for_longer_than_its_limit() {
        let shutdown = Shutdown::default();
        let spawn = |port: HttpPort, router| port.spawn(info_span!("http"), &shutdown, router);
        let mut socket = hanging_request(spawn).await;
        let begun = Instant::now();
        // A wait for the socket may end by a jump to this limit, but not without the socket.
        let closed = timeout(LIMITS.connection + Duration::from_secs(1), rest(&mut socket)).await;
        closed.expect("it is closed");
        assert!(begun.elapsed() >= Duration::from_secs(50), "{:?}", begun.elapsed());
    }
}
