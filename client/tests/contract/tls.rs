//! TLS: which servers a client believes, and that it never goes on without TLS.

use std::sync::Arc;

use client::{
    Client, Connection, ConnectionError, LookupError, Options, Servers, TlsConfig, lookup,
};
use rcgen::generate_simple_self_signed;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::fake::{Gateway, ME, Served, options, within};

#[tokio::test]
async fn a_gateway_with_a_known_authority_is_spoken_to_over_tls() {
    let server = TlsServer::start().await;
    let servers = Servers::Gateways(vec![server.addr.clone()]);
    let options = Options { tls: Some(server.trust()), ..options(servers) };
    let (client, _events) = Client::start(options).await.unwrap();
    let mut served = Served { connection: Connection::over(server.accept().await) };
    served.welcome().await;
    assert_eq!(within(client.online()).await.unwrap().user_id, ME.0);
}

#[tokio::test]
async fn an_unknown_authority_or_another_name_is_not_believed() {
    let server = TlsServer::start().await;
    let stranger = TlsServer::start().await.trust();
    let (refused, ()) =
        tokio::join!(Connection::connect(&server.addr, Some(&stranger)), server.fail_to_accept());
    assert!(matches!(refused, Err(ConnectionError::Connect(_))));

    let other_name = server.trust().with_server_name("im.example.org").unwrap();
    let (refused, ()) =
        tokio::join!(Connection::connect(&server.addr, Some(&other_name)), server.fail_to_accept());
    assert!(matches!(refused, Err(ConnectionError::Connect(_))));
}

#[tokio::test]
async fn a_gateway_without_tls_gets_no_password_from_a_client_that_wants_it() {
    let gateway = Gateway::start().await;
    let tls = TlsServer::start().await.trust();
    let connect = Connection::connect(&gateway.addr, Some(&tls));
    let (refused, ()) = tokio::join!(connect, async {
        let mut plain = gateway.accept_socket().await;
        // What comes is a TLS handshake, which is no frame. Then the gateway hangs up.
        assert!(plain.next_frame(crate::fake::PATIENCE).await.is_err());
    });
    assert!(matches!(refused, Err(ConnectionError::Connect(_))));
}

#[tokio::test]
async fn a_login_server_is_asked_over_https_and_names_the_tls_port() {
    let server = TlsServer::start().await;
    let url = format!("https://{}", server.addr);
    assert!(matches!(lookup(&url, None).await, Err(LookupError::NoTls)));

    let trust = server.trust();
    let (gateway, ()) = tokio::join!(lookup(&url, Some(&trust)), async {
        let mut socket = server.accept().await;
        let len = socket.read(&mut [0; 1024]).await.unwrap();
        assert!(len > 0);
        let body = r#"{"code":0,"priorIP":"h","port":"8000","tlsPort":"8443"}"#;
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
        let answer = format!("{head} {}\r\n\r\n{body}", body.len());
        socket.write_all(answer.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
    });
    assert_eq!(gateway.unwrap().tls_port, Some(8443));
}

/// A server with a certificate of its own.
struct TlsServer {
    listener: TcpListener,
    addr: String,
    acceptor: TlsAcceptor,
    pem: String,
}

impl TlsServer {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let made = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self { listener, addr, acceptor, pem: made.cert.pem() }
    }

    fn trust(&self) -> TlsConfig {
        TlsConfig::from_ca_pem(self.pem.as_bytes()).unwrap()
    }

    async fn accept(&self) -> TlsStream<TcpStream> {
        let (socket, _) = within(self.listener.accept()).await.unwrap();
        self.acceptor.accept(socket).await.unwrap()
    }

    async fn fail_to_accept(&self) {
        let (socket, _) = within(self.listener.accept()).await.unwrap();
        assert!(self.acceptor.accept(socket).await.is_err());
    }
}
