//! Writes to Redis: queued, in batches; no request waits for them.
//!
//! # What bounds it
//!
//! - [`QUEUE_MAX`] writes wait, of a few kilobytes each. If more come, a write is dropped and counted:
//!   what it would have kept is read from the store once more, and a failed login counts in this
//!   process alone.
//! - Behind a shut gate nothing is queued, and what was queued is dropped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Pipeline, RedisError, Value};
use bytes::Bytes;
use daemon::Shutdown;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::info_span;

use super::gate::Gate;
use crate::metrics::CacheMetrics;
use crate::{LIFTED_KEPT, Throttle};

/// Writes that wait at most.
const QUEUE_MAX: usize = 2_048;

/// Writes sent at once.
const BATCH_MAX: usize = 128;

/// How long a batch may take: no request waits for it, but the batches behind it do.
const WITHIN: Duration = Duration::from_millis(250);

/// Keeps `ARGV[1]` for `ARGV[3]` ms unless what is kept has a higher stamp than `ARGV[2]`. A stamp
/// stands behind the format and the checksum.
const NEWEST: &str = r"
local old = redis.pcall('GET', KEYS[1])
if type(old) == 'string' and #old >= 9 and string.byte(old, 1) == 1 then
  local a, b, c, d = string.byte(old, 6, 9)
  if ((a * 256 + b) * 256 + c) * 256 + d > tonumber(ARGV[2]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1";

/// Counts one more within the `ARGV[1]` ms that began with the first. What is no counter is none. Beyond
/// `ARGV[2]` of them the key behind it stays for a delay of `ARGV[3]` ms, doubled with each further one
/// up to `ARGV[4]`. With a third key both are noted there.
const COUNT: &str = r"
local old = redis.pcall('GET', KEYS[1])
local count = type(old) == 'string' and tonumber(string.match(old, '^failures=(%d+)$')) or 0
local left = count > 0 and redis.call('PTTL', KEYS[1]) or -1
local within = tonumber(ARGV[1])
if left <= 0 or left > within then count, left = 0, within end
count = math.min(count, 1000000) + 1
redis.call('SET', KEYS[1], string.format('failures=%d', count), 'PX', left)
local beyond, first = count - tonumber(ARGV[2]), tonumber(ARGV[3])
if beyond > 0 and first > 0 then
  local delay = math.min(first * 2 ^ math.min(beyond - 1, 30), tonumber(ARGV[4]))
  redis.call('SET', KEYS[2], 'wait', 'PX', string.format('%.0f', math.max(delay, 1)))
end
if KEYS[3] then
  if redis.call('TYPE', KEYS[3]).ok ~= 'set' then redis.call('DEL', KEYS[3]) end
  redis.call('SADD', KEYS[3], KEYS[1], KEYS[2])
  redis.call('PEXPIRE', KEYS[3], within)
end
return 1";

/// Takes away all keys that are noted in a set, and puts `ARGV[1]` for `ARGV[2]` ms under the second key.
const LIFT: &str = r"
if redis.call('TYPE', KEYS[1]).ok == 'set' then
  for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do redis.call('DEL', key) end
end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1";

/// One write.
pub(super) enum Write {
    /// What never changes.
    Put { key: Vec<u8>, value: Bytes, kept: Duration },
    /// What is replaced only by something newer.
    Newest { key: Vec<u8>, value: Bytes, stamp: u32, kept: Duration },
    /// One more failure.
    Count { key: Vec<u8>, wait: Vec<u8>, of: Option<Vec<u8>>, throttle: Throttle },
    /// No more failures of a name.
    Lift { all: Vec<u8>, lifted: Vec<u8>, token: Vec<u8> },
    /// What cannot be read.
    Forget { key: Vec<u8> },
    /// Answered once everything queued before is written or dropped.
    #[cfg(test)]
    Settled(tokio::sync::oneshot::Sender<()>),
}

impl Write {
    fn add_to(&self, batch: &mut Pipeline) {
        match self {
            Self::Put { key, value, kept } => {
                batch.cmd("SET").arg(key).arg(&**value).arg("PX").arg(ms(*kept));
            }
            Self::Newest { key, value, stamp, kept } => {
                batch.cmd("EVAL").arg(NEWEST).arg(1).arg(key);
                batch.arg(&**value).arg(*stamp).arg(ms(*kept));
            }
            Self::Count { key, wait, of, throttle } => {
                let keys = if of.is_some() { 3 } else { 2 };
                batch.cmd("EVAL").arg(COUNT).arg(keys).arg(key).arg(wait).arg(of);
                let first = u64::try_from(throttle.delay_first.as_millis()).unwrap_or(u64::MAX);
                batch.arg(ms(throttle.within)).arg(throttle.free).arg(first);
                batch.arg(ms(throttle.delay_max));
            }
            Self::Lift { all, lifted, token } => {
                batch.cmd("EVAL").arg(LIFT).arg(2).arg(all).arg(lifted);
                batch.arg(token).arg(ms(LIFTED_KEPT));
            }
            Self::Forget { key } => {
                batch.cmd("DEL").arg(key);
            }
            #[cfg(test)]
            Self::Settled(_) => {}
        }
    }
}

/// Redis takes whole milliseconds, and at least one.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The queue of writes.
pub(super) struct Writes {
    queue: mpsc::Sender<Write>,
    gate: Arc<Gate>,
    metrics: CacheMetrics,
}

impl fmt::Debug for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writes").field("room", &self.queue.capacity()).finish_non_exhaustive()
    }
}

