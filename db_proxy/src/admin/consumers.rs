//! The consumers of the log, as administrators see them. Any db_proxy answers for all partitions: their
//! places stand in the store.

use std::sync::Arc;

use futures_util::future::try_join_all;
use proto::cluster::wire::ConsumerLine;
use store::{Store, StoreError};

/// Every consumer, by name and partition.
pub(super) async fn list(stores: &[Arc<dyn Store>]) -> Result<Vec<ConsumerLine>, StoreError> {
    let lines = (0..).zip(stores).map(|(partition, store)| lines(partition, store));
    let mut consumers = try_join_all(lines).await?.concat();
    consumers.sort_by(|one, other| (&one.name, one.partition).cmp(&(&other.name, other.partition)));
    Ok(consumers)
}

async fn lines(partition: u32, store: &Arc<dyn Store>) -> Result<Vec<ConsumerLine>, StoreError> {
    let consumers = store.consumers().await?;
    if consumers.is_empty() {
        return Ok(Vec::new());
    }
    let stored_offset = store.flushed_progress().await?.0;
    let lines = consumers.into_iter().map(|consumer| ConsumerLine {
        name: consumer.name,
        partition,
        offset: consumer.cursor.offset.0,
        stored_offset,
    });
    Ok(lines.collect())
}

/// Forgets a consumer in all partitions. If it is linked, its owner lets the link end, and it begins anew.
/// Whether there was one.
pub(super) async fn forget(stores: &[Arc<dyn Store>], name: &str) -> Result<bool, StoreError> {
    let mut was_there = false;
    for store in stores {
        was_there |= store.forget_consumer(name.to_owned()).await?;
    }
    Ok(was_there)
}
