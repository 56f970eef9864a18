//! What the gateway does by the clock.

use std::sync::Arc;
use std::time::Duration;

use daemon::ticks;
use tracing::info_span;

use crate::cluster::load::Load;
use crate::cluster::readiness::StorageReadiness;
use crate::gateway::Gateway;

/// How often sends and read marks are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Ticks between two load reports.
const LOAD_TICKS: u64 = 10;

/// Ticks between two looks at what is not needed: empty groups are given up and checksums sent, whole
/// allowances forgotten.
const INTEREST_TICKS: u64 = 100;

/// Starts the clock. It goes on while the gateway drains, since sends still need it.
pub(crate) fn spawn(gateway: &Arc<Gateway>, load: &Arc<Load>, storage: Arc<StorageReadiness>) {
    let (shutdown, load) = (gateway.parts.shutdown.clone(), Arc::clone(load));
    let (gateway, mut tick) = (Arc::clone(gateway), 0_u64);
    ticks::spawn(info_span!("timers"), TICK, &shutdown, move || {
        tick += 1;
        gateway.tick();
        storage.look(&gateway.parts.storage);
        if tick.is_multiple_of(LOAD_TICKS) {
            load.tell(gateway.parts.connections.len());
            show(&gateway);
        }
        if tick.is_multiple_of(INTEREST_TICKS) {
            gateway.tidy_interest();
            gateway.parts.allowances.tidy(gateway.parts.now_us());
        }
    });
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
