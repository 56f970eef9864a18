//! Which key a program shows, what it allows, and how often it may be used.
//!
//! A key is looked up at a db_proxy, and believed for [`BELIEVED_FOR`]: so one that is revoked is refused
//! within a second everywhere.
//!
//! From an address that has shown many wrong keys no further ones are looked up for a while. A key that was valid
//! before is served from there all the same: many programs may be behind one address.
//!
//! # What bounds it
//!
//! [`KEYS_MAX`] keys are remembered, and [`ADDRESSES_MAX`] addresses from which wrong keys came. With more
//! of either, those used longest ago are forgotten: a key is then looked up again, and an address begins
//! anew.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use daemon::rates::{Bucket, Rate};
use lru::LruCache;
use parking_lot::Mutex;
use proto::api_key::{ApiKey, Scope};
use proto::cluster::wire::ApiKeyLine;
use ring::digest::{self, Digest};
use tokio::time::Instant;

/// How long a key counts as what it was when it was looked up.
const BELIEVED_FOR: Duration = Duration::from_millis(500);

/// Keys that are remembered.
const KEYS_MAX: NonZeroUsize = NonZeroUsize::new(1_024).expect("not zero");

/// Addresses from which wrong keys came that are remembered.
const ADDRESSES_MAX: NonZeroUsize = NonZeroUsize::new(8_192).expect("not zero");

/// Wrong keys that may come from one address, at once and in a minute.
const WRONG_MAX: u32 = 20;

/// A key that was looked up.
#[derive(Debug)]
pub(crate) struct Key {
    /// What people call it.
    pub(crate) name: String,
    scopes: u32,
    hash: Vec<u8>,
    /// Unix seconds; 0 = never.
    expires_s: u64,
    /// Requests a second; 0 = as many as the site allows.
    rate: u32,
}

impl Key {
    /// What a db_proxy says of a key.
    pub(crate) fn of(line: ApiKeyLine) -> Self {
        let scopes = line.scopes.iter().filter_map(|scope| Scope::named(scope));
        Self {
            name: line.name,
            scopes: scopes.fold(0, |bits, scope| bits | scope.bit()),
            hash: line.hash.unwrap_or_default().to_vec(),
            expires_s: line.expires,
            rate: line.rate.unwrap_or(0),
        }
    }

    /// Whether it may be used for this.
    pub(crate) fn allows(&self, scope: u32) -> bool {
        self.scopes & scope == scope
    }

    /// Whether this is its secret, and it has not ended.
    pub(crate) fn is_valid(&self, shown: &ApiKey, now_s: u64) -> bool {
        let is_right = is_equal(hash(shown).as_ref(), &self.hash);
        is_right && (self.expires_s == 0 || now_s < self.expires_s)
    }
}

/// What is kept of the secret of a key that is shown.
pub(crate) fn hash(shown: &ApiKey) -> Digest {
    digest::digest(&digest::SHA256, &shown.secret)
}

/// Compares in a time that says nothing of where they differ.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (one, other)| differ | (one ^ other));
    one.len() == other.len() && differ == 0
}

#[derive(Debug)]
struct Remembered {
    key: Arc<Key>,
    looked_up: Instant,
    requests: Bucket,
}

/// The keys that were shown lately, and the addresses from which wrong ones came.
#[derive(Debug)]
pub(crate) struct Keys {
    shown: Mutex<LruCache<[u8; 8], Remembered>>,
    wrong: Mutex<LruCache<IpAddr, Bucket>>,
    /// Requests a second of a key that has no rate of its own.
    requests_per_s: u32,
    /// Time is counted from here.
    began: Instant,
}

impl Keys {
    /// Nothing is known.
    pub(crate) fn new(requests_per_s: u32) -> Self {
        // Bounded, but without taking the memory for all of them at once.
        let (mut keys, mut wrong) = (LruCache::unbounded(), LruCache::unbounded());
        keys.resize(KEYS_MAX);
        wrong.resize(ADDRESSES_MAX);
        let (shown, wrong) = (Mutex::new(keys), Mutex::new(wrong));
        Self { shown, wrong, requests_per_s, began: Instant::now() }
    }

