//! Sends the partition's records, numbered and in order, to those who follow the log under a name: push
//! notification, webhooks, audit.
//!
//! ```text
//! log ──► tail ──► numbering ──► feed ──► link          (one feed a name, one batch after the other)
//!          (a reader of its own)   │
//!                                  └──► the consumer's place, in the store
//! ```
//!
//! What is sent has been folded, so it is durable and its number is final. The partition's thread does
//! nothing for a consumer: a feed reads the log by itself and looks up the numbers.
//!
//! # Invariants
//!
//! - At least once and in order: a consumer's place moves only over what it said that it handled.
//! - Of several links that ask under one name one is served at a time, in the order in which they asked.
//! - The place moves in the store by compare-and-set, and only while this owner's epoch is in force.
//!
//! # What bounds it
//!
//! - [`NAMES_MAX`] names; the link of one more is reset.
//! - [`RECORDS_UNHANDLED_MAX`] full batches on their way to a consumer, or so many smaller ones as it takes and
//!   [`SMALL_RECORDS_UNHANDLED_MAX`] at most; then nothing more is read for it.
//! - How far a consumer may be behind is for the log: what it no longer has is lost to the consumer, which
//!   is told so.

mod claimants;
mod feed;
mod numbering;
mod shared;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use daemon::{Link, Shutdown};
use parking_lot::Mutex;
use proto::cluster::is_consumer_name;
use proto::cluster::wire::{Consume, Handled};
use proto::ids::Offset;
use tracing::{info, info_span, warn};

use crate::metrics::ConsumersMetrics;
use claimants::{Claimant, Claimants};
use feed::Feed;
use shared::Shared;

pub use shared::Source;
pub use watch::WATCH_EVERY;

#[cfg(doc)]
use proto::cluster::{RECORDS_UNHANDLED_MAX, SMALL_RECORDS_UNHANDLED_MAX};

/// How many names there may be in a partition. Each served one has a reader of the log, of a MiB or so.
pub(crate) const NAMES_MAX: usize = 32;

/// The consumers of one owned partition.
#[derive(Debug)]
pub struct Consumers {
    shared: Arc<Shared>,
    names: Mutex<HashMap<String, Arc<Claimants>>>,
}

impl Consumers {
    /// The consumers of a partition that is owned from now on, until links close.
    pub fn new(source: Source, metrics: ConsumersMetrics, shutdown: &Shutdown) -> Arc<Self> {
        let shared = Arc::new(Shared::new(source, metrics, shutdown));
        Arc::new(Self { shared, names: Mutex::default() })
    }

    /// Starts to look `every` so often how far they are behind.
    pub fn watch(&self, every: Duration) {
        watch::start(&self.shared, every);
    }

    /// A link asks for the records, in place of what it asked under this name before.
    pub fn consume(self: &Arc<Self>, link: &Link, consume: Consume) {
        let name = consume.name.clone();
        if !is_consumer_name(&name) {
            link.reset("it has a name that no consumer may have");
            return;
        }
        let claimant = Claimant::new(link, consume);
        let mut names = self.names.lock();
        if let Some(claimants) = names.get(&name) {
            claimants.add(claimant);
            return;
        }
        if names.len() >= NAMES_MAX {
            warn!(name, max = NAMES_MAX, "there are too many consumers");
            link.reset("there are too many consumers");
            return;
        }
        let claimants = Arc::new(Claimants::new(&name, claimant));
        names.insert(name.clone(), Arc::clone(&claimants));
        let Shared { metrics, shutdown, .. } = &*self.shared;
        metrics.show_served(names.len());
        let (this, closing) = (Arc::clone(self), shutdown.clone());
        shutdown.spawn_link(info_span!("consumer", name), async move {
            tokio::select! {
                () = this.serve(&claimants) => {}
                () = closing.closing_links() => {}
            }
        });
    }

    /// A consumer has handled records.
    pub fn handled(&self, link: &Link, handled: &Handled) {
        let claimants = self.names.lock().get(&handled.name).cloned();
        if let Some(claimants) = claimants {
            claimants.note_handled(link, Offset(handled.upto_offset));
        }
    }

    /// A link is down.
    pub fn down(&self, link: &Link) {
        let all: Vec<_> = self.names.lock().values().cloned().collect();
        for claimants in all {
            claimants.remove(link);
        }
    }

    /// Serves the consumers that ask under a name, one after the other, until there is none.
    async fn serve(&self, claimants: &Arc<Claimants>) {
        while let Some(claimant) = self.next(claimants) {
            info!(consumer = %claimant.link.peer().name, "it is served from here on");
            Feed::new(&self.shared, claimants, claimant).run().await;
        }
    }

    /// The first consumer that asks. If there is none, the name is given up.
    fn next(&self, claimants: &Arc<Claimants>) -> Option<Claimant> {
        let mut names = self.names.lock();
        let first = claimants.first();
        if first.is_none() {
            names.remove(&claimants.name);
            self.shared.metrics.show_served(names.len());
        }
        first
    }
}

#[cfg(test)]
mod tests;
