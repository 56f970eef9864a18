//! What the gateway does by the clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::info_span;

use crate::gateway::Gateway;
use crate::load::Load;
use crate::readiness::StorageReadiness;

/// How often sends and read marks are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Ticks between two load reports.
const LOAD_TICKS: u64 = 10;

/// Ticks between two looks at what is not needed: empty groups are given up and checksums sent, whole
/// allowances forgotten.
const INTEREST_TICKS: u64 = 100;

/// Starts the clock. It goes on while the gateway drains, since sends still need it.
pub(crate) fn spawn(gateway: &Arc<Gateway>, load: &Arc<Load>, storage: Arc<StorageReadiness>) {
    let (gateway, load) = (Arc::clone(gateway), Arc::clone(load));
    let shutdown = gateway.parts.shutdown.clone();
    let closing = shutdown.clone();
    shutdown.spawn_link(info_span!("timers"), async move {
        tokio::select! {
            () = closing.closing_links() => {}
            () = run(&gateway, &load, &storage) => {}
        }
    });
}

async fn run(gateway: &Arc<Gateway>, load: &Load, storage: &StorageReadiness) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 1_u64.. {
        ticks.tick().await;
        gateway.tick();
        storage.look(&gateway.parts.storage);
        if tick.is_multiple_of(LOAD_TICKS) {
            load.tell(gateway.parts.connections.len());
            show(gateway);
        }
        if tick.is_multiple_of(INTEREST_TICKS) {
            gateway.tidy_interest();
            gateway.parts.allowances.tidy(gateway.parts.now_us());
        }
    }
}

fn show(gateway: &Gateway) {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let (sessions, groups) = gateway.parts.registry.size();
    let metrics = &gateway.parts.metrics;
    metrics.connections.set(number(gateway.parts.connections.len()));
    metrics.sessions.set(number(sessions));
    metrics.groups.set(number(groups));
    metrics.cursor_lag.set(i64::try_from(gateway.delivery.lag()).unwrap_or(i64::MAX));
    metrics.partitions_without_owner.set(number(gateway.parts.storage.without_owner()));
    metrics.outbox_bytes.set(number(gateway.parts.outboxes.queued()));
}
