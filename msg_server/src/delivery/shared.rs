//! What the files of delivery work with.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::delivered::Delivered;
use super::pages::FETCHES_MAX;
use crate::parts::Parts;

/// The gateway's parts, what has been delivered, and the right to fetch.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) parts: Arc<Parts>,
    pub(super) delivered: Delivered,
    /// One permit for each page that may be fetched now.
    pub(super) fetches: Semaphore,
}

impl Shared {
    pub(super) fn new(parts: Arc<Parts>) -> Self {
        let delivered = Delivered::new(parts.limits.conversations_max);
        Self { parts, delivered, fetches: Semaphore::new(FETCHES_MAX) }
    }
}
