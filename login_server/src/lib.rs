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

use daemon::accept::{self, Acceptor, Doors};
use daemon::link::{self, LinkMetrics, LinkOptions, Role};
use daemon::places::PlaceMetrics;
use daemon::tls::RenewedTls;
use daemon::{BoxError, Context, Serving, Settings, Shutdown};
use tokio::time::MissedTickBehavior;
use tracing::info_span;

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
    let doors = Doors {
        places: settings.connections_max,
        places_per_address: settings.connections_per_ip_max,
        proxies: settings.proxies.clone(),
        keeps_files_back: true,
        metrics: PlaceMetrics::register(&metrics),
    };
    let ports = usize::from(settings.http_addr.is_some()) + usize::from(settings.tls.is_some());
    accept::compare_with_files(settings.connections_max.saturating_mul(ports));
    if let Some(addr) = settings.http_addr {
        let listener = accept::bind(addr)?;
        serving = serving.listens("http", listener.local_addr()?);
        let acceptor = Acceptor::new(listener, doors.clone());
        let http = http.clone();
        let serve = move |guest| http.clone().serve(guest, async |socket| Ok(socket));
        shutdown.spawn_vital(info_span!("http"), acceptor.run(shutdown.clone(), serve));
    }
    if let Some(files) = &settings.tls {
        let tls = RenewedTls::read(files)?;
        let listener = accept::bind(files.listen)?;
        serving = serving.listens("https", listener.local_addr()?);
        let acceptor = Acceptor::new(listener, doors);
        let current = Arc::clone(&tls);
        let serve = move |guest| {
            let tls = current.acceptor();
            http.clone().serve(guest, async move |socket| tls.accept(socket).await)
        };
        shutdown.spawn_vital(info_span!("https"), acceptor.run(shutdown.clone(), serve));
        let follow = tls.follow(reloads, |settings| settings.tls.as_ref(), shutdown.clone());
        shutdown.spawn_vital(info_span!("certificate"), follow);
    }
    shutdown.spawn_vital(info_span!("tick"), tick(reports, shutdown.clone()));
    Ok(serving)
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
