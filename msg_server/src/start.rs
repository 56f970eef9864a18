//! Putting the gateway together.

use std::net::SocketAddr;
use std::sync::Arc;

use daemon::follow;
use daemon::link::{self, LinkHandler, LinkMetrics, LinkOptions};
use daemon::{BoxError, ConfigError, Context, Identity, Readiness, Role, Serving, Settings};
use db_client::hooks::{self, HookMetrics, HookOptions, Source};
use proto::cluster::wire::LoadReport;
use proto::text::TextCipher;
use tokio::sync::watch;
use tracing::info_span;

use crate::client::listener::Listeners;
use crate::cluster::links::{Batches, HubLinks, LoginLinks, StorageLinks};
use crate::cluster::load::Load;
use crate::cluster::readiness::StorageReadiness;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::parts::Parts;
use crate::{drain, timers};

/// Starts a gateway: binds, and runs until shutdown begins. Its addresses are those for `clients`
/// and, with TLS, for `tls clients`.
pub async fn serve(context: Context<Config>) -> Result<Serving, BoxError> {
    let identity = context.link_identity(Role::MsgServer, |config| &config.cluster)?;
    let Context { settings, shutdown, reloads, metrics, boot } = context;
    let listeners = Listeners::bind(&settings)?;
    let (plain, tls) = listeners.addrs();

    let cipher = TextCipher::of_site(settings.cluster.text_key()?);
    let parts = Parts::new(&settings, &cipher, boot, &metrics, shutdown);
    let gateway = Arc::new(Gateway::new(parts));
    let metrics_of_hooks = HookMetrics::register(&metrics);
    let options = HookOptions { cipher, source: Source::Client, metrics: metrics_of_hooks };
    follow_hooks(&gateway, &reloads, options)?;
    // What a client needs before it can log in here is what the login_servers are told; a name that
    // another gateway has is what they say themselves.
    let (ready, able) = (Readiness::default(), Readiness::default());
    ready.include(&able);
    let report = report(&settings, &identity, plain, tls);
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
    let shutdown = &gateway.parts.shutdown;
    let follow = |pick| follow::part(info_span!("targets"), &reloads, shutdown, pick);
    let routes = follow(|config| &config.route_servers);
    let proxies = follow(|config| &config.db_proxies);
    let logins = follow(|config| &config.login_servers);
    dialing.dial(&gateway, Role::RouteServer, routes, Arc::new(hub_links));
    dialing.dial(&gateway, Role::DbProxy, proxies, Arc::new(storage_links));
    dialing.dial(&gateway, Role::LoginServer, logins, Arc::new(login_links));

    load.follow(able, shutdown);
    timers::spawn(&gateway, &load, storage);
    drain::spawn(&gateway, &load, settings.process.drain_limit());
    listeners.spawn(&gateway, &settings, &reloads);

    let mut serving = Serving::new(Config::NAME).ready(ready);
    if let Some(addr) = plain {
        serving = serving.listens("clients", addr);
    }
    if let Some(addr) = tls {
        serving = serving.listens("tls clients", addr);
    }
    Ok(serving)
}

/// Has the hooks of the settings asked about messages.
fn follow_hooks(
    gateway: &Arc<Gateway>,
    reloads: &watch::Receiver<Arc<Config>>,
    options: HookOptions,
) -> Result<(), ConfigError> {
    let parts = &gateway.parts;
    let settings =
        follow::part(info_span!("hooks"), reloads, &parts.shutdown, |config| &config.hooks);
    let asks = Arc::clone(parts);
    parts.spawn(async move { asks.unanswered.ask_hooks().await });
    let sets = Arc::clone(parts);
    hooks::follow(settings, options, &parts.shutdown, move |hooks| sets.unanswered.set_hooks(hooks))
}

/// What the login_servers are told at first.
fn report(
    settings: &Config,
    identity: &Identity,
    plain: Option<SocketAddr>,
    tls: Option<SocketAddr>,
) -> LoadReport {
    LoadReport {
        name: identity.name.clone(),
        host: settings.advertised_host(),
        backup_host: settings.advertise_backup_host.clone(),
        port: u32::from(settings.advertise_port.or(plain.map(|addr| addr.port())).unwrap_or(0)),
        tls_port: tls.map(|addr| u32::from(addr.port())),
        connections: 0,
        connections_max: u32::try_from(settings.limits.connections_max).unwrap_or(u32::MAX),
        draining: false,
        not_ready: None,
    }
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
