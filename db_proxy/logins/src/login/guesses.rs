//! How fast passwords may be guessed, without users being locked out by others.
//!
//! What fails is counted for a name together with the network that it came from, for the network, for
//! the name, and for all networks together. From that follows a [`Ruling`] about the next try:
//!
//! - A name is slowed down only in networks where it failed: after some free failures each one makes
//!   wait twice as long as the one before it. Forgotten when the name logs in from there.
//! - Each network has a few failures an hour of its own, and a share of what all may have together.
//!   One that has used up its own while the others have used up the rest must wait; so must one with
//!   very many failures, twice as long each time.
//! - A name must not fail more often than so many times an hour, wherever from.
//! - A network from which the name logged in within [`KNOWN_KEPT`] is slowed down by what failed for this
//!   name there, after ten times as many, and by nothing else.
//! - A password that is remembered as right is let in even so, unless this very name has failed too
//!   often in this very network. Otherwise this would be a way to guess without any bound.
//!
//! # Why the limits hold
//!
//! Counts are of fixed hours that begin with a first failure, and each allows half of what the settings
//! say: whatever hour is looked at, it meets two of them at most. Beyond that there are only those that
//! are being checked at the moment, of which there are as many as hashes are computed at once.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use cache::{Cache, Count, Counts, Throttle};

/// The time in which failures count.
const HOUR: Duration = Duration::from_hours(1);

/// The first delay.
const DELAY_FIRST: Duration = Duration::from_secs(1);

/// The longest delay in a network that is known for the name.
const KNOWN_DELAY_MAX: Duration = Duration::from_mins(1);

/// In a network that is known for the name, so many times as many failures are free.
const KNOWN_TIMES: u32 = 10;

/// How long a network is known for a name after a login.
const KNOWN_KEPT: Duration = Duration::from_hours(7 * 24);

/// How much may be guessed: the table `[logins]` of the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuessLimits {
    /// Failures of a name in one network before it has to wait there.
    pub free_failures: u32,
    /// The longest that it has to wait.
    pub delay_max: Duration,
    /// Failures of a network in an hour before it has to wait, whatever others do.
    pub network_failures: u32,
    /// Failures in an hour that every network has for itself.
    pub network_per_hour: u32,
    /// Failures in an hour that all networks have together beyond those.
    pub all_per_hour: u32,
    /// Failures of one name in an hour, in all networks together.
    pub name_per_hour: u32,
}

impl Default for GuessLimits {
    fn default() -> Self {
        Self {
            free_failures: 10,
            delay_max: Duration::from_mins(15),
            network_failures: 200,
            network_per_hour: 4,
            all_per_hour: 600,
            name_per_hour: 100,
        }
    }
}

/// The name that is tried, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The login name.
    pub name: String,
    /// [`network`] of the client's address.
    pub network: String,
}

/// What may be done with a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// The password is checked.
    Check,
    /// It is only looked up among those that were right before.
    LookUp,
    /// Neither: the client has to wait.
    Wait,
}

/// What is known of a try before it is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// The count of the name in this network.
    pub pair: Count,
    /// The count of the network.
    pub network: Count,
    /// The count of the name.
    pub name: Count,
    /// The count of all networks, beyond their own.
    pub all: Count,
    /// The name has logged in from this network.
    pub known: bool,
    /// An administrator has lifted the delays of the name.
    pub lifted: bool,
}

impl Seen {
    /// What may be done.
    pub(crate) fn ruling(&self, limits: &GuessLimits) -> Ruling {
        if self.pair.waits {
            return Ruling::Wait;
        }
        if self.known {
            return Ruling::Check;
        }
        if self.name.failures >= limits.name_per_hour / 2 {
            // Wherever it has not failed yet, once: of many networks, each could look up some.
            let first = self.pair.failures == 0;
            return if first { Ruling::LookUp } else { Ruling::Wait };
        }
        let shared = self.is_beyond_own(limits) && self.all.failures >= limits.all_per_hour / 2;
        if !self.lifted && (self.network.waits || shared) {
            return Ruling::LookUp;
        }
        Ruling::Check
    }

