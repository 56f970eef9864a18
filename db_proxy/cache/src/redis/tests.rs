//! What only a server of its own can do: be shared, flushed, restored, paused, killed, or not there.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use daemon::Metrics;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio::task::spawn_blocking;

use super::*;
use crate::Count;
use crate::conformance::PATIENCE;
use crate::conformance::{self, LOG, message, place, profile, throttle};

/// Everything that goes through a gate that is shut ends soon, on a machine that has other work too:
/// long before each of a hundred had waited for its deadline.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A cache whose answers may take as long as a loaded machine needs.
fn patient(url: &str) -> RedisOptions {
    RedisOptions { deadline: PATIENCE, ..RedisOptions::new(url) }
}

struct Client {
    cache: RedisCache,
    shutdown: Shutdown,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

impl conformance::Fresh for Client {
    fn cache(&self) -> &dyn Cache {
        &self.cache
    }

    async fn settled(&self) {
        self.cache.writes.settled().await;
    }
}

impl Client {
    async fn new(options: RedisOptions) -> Self {
        Self::try_new(options).await.expect("it connects or is away")
    }

    async fn try_new(options: RedisOptions) -> Result<Self, CacheError> {
        let metrics = CacheMetrics::new(&Metrics::new("db_proxy"));
        let shutdown = Shutdown::default();
        let cache = RedisCache::connect(options, metrics, &shutdown).await?;
        Ok(Self { cache, shutdown })
    }

    /// Why it is refused.
    async fn refused(options: RedisOptions) -> String {
        let CacheError::Refused(why) =
            Self::try_new(options).await.map(|_client| ()).expect_err("it is refused");
        assert!(!why.contains('\n'), "one line: {why}");
        why
    }

    async fn keep(&self) {
        self.cache.keep_profiles(&[profile(1, 5, "nick")]);
        self.cache.keep_messages(LOG, &[message(1, 2, 3, b"text")]);
        self.cache.writes.settled().await;
    }

    /// Whether what [`Self::keep`] keeps is there.
    async fn has_kept(&self) -> bool {
        let profiles = self.cache.profiles(&[UserId(1)]).await;
        let messages = self.cache.messages(LOG, &[place(&message(1, 2, 3, b""))]).await;
        for known in &profiles {
            assert_eq!(*known, profile(1, 5, "nick"));
        }
        for known in &messages {
            assert_eq!(*known, message(1, 2, 3, b"text"));
        }
        assert_eq!(profiles.len(), messages.len());
        profiles.len() == 1
    }

