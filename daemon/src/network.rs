//! Networks of addresses: those that a setting lists, and those that count as one client.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// An address with a length of prefix, as `10.0.0.0/8` or `2001:db8::/32`; without one it is a single
/// address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

/// Not a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an address or a network, as in \"10.0.0.7\" or \"10.0.0.0/8\"")]
pub struct NotANetwork;

impl Network {
    /// Whether the address is in it. An IPv4 address in IPv6 clothes counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        masked(ip.to_canonical(), self.bits) == Some(self.first)
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits.parse().map_err(|_not_a_number| NotANetwork)?)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_not_an_address| NotANetwork)?;
        let ip = if bits.is_none() { ip.to_canonical() } else { ip };
        let bits = bits.unwrap_or(if ip.is_ipv4() { 32 } else { 128 });
        Ok(Self { first: masked(ip, bits).ok_or(NotANetwork)?, bits })
    }
}

impl TryFrom<String> for Network {
    type Error = NotANetwork;

    fn try_from(text: String) -> Result<Self, NotANetwork> {
        text.parse()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// The first `bits` of an address; `None` if it has not so many.
fn masked(ip: IpAddr, bits: u8) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => {
            let rest = 32_u32.checked_sub(u32::from(bits))?;
            let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
            Some(IpAddr::from((ip.to_bits() & mask).to_be_bytes()))
        }
        IpAddr::V6(ip) => {
            let rest = 128_u32.checked_sub(u32::from(bits))?;
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
            Some(IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask)))
        }
    }
}

/// What counts as one client when connections are counted: an IPv4 address, or the /64 of an IPv6
/// address, since that is the smallest network that a customer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Origin(IpAddr);

impl Origin {
    /// The origin of an address; `None` on this machine, which is not counted.
    pub(crate) fn of(ip: IpAddr) -> Option<Self> {
        let ip = ip.to_canonical();
        let bits = if ip.is_ipv4() { 32 } else { 64 };
        masked(ip, bits).filter(|_ip| !ip.is_loopback()).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_holds_what_begins_like_it() {
        let ten = network("10.0.0.0/8");
        assert!(ten.contains(ip("10.255.0.1")) && !ten.contains(ip("11.0.0.1")));
        assert!(ten.contains(ip("::ffff:10.1.2.3")), "the same address in other clothes");
        assert!(!ten.contains(ip("::1")));
        assert!(network("0.0.0.0/0").contains(ip("1.2.3.4")));
        assert!(network("192.0.2.7").contains(ip("192.0.2.7")));
        assert!(!network("192.0.2.7").contains(ip("192.0.2.6")));
        let six = network("2001:db8::/32");
        assert!(six.contains(ip("2001:db8:1::9")) && !six.contains(ip("2001:db9::")));
        assert!(network("::/0").contains(ip("::1")));
        assert_eq!(network("10.1.2.3/8"), ten, "what is behind the prefix does not count");
        assert_eq!(ten.to_string(), "10.0.0.0/8");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "/8", "proxy", "::/-1"] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
        }
    }

    #[test]
    fn an_origin_is_an_address_or_a_64_and_never_this_machine() {
        let origin = |text| Origin::of(ip(text));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("192.0.2.1"), origin("::ffff:192.0.2.1"));
        assert_eq!(origin("2001:db8:0:1::1"), origin("2001:db8:0:1:ffff::2"));
        assert_ne!(origin("2001:db8:0:1::1"), origin("2001:db8:0:2::1"));
        assert_eq!((origin("127.0.0.1"), origin("127.9.9.9"), origin("::1")), (None, None, None));
    }
}
