//! The two ports of a daemon that serves HTTP: one without TLS and one with it, as far as its settings have
//! them.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use tokio::sync::watch;
use tracing::info_span;

use super::{HttpLimits, HttpPort};
use crate::accept::{self, Doors};
use crate::config::{ListenTlsConfig, Settings};
use crate::metrics::Counter;
use crate::shutdown::Shutdown;
use crate::tls::RenewedTls;

/// What both ports have in common.
#[derive(Debug)]
pub struct HttpPorts<'a, S> {
    /// Which connections are taken, on each port.
    pub doors: Doors,
    /// What one connection may take.
    pub limits: HttpLimits,
    /// Counts each connection that is served.
    pub connections: Counter,
    /// For the certificate, which is read again with the settings.
    pub reloads: &'a watch::Receiver<Arc<S>>,
    /// Until this begins, requests are answered.
    pub shutdown: &'a Shutdown,
}

impl<S: Settings> HttpPorts<'_, S> {
    /// Binds what is set, and answers until shutdown begins: `plain` without TLS, and with TLS what `tls` says of
    /// the settings. Returns the addresses as `http` and `https`.
    ///
    /// # Errors
    ///
    /// An address that cannot be bound, or a certificate that cannot be used.
    pub fn serve(
        self,
        plain: Option<SocketAddr>,
        tls: fn(&S) -> Option<&ListenTlsConfig>,
        router: &Router,
    ) -> Result<Vec<(&'static str, SocketAddr)>, Box<dyn std::error::Error + Send + Sync>> {
        let Self { doors, limits, connections, reloads, shutdown } = self;
        let files = tls(&reloads.borrow()).cloned();
        let ports = usize::from(plain.is_some()) + usize::from(files.is_some());
        accept::compare_with_files(doors.places.saturating_mul(ports));
        let bind = |addr| {
            let port = HttpPort::bind(addr, doors.clone(), limits)?;
            Ok::<_, std::io::Error>(port.counted(connections.clone()))
        };
        let mut listens = Vec::new();
        if let Some(addr) = plain {
            let port = bind(addr)?;
            listens.push(("http", port.addr()?));
            port.spawn(info_span!("http"), shutdown, router.clone());
        }
        if let Some(files) = files {
            let certificate = RenewedTls::read(&files)?;
            let port = bind(files.listen)?.with_tls(Arc::clone(&certificate));
            listens.push(("https", port.addr()?));
            port.spawn(info_span!("https"), shutdown, router.clone());
            certificate.follow(reloads, shutdown, tls);
        }
        Ok(listens)
    }
}
