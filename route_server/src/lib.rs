//! The hub: passes what is new to the gateways that have somebody to tell.
//!
//! Gateways say whom they serve; db_proxies say what was folded; this daemon brings the two
//! together. It also knows who is online, and ends the older of two logins of one user.
//!
//! # How the modules know each other
//!
//! ```text
//! hub ──┬──► fanout ──► interest     to whom a frame goes; which gateway wants what
//!       ├──► claims ──► interest     who stays when a user is logged in twice
//!       └──► presence                who is online, and what of it is news
//! ```
//!
//! Everything but the hub is without IO.
//!
//! # Invariants
//!
//! - All state is what the connected gateways have said. Nothing is stored, nothing is asked of a
//!   database, and replicas do not talk to each other: a replica that starts empty is complete once
//!   the gateways have sent their tables.
//! - A gateway whose interest is not known is sent everything: unknown never means "drop".
//! - A publish is acknowledged once, with the gateways that could not be reached.
//! - What is passed on is passed on as the bytes it came in.

mod claims;
mod config;
mod fanout;
mod hub;
mod interest;
mod metrics;
mod presence;

use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::link::{self, LinkMetrics, LinkOptions, Role};
use daemon::{BoxError, Context, Serving, Settings, Shutdown};
use tokio::time::MissedTickBehavior;
use tracing::info_span;

pub use config::Config;
use hub::Hub;
use metrics::HubMetrics;

/// How often presence is announced.
const TICK: Duration = Duration::from_secs(1);

/// Starts a replica: binds, and runs until shutdown begins. Its address is that for `links`.
pub async fn run(context: Context<Config>) -> Result<Serving, BoxError> {
    let Context { settings, shutdown, metrics, boot, .. } = context;
    let identity = settings.cluster.link_identity(Role::RouteServer, boot)?;
    let newcomer_until = Instant::now() + hub::NEWCOMER_FOR;
    let hub = Hub::new(HubMetrics::register(&metrics)).newcomer_until(newcomer_until);
    let hub = Arc::new(hub);
    let options = LinkOptions::counted(LinkMetrics::register(&metrics));
    let accepts = [Role::MsgServer, Role::DbProxy];
    let handler = Arc::clone(&hub);
    let addr =
        link::listen(settings.link_addr, identity, &accepts, handler, options, &shutdown).await?;
    shutdown.spawn_vital(info_span!("tick"), tick(hub, shutdown.clone()));
    Ok(Serving::new(Config::NAME).listens("links", addr))
}

async fn tick(hub: Arc<Hub>, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _tick = ticks.tick() => hub.tick(Instant::now()),
        }
    }
}
