//! Ports that stay with one server.
//!
//! A server that is down must find its port free when it comes back. So a port is taken by locking
//! a file of its number: the lock goes with its value, or with the process.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::time::SystemTime;

use crate::folder;

/// Above the ports that clusters under test listen on, below those that the system takes for
/// outgoing connections.
const FIRST: u16 = 32_000;
const COUNT: u16 = 768;

/// A port of 127.0.0.1 that is ours.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _lock: File,
}

impl Port {
    /// Takes a port that is not in use.
    pub(crate) fn take() -> Self {
        let locks = folder::scratch().join("ports");
        fs::create_dir_all(&locks).expect("make the folder of the ports");
        // Not always from the first one: another process may look at this moment.
        let nanos = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().subsec_nanos();
        let start = (std::process::id() ^ nanos) % u32::from(COUNT);
        let start = u16::try_from(start).expect("it is below the count");
        for offset in 0..COUNT {
            let number = FIRST + (start + offset) % COUNT;
            let open =
                File::options().create(true).append(true).open(locks.join(number.to_string()));
            let lock = open.expect("make the file of a port");
            if lock.try_lock().is_ok() && is_free(number) {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free ports from {FIRST} on");
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_to_one_only() {
        let mut ports: Vec<Port> = (0..20).map(|_| Port::take()).collect();
        ports.sort_by_key(|port| port.number);
        ports.dedup_by_key(|port| port.number);
        assert_eq!(ports.len(), 20);
    }
}
