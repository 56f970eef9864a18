//! A cache in Redis, shared by several db_proxies.
//!
//! ```text
//! reads  ──► gate ──► one connection          at most a deadline each; one MGET, or a few
//! writes ──► queue ──► writer ──┘             in batches; no request waits
//!            gate ◄── prober                  connects, and looks whether Redis is back
//! ```
//!
//! # Invariants
//!
//! - A request pays for a Redis that does not answer once, and at most the deadline: the first late
//!   or failed answer shuts the gate, and behind a shut gate everything counts as not kept
//!   ([`gate`]).
//! - Whatever bytes Redis gives are either what was put there or nothing ([`entry`]). What is nothing
//!   is taken away, so that it does not stay in the way.
//! - A value is replaced only by itself or by a newer one; scripts that compare and write in one step
//!   see to it. Every value ends by itself.
//! - Failed logins are counted in this process too: without Redis each process limits by what it has
//!   seen.
//!
//! One server is used, or one that a replica stands in for behind the same address. A Redis Cluster is
//! refused: one lookup asks for many keys. A server that only reads, such as a replica, counts as
//! away.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, RedisError, Value};
use daemon::Shutdown;
use fold::rows::MessageRow;
use futures_util::future::{BoxFuture, FutureExt as _};
use lru::LruCache;
use parking_lot::Mutex;
use proto::ids::{ConversationId, MsgId, UserId};
use proto::record::LogId;
use tokio::time::{Instant, timeout};

use super::failures::Failures;
use super::{BODY_LEN_MAX, Cache, Counts, PROFILES_KEPT, Profile, Throttle};
use crate::bounded;
use crate::metrics::CacheMetrics;

mod connecting;
mod entry;
mod gate;
mod options;
#[cfg(test)]
mod tests;
mod writing;

pub use connecting::CacheError;
pub use options::RedisOptions;

use connecting::Server;
use entry::Keys;
use gate::Gate;
use writing::{Write, Writes};

/// Keys asked for in one command: the answer to it is taken apart in one piece.
const KEYS_MAX: usize = 256;

/// Lifts that are remembered. One that is not is followed once more.
const LIFTS_MAX: usize = 4_096;

/// The longest prefix of keys.
const PREFIX_LEN_MAX: usize = 64;

/// A cache in Redis.
#[derive(Debug)]
pub struct RedisCache {
    gate: Arc<Gate>,
    writes: Writes,
    keys: Keys,
    deadline: Duration,
    messages_kept: Duration,
    failures: Failures,
    /// By name: the token of the last lift that this process has followed.
    lifts: Mutex<LruCache<String, Vec<u8>>>,
    metrics: CacheMetrics,
}

impl RedisCache {
    /// Connects. A server that cannot be reached now is no error: the cache is away until it can.
    /// Returns within [`connecting::CONNECT_WITHIN`] and a bit, even then.
    pub async fn connect(
        options: RedisOptions,
        metrics: CacheMetrics,
        shutdown: &Shutdown,
    ) -> Result<Self, CacheError> {
        check_prefix(&options.prefix)?;
        let keys = Keys::new(&options.prefix);
        let server = Server::new(&options, keys.probe())?;
        let gate = Arc::new(Gate::new(metrics.clone()));
        match server.connect().await {
            Ok(connection) => gate.open(connection),
            Err(failure) if failure.is_final => {
                return Err(CacheError::Refused(format!("Redis at {server}: {}", failure.why)));
            }
            Err(failure) => gate.away(&server, &failure.why),
        }
        connecting::probe(server, Arc::clone(&gate), shutdown);
        let writes = Writes::start(Arc::clone(&gate), metrics.clone(), shutdown);
        let RedisOptions { deadline, messages_kept, .. } = options;
        let failures = Failures::default();
        let lifts = Mutex::new(bounded(LIFTS_MAX));
        Ok(Self { gate, writes, keys, deadline, messages_kept, failures, lifts, metrics })
    }

    /// Follows a lift of another process: what this one has counted of the name is forgotten too.
    fn take_lift(&self, name: &str, token: Option<&[u8]>) {
        let Some(token) = token else { return };
        let mut lifts = self.lifts.lock();
        if lifts.peek(name).is_none_or(|known| known != token) {
            lifts.put(name.to_owned(), token.to_vec());
            self.failures.lift(name, Instant::now());
        }
    }

    /// The values under these keys, in the same order, as far as they come in time; `None` for what is
    /// not there.
    async fn values(&self, keys: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
        let mut values = Vec::with_capacity(keys.len());
        if keys.is_empty() {
            return values;
        }
        let Some((mut connection, turn)) = self.gate.connection() else { return values };
        let ask = async {
            for keys in keys.chunks(KEYS_MAX) {
                values.extend(ask(&mut connection, keys).await?);
            }
            Ok::<_, RedisError>(())
        };
        match timeout(self.deadline, ask).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.gate.shut(turn, &error.to_string()),
            Err(_elapsed) => self.gate.shut(turn, "no answer in time"),
        }
        values
    }

    /// What `read` makes of the values under the keys of `wanted`.
    async fn kept<W: Copy, T>(
        &self,
        wanted: &[W],
        key: impl Fn(W) -> Vec<u8>,
        read: impl Fn(&[u8], W, &[u8]) -> Option<T>,
    ) -> Vec<T> {
        let keys: Vec<Vec<u8>> = wanted.iter().map(|wanted| key(*wanted)).collect();
        let values = self.values(&keys).await;
        let mut found = Vec::with_capacity(values.len());
        for ((key, wanted), value) in keys.into_iter().zip(wanted).zip(values) {
            let Some(value) = value else { continue };
            match read(&key, *wanted, &value) {
                Some(read) => found.push(read),
                None => self.writes.send(|| Write::Forget { key }),
            }
        }
        self.metrics.hits.inc_by(found.len() as u64);
        self.metrics.misses.inc_by((wanted.len() - found.len()) as u64);
        found
    }
}

