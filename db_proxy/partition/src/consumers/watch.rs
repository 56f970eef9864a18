//! Watches how far consumers are behind, whether or not they are linked.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info_span};

use super::shared::Shared;

/// How often they are looked at.
pub const WATCH_EVERY: Duration = Duration::from_secs(10);

/// Starts to look `every` so often.
pub(super) fn start(shared: &Arc<Shared>, every: Duration) {
    let (this, closing) = (Arc::clone(shared), shared.shutdown.clone());
    shared.shutdown.spawn_link(info_span!("watch consumers"), async move {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _now = ticks.tick() => look(&this).await,
                () = closing.closing_links() => return,
            }
        }
    });
}

/// Shows how far the consumer that is furthest behind is, and notes those to which records are lost.
pub(super) async fn look(shared: &Shared) {
    let consumers = match shared.source.state.store().consumers().await {
        Ok(consumers) => consumers,
        Err(error) => return debug!(%error, "consumers cannot be looked at now"),
    };
    let last = shared.source.state.last();
    let of_this_log = consumers.iter().filter(|one| one.cursor.log == shared.source.log);
    let places: Vec<_> =
        of_this_log.map(|consumer| (&*consumer.name, consumer.cursor.offset)).collect();
    let behind = places.iter().map(|(_name, offset)| last.0.saturating_sub(offset.0)).max();
    shared.metrics.show_behind(behind.unwrap_or(0));
    if places.is_empty() {
        return;
    }
    let first = match shared.first().await {
        Ok(first) => first,
        Err(error) => return debug!(%error, "the log's beginning cannot be found now"),
    };
    for (name, offset) in places {
        if offset.next() < first {
            shared.note_fallen(name, first);
        }
    }
}
