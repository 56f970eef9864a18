//! Tells a client which gateway to use.
//!
//! A client asks over HTTP before it connects. Gateways report over their links how full they are.
//! Login servers know nothing of each other: every one has the reports of all gateways, so any of
//! them gives the same kind of answer.
//!
//! # How the modules know each other
//!
//! ```text
//! links ───────► reports ──► gateways     what the gateways report; which one is next, without IO
//! http ──┬─────► reports
//!        └─────► answer                   the choice, as the JSON that clients read
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
mod links;
mod metrics;
mod reports;

use std::sync::Arc;
use std::time::Duration;

use daemon::accept::{self, Doors};
use daemon::http::HttpPort;
use daemon::link::{self, LinkMetrics, LinkOptions, Role};
use daemon::places::PlaceMetrics;
use daemon::tls::RenewedTls;
use daemon::{BoxError, Context, Serving, Settings, ticks};
use tracing::info_span;

pub use config::Config;
use http::Http;
use links::Links;
use metrics::LoginMetrics;
use reports::Reports;

/// How often silent gateways are looked for.
const TICK: Duration = Duration::from_secs(1);

/// Starts a login server: binds, and runs until shutdown begins. Its addresses are those for
/// `links`, and, as far as the settings have them, for `http` and `https`.
pub async fn run(context: Context<Config>) -> Result<Serving, BoxError> {
    let identity = context.link_identity(Role::LoginServer, |config| &config.cluster)?;
    let Context { settings, shutdown, reloads, metrics, .. } = context;
    let login_metrics = LoginMetrics::register(&metrics);
    let reports = Arc::new(Reports::new(login_metrics.clone()));

    let options = LinkOptions::counted(LinkMetrics::register(&metrics));
    let handler = Arc::new(Links::new(Arc::clone(&reports)));
    let accepts = [Role::MsgServer];
    let addr =
        link::listen(settings.link_addr, identity, &accepts, handler, options, &shutdown).await?;
    let mut serving = Serving::new(Config::NAME).listens("links", addr);

    let http = Http {
        reports: Arc::clone(&reports),
        settings: reloads.clone(),
        metrics: login_metrics.clone(),
    };
    let router = http.router();
    let doors = Doors {
        places: settings.connections_max,
        places_per_address: settings.connections_per_ip_max,
        proxies: settings.proxies.clone(),
        keeps_files_back: true,
        metrics: PlaceMetrics::register(&metrics),
    };
    let ports = usize::from(settings.http_addr.is_some()) + usize::from(settings.tls.is_some());
    accept::compare_with_files(settings.connections_max.saturating_mul(ports));
    let bind = |addr| {
        let port = HttpPort::bind(addr, doors.clone(), http::LIMITS)?;
        Ok::<_, BoxError>(port.counted(login_metrics.connections.clone()))
    };
    if let Some(addr) = settings.http_addr {
        let port = bind(addr)?;
        serving = serving.listens("http", port.addr()?);
        port.spawn(info_span!("http"), &shutdown, router.clone());
    }
    if let Some(files) = &settings.tls {
        let tls = RenewedTls::read(files)?;
        let port = bind(files.listen)?.with_tls(Arc::clone(&tls));
        serving = serving.listens("https", port.addr()?);
        port.spawn(info_span!("https"), &shutdown, router);
        tls.follow(&reloads, &shutdown, |settings| settings.tls.as_ref());
    }
    ticks::spawn(info_span!("tick"), TICK, &shutdown, move || reports.tick());
    Ok(serving)
}
