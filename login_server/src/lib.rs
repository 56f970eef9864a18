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

use daemon::accept::Doors;
use daemon::http::HttpPorts;
use daemon::link::{self, LinkMetrics, LinkOptions, Role};
use daemon::places::PlaceMetrics;
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
    let ports = HttpPorts {
        doors,
        limits: http::LIMITS,
        connections: login_metrics.connections.clone(),
        reloads: &reloads,
        shutdown: &shutdown,
    };
    for (whom, addr) in ports.serve(settings.http_addr, |config| config.tls.as_ref(), &router)? {
        serving = serving.listens(whom, addr);
    }
    ticks::spawn(info_span!("tick"), TICK, &shutdown, move || reports.tick());
    Ok(serving)
}