    async fn becomes(&self, away: bool) {
        let becomes = async {
            while (self.cache.metrics.away.get() == 1) != away {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, becomes).await.expect("it is noticed");
    }

    fn failures(&self) -> u64 {
        self.cache.metrics.failures.get()
    }
}

async fn server() -> backends::Redis {
    server_with(&[]).await
}

async fn server_with(args: &'static [&str]) -> backends::Redis {
    spawn_blocking(|| backends::Redis::start_with(args)).await.unwrap()
}

/// Of the server that all tests share, with keys of its own.
async fn fresh() -> Client {
    static CLIENTS: AtomicU32 = AtomicU32::new(0);
    let redis = spawn_blocking(backends::Redis::shared).await.unwrap();
    let prefix = format!("test-{}", CLIENTS.fetch_add(1, Ordering::Relaxed));
    Client::new(RedisOptions { prefix, ..patient(&redis.url()) }).await
}

conformance::suite! { fresh }

#[tokio::test]
async fn failed_logins_count_for_everybody() {
    let redis = server().await;
    let (one, other) =
        (Client::new(patient(&redis.url())).await, Client::new(patient(&redis.url())).await);
    for client in [&one, &other, &one, &other] {
        assert!(!one.cache.is_throttled(&[throttle("u1")]).await);
        client.cache.count_failure(&[throttle("u1")]);
        client.cache.writes.settled().await;
    }
    // Neither has counted enough itself.
    assert!(one.cache.is_throttled(&[throttle("u1")]).await);
    assert!(other.cache.is_throttled(&[throttle("u1")]).await);
    assert!(!other.cache.is_throttled(&[throttle("u2")]).await);
    let third = Client::new(patient(&redis.url())).await;
    assert!(third.cache.is_throttled(&[throttle("u1")]).await, "and who comes later knows");
}

#[tokio::test]
async fn what_one_process_lifts_is_lifted_in_all() {
    let redis = server().await;
    let (one, other) =
        (Client::new(patient(&redis.url())).await, Client::new(patient(&redis.url())).await);
    let delayed = throttle("u1").delaying(Duration::from_mins(5), Duration::from_mins(5)).of("u1");
    let delayed = std::slice::from_ref(&delayed);
    for round in 1..=2 {
        // Each has counted for itself too.
        for client in [&one, &other, &one, &other] {
            client.cache.count_failure(delayed);
            client.cache.writes.settled().await;
        }
        assert!(other.cache.failures("u1", delayed).await.of[0].waits, "round {round}");
        one.cache.lift("u1");
        one.cache.writes.settled().await;
        for client in [&one, &other] {
            let counts = client.cache.failures("u1", delayed).await;
            assert!(counts.lifted, "round {round}");
            assert_eq!(counts.of, [Count::default()], "round {round}");
        }
    }
}

#[tokio::test]
async fn without_redis_each_counts_for_itself() {
    let redis = server().await;
    let (one, other) =
        (Client::new(patient(&redis.url())).await, Client::new(patient(&redis.url())).await);
    redis.kill();
    for _ in 0..4 {
        one.cache.count_failure(&[throttle("u1")]);
    }
    assert!(one.cache.is_throttled(&[throttle("u1")]).await);
    assert!(!other.cache.is_throttled(&[throttle("u1")]).await);
    redis.restart();
    other.becomes(false).await;
    assert!(!other.cache.is_throttled(&[throttle("u1")]).await, "nobody is throttled wrongly");
}

#[tokio::test]
async fn of_two_processes_the_one_with_the_newer_profile_wins() {
    let redis = server().await;
    let (one, other) =
        (Client::new(patient(&redis.url())).await, Client::new(patient(&redis.url())).await);
    for (client, stamp) in [(&one, 4), (&other, 6), (&one, 5), (&other, 2)] {
        client.cache.keep_profiles(&[profile(1, stamp, "nick")]);
        client.cache.writes.settled().await;
    }
    assert_eq!(one.cache.profiles(&[UserId(1)]).await, [profile(1, 6, "nick")]);
}

#[tokio::test]
async fn clusters_with_prefixes_of_their_own_share_a_server() {
    let redis = server().await;
    let one = Client::new(patient(&redis.url())).await;
    let other = RedisOptions { prefix: "other".to_owned(), ..patient(&redis.url()) };
    let other = Client::new(other).await;
    one.keep().await;
    assert!(one.has_kept().await && !other.has_kept().await);
}

#[tokio::test]
async fn everything_ends_by_itself() {
    let redis = server().await;
    let client = Client::new(patient(&redis.url())).await;
    client.keep().await;
    client.cache.count_failure(&[throttle("u1")]);
    client.cache.writes.settled().await;
    let keys = redis.command(&["KEYS", "*"]);
    assert_eq!(keys.lines().filter(|key| !key.ends_with(":probe")).count(), 3, "{keys}");
    for key in keys.lines() {
        let left: i64 = redis.command(&["PTTL", key]).parse().unwrap();
        assert!((1..=60 * 60 * 1000).contains(&left) || left == -2, "{key} ends in {left} ms");
    }
}

#[tokio::test]
async fn a_flush_empties_it_and_that_is_all() {
    let redis = server().await;
    let client = Client::new(patient(&redis.url())).await;
    client.keep().await;
    assert!(client.has_kept().await);
    redis.flush();
    assert!(!client.has_kept().await);
    client.keep().await;
    assert!(client.has_kept().await);
    assert_eq!(client.failures(), 0);
}

#[tokio::test]
async fn an_older_copy_has_what_was_true_then() {
    let redis = server().await;
    let client = Client::new(patient(&redis.url())).await;
    client.keep().await;
    let dump = redis.dump();
    client.cache.keep_profiles(&[profile(1, 7, "newer")]);
    client.cache.writes.settled().await;
    redis.restore(&dump);
    while !client.has_kept().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.cache.keep_profiles(&[profile(1, 7, "newer")]);
    client.cache.writes.settled().await;
    assert_eq!(client.cache.profiles(&[UserId(1)]).await, [profile(1, 7, "newer")]);
}

#[tokio::test]
async fn a_server_that_hangs_costs_one_deadline() {
    let redis = server().await;
    let client = Client::new(RedisOptions {
        deadline: Duration::from_millis(200),
        ..RedisOptions::new(redis.url())
    });
    let client = client.await;
    client.keep().await;
    redis.pause();
    let start = Instant::now();
    for _ in 0..100 {
        assert!(!client.has_kept().await);
        assert!(!client.cache.is_throttled(&[throttle("u1")]).await);
        client.cache.count_failure(&[throttle("u2")]);
        client.cache.keep_profiles(&[profile(2, 1, "nick")]);
    }
    assert!(start.elapsed() < AT_ONCE, "300 reads took {:?}", start.elapsed());
    client.becomes(true).await;
    redis.resume();
    client.becomes(false).await;
    // It may be late once more on a loaded machine.
    while !client.has_kept().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn requests_that_wait_together_wait_together() {
    let redis = server().await;
    let deadline = Duration::from_millis(200);
    let client = Client::new(RedisOptions { deadline, ..RedisOptions::new(redis.url()) }).await;
    redis.pause();
    let start = Instant::now();
    let places = [place(&message(1, 2, 3, b""))];
    let reads = (0..1_000).map(|_| client.cache.messages(LOG, &places));
    let found = futures_util::future::join_all(reads).await;
    assert!(found.iter().all(Vec::is_empty));
    assert!(start.elapsed() < AT_ONCE, "1,000 reads took {:?}", start.elapsed());
    redis.resume();
}

#[tokio::test]
async fn it_is_back_after_it_was_killed() {
    let redis = server().await;
    let client = Client::new(patient(&redis.url())).await;
    for _ in 0..2 {
        client.keep().await;
        assert!(client.has_kept().await);
        redis.kill();
        assert!(!client.has_kept().await);
        client.becomes(true).await;
        assert!(!client.has_kept().await);
        redis.restart();
        client.becomes(false).await;
        assert!(!client.has_kept().await, "it has forgotten everything");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_no_error() {
    let redis = server().await;
    redis.kill();
    let client = Client::new(patient(&redis.url())).await;
    assert_eq!(client.cache.metrics.away.get(), 1);
    assert!(!client.has_kept().await);
    client.keep().await;
    redis.restart();
    client.becomes(false).await;
    client.keep().await;
    assert!(client.has_kept().await);
}

#[tokio::test]
async fn a_wrong_password_is_refused_by_name() {
    let redis = server_with(&["--requirepass", "secret"]).await;
    assert!(Client::new(patient(&redis.url())).await.cache.gate.is_open());
    let address = format!("127.0.0.1:{}", redis.port());
    for login in ["", ":wrong-word@", "nobody:secret@"] {
        let why = Client::refused(patient(&format!("redis://{login}{address}/"))).await;
        assert!(why.starts_with(&format!("Redis at {address}: ")), "{why}");
        assert!(!why.contains("wrong-word") && !why.contains("secret"), "{why}");
    }
}

#[tokio::test]
async fn a_user_without_the_right_to_write_is_refused() {
    let redis = server().await;
    redis.command(&["ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+@connection"]);
    let url = format!("redis://reader:secret@127.0.0.1:{}/", redis.port());
    let why = Client::refused(patient(&url)).await;
    assert!(why.contains("permission"), "{why}");
}

#[tokio::test]
async fn a_server_that_has_no_place_for_one_more_is_no_error() {
    let redis = server().await;
    let first = Client::new(patient(&redis.url())).await;
    redis.command(&["CONFIG", "SET", "maxclients", "1"]);
    let second = Client::new(patient(&redis.url())).await;
    assert_eq!(second.cache.metrics.away.get(), 1);
    drop(first);
    second.becomes(false).await;
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_refused() {
    let redis = server().await;
    let url = format!("redis://127.0.0.1:{}/99", redis.port());
    Client::refused(patient(&url)).await;
}

#[tokio::test]
async fn what_is_no_redis_and_what_has_no_tls_is_refused() {
    use tokio::io::AsyncWriteExt as _;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for scheme in ["redis", "rediss"] {
        let greet = async {
            let (mut stream, _peer) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            stream
        };
        let url = format!("{scheme}://{address}/");
        let (_stream, why) = tokio::join!(greet, Client::refused(patient(&url)));
        assert!(why.contains("correct the URL"), "{why}");
    }
}

#[tokio::test]
async fn what_is_no_url_and_what_is_no_prefix_is_refused() {
    for url in ["", "localhost", "http://localhost/", "redis://:secret@host:port/", "redis://h/x"] {
        let why = Client::refused(patient(url)).await;
        assert!(why.contains("URL") && !why.contains("secret"), "{why}");
    }
    for prefix in ["", "a b", "a:b", "ü", &"x".repeat(65)] {
        let prefix = prefix.to_owned();
        let why = Client::refused(RedisOptions { prefix, ..patient("redis://127.0.0.1:1/") }).await;
        assert!(why.contains("prefix"), "{why}");
    }
}

#[tokio::test]
async fn a_cluster_is_refused() {
    let redis = server_with(&["--cluster-enabled", "yes"]).await;
    redis.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    while !redis.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Client::refused(patient(&redis.url())).await;
}

#[tokio::test]
async fn a_server_that_only_reads_is_away() {
    let redis = server().await;
    let client = Client::new(patient(&redis.url())).await;
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    client.cache.count_failure(&[throttle("u1")]);
    client.becomes(true).await;
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    client.becomes(false).await;
}

#[tokio::test]
async fn more_writes_than_fit_are_dropped_and_counted() {
    let redis = server().await;
    let client = Client::new(patient(&redis.url())).await;
    // The writer does not run between two of these.
    let messages: Vec<_> = (1..=10_000).map(|msg_id| message(1, 2, msg_id, b"text")).collect();
    client.cache.keep_messages(LOG, &messages);
    let lost = client.cache.metrics.writes_lost.get();
    assert!(lost > 0 && lost < 10_000, "{lost}");
    client.cache.writes.settled().await;
    assert_eq!(client.cache.messages(LOG, &[place(&messages[0])]).await, messages[..1]);
    client.keep().await;
    assert!(client.has_kept().await, "there is room again");
}

#[tokio::test]
async fn whatever_stands_under_its_keys_is_nothing_and_is_replaced() {
    let redis = server().await;
    let client = Client::new(patient(&redis.url())).await;
    let (mut raw, _turn) = client.cache.gate.connection().unwrap();
    let keys = &client.cache.keys;
    let place = place(&message(1, 2, 3, b""));
    let all =
        [keys.failures("name:u1"), keys.profile(UserId(1)), keys.message(LOG, place.0, place.1)];
    let mut runner = TestRunner::deterministic();
    for round in 0..60 {
        for key in &all {
            let mut put = ::redis::pipe();
            put.cmd("DEL").arg(key).ignore();
            match round {
                0 => put.cmd("HSET").arg(key).arg("field").arg("value"),
                1 => put.cmd("RPUSH").arg(key).arg("value"),
                2 => put.cmd("SET").arg(key).arg("-7"),
                3 => put.cmd("SET").arg(key).arg("9999999999999999999999"),
                // The highest stamp there is, without a checksum.
                4 => put.cmd("SET").arg(key).arg([[1_u8; 5].as_slice(), &[255; 30]].concat()),
                _ => {
                    let bytes = vec(any::<u8>(), 0..60).new_tree(&mut runner).unwrap().current();
                    put.cmd("SET").arg(key).arg(bytes)
                }
            };
            put.ignore().query_async::<()>(&mut raw).await.unwrap();
        }
        assert!(!client.has_kept().await, "round {round}");
        assert!(!client.cache.is_throttled(&[throttle("u1")]).await, "round {round}");
        // What could not be read is taken away, so that it does not keep out what comes.
        client.cache.writes.settled().await;
        client.keep().await;
        assert!(client.has_kept().await, "round {round}");
    }
    assert_eq!(client.failures(), 0);
}

#[tokio::test]
async fn what_is_no_counter_counts_as_none() {
    let redis = server().await;
    for value in ["999", "failures=", "failures=-9", "failures=9x", "failures=1e9"] {
        let client = Client::new(patient(&redis.url())).await;
        let key = String::from_utf8(client.cache.keys.failures("name:u1")).unwrap();
        redis.command(&["SET", &key, value]);
        let other = Client::new(patient(&redis.url())).await;
        for failures in 1..=4 {
            assert!(!other.cache.is_throttled(&[throttle("u1")]).await, "{value}: {failures}");
            client.cache.count_failure(&[throttle("u1")]);
            client.cache.writes.settled().await;
        }
        assert!(other.cache.is_throttled(&[throttle("u1")]).await, "{value}");
    }
}
