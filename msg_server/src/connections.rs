//! The connections there are, whether or not somebody is logged in on them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::outbox::Outbox;

/// The connections of this gateway.
#[derive(Debug)]
pub(crate) struct Connections {
    /// 0 for no limit.
    per_ip_max: usize,
    table: Mutex<HashMap<u64, Arc<Outbox>>>,
    per_ip: Mutex<HashMap<IpAddr, usize>>,
    last: AtomicU64,
}

/// A connection's place, given up when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    id: u64,
    counted: Option<IpAddr>,
}

impl Connections {
    pub(crate) fn new(per_ip_max: usize) -> Self {
        Self {
            per_ip_max,
            table: Mutex::default(),
            per_ip: Mutex::default(),
            last: AtomicU64::new(0),
        }
    }

    /// Enters a connection; `None` if there are too many from its address.
    pub(crate) fn enter(self: &Arc<Self>, ip: IpAddr, outbox: &Arc<Outbox>) -> Option<Place> {
        let counted = (self.per_ip_max > 0 && !ip.is_loopback()).then_some(ip);
        if let Some(ip) = counted {
            let mut per_ip = self.per_ip.lock();
            let count = per_ip.entry(ip).or_default();
            if *count >= self.per_ip_max {
                return None;
            }
            *count += 1;
        }
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.table.lock().insert(id, Arc::clone(outbox));
        Some(Place { connections: Arc::clone(self), id, counted })
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

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.table.lock().remove(&self.id);
        if let Some(ip) = self.counted {
            let mut per_ip = self.connections.per_ip.lock();
            if let Some(count) = per_ip.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    per_ip.remove(&ip);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitsConfig;
    use crate::metrics::GatewayMetrics;
    use crate::outbox::OutboxPool;

    #[test]
    fn one_address_has_no_more_connections_than_allowed_and_loopback_has_no_limit() {
        let pool = Arc::new(OutboxPool::new(&LimitsConfig::default(), GatewayMetrics::default()));
        let outbox = Arc::new(Outbox::queued(pool));
        let connections = Arc::new(Connections::new(2));
        let (far, near) = ("10.0.0.1".parse().unwrap(), "127.0.0.1".parse().unwrap());
        let first = connections.enter(far, &outbox).unwrap();
        let _second = connections.enter(far, &outbox).unwrap();
        assert!(connections.enter(far, &outbox).is_none());
        let _local: Vec<_> = (0..5).map(|_| connections.enter(near, &outbox).unwrap()).collect();
        assert_eq!(connections.len(), 7);
        drop(first);
        assert!(connections.enter(far, &outbox).is_some());
    }
}
