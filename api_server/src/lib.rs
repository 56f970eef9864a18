//! The HTTP API, through which other programs use the chat: they make users and groups, send messages as
//! users, and read histories.
//!
//! It keeps nothing. What a call answers has been said by a db_proxy: a message is durable when its number
//! is told. So there may be any number of api_servers, and each of them may be killed.
//!
//! # How the modules know each other
//!
//! ```text
//! webhooks                                                what happens, told to other systems
//! calls (users, groups, messages) ──► state ──► keys      which key was shown, and what it allows
//!    │                                  └─────► asking    questions to db_proxies, and what went wrong
//!    └──► input, paging ──► problem                       what a request says; errors as RFC 9457 has them
//! ```
//!
//! # Invariants
//!
//! - Nothing is asked of a db_proxy for a request without a key, but which key it is.
//! - A key that was revoked is refused within a second.
//! - Answers never repeat a secret that a program has shown.
//!
//! # What bounds it
//!
//! Connections, requests at once, the size and the time of a body ([`Config`], [`input`]); requests of each
//! key, and wrong keys from each address ([`keys`]). Beyond, programs are told when to try again.

mod asking;
mod calls;
mod config;
mod input;
mod keys;
mod metrics;
mod paging;
mod problem;
mod state;
#[cfg(test)]
mod test;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use daemon::accept::Doors;
use daemon::http::{HttpLimits, HttpPorts};
use daemon::link::{LinkMetrics, LinkOptions, Role};
use daemon::places::PlaceMetrics;
use daemon::ready::Readiness;
use daemon::{BoxError, Context, Serving, Settings, follow, ticks};
use db_client::DbClient;
use db_client::hooks::{self, HookMetrics, HookOptions, Source};
use proto::text::TextCipher;
use tracing::info_span;

pub use config::Config;
use metrics::ApiMetrics;
use state::Api;
use webhooks::Fleet;
pub use webhooks::WebhooksConfig;

/// What one connection may take. Programs keep connections for many requests.
const LIMITS: HttpLimits = HttpLimits {
    part: Duration::from_secs(30),
    connection: Duration::from_hours(1),
    last_requests: Duration::from_secs(10),
    header_len: 16 << 10,
    one_request: false,
};

/// How often it is looked whether every partition has an owner that is linked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Starts an API server: binds, and runs until shutdown begins. Its addresses are, as far as the settings
/// have them, those for `http` and `https`.
#[expect(clippy::unused_async, reason = "daemons are started by futures")]
pub async fn run(context: Context<Config>) -> Result<Serving, BoxError> {
    let identity = context.link_identity(Role::ApiServer, |config| &config.cluster)?;
    let consumer = context.link_identity(Role::Consumer, |config| &config.cluster)?;
    let Context { settings, shutdown, reloads, metrics, .. } = context;
    let cipher = TextCipher::of_site(settings.cluster.text_key()?);
    let targets =
        follow::part(info_span!("targets"), &reloads, &shutdown, |config| &config.db_proxies);
    let options = LinkOptions::counted(LinkMetrics::register(&metrics));
    let client = DbClient::connect(targets.clone(), identity, options.clone(), &shutdown);
    let hooks = follow::part(info_span!("hooks"), &reloads, &shutdown, |config| &config.hooks);
    let about_hooks = HookOptions {
        cipher: cipher.clone(),
        source: Source::Api,
        metrics: HookMetrics::register(&metrics),
    };
    let sends = Arc::clone(&client);
    hooks::follow(hooks, about_hooks, &shutdown, move |hooks| sends.set_hooks(hooks))?;
    let ready = Readiness::default();
    let storage = ready.condition("db_proxy");
    let looks = Arc::clone(&client);
    ticks::spawn(info_span!("ready"), LOOK_EVERY, &shutdown, move || {
        storage.set(looks.is_ready());
    });

    let fleet = Fleet {
        db: Arc::clone(&client),
        cipher: cipher.clone(),
        settings: settings.webhooks.clone(),
        targets,
        identity: consumer,
        options,
    };
    fleet.spawn(&metrics, &shutdown)?;

    let api = Arc::new(Api::new(client, &settings, cipher, ApiMetrics::register(&metrics)));
    let router = calls::router(api);
    let doors = Doors {
        places: settings.connections_max,
        places_per_address: settings.connections_per_ip_max,
        proxies: settings.proxies.clone(),
        keeps_files_back: true,
        metrics: PlaceMetrics::register(&metrics),
    };
    let ports = HttpPorts {
        doors,
        limits: LIMITS,
        connections: metrics.counter("connections", "Connections of programs that were served."),
        reloads: &reloads,
        shutdown: &shutdown,
    };
    let mut serving = Serving::new(Config::NAME).ready(ready);
    for (whom, addr) in ports.serve(settings.http_addr, |config| config.tls.as_ref(), &router)? {
        serving = serving.listens(whom, addr);
    }
    Ok(serving)
}