    /// A key that was looked up a moment ago.
    pub(crate) fn known(&self, id: [u8; 8], now: Instant) -> Option<Arc<Key>> {
        let mut keys = self.shown.lock();
        let remembered = keys.get(&id)?;
        let is_new = now.saturating_duration_since(remembered.looked_up) < BELIEVED_FOR;
        is_new.then(|| Arc::clone(&remembered.key))
    }

    /// Whether a key was valid when it was looked up last, however long ago that was.
    pub(crate) fn was_valid(&self, shown: &ApiKey, now_s: u64) -> bool {
        let keys = self.shown.lock();
        keys.peek(&shown.id).is_some_and(|remembered| remembered.key.is_valid(shown, now_s))
    }

    /// A key was looked up.
    pub(crate) fn remember(&self, id: [u8; 8], key: Key, now: Instant) -> Arc<Key> {
        let key = Arc::new(key);
        let mut keys = self.shown.lock();
        let requests = keys.peek(&id).map(|before| before.requests).unwrap_or_default();
        keys.put(id, Remembered { key: Arc::clone(&key), looked_up: now, requests });
        key
    }

    /// There is no such key.
    pub(crate) fn forget(&self, id: [u8; 8]) {
        self.shown.lock().pop(&id);
    }

    fn rate_of(&self, key: &Key) -> Rate {
        let own = if key.rate == 0 { self.requests_per_s } else { key.rate };
        let rate = own.min(self.requests_per_s);
        Rate::new(rate, rate)
    }

