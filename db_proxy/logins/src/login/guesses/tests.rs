//! Guesses against the cache of one process, with a clock that the tests move.

use std::collections::{HashMap, HashSet};

use cache::Failures;
use cache::Profile;
use fold::rows::MessageRow;
use futures_util::future::{BoxFuture, FutureExt as _, ready};
use parking_lot::Mutex;
use proptest::prelude::*;
use proto::ids::{ConversationId, MsgId, UserId};
use proto::record::LogId;
use tokio::time::Instant;

use super::*;

/// Counts as the cache of one process does, at the time that the test says.
#[derive(Debug)]
struct Clocked {
    failures: Failures,
    now: Mutex<Instant>,
}

impl Cache for Clocked {
    fn failures<'a>(&'a self, name: &'a str, throttles: &'a [Throttle]) -> BoxFuture<'a, Counts> {
        let now = *self.now.lock();
        let lifted = self.failures.is_lifted(name, now);
        ready(Counts { of: self.failures.of(throttles, now), lifted }).boxed()
    }

    fn count_failure(&self, throttles: &[Throttle]) {
        self.failures.count(throttles, *self.now.lock());
    }

    fn forget_failures(&self, throttle: &Throttle) {
        self.failures.forget(throttle);
    }

    fn lift(&self, name: &str) {
        self.failures.lift(name, *self.now.lock());
    }

    fn profiles<'a>(&'a self, _users: &'a [UserId]) -> BoxFuture<'a, Vec<Profile>> {
        ready(Vec::new()).boxed()
    }

    fn keep_profiles(&self, _profiles: &[Profile]) {}

    fn messages<'a>(
        &'a self,
        _log: LogId,
        _places: &'a [(ConversationId, MsgId)],
    ) -> BoxFuture<'a, Vec<MessageRow>> {
        ready(Vec::new()).boxed()
    }

    fn keep_messages(&self, _log: LogId, _messages: &[MessageRow]) {}
}

/// What the passwords of a site would say, with nothing to compute.
struct Site {
    guesses: Guesses,
    clock: Arc<Clocked>,
    /// Right passwords by name.
    right: HashMap<String, u32>,
    remembered: HashSet<String>,
    known_wrong: HashSet<(String, u32)>,
    /// Wrong pairs that were told to be wrong.
    tested: HashMap<String, u32>,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    In,
    Wrong,
    Wait,
}

impl Site {
    fn new() -> Self {
        let clock = Clocked { failures: Failures::default(), now: Mutex::new(Instant::now()) };
        let clock = Arc::new(clock);
        let cache: Arc<dyn Cache> = Arc::clone(&clock) as _;
        Self {
            guesses: Guesses::new(cache, GuessLimits::default()),
            clock,
            right: HashMap::new(),
            remembered: HashSet::new(),
            known_wrong: HashSet::new(),
            tested: HashMap::new(),
        }
    }

    /// As a login is checked, in the same order.
    async fn try_in(&mut self, name: &str, password: u32, address: &str) -> Told {
        let pair = (name.to_owned(), password);
        if self.known_wrong.contains(&pair) {
            return Told::Wrong;
        }
        let who = Who { name: name.to_owned(), network: network(address) };
        let seen = self.guesses.seen(&who).await;
        let is_right = self.right.get(name) == Some(&password);
        match self.guesses.ruling(&seen) {
            Ruling::Wait => Told::Wait,
            _ if is_right && self.remembered.contains(name) => {
                self.guesses.succeeded(&who, &seen);
                Told::In
            }
            Ruling::LookUp => {
                self.guesses.not_found(&who, &seen);
                Told::Wait
            }
            Ruling::Check if is_right => {
                self.guesses.succeeded(&who, &seen);
                self.remembered.insert(name.to_owned());
                Told::In
            }
            Ruling::Check => {
                self.guesses.failed(&who, &seen);
                self.known_wrong.insert(pair);
                *self.tested.entry(name.to_owned()).or_default() += 1;
                Told::Wrong
            }
        }
    }

    async fn seen(&self, name: &str, address: &str) -> Seen {
        self.guesses.seen(&Who { name: name.to_owned(), network: network(address) }).await
    }

    fn advance(&self, time: Duration) {
        *self.clock.now.lock() += time;
    }

    fn now(&self) -> Instant {
        *self.clock.now.lock()
    }

    fn tested(&self) -> u32 {
        self.tested.values().sum()
    }
}

fn address(number: u32) -> String {
    format!("10.{}.{}.7", number / 256, number % 256)
}

