//! Stopping: clients are moved, not dropped.
//!
//! No new clients are sent here, none are accepted, what is in flight is answered, and then the
//! connections are closed in waves, so that their clients come back elsewhere one after the other.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{info, info_span};

use crate::client::closing::CloseReason;
use crate::client::waves::close_in_waves;
use crate::cluster::load::Load;
use crate::gateway::Gateway;

/// Until the login_servers have heard that we drain, they may still send clients.
const HEARD: Duration = Duration::from_millis(100);

/// How long read marks that still wait may take to be stored.
const MARKS_LIMIT: Duration = Duration::from_secs(1);

/// How often it is looked whether all are gone.
const LOOK: Duration = Duration::from_millis(50);

/// Waits for shutdown to begin, then drains. The daemon waits for this task before it closes the
/// links, which the last answers need.
pub(crate) fn spawn(gateway: &Arc<Gateway>, load: &Arc<Load>, limit: Duration) {
    let (gateway, load) = (Arc::clone(gateway), Arc::clone(load));
    let shutdown = gateway.parts.shutdown.clone();
    shutdown.spawn(info_span!("drain"), async move {
        gateway.parts.shutdown.begun().await;
        drain(&gateway, &load, limit).await;
    });
}

async fn drain(gateway: &Gateway, load: &Load, limit: Duration) {
    let deadline = Instant::now() + limit.mul_f64(0.9);
    let connections = gateway.parts.connections.len();
    load.drain(connections);
    gateway.tell_last_news().await;
    if connections == 0 {
        return gateway.flush_all_marks(Instant::now() + MARKS_LIMIT).await;
    }
    info!(connections, "closing connections");
    sleep(HEARD).await;
    close_in_waves(gateway.parts.connections.all(), CloseReason::Stopping, limit / 2).await;
    while gateway.parts.connections.len() > 0 && Instant::now() < deadline {
        // Also those that were accepted in the last moment.
        for outbox in gateway.parts.connections.all() {
            outbox.close_after_work(CloseReason::Stopping);
        }
        sleep(LOOK).await;
    }
    for outbox in gateway.parts.connections.all() {
        outbox.close(CloseReason::Stopping);
    }
    info!(left = gateway.parts.connections.len(), "connections closed");
    gateway.flush_all_marks(deadline.max(Instant::now() + MARKS_LIMIT)).await;
}
