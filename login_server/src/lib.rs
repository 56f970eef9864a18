//! Tells a client which gateway to use.
//!
//! A client asks over HTTP before it connects. Gateways report over their links how full they are.
//! Login servers know nothing of each other: every one has the reports of all gateways, so any of
//! them gives the same kind of answer.
//!
//! # How the modules know each other
//!
//! ```text
//! http ──┬──► reports ──► gateways     what the gateways say; which one is next, without IO
//!        └──► answer                   that, as the JSON that clients read
//! ```
//!
//! # Invariants
//!
//! - No client is sent to a gateway that is full, draining, not ready or silent.
//! - No message and no password ever comes here.

mod answer;
mod config;
mod gateways;
mod http;
mod metrics;
mod reports;

use std::sync::Arc;
use std::time::Duration;

use daemon::accept::{self, Acceptor};
use daemon::link::{self, LinkMetrics, LinkOptions, Role};
use daemon::{BoxError, ConfigError, Context, ListenTlsConfig, Serving, Settings, Shutdown};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;
use tracing::{error, info, info_span};

pub use config::Config;
use http::Http;
use metrics::LoginMetrics;
use reports::Reports;

/// How often silent gateways are looked for.
const TICK: Duration = Duration::from_secs(1);

/// Starts a login server: binds, and runs until shutdown begins. Its addresses are those for
/// `links`, and, as far as the settings have them, for `http` and `https`.
pub async fn run(context: Context<Config>) -> Result<Serving, BoxError> {
    let Context { settings, shutdown, reloads, metrics, boot } = context;
    let identity = settings.cluster.link_identity(Role::LoginServer, boot)?;
    let login_metrics = LoginMetrics::register(&metrics);
    let reports = Arc::new(Reports::new(login_metrics.clone()));

    let options = LinkOptions::counted(LinkMetrics::register(&metrics));
    let handler = Arc::clone(&reports);
    let accepts = [Role::MsgServer];
    let addr =
        link::listen(settings.link_addr, identity, &accepts, handler, options, &shutdown).await?;
    let mut serving = Serving::new(Config::NAME).listens("links", addr);

    let http = Http {
        reports: Arc::clone(&reports),
        settings: reloads.clone(),
        metrics: login_metrics,
        shutdown: shutdown.clone(),
    };
    if let Some(addr) = settings.http_addr {
        let listener = accept::bind(addr)?;
        serving = serving.listens("http", listener.local_addr()?);
        let acceptor = Acceptor::new(listener, settings.connections_max);
        let http = http.clone();
        let serve = move |socket, _peer| http.clone().serve(async move { Ok(socket) });
        shutdown.spawn_vital(info_span!("http"), acceptor.run(shutdown.clone(), serve));
    }
    if let Some(tls) = &settings.tls {
        let newest = Arc::new(RwLock::new(tls_acceptor(tls)?));
        let listener = accept::bind(tls.listen)?;
        serving = serving.listens("https", listener.local_addr()?);
        let acceptor = Acceptor::new(listener, settings.connections_max);
        let current = Arc::clone(&newest);
        let serve = move |socket, _peer| {
            let handshake = current.read().accept(socket);
            http.clone().serve(handshake)
        };
        shutdown.spawn_vital(info_span!("https"), acceptor.run(shutdown.clone(), serve));
        let renew = renew_certificate(reloads, newest, shutdown.clone());
        shutdown.spawn_vital(info_span!("certificate"), renew);
    }
    shutdown.spawn_vital(info_span!("tick"), tick(reports, shutdown.clone()));
    Ok(serving)
}

fn tls_acceptor(tls: &ListenTlsConfig) -> Result<TlsAcceptor, ConfigError> {
    Ok(TlsAcceptor::from(daemon::tls::server_config(&tls.cert, &tls.key)?))
}

/// Reads the certificate again with each reload, for the handshakes to come.
async fn renew_certificate(
    mut reloads: watch::Receiver<Arc<Config>>,
    newest: Arc<RwLock<TlsAcceptor>>,
    shutdown: Shutdown,
) {
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            changed = reloads.changed() => if changed.is_err() {
                // There will be no reload any more.
                return shutdown.begun().await;
            },
        }
        let settings = Arc::clone(&reloads.borrow_and_update());
        let Some(tls) = &settings.tls else { continue };
        match tls_acceptor(tls) {
            Ok(acceptor) => {
                *newest.write() = acceptor;
                info!("certificate read again");
            }
            Err(error) => error!(%error, "the old certificate stays"),
        }
    }
}

async fn tick(reports: Arc<Reports>, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _tick = ticks.tick() => reports.tick(),
        }
    }
}