impl Writes {
    /// Starts the task that writes. What waits when shutdown begins is dropped.
    pub(super) fn start(gate: Arc<Gate>, metrics: CacheMetrics, shutdown: &Shutdown) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let stop = shutdown.clone();
        let (to, lost) = (Arc::clone(&gate), metrics.clone());
        shutdown.spawn(info_span!("cache"), async move {
            tokio::select! {
                () = stop.begun() => {}
                () = write_all(queued, &to, &lost) => {}
            }
        });
        Self { queue, gate, metrics }
    }

    /// Queues what `make` makes, if Redis is asked at all and there is room.
    pub(super) fn send(&self, make: impl FnOnce() -> Write) {
        if !self.gate.is_open() {
            self.metrics.writes_lost.inc();
            return;
        }
        match self.queue.try_reserve() {
            Ok(place) => place.send(make()),
            Err(_full_or_stopping) => drop(self.metrics.writes_lost.inc()),
        }
    }

    /// Waits until everything queued is written or dropped.
    #[cfg(test)]
    pub(super) async fn settled(&self) {
        let (done, is_done) = tokio::sync::oneshot::channel();
        assert!(self.queue.send(Write::Settled(done)).await.is_ok(), "the task runs");
        is_done.await.expect("the task runs");
    }
}

async fn write_all(mut queued: mpsc::Receiver<Write>, gate: &Gate, metrics: &CacheMetrics) {
    let mut writes = Vec::with_capacity(BATCH_MAX);
    while queued.recv_many(&mut writes, BATCH_MAX).await > 0 {
        if !write(&writes, gate).await {
            metrics.writes_lost.inc_by(writes.len() as u64);
        }
        #[cfg(test)]
        for write in writes.drain(..) {
            if let Write::Settled(done) = write {
                done.send(()).expect("the test waits");
            }
        }
        writes.clear();
    }
}

/// Whether all of it reached Redis.
async fn write(writes: &[Write], gate: &Gate) -> bool {
    let mut batch = ::redis::pipe();
    // Each write stands for itself.
    batch.ignore_errors();
    for write in writes {
        write.add_to(&mut batch);
    }
    if batch.is_empty() {
        return true;
    }
    let Some((mut connection, turn)) = gate.connection() else { return false };
    let sent = batch.query_async::<Vec<Result<Value, RedisError>>>(&mut connection);
    let why = match timeout(WITHIN, sent).await {
        Ok(Ok(answers)) => match answers.into_iter().find_map(Result::err) {
            None => return true,
            Some(error) => error.to_string(),
        },
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => "no answer to a write".to_owned(),
    };
    gate.shut(turn, &why);
    false
}
