//! Starts a db_proxy, and what it finishes before it stops.

use std::sync::Arc;
use std::time::Duration;

use cache::Cache;
#[cfg(feature = "kafka")]
use daemon::StartRefused;
use daemon::follow;
use daemon::link::LinkMetrics;
use daemon::{
    BoxError, Context, LinkOptions, LinkTable, Metrics, Readiness, Role, Serving, Shutdown,
};
use logins::LoginMetrics;
use logins::kicks::Kicks;
use logins::login::guesses::Guesses;
use logins::login::{Checks, Logins};
use logins::passwords::Passwords;
use logins::tokens::Tokens;
use logins::tokens::clock::Clock;
use partition::last_clock::LastClock;
use partition::metrics::PublishMetrics;
use partition::publisher::Publisher;
use partition::stall::StallDetector;
use proto::lists::Placeholders;
use proto::text::TextCipher;
use store::Store;
use tracing::info_span;

use crate::commands::group_limits::GroupLimits;
use crate::config::{Config, DbRole};
#[cfg(feature = "kafka")]
use crate::group::{self, LeaveGroup};
use crate::links::{Bounds, Links, Sources};
use crate::metrics::{OwnedMetrics, RequestMetrics};
use crate::ownership::{Ownership, Shared};
use crate::partitions::Partitions;
use crate::site::{self, Logs, Site};

/// Gateways that lose their link resubmit within this time; what they had sent is answered first.
const LAST_REQUESTS: Duration = Duration::from_millis(50);

/// Takes the partition, or joins the consumer group that shares them, and starts to serve. Returns once
/// gateways can connect: with an embedded log, everything that was acknowledged before is folded by
/// then.
pub async fn run(context: Context<Config>) -> Result<Serving, BoxError> {
    let identity = context.link_identity(Role::DbProxy, |config| &config.cluster)?;
    let Context { settings: config, shutdown, reloads, metrics, .. } = context;
    let Site { stores, logs } = site::find(&config, &metrics).await?;
    let store = stores.first().map(Arc::clone).ok_or("there is no partition")?;
    let cache = site::cache(&config.cache, &metrics, &shutdown).await?;

    let gateways = Arc::new(LinkTable::default());
    let publisher = Publisher::new(Arc::clone(&gateways), PublishMetrics::new(&metrics));
    publisher.watch(&shutdown);
    let options = LinkOptions::counted(LinkMetrics::register(&metrics));
    let routes = follow::part(info_span!("targets"), &reloads, &shutdown, |config: &Config| {
        &config.route_servers
    });
    let (this, handler) = (identity.clone(), Arc::clone(&publisher));
    daemon::link::dial(routes, this, Role::RouteServer, handler, options.clone(), &shutdown);

    let stalls = StallDetector::default();
    // An embedded log has one owner, however long the process was stalled.
    let watched = config.kafka.is_used().then(|| stalls.clone());
    let partitions =
        Partitions::new(stores, Arc::clone(&gateways), config.has(DbRole::Login), watched);
    let (partitions, readiness) = (Arc::new(partitions), Readiness::default());
    let shared = Shared {
        partitions: Arc::clone(&partitions),
        publisher,
        cache: Arc::clone(&cache),
        limits: config.limits.limits(),
        metrics: OwnedMetrics::new(&metrics),
        stalls,
        last_clock: last_clock(&logs, &config, &shutdown),
        store_is_remote: !config.store.mysql.is_empty(),
        readiness: readiness.clone(),
        shutdown: shutdown.clone(),
    };
    let owners = own(shared, logs, &config, &identity.name).await?;

    let request_metrics = RequestMetrics::new(&metrics);
    let logins = logins(&config, store, cache, &metrics, &shutdown).await?;
    let kicks = Arc::new(Kicks::new(gateways));
    let cipher = TextCipher::of_site(config.cluster.text_key()?);
    let placeholders = Placeholders::new(&cipher);
    let sources = Sources { partitions, logins, kicks, placeholders };
    let links = Links::new(sources, bounds(&config), request_metrics, shutdown.clone());
    let addr = daemon::link::listen(
        config.link_addr,
        identity,
        &[Role::MsgServer, Role::ApiServer, Role::Consumer, Role::Admin],
        Arc::new(links.clone()),
        options,
        &shutdown,
    )
    .await?;
    let drain = drain(links, owners);
    Ok(Serving::new("db_proxy").listens("links", addr).ready(readiness).drain(drain))
}

/// By now the folder of an embedded log is there, and this process has it alone.
fn last_clock(logs: &Logs, config: &Config, shutdown: &Shutdown) -> LastClock {
    if let Logs::Embedded(_) = logs {
        LastClock::begin(&config.data_dir, shutdown)
    } else {
        LastClock::default()
    }
}

fn bounds(config: &Config) -> Bounds {
    let limits = &config.limits;
    Bounds {
        requests: limits.requests_max,
        logins: if config.has(DbRole::Login) { limits.logins_max } else { 0 },
        groups: GroupLimits { made: limits.groups_made_max, joined: limits.groups_joined_max },
    }
}

