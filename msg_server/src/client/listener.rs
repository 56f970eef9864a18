//! Where clients come in: with TLS and without.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::accept;
use daemon::tls::RenewedTls;
use daemon::{Acceptor, BoxError, Doors, Guest, ListenTlsConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::info_span;

use crate::client::closing::CloseReason;
use crate::client::connection::{Accepted, Connection, Reader};
use crate::client::counted::Counted;
use crate::client::outbox::Outbox;
use crate::config::Config;
use crate::gateway::Gateway;

/// How long a TLS handshake may take.
const TLS_LIMIT: Duration = Duration::from_secs(5);

/// The listening ports, bound.
pub(crate) struct Listeners {
    plain: Option<TcpListener>,
    tls: Option<(TcpListener, Arc<RenewedTls>)>,
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

    /// Accepts clients until shutdown begins. The certificate follows the settings.
    pub(crate) fn spawn(
        self,
        gateway: &Arc<Gateway>,
        config: &Config,
        reloads: &watch::Receiver<Arc<Config>>,
    ) {
        let doors = Doors {
            places: gateway.parts.limits.connections_max,
            places_per_address: gateway.parts.limits.connections_per_ip_max,
            proxies: config.proxies.clone(),
            keeps_files_back: true,
            metrics: gateway.parts.metrics.places.clone(),
        };
        let ports = usize::from(self.plain.is_some()) + usize::from(self.tls.is_some());
        accept::compare_with_files(doors.places.saturating_mul(ports));
        let shutdown = &gateway.parts.shutdown;
        if let Some(listener) = self.plain {
            let (to, own) = (Arc::clone(gateway), shutdown.clone());
            // Boxed, since a future that wraps another takes room for it twice.
            let serve = move |guest| Box::pin(serve(plain(&to, guest)));
            let accept = Acceptor::new(listener, doors.clone()).run(own, serve);
            shutdown.spawn_vital(info_span!("accept"), accept);
        }
        if let Some((listener, tls)) = self.tls {
            let (to, own) = (Arc::clone(gateway), shutdown.clone());
            let newest = Arc::clone(&tls);
            let serve = move |guest| Box::pin(serve_tls(Arc::clone(&to), newest.acceptor(), guest));
            let accept = Acceptor::new(listener, doors).run(own, serve);
            shutdown.spawn_vital(info_span!("accept_tls"), accept);
            tls.follow(reloads, shutdown, |config| config.tls.as_ref());
        }
    }
}

fn bind(key: &str, addr: SocketAddr) -> Result<TcpListener, BoxError> {
    accept::bind(addr).map_err(|error| format!("{key} {addr}: {error}").into())
}

fn bind_tls(config: &ListenTlsConfig) -> Result<(TcpListener, Arc<RenewedTls>), BoxError> {
    let tls = RenewedTls::read(config)?;
    Ok((bind("tls.listen", config.listen)?, tls))
}

/// Prepares a connection without TLS.
fn plain(gateway: &Arc<Gateway>, guest: Guest) -> Box<Connection> {
    let Guest { socket, peer, place } = guest;
    let (reader, writer) = socket.into_split();
    let outbox = Outbox::plain(writer, Arc::clone(&gateway.parts.outboxes));
    let accepted = Accepted { counted: Counted::open(&gateway.parts), address: peer.ip(), place };
    Connection::enter(gateway, outbox, Reader::Plain(reader), accepted)
}

async fn serve(mut connection: Box<Connection>) {
    connection.run().await;
}

async fn serve_tls(gateway: Arc<Gateway>, tls: TlsAcceptor, guest: Guest) {
    let Guest { socket, peer, place } = guest;
    let mut counted = Counted::open(&gateway.parts);
    // A handshake needs much more memory than the connection afterwards.
    let handshake = place.unless_told(timeout(TLS_LIMIT, tls.accept(socket)));
    let stream = match Box::pin(handshake).await {
        Some(Ok(Ok(stream))) => stream,
        Some(_failed_or_late) => return counted.close(CloseReason::TlsFailed),
        None => return counted.close(CloseReason::MadeWay),
    };
    let outbox = Outbox::queued(Arc::clone(&gateway.parts.outboxes));
    let reader = Reader::Tls(Box::new(stream));
    let accepted = Accepted { counted, address: peer.ip(), place };
    serve(Connection::enter(&gateway, outbox, reader, accepted)).await;
}
