//! Where clients come in: with TLS and without.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::accept;
use daemon::{Acceptor, BoxError, ListenTlsConfig, tls};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::info_span;

use crate::closing::CloseReason;
use crate::config::Config;
use crate::connection::{Connection, Reader, count_closed};
use crate::gateway::Gateway;
use crate::outbox::Outbox;

/// How long a TLS handshake may take.
const TLS_LIMIT: Duration = Duration::from_secs(5);

/// The listening ports, bound.
pub(crate) struct Listeners {
    pub(crate) plain: Option<TcpListener>,
    pub(crate) tls: Option<(TcpListener, TlsAcceptor)>,
}

impl Listeners {
    /// Binds what the settings name.
    pub(crate) fn bind(config: &Config) -> Result<Self, BoxError> {
        let plain = config.listen.map(|addr| bind("listen", addr)).transpose()?;
        let tls = config.tls.as_ref().map(bind_tls).transpose()?;
        Ok(Self { plain, tls })
    }

    /// The ports that clients connect to: plain and TLS.
    pub(crate) fn addrs(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let plain = self.plain.as_ref().and_then(|listener| listener.local_addr().ok());
        let tls = self.tls.as_ref().and_then(|(listener, _tls)| listener.local_addr().ok());
        (plain, tls)
    }

    /// Accepts clients until shutdown begins.
    pub(crate) fn spawn(self, gateway: &Arc<Gateway>) {
        let slots_max = gateway.limits.connections_max;
        let shutdown = &gateway.shutdown;
        if let Some(listener) = self.plain {
            let (to, own) = (Arc::clone(gateway), shutdown.clone());
            // Boxed, since whoever wraps a future makes room for it twice.
            let serve = move |socket, peer| Box::pin(serve(plain(&to, socket, peer)));
            let accept = Acceptor::new(listener, slots_max).run(own, serve);
            shutdown.spawn_vital(info_span!("accept"), accept);
        }
        if let Some((listener, tls)) = self.tls {
            let (to, own) = (Arc::clone(gateway), shutdown.clone());
            let serve =
                move |socket, peer| Box::pin(serve_tls(Arc::clone(&to), tls.clone(), socket, peer));
            let accept = Acceptor::new(listener, slots_max).run(own, serve);
            shutdown.spawn_vital(info_span!("accept_tls"), accept);
        }
    }
}

fn bind(key: &str, addr: SocketAddr) -> Result<TcpListener, BoxError> {
    accept::bind(addr).map_err(|error| format!("{key} {addr}: {error}").into())
}

fn bind_tls(config: &ListenTlsConfig) -> Result<(TcpListener, TlsAcceptor), BoxError> {
    let acceptor = TlsAcceptor::from(tls::server_config(&config.cert, &config.key)?);
    Ok((bind("tls.listen", config.listen)?, acceptor))
}

/// Prepares a connection without TLS; `None` if there are too many from its address.
fn plain(gateway: &Arc<Gateway>, socket: TcpStream, peer: SocketAddr) -> Option<Box<Connection>> {
    let (reader, writer) = socket.into_split();
    let outbox = Outbox::plain(writer, Arc::clone(&gateway.outboxes));
    Connection::enter(gateway, outbox, Reader::Plain(reader), peer.ip())
}

async fn serve(connection: Option<Box<Connection>>) {
    if let Some(mut connection) = connection {
        connection.run().await;
    }
}

async fn serve_tls(gateway: Arc<Gateway>, tls: TlsAcceptor, socket: TcpStream, peer: SocketAddr) {
    // A handshake needs much more memory than the connection afterwards.
    let handshake = Box::pin(timeout(TLS_LIMIT, tls.accept(socket)));
    let Ok(Ok(stream)) = handshake.await else {
        count_closed(&gateway, CloseReason::TlsFailed);
        return;
    };
    let outbox = Outbox::queued(Arc::clone(&gateway.outboxes));
    let reader = Reader::Tls(Box::new(stream));
    serve(Connection::enter(&gateway, outbox, reader, peer.ip())).await;
}
