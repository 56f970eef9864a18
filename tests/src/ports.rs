//! Finds unused ports for a cluster.

use std::net::{Ipv4Addr, TcpListener};

use crate::Random;

/// Below the range that the system takes the ports of outgoing connections from.
const FIRST: u64 = 10_000;
const LAST: u64 = 32_000;
/// How many ports a cluster spans.
const SPAN: u64 = 202;
/// Where in its span a cluster of few daemons listens.
const USED: [u16; 20] =
    [0, 1, 2, 30, 31, 32, 80, 81, 90, 100, 101, 120, 121, 122, 141, 142, 150, 151, 152, 172];

/// Returns a base whose ports were free just now.
pub fn free_base() -> u16 {
    // Not the test's own seed: two runs with one seed would want the same ports.
    let mut random = Random::from_seed(u64::from(std::process::id()) ^ nanos());
    for _ in 0..1_000 {
        let base = FIRST + random.below((LAST - FIRST) / SPAN) * SPAN;
        let base = u16::try_from(base).expect("it is below the last port");
        if USED.iter().all(|offset| is_free(base + offset)) {
            return base;
        }
    }
    panic!("no free ports between {FIRST} and {LAST}");
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn nanos() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::from(since.subsec_nanos()) << 32
}
