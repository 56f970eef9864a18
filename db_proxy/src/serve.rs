//! Starts a db_proxy, and what it finishes before it stops.

use std::sync::Arc;
use std::time::Duration;

use daemon::link::LinkMetrics;
use daemon::{BoxError, Context, LinkOptions, LinkTable, Role, Serving, Shutdown};
use tokio::sync::watch;
use tracing::info_span;

use crate::config::Config;
use crate::fold::EPOCH_EVERY;
use crate::following::{self, Following};
use crate::login::Logins;
use crate::metrics::{
    FollowingMetrics, PartitionMetrics, PublishMetrics, RequestMetrics, StoringMetrics,
};
use crate::partition::Owner;
use crate::partition::open::OpenPartition;
use crate::passwords::Passwords;
use crate::publish::Publisher;
use crate::requests::Requests;
use crate::storing::{self, StopStoring};
use crate::wiring;

/// Gateways that lose their link resubmit within this time; what they had sent is answered first.
const LAST_REQUESTS: Duration = Duration::from_millis(50);

/// Takes the partition and starts to serve. Returns once gateways can connect: everything that was
/// acknowledged before is folded by then.
pub async fn run(context: Context<Config>) -> Result<Serving, BoxError> {
    let Context { settings: config, shutdown, reloads, metrics, boot } = context;
    let identity = config.cluster.link_identity(Role::DbProxy, boot)?;
    let opened = wiring::open_partition(&config, &identity.name).await?;
    let OpenPartition { log, state, epoch, owner: name } = opened;
    let store = Arc::clone(state.store());
    let cache = wiring::cache(&config.cache, &metrics, &shutdown).await?;
    let state = state.with_cache(Arc::clone(&cache), log.id());

    let gateways = Arc::new(LinkTable::default());
    let publisher = Publisher::new(Arc::clone(&gateways), PublishMetrics::new(&metrics));
    publisher.watch(&shutdown);
    let options = LinkOptions::counted(LinkMetrics::register(&metrics));
    let routes = route_servers(&config, reloads, &shutdown);
    let handler = Arc::clone(&publisher);
    daemon::link::dial(
        routes,
        identity.clone(),
        Role::RouteServer,
        handler,
        options.clone(),
        &shutdown,
    );

    let owner = Owner {
        log,
        state,
        epoch,
        name,
        epoch_every: EPOCH_EVERY,
        limits: config.limits.limits(),
        publisher,
        metrics: PartitionMetrics::new(&metrics),
    };
    let partition = owner.start(&shutdown);
    let storing_metrics = StoringMetrics::new(&metrics);
    let storing =
        storing::start(partition.clone(), storing_metrics, storing::TRIM_EVERY, &shutdown);

    let followed = FollowingMetrics::new(&metrics);
    let following = Following::new(partition.state().clone(), epoch, followed);
    following.watch(following::TELL_EVERY, &shutdown);
    let request_metrics = RequestMetrics::new(&metrics);
    let passwords = tokio::task::spawn_blocking(Passwords::new).await??;
    let logins = Logins::new(store, cache, passwords, request_metrics.clone());
    let requests = Requests::new(
        partition.clone(),
        logins,
        gateways,
        (request_metrics, shutdown.clone()),
        following,
    );
    let addr = daemon::link::listen(
        config.link_addr,
        identity,
        &[Role::MsgServer, Role::Admin],
        Arc::new(requests.clone()),
        options,
        &shutdown,
    )
    .await?;
    let drain = drain(requests, partition, storing);
    Ok(Serving::new("db_proxy").listens("links", addr).drain(drain))
}

/// Everything that was taken is answered, everything folded is stored; what comes after is told to
/// try again, and finds the next owner.
async fn drain(requests: Requests, partition: crate::partition::Partition, storing: StopStoring) {
    tokio::time::sleep(LAST_REQUESTS).await;
    requests.idle().await;
    partition.stop().await;
    storing.finish().await;
}

/// The configured route_servers, and again whenever the settings are read again.
fn route_servers(
    config: &Config,
    mut reloads: watch::Receiver<Arc<Config>>,
    shutdown: &Shutdown,
) -> watch::Receiver<Vec<String>> {
    let (targets, routes) = watch::channel(config.route_servers.clone());
    let stop = shutdown.clone();
    shutdown.spawn(info_span!("reload"), async move {
        loop {
            tokio::select! {
                () = stop.begun() => return,
                changed = reloads.changed() => if changed.is_err() { return },
            }
            let list = reloads.borrow_and_update().route_servers.clone();
            targets.send_if_modified(|current| {
                let differs = *current != list;
                *current = list;
                differs
            });
        }
    });
    routes
}

#[cfg(test)]
mod tests {
    use daemon::{Running, Secret};
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
            let running = Running { serving, shutdown: shutdown.clone() };
            running.stop(Duration::from_secs(20)).await.expect("every task has ended");
            assert!(!shutdown.failed(), "nothing ended too early");
        }
    }
}
