//! Every port of a cluster, derived from one number, so that clusters can run side by side.
//!
//! ```text
//! N       … N+29    gateways, for clients          N+90               links to login_server
//! N+30    … N+59    the same, over TLS             N+100 … N+119      links to route_servers
//! N+80, N+81        login endpoint, HTTP, HTTPS    N+120 … N+127      links to db_proxies
//! N+82, N+83        the HTTP API, HTTP, HTTPS      N+141 … N+201      metrics and health
//! ```
//!
//! A daemon's ports depend on its number alone: starting with more gateways moves no daemon's ports.

use std::ops::RangeInclusive;

/// The most gateways that have a port.
pub const GATEWAYS_MAX: u16 = 30;
/// The most route_servers that have a port.
pub const ROUTES_MAX: u16 = 20;
/// The most db_proxies that have a port.
pub const DB_PROXIES_MAX: u16 = 8;
/// How many ports a cluster takes: bases this far apart never meet.
pub const SPAN: u16 = METRICS + 2 + ROUTES_MAX + GATEWAYS_MAX;

const GATEWAYS_TLS: u16 = GATEWAYS_MAX;
const HTTP: u16 = 80;
const HTTPS: u16 = 81;
const API: u16 = 82;
const API_TLS: u16 = 83;
const LOGIN_LINKS: u16 = 90;
const ROUTE_LINKS: u16 = 100;
const DB_LINKS: u16 = 120;
/// The metrics ports of the second db_proxy and those after it.
const MORE_DB_METRICS: u16 = 141;
const API_METRICS: u16 = 148;
const METRICS: u16 = 150;

/// The ports of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    base: u16,
}

impl Ports {
    /// The bases that leave room for every port.
    pub const BASES: RangeInclusive<u16> = 1..=u16::MAX - SPAN + 1;

    /// The ports from `base` on, unless there is no room for them.
    pub fn from_base(base: u16) -> Option<Self> {
        Self::BASES.contains(&base).then_some(Self { base })
    }

    /// Where clients of gateway `index` (from 0) connect.
    pub fn gateway(self, index: u16) -> u16 {
        debug_assert!(index < GATEWAYS_MAX, "gateway {index} has no port");
        self.base + index
    }

    /// Where its clients connect over TLS.
    pub fn gateway_tls(self, index: u16) -> u16 {
        self.gateway(index) + GATEWAYS_TLS
    }

    /// The login endpoint.
    pub fn http(self) -> u16 {
        self.base + HTTP
    }

    /// The login endpoint over TLS.
    pub fn https(self) -> u16 {
        self.base + HTTPS
    }

    /// The HTTP API.
    pub fn api(self) -> u16 {
        self.base + API
    }

    /// The HTTP API over TLS.
    pub fn api_tls(self) -> u16 {
        self.base + API_TLS
    }

    /// Metrics and health of api_server.
    pub fn api_metrics(self) -> u16 {
        self.base + API_METRICS
    }

    /// Where gateways report to login_server.
    pub fn login_links(self) -> u16 {
        self.base + LOGIN_LINKS
    }

    /// Where the others reach route_server `index` (from 0).
    pub fn route_links(self, index: u16) -> u16 {
        debug_assert!(index < ROUTES_MAX, "route_server {index} has no port");
        self.base + ROUTE_LINKS + index
    }

    /// Where the others reach db_proxy `index` (from 0).
    pub fn db_links(self, index: u16) -> u16 {
        debug_assert!(index < DB_PROXIES_MAX, "db_proxy {index} has no port");
        self.base + DB_LINKS + index
    }

    /// Metrics and health of login_server.
    pub fn login_metrics(self) -> u16 {
        self.base + METRICS
    }

    /// Metrics and health of db_proxy `index`.
    pub fn db_metrics(self, index: u16) -> u16 {
        match index.checked_sub(1) {
            None => self.base + METRICS + 1,
            Some(further) => self.base + MORE_DB_METRICS + further,
        }
    }

    /// Metrics and health of route_server `index`.
    pub fn route_metrics(self, index: u16) -> u16 {
        self.base + METRICS + 2 + index
    }

    /// Metrics and health of gateway `index`.
    pub fn gateway_metrics(self, index: u16) -> u16 {
        self.base + METRICS + 2 + ROUTES_MAX + index
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn all(ports: Ports) -> Vec<u16> {
        let mut all = vec![ports.http(), ports.https(), ports.login_links()];
        all.extend([ports.login_metrics(), ports.api(), ports.api_tls(), ports.api_metrics()]);
        for index in 0..DB_PROXIES_MAX {
            all.extend([ports.db_links(index), ports.db_metrics(index)]);
        }
        for index in 0..GATEWAYS_MAX {
            all.extend([ports.gateway(index), ports.gateway_tls(index)]);
            all.push(ports.gateway_metrics(index));
        }
        for index in 0..ROUTES_MAX {
            all.extend([ports.route_links(index), ports.route_metrics(index)]);
        }
        all
    }

    #[test]
    fn the_default_base_gives_the_ports_that_clients_know() {
        let ports = Ports::from_base(8000).unwrap();
        assert_eq!((ports.gateway(0), ports.gateway(1)), (8000, 8001));
        assert_eq!((ports.http(), ports.https()), (8080, 8081));
        assert_eq!((ports.gateway_tls(0), ports.login_links()), (8030, 8090));
        assert_eq!((ports.route_links(1), ports.db_links(0)), (8101, 8120));
        assert_eq!((ports.login_metrics(), ports.db_metrics(0)), (8150, 8151));
    }

    #[test]
    fn the_ports_of_further_daemons_are_where_the_head_of_this_file_says() {
        let ports = Ports::from_base(8000).unwrap();
        assert_eq!((ports.gateway(29), ports.gateway_tls(29)), (8029, 8059));
        assert_eq!((ports.route_links(0), ports.route_links(19)), (8100, 8119));
        assert_eq!(
            (ports.db_links(7), ports.db_metrics(1), ports.db_metrics(7)),
            (8127, 8141, 8147)
        );
        assert_eq!((ports.route_metrics(0), ports.route_metrics(19)), (8152, 8171));
        assert_eq!((ports.gateway_metrics(0), ports.gateway_metrics(29)), (8172, 8201));
        assert_eq!(SPAN, 202);
    }

    #[test]
    fn no_two_daemons_share_a_port() {
        let all = all(Ports::from_base(8000).unwrap());
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn every_port_lies_within_the_span_even_at_the_highest_base() {
        for base in [*Ports::BASES.start(), *Ports::BASES.end()] {
            let all = all(Ports::from_base(base).unwrap());
            assert_eq!(all.iter().min(), Some(&base));
            assert_eq!(all.iter().max(), Some(&(base + (SPAN - 1))));
        }
        assert_eq!(Ports::from_base(0), None);
        assert_eq!(Ports::from_base(Ports::BASES.end() + 1), None);
    }
}