/// One MGET. What is no string under a key is "not there" in its answer.
async fn ask(
    connection: &mut MultiplexedConnection,
    keys: &[Vec<u8>],
) -> Result<Vec<Option<Vec<u8>>>, RedisError> {
    let answer = ::redis::cmd("MGET").arg(keys).query_async::<Value>(connection).await?;
    let unexpected = || RedisError::from((ErrorKind::UnexpectedReturnType, "not a list of values"));
    let Value::Array(values) = answer else { return Err(unexpected()) };
    if values.len() != keys.len() {
        return Err(unexpected());
    }
    let bytes = |value| match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    };
    Ok(values.into_iter().map(bytes).collect())
}

impl Cache for RedisCache {
    fn failures<'a>(&'a self, name: &'a str, throttles: &'a [Throttle]) -> BoxFuture<'a, Counts> {
        async move {
            let pairs =
                throttles.iter().map(|t| [self.keys.failures(&t.key), self.keys.wait(&t.key)]);
            let mut keys: Vec<_> = pairs.flatten().collect();
            keys.push(self.keys.lifted(name));
            let values = self.values(&keys).await;
            let is_whole = values.len() == keys.len();
            let shared = if is_whole { values } else { Vec::new() };
            let token = shared.last().cloned().flatten();
            self.take_lift(name, token.as_deref());
            let now = Instant::now();
            let mut of = self.failures.of(throttles, now);
            for (count, values) in of.iter_mut().zip(shared.chunks_exact(2)) {
                let [failures, wait] = values else { continue };
                let failures = failures.as_deref().map_or(0, entry::read_failures);
                count.failures = failures.max(count.failures);
                count.waits |= wait.as_deref() == Some(entry::WAIT);
            }
            Counts { of, lifted: token.is_some() || self.failures.is_lifted(name, now) }
        }
        .boxed()
    }

    fn count_failure(&self, throttles: &[Throttle]) {
        self.failures.count(throttles, Instant::now());
        for throttle in throttles {
            self.writes.send(|| Write::Count {
                key: self.keys.failures(&throttle.key),
                wait: self.keys.wait(&throttle.key),
                of: throttle.of.as_ref().map(|name| self.keys.failures_of(name)),
                throttle: throttle.clone(),
            });
        }
    }

    fn forget_failures(&self, throttle: &Throttle) {
        self.failures.forget(throttle);
        for key in [self.keys.failures(&throttle.key), self.keys.wait(&throttle.key)] {
            self.writes.send(|| Write::Forget { key });
        }
    }

    fn lift(&self, name: &str) {
        self.failures.lift(name, Instant::now());
        let token = daemon::link::new_boot().to_be_bytes();
        self.lifts.lock().put(name.to_owned(), token.to_vec());
        self.writes.send(|| Write::Lift {
            all: self.keys.failures_of(name),
            lifted: self.keys.lifted(name),
            token: token.to_vec(),
        });
    }

    fn profiles<'a>(&'a self, users: &'a [UserId]) -> BoxFuture<'a, Vec<Profile>> {
        self.kept(users, |user| self.keys.profile(user), entry::read_profile).boxed()
    }

    fn keep_profiles(&self, profiles: &[Profile]) {
        for profile in profiles {
            self.writes.send(|| {
                let key = self.keys.profile(UserId(profile.info.user_id));
                let value = entry::write_profile(&key, profile);
                Write::Newest { key, value, stamp: profile.stamp, kept: PROFILES_KEPT }
            });
        }
    }

    fn messages<'a>(
        &'a self,
        log: LogId,
        places: &'a [(ConversationId, MsgId)],
    ) -> BoxFuture<'a, Vec<MessageRow>> {
        let key = move |(id, msg_id)| self.keys.message(log, id, msg_id);
        self.kept(places, key, entry::read_message).boxed()
    }

    fn keep_messages(&self, log: LogId, messages: &[MessageRow]) {
        for message in messages.iter().filter(|message| message.body.len() <= BODY_LEN_MAX) {
            self.writes.send(|| {
                let key = self.keys.message(log, message.conversation, message.msg_id);
                let value = entry::write_message(&key, message);
                Write::Put { key, value, kept: self.messages_kept }
            });
        }
    }
}

fn check_prefix(prefix: &str) -> Result<(), CacheError> {
    let fits = (1..=PREFIX_LEN_MAX).contains(&prefix.len());
    if fits && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Ok(());
    }
    let must = format!("must be 1 to {PREFIX_LEN_MAX} letters, digits, '-', '_' or '.'");
    Err(CacheError::Refused(format!("the prefix of keys in Redis {must}")))
}
