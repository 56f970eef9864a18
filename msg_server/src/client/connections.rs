//! The connections there are, whether or not somebody is logged in on them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::client::outbox::Outbox;

/// The connections of this gateway.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    table: Mutex<HashMap<u64, Arc<Outbox>>>,
    last: AtomicU64,
}

/// A connection's entry, which goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    connections: Arc<Connections>,
    id: u64,
}

impl Connections {
    /// Enters a connection.
    pub(crate) fn enter(self: &Arc<Self>, outbox: &Arc<Outbox>) -> Entry {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.table.lock().insert(id, Arc::clone(outbox));
        Entry { connections: Arc::clone(self), id }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// All of them, as they are at this moment.
    pub(crate) fn all(&self) -> Vec<Arc<Outbox>> {
        self.table.lock().values().cloned().collect()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.table.lock().remove(&self.id);
    }
}
