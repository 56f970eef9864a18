//! How an ownership ends other than in good order.

use std::sync::{Arc, OnceLock};

use daemon::Shutdown;

/// Tells that an ownership has ended, other than by [`crate::Partition::stop`]. Clones are of the same
/// one.
#[derive(Debug, Clone)]
pub struct Ending {
    shutdown: Shutdown,
    why: Arc<OnceLock<Ended>>,
}

/// Why an ownership has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Another owner has begun.
    Fenced,
    /// The result of an append is unknown.
    Unknown,
}

impl Ending {
    /// The ending of an ownership whose tasks belong to `shutdown`, which is begun when it ends.
    pub(crate) fn of(shutdown: &Shutdown) -> Self {
        Self { shutdown: shutdown.clone(), why: Arc::default() }
    }

    /// Why it has ended; `None` if it has not, or in good order.
    pub fn why(&self) -> Option<Ended> {
        self.why.get().copied()
    }

    pub(crate) fn end(&self, why: Ended) {
        // Only the first reason is one.
        self.why.get_or_init(|| why);
        self.shutdown.begin();
    }
}