    fn is_beyond_own(&self, limits: &GuessLimits) -> bool {
        self.network.failures >= limits.network_per_hour / 2
    }
}

/// Counts what fails, and says what may be tried. Clones share everything.
#[derive(Debug, Clone)]
pub struct Guesses {
    cache: Arc<dyn Cache>,
    limits: GuessLimits,
}

impl Guesses {
    /// Counts in `cache`.
    pub fn new(cache: Arc<dyn Cache>, limits: GuessLimits) -> Self {
        Self { cache, limits }
    }

    /// What is known of a try. Nothing is counted.
    pub async fn seen(&self, who: &Who) -> Seen {
        let asked =
            [self.pair(who, false), self.network(who), self.name(who), all_networks(), known(who)];
        let Counts { of, lifted } = self.cache.failures(&who.name, &asked).await;
        let [pair, network, name, all, known] = of[..] else { return Seen::default() };
        Seen { pair, network, name, all, known: known.failures > 0, lifted }
    }

    /// What may be done.
    pub(crate) fn ruling(&self, seen: &Seen) -> Ruling {
        seen.ruling(&self.limits)
    }

    /// A password was checked, and wrong.
    pub fn failed(&self, who: &Who, seen: &Seen) {
        let mut counted = vec![self.pair(who, seen.known), self.network(who)];
        if !seen.known {
            counted.push(self.name(who));
            if seen.is_beyond_own(&self.limits) {
                counted.push(all_networks());
            }
        }
        self.cache.count_failure(&counted);
    }

    /// A password was looked up, and is none that is remembered.
    pub(crate) fn not_found(&self, who: &Who, seen: &Seen) {
        self.cache.count_failure(&[self.pair(who, seen.known)]);
    }

    /// It was right.
    pub(crate) fn succeeded(&self, who: &Who, seen: &Seen) {
        if seen.pair != Count::default() {
            self.cache.forget_failures(&self.pair(who, false));
        }
        if !seen.known {
            self.cache.count_failure(&[known(who)]);
        }
    }

    /// Lifts all delays of a name.
    pub fn lift(&self, name: &str) {
        self.cache.lift(name);
    }

    fn pair(&self, who: &Who, known: bool) -> Throttle {
        let limits = &self.limits;
        let (times, max) =
            if known { (KNOWN_TIMES, KNOWN_DELAY_MAX) } else { (1, limits.delay_max) };
        let free = limits.free_failures.saturating_mul(times);
        // No network contains it, so the two cannot be shifted into each other.
        let pair = Throttle::new(format!("pair:{}\0{}", who.network, who.name), free, HOUR);
        pair.delaying(DELAY_FIRST, max.min(limits.delay_max)).of(&who.name)
    }

    fn network(&self, who: &Who) -> Throttle {
        let limits = &self.limits;
        let network = format!("network:{}", who.network);
        let network = Throttle::new(network, limits.network_failures, HOUR);
        network.delaying(DELAY_FIRST, limits.delay_max)
    }

    fn name(&self, who: &Who) -> Throttle {
        let name = format!("name:{}", who.name);
        Throttle::new(name, self.limits.name_per_hour, HOUR).of(&who.name)
    }
}

fn all_networks() -> Throttle {
    Throttle::new("all".to_owned(), 0, HOUR)
}

fn known(who: &Who) -> Throttle {
    let known = Throttle::new(format!("known:{}\0{}", who.network, who.name), 0, KNOWN_KEPT);
    Throttle { is_good: true, ..known }
}

/// The network of a client's address: /24 of IPv4, /64 of IPv6. What is no address stands for itself.
pub fn network(address: &str) -> String {
    match address.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => {
            let [a, b, c, _host] = address.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        Err(_other) => address.chars().filter(|char| *char != '\0').take(64).collect(),
    }
}

#[cfg(test)]
mod tests;