    fn us(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// Counts a request of a key that is remembered; else says how long it has to wait.
    pub(crate) fn take(&self, id: [u8; 8], now: Instant) -> Result<(), Duration> {
        let mut keys = self.shown.lock();
        let Some(remembered) = keys.get_mut(&id) else { return Ok(()) };
        let rate = self.rate_of(&remembered.key);
        remembered.requests.take(rate, self.us(now))
    }

    /// Whether keys from an address are looked at; else how long they are not.
    pub(crate) fn may_try(&self, from: SocketAddr, now: Instant) -> Result<(), Duration> {
        let mut wrong = self.wrong.lock();
        let Some(keys) = wrong.get(&network(from.ip())) else { return Ok(()) };
        keys.wait(Rate::per_minute(WRONG_MAX), 1, self.us(now)).map_or(Ok(()), Err)
    }

    /// A wrong key came from an address.
    pub(crate) fn was_wrong(&self, from: SocketAddr, now: Instant) {
        let mut wrong = self.wrong.lock();
        let keys = wrong.get_or_insert_mut(network(from.ip()), Bucket::default);
        keys.pay(Rate::per_minute(WRONG_MAX), 1, self.us(now));
    }
}

/// What counts as one address: of IPv6 a /64.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [first, second, third, fourth, ..] = ip.segments();
            Ipv6Addr::new(first, second, third, fourth, 0, 0, 0, 0).into()
        }
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 8] = [7; 8];

    fn line(secret: [u8; 32]) -> ApiKeyLine {
        let hash = digest::digest(&digest::SHA256, &secret);
        ApiKeyLine {
            name: "hr".to_owned(),
            scopes: vec!["read".to_owned(), "of a newer release".to_owned(), "users".to_owned()],
            hash: Some(hash.as_ref().to_vec().into()),
            ..ApiKeyLine::default()
        }
    }

    fn shown(secret: [u8; 32]) -> ApiKey {
        ApiKey { id: ID, secret }
    }

    #[test]
    fn a_key_is_valid_with_its_secret_until_it_ends() {
        let key = Key::of(line([1; 32]));
        assert!(key.is_valid(&shown([1; 32]), u64::MAX), "it never ends");
        let mut other = [1; 32];
        other[31] = 2;
        assert!(!key.is_valid(&shown(other), 0));
        let ends = Key::of(ApiKeyLine { expires: 100, ..line([1; 32]) });
        assert!(ends.is_valid(&shown([1; 32]), 99) && !ends.is_valid(&shown([1; 32]), 100));
        let none = Key::of(ApiKeyLine { hash: None, ..line([1; 32]) });
        assert!(!none.is_valid(&shown([1; 32]), 0), "a db_proxy that does not say");
    }

    #[test]
    fn a_key_allows_what_its_scopes_name() {
        let key = Key::of(line([1; 32]));
        assert!(key.allows(Scope::Read.bit()) && key.allows(Scope::Users.bit()));
        assert!(!key.allows(Scope::Send.bit()) && !key.allows(Scope::Groups.bit()));
    }

    #[test]
    fn a_key_is_believed_for_half_a_second() {
        let (keys, now) = (Keys::new(10), Instant::now());
        assert!(keys.known(ID, now).is_none());
        keys.remember(ID, Key::of(line([1; 32])), now);
        assert!(keys.known(ID, now + BELIEVED_FOR - Duration::from_millis(1)).is_some());
        assert!(keys.known(ID, now + BELIEVED_FOR).is_none());
        keys.remember(ID, Key::of(line([1; 32])), now);
        keys.forget(ID);
        assert!(keys.known(ID, now).is_none());
    }

    #[test]
    fn a_key_is_remembered_as_valid_with_its_secret_alone() {
        let (keys, now) = (Keys::new(10), Instant::now());
        assert!(!keys.was_valid(&shown([1; 32]), 0));
        keys.remember(ID, Key::of(ApiKeyLine { expires: 100, ..line([1; 32]) }), now);
        assert!(keys.was_valid(&shown([1; 32]), 99));
        assert!(!keys.was_valid(&shown([2; 32]), 99) && !keys.was_valid(&shown([1; 32]), 100));
        keys.forget(ID);
        assert!(!keys.was_valid(&shown([1; 32]), 0), "it was revoked");
    }

    #[test]
    fn a_key_has_so_many_requests_a_second_also_when_it_is_looked_up_again() {
        for (own, site, rate) in [(0, 5, 5), (3, 5, 3), (9, 5, 5)] {
            let (keys, now) = (Keys::new(site), Instant::now());
            let key = || Key::of(ApiKeyLine { rate: Some(own), ..line([1; 32]) });
            keys.remember(ID, key(), now);
            for _request in 0..rate {
                assert_eq!(keys.take(ID, now), Ok(()));
            }
            keys.remember(ID, key(), now);
            let wait = keys.take(ID, now).unwrap_err();
            assert!(wait <= Duration::from_secs(1) / rate + Duration::from_millis(1), "{wait:?}");
            assert_eq!(keys.take(ID, now + wait), Ok(()));
            assert!(keys.take(ID, now + wait).is_err());
        }
    }

    #[test]
    fn an_address_with_many_wrong_keys_has_to_wait() {
        let (keys, now) = (Keys::new(5), Instant::now());
        let from: SocketAddr = "192.0.2.1:4000".parse().unwrap();
        for _wrong in 0..WRONG_MAX {
            assert_eq!(keys.may_try(from, now), Ok(()));
            keys.was_wrong(from, now);
        }
        let wait = keys.may_try(from, now).unwrap_err();
        assert!(wait <= Duration::from_secs(3), "{wait:?}");
        assert_eq!(keys.may_try("192.0.2.2:4000".parse().unwrap(), now), Ok(()), "another one");
        assert_eq!(keys.may_try(from, now + wait), Ok(()));
    }

    #[test]
    fn a_network_of_version_6_counts_as_one_address() {
        let of = |ip: &str| network(ip.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::2"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