#[test]
fn a_network_is_24_bits_of_ipv4_and_64_of_ipv6() {
    for (address, expected) in [
        ("10.1.2.3", "10.1.2.0/24"),
        ("::ffff:10.1.2.3", "10.1.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("no\0where", "nowhere"),
    ] {
        assert_eq!(network(address), expected);
    }
}

#[tokio::test]
async fn many_wrong_names_from_one_address_keep_nobody_there_out() {
    let mut site = Site::new();
    site.right.insert("u2".to_owned(), 1);
    for number in 0..101 {
        assert_eq!(site.try_in(&format!("name{number}"), 9, "10.0.0.1").await, Told::Wrong);
    }
    assert_eq!(site.try_in("u2", 1, "10.0.0.1").await, Told::In);
}

#[tokio::test]
async fn a_name_that_failed_waits_a_moment_there_and_nowhere_else() {
    let mut site = Site::new();
    site.right.insert("u1".to_owned(), 1);
    for password in 100..111 {
        assert_eq!(site.try_in("u1", password, "10.0.0.1").await, Told::Wrong);
    }
    assert_eq!(site.try_in("u1", 1, "10.0.0.1").await, Told::Wait);
    assert_eq!(site.try_in("u1", 1, "10.0.1.1").await, Told::In);
    site.advance(DELAY_FIRST);
    assert_eq!(site.try_in("u1", 1, "10.0.0.1").await, Told::In);
    // Which has forgotten what failed.
    assert_eq!(site.try_in("u1", 200, "10.0.0.1").await, Told::Wrong);
    assert_eq!(site.try_in("u1", 1, "10.0.0.1").await, Told::In);
}

#[tokio::test]
async fn each_further_failure_makes_wait_twice_as_long_up_to_the_longest() {
    let mut site = Site::new();
    let mut waited = Vec::new();
    for password in 0..30 {
        let began = site.now();
        while site.try_in("u1", password, "10.0.0.1").await == Told::Wait {
            site.advance(Duration::from_millis(500));
        }
        waited.push((site.now() - began).as_secs());
        if (site.now() - began) >= HOUR {
            break;
        }
    }
    assert_eq!(waited[..11], [0; 11]);
    assert_eq!(waited[11..21], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
    assert_eq!(waited[21], 900);
}

#[tokio::test]
async fn a_device_that_repeats_an_old_password_is_one_guess() {
    let mut site = Site::new();
    site.right.insert("u1".to_owned(), 2);
    for _try in 0..1_000 {
        assert_eq!(site.try_in("u1", 1, "10.0.0.1").await, Told::Wrong);
        site.advance(Duration::from_secs(3));
    }
    assert_eq!(site.try_in("u1", 2, "10.0.0.1").await, Told::In);
    assert_eq!(site.tested(), 1);
}

#[tokio::test]
async fn a_lift_opens_a_name_at_once_though_its_network_has_to_wait() {
    let mut site = Site::new();
    site.right.insert("u1".to_owned(), 1);
    for password in 100..112 {
        site.try_in("u1", password, "10.0.0.1").await;
    }
    for number in 0..1_000 {
        site.try_in(&format!("name{number}"), 9, &address(number % 20)).await;
        site.try_in(&format!("name{number}"), 9, "10.0.0.1").await;
    }
    assert_eq!(site.try_in("u1", 1, "10.0.0.1").await, Told::Wait);
    site.guesses.lift("u1");
    assert_eq!(site.try_in("u1", 1, "10.0.0.1").await, Told::In);
}

#[tokio::test]
async fn a_right_pair_is_not_looked_up_without_bound() {
    let mut site = Site::new();
    site.right.insert("u1".to_owned(), 1);
    assert_eq!(site.try_in("u1", 1, "10.9.9.9").await, Told::In);
    let mut found_at = None;
    for password in (1..100_000).rev() {
        if site.try_in("u1", password, "10.0.0.1").await == Told::In {
            found_at = Some(password);
        }
    }
    assert_eq!(found_at, None, "it was guessed");
    assert_eq!(site.try_in("u1", 1, "10.9.9.9").await, Told::In, "the owner is let in");
}

#[tokio::test]
async fn in_a_network_from_which_it_logged_in_a_name_fails_ten_times_as_often_and_counts_only_there()
 {
    let mut site = Site::new();
    site.right.insert("u1".to_owned(), 1);
    assert_eq!(site.try_in("u1", 1, "10.0.0.1").await, Told::In);
    for password in 100..201 {
        assert_eq!(site.try_in("u1", password, "10.0.0.1").await, Told::Wrong, "{password}");
    }
    for password in 201..220 {
        let began = site.now();
        while site.try_in("u1", password, "10.0.0.1").await == Told::Wait {
            site.advance(DELAY_FIRST);
        }
        let waited = site.now() - began;
        assert!((DELAY_FIRST..=KNOWN_DELAY_MAX).contains(&waited), "{waited:?}");
    }
    let seen = site.seen("u1", "10.0.0.1").await;
    assert_eq!((seen.known, seen.pair.failures), (true, 120));
    assert_eq!((seen.name.failures, seen.all.failures), (0, 0));
}

#[tokio::test]
async fn the_first_failures_of_a_network_are_its_own_and_a_login_forgets_those_of_its_name() {
    let mut site = Site::new();
    site.right.insert("u1".to_owned(), 1);
    for (password, all) in (100..).zip([0, 0, 1]) {
        assert_eq!(site.try_in("u1", password, "10.0.0.1").await, Told::Wrong);
        assert_eq!(site.seen("u1", "10.0.0.1").await.all.failures, all, "{password}");
    }
    let seen = site.seen("u1", "10.0.0.1").await;
    assert_eq!((seen.pair.failures, seen.name.failures, seen.known), (3, 3, false));
    assert_eq!(site.try_in("u1", 1, "10.0.0.1").await, Told::In);
    let seen = site.seen("u1", "10.0.0.1").await;
    assert_eq!((seen.pair, seen.known), (Count::default(), true));
    assert_eq!(seen.network.failures, 3, "who knows one password may go on to guess others");
}

/// Strangers at `addresses` addresses try pairs of `names` names for an hour; the owners of some names
/// log in now and then, from where they were before or from elsewhere.
async fn stuffing(addresses: u32, names: u32, seed: u32) -> Site {
    const PAIRS: u32 = 10_000;
    let mut site = Site::new();
    for number in 0..names {
        site.right.insert(format!("u{number}"), u32::MAX);
    }
    let home = |number: u32| format!("192.0.{}.1", number % 50);
    for number in 0..50.min(names) {
        assert_eq!(site.try_in(&format!("u{number}"), u32::MAX, &home(number)).await, Told::In);
    }
    for pair in 0..PAIRS {
        let mixed = pair.wrapping_mul(2_654_435_761).wrapping_add(seed);
        let name = format!("u{}", mixed % names);
        site.try_in(&name, pair, &address(pair % addresses)).await;
        if pair % 100 == 0 {
            let owner = (pair / 100) % 50.min(names);
            let from = if pair % 200 == 0 { home(owner) } else { format!("198.51.{owner}.9") };
            let told = site.try_in(&format!("u{owner}"), u32::MAX, &from).await;
            assert_eq!(told, Told::In, "owner {owner} from {from} after {pair} pairs");
        }
        site.advance(HOUR / PAIRS);
    }
    site
}

#[tokio::test]
async fn of_ten_thousand_pairs_from_a_hundred_addresses_a_thousand_are_tested_in_an_hour() {
    for names in [1, 100, 10_000] {
        let site = stuffing(100, names, 0).await;
        assert!(site.tested() <= 1_000, "{} pairs of {names} names", site.tested());
        let most = site.tested.values().max().copied().unwrap_or(0);
        assert!(most <= 100, "{most} of one name, of {names}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn stuffing_stays_bounded_and_owners_get_in(
        addresses in 1_u32..400,
        names in 1_u32..5_000,
        seed in any::<u32>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let site = runtime.block_on(stuffing(addresses, names, seed));
        let limits = GuessLimits::default();
        let bound = addresses * limits.network_per_hour + limits.all_per_hour;
        prop_assert!(site.tested() <= bound, "{} of {bound}", site.tested());
        let most = site.tested.values().max().copied().unwrap_or(0);
        prop_assert!(most <= limits.name_per_hour, "{most} of one name");
    }
}

#[test]
fn a_name_waits_only_where_it_failed() {
    let limits = GuessLimits::default();
    let failed = |failures| Count { failures, waits: false };
    let waits = Count { failures: 12, waits: true };
    let all_used = Seen { network: failed(2), all: failed(300), ..Seen::default() };
    for (seen, expected) in [
        (Seen::default(), Ruling::Check),
        (Seen { pair: waits, ..Seen::default() }, Ruling::Wait),
        (Seen { network: waits, ..Seen::default() }, Ruling::LookUp),
        (Seen { network: waits, known: true, ..Seen::default() }, Ruling::Check),
        (Seen { network: waits, lifted: true, ..Seen::default() }, Ruling::Check),
        (all_used, Ruling::LookUp),
        (Seen { network: failed(1), ..all_used }, Ruling::Check),
        (Seen { all: failed(299), ..all_used }, Ruling::Check),
        (Seen { name: failed(50), ..Seen::default() }, Ruling::LookUp),
        (Seen { name: failed(50), pair: failed(1), ..Seen::default() }, Ruling::Wait),
        (Seen { name: failed(50), known: true, ..Seen::default() }, Ruling::Check),
    ] {
        assert_eq!(seen.ruling(&limits), expected, "{seen:?}");
    }
}
