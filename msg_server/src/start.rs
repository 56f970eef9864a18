//! Putting the gateway together.

use std::sync::Arc;

use daemon::link::{self, LinkHandler, LinkMetrics, LinkOptions};
use daemon::{BoxError, Context, Identity, Readiness, Role, Serving, Settings};
use proto::cluster::wire::LoadReport;
use tokio::sync::watch;
use tracing::info_span;

use crate::config::Config;
use crate::gateway::Gateway;
use crate::listener::Listeners;
use crate::load::Load;
use crate::parts::Parts;
use crate::peers::{Batches, HubLinks, LoginLinks, StorageLinks};
use crate::readiness::StorageReadiness;
use crate::{drain, timers};

/// Starts a gateway: binds, and runs until shutdown begins. Its addresses are those for `clients`
/// and, with TLS, for `tls clients`.
pub async fn run(context: Context<Config>) -> Result<Serving, BoxError> {
    let Context { settings, shutdown, reloads, metrics, boot } = context;
    let identity = settings.cluster.link_identity(Role::MsgServer, boot)?;
    let listeners = Listeners::bind(&settings)?;
    let (plain, tls) = listeners.addrs();

    let gateway = Arc::new(Gateway::new(Parts::new(&settings, boot, &metrics, shutdown)));
    // What a client needs before it can log in here is what the login_servers are told; a name that
    // another gateway has is what they say themselves.
    let (ready, able) = (Readiness::default(), Readiness::default());
    ready.include(&able);
    let report = LoadReport {
        name: identity.name.clone(),
        host: settings.advertised_host(),
        backup_host: settings.advertise_backup_host.clone(),
        port: u32::from(settings.advertise_port.or(plain.map(|addr| addr.port())).unwrap_or(0)),
        tls_port: tls.map(|addr| u32::from(addr.port())),
        connections: 0,
        connections_max: u32::try_from(settings.limits.connections_max).unwrap_or(u32::MAX),
        draining: false,
        not_ready: None,
    };
    let load = Arc::new(Load::new(report, ready.condition("a name of its own (cluster.name)")));
    let storage = Arc::new(StorageReadiness::new(&able));

    let dialing =
        Dialing { identity, options: LinkOptions::counted(LinkMetrics::register(&metrics)) };
    let hub_links = HubLinks {
        gateway: Arc::clone(&gateway),
        ready: able.condition("route_server"),
        batches: Batches::default(),
    };
    let storage_links = StorageLinks {
        gateway: Arc::clone(&gateway),
        ready: Arc::clone(&storage),
        batches: Batches::default(),
    };
    let login_links = LoginLinks { load: Arc::clone(&load) };
    let follow = |pick| follow(&gateway, &reloads, pick);
    let routes = follow(|config| &config.route_servers);
    let proxies = follow(|config| &config.db_proxies);
    let logins = follow(|config| &config.login_servers);
    dialing.dial(&gateway, Role::RouteServer, routes, Arc::new(hub_links));
    dialing.dial(&gateway, Role::DbProxy, proxies, Arc::new(storage_links));
    dialing.dial(&gateway, Role::LoginServer, logins, Arc::new(login_links));

    load.follow(able, &gateway.parts.shutdown);
    timers::spawn(&gateway, &load, storage);
    drain::spawn(&gateway, &load, settings.process.drain_limit());
    listeners.spawn(&gateway, &settings, reloads);

    let mut serving = Serving::new(Config::NAME).ready(ready);
    if let Some(addr) = plain {
        serving = serving.listens("clients", addr);
    }
    if let Some(addr) = tls {
        serving = serving.listens("tls clients", addr);
    }
    Ok(serving)
}

/// What all links have in common.
struct Dialing {
    identity: Identity,
    options: LinkOptions,
}

impl Dialing {
    fn dial(
        &self,
        gateway: &Gateway,
        role: Role,
        targets: watch::Receiver<Vec<String>>,
        handler: Arc<dyn LinkHandler>,
    ) {
        let (identity, options) = (self.identity.clone(), self.options.clone());
        link::dial(targets, identity, role, handler, options, &gateway.parts.shutdown);
    }
}

/// A list of addresses that follows the settings.
fn follow(
    gateway: &Gateway,
    reloads: &watch::Receiver<Arc<Config>>,
    pick: fn(&Config) -> &Vec<String>,
) -> watch::Receiver<Vec<String>> {
    let mut reloads = reloads.clone();
    let (targets, targets_out) = watch::channel(pick(&reloads.borrow_and_update()).clone());
    let shutdown = gateway.parts.shutdown.clone();
    // As long as the links live: without its sender the list would be taken for final.
    gateway.parts.shutdown.spawn_link(info_span!("targets"), async move {
        loop {
            tokio::select! {
                () = shutdown.closing_links() => return,
                changed = reloads.changed() => {
                    if changed.is_err() {
                        shutdown.closing_links().await;
                        return;
                    }
                    let list = pick(&reloads.borrow_and_update()).clone();
                    targets.send_if_modified(|targets| {
                        let changed = *targets != list;
                        *targets = list;
                        changed
                    });
                }
            }
        }
    });
    targets_out
}