/// Prepares the login side, over the store of users.
async fn logins(
    config: &Config,
    store: Arc<dyn Store>,
    cache: Arc<dyn Cache>,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Result<Logins, BoxError> {
    let passwords = passwords(config, metrics).await?;
    let guesses = Guesses::new(Arc::clone(&cache), config.logins.guesses());
    let tokens = tokens(&store, config, shutdown)?;
    let checks = Checks { passwords, guesses };
    Ok(Logins::new(store, cache, checks, tokens, LoginMetrics::new(metrics)))
}

/// Prepares the tokens that clients log in with.
fn tokens(
    store: &Arc<dyn Store>,
    config: &Config,
    shutdown: &Shutdown,
) -> Result<Tokens, BoxError> {
    let keys = config.logins.token_keys()?;
    let (store, life) = (Arc::clone(store), config.logins.token_life());
    let tokens = Tokens::new(store, keys, life, Clock::default());
    if config.has(DbRole::Login) {
        tokens.follow_revocations(shutdown);
    }
    Ok(tokens)
}

/// Prepares the check of passwords, which computes one hash.
async fn passwords(config: &Config, metrics: &Metrics) -> Result<Passwords, BoxError> {
    let hashes_max = config.limits.hashes_max;
    let pepper = config.logins.pepper()?;
    let prepare = move || Passwords::new(hashes_max, pepper.as_ref());
    let passwords = tokio::task::spawn_blocking(prepare).await??;
    let help = "Logins that wait for the check of a password, or are being checked";
    metrics.register("password_checks_waiting", help, passwords.waiting().clone());
    Ok(passwords)
}

/// What owns partitions here.
enum Owners {
    /// The only partition of an embedded log.
    One(Arc<Ownership>),
    #[cfg(feature = "kafka")]
    Group(LeaveGroup),
    None,
}

async fn own(shared: Shared, logs: Logs, config: &Config, name: &str) -> Result<Owners, BoxError> {
    match logs {
        Logs::Embedded(log) => {
            let store = Arc::clone(&shared.partitions.stores()[0]);
            let opened = site::open_partition(config, *log, store, name).await?;
            let shutdown = shared.shutdown.clone();
            let ownership = Arc::new(shared.begin(0, opened));
            let watched = Arc::clone(&ownership);
            shared.shutdown.spawn_link(info_span!("owner"), async move {
                tokio::select! {
                    // No other daemon can take the partition: the supervisor starts this one again.
                    _why = watched.ended() => shutdown.fail(),
                    () = shutdown.begun() => {}
                }
            });
            Ok(Owners::One(ownership))
        }
        #[cfg(feature = "kafka")]
        Logs::Kafka(topic) => match group::start(shared, topic, name.to_owned()) {
            Ok(stop) => Ok(Owners::Group(stop)),
            Err(error) => Err(Box::new(StartRefused(error.to_string()))),
        },
        Logs::Nowhere => Ok(Owners::None),
    }
}

/// Everything that was taken is answered, everything folded is stored; what comes after is told that
/// the partition has moved, and finds the next owner.
async fn drain(links: Links, owners: Owners) {
    tokio::time::sleep(LAST_REQUESTS).await;
    match owners {
        Owners::One(ownership) => {
            links.idle().await;
            ownership.finish().await;
        }
        // The others take over while requests are answered that are under way.
        #[cfg(feature = "kafka")]
        Owners::Group(member) => {
            member.finish().await;
            links.idle().await;
        }
        Owners::None => links.idle().await,
    }
}

#[cfg(test)]
mod tests {
    use daemon::{Running, Secret};
    use partition::STALLED_AFTER;
    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn it_stops_in_time_and_starts_again() {
        let folder = TempDir::new().expect("make a folder");
        let mut config = Config {
            link_addr: ([127, 0, 0, 1], 0).into(),
            data_dir: folder.path().join("data"),
            route_servers: vec!["127.0.0.1:1".to_owned()],
            ..Config::default()
        };
        config.cluster.key = Some(Secret::new("a key of these tests, long enough"));
        config.log.segment_mib = 32;
        config.log.spare_segments = 1;
        for _ in 0..2 {
            let shutdown = Shutdown::default();
            let context = Context::fixed(config.clone(), shutdown.clone());
            let serving = run(context).await.expect("it starts");
            assert!(serving.addr("links").is_some());
            tokio::time::pause();
            // The thread of the partition may show in between that it moves.
            let mut stalled = Vec::new();
            for _try in 0..100 {
                tokio::time::advance(2 * STALLED_AFTER).await;
                stalled.extend(serving.ready.stalled());
            }
            tokio::time::resume();
            assert!(stalled.contains(&"a partition's thread"), "it is looked after");
            let running = Running { serving, shutdown: shutdown.clone() };
            running.stop(Duration::from_secs(20)).await.expect("every task has ended");
            assert!(!shutdown.failed(), "nothing ended too early");
        }
    }
}
