//! One replica of the hub: passes what is new to the gateways whose users it concerns.
//!
//! Gateways say which users and groups they serve. db_proxies say what was folded. This daemon brings
//! the two together. It also knows who is online, and ends the older of two logins of one user.
//!
//! # How the modules know each other
//!
//! ```text
//! links ──┬──► fanout ──► interest     to which gateways a frame goes; which gateway wants what
//!         ├──► seats ───► interest     which session stays when a user is logged in twice
//!         └──► presence                who is online, and what of it is news
//! ```
//!
//! Only `links` does IO.
//!
//! # Invariants
//!
//! - All state is what the connected gateways have said. Nothing is stored, nothing is asked of a
//!   database, and replicas do not talk to each other: a replica that starts empty is complete once
//!   the gateways have sent their tables.
//! - A gateway whose interest is not known is sent everything: unknown never means "drop".
//! - A publish is acknowledged once, with the gateways that could not be reached.
//! - What is passed on is passed on as the bytes it came in.

mod config;
mod fanout;
mod interest;
mod links;
mod metrics;
mod presence;
mod seats;

use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::link::{self, LinkMetrics, LinkOptions, Role};
use daemon::{BoxError, Context, Serving, Settings, ticks};
use tracing::info_span;

pub use config::Config;
use links::Links;
use metrics::ReplicaMetrics;

/// How often presence is announced.
const TICK: Duration = Duration::from_secs(1);

/// Starts a replica: binds, and runs until shutdown begins. Its address is that for `links`.
pub async fn run(context: Context<Config>) -> Result<Serving, BoxError> {
    let identity = context.link_identity(Role::RouteServer, |config| &config.cluster)?;
    let Context { settings, shutdown, metrics, .. } = context;
    let just_started_until = Instant::now() + links::JUST_STARTED_FOR;
    let links = Links::new(ReplicaMetrics::register(&metrics));
    let links = Arc::new(links.just_started_until(just_started_until));
    let options = LinkOptions::counted(LinkMetrics::register(&metrics));
    let accepts = [Role::MsgServer, Role::DbProxy];
    let handler = Arc::clone(&links);
    let addr =
        link::listen(settings.link_addr, identity, &accepts, handler, options, &shutdown).await?;
    ticks::spawn(info_span!("tick"), TICK, &shutdown, move || links.tick(Instant::now()));
    Ok(Serving::new(Config::NAME).listens("links", addr))
}
