//! A handle to a link that is up, and what waits to be written on it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::frame::{self, Head, LinkFrame, OWN_KINDS};
use super::identity::Peer;
use super::metrics::RoleMetrics;

/// Request numbers of [`Link::call`] have this bit, so that they never meet those of a handler that
/// numbers its requests itself.
const CALL: u64 = 1 << 63;

/// A buffer that has grown beyond this in a burst is given back to the system.
const SPARE_LEN_MAX: usize = 256 << 10;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A frame was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// So much waits to be written that the peer must be stuck or gone.
    #[error("too much waits to be written")]
    Full,
    /// The link is down.
    #[error("the link is down")]
    Closed,
    /// No frame may be that long.
    #[error("the message is longer than a frame may be")]
    TooLong,
}

/// A call was not answered. Whether it was carried out is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// So much waits to be written that the peer must be stuck or gone. The call was not sent.
    #[error("too much waits to be written")]
    Full,
    /// The link is down, or went down before the answer came.
    #[error("the link is down")]
    Closed,
    /// No answer came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The answer is not what was expected, or the question was longer than a frame may be.
    #[error("question or answer has the wrong form")]
    Malformed,
}

impl From<LinkError> for CallError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Full => Self::Full,
            LinkError::Closed => Self::Closed,
            LinkError::TooLong => Self::Malformed,
        }
    }
}

/// One established link. Clones are handles to the same link; two links to the same peer differ.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    id: u64,
    peer: Peer,
    pending: Mutex<Pending>,
    /// Wakes the writer, which is asleep only if `pending.idle`.
    wake: Notify,
    reset: CancellationToken,
    /// Why it was reset.
    why: Mutex<Option<&'static str>>,
    /// Who waits for which answer. Bounded by the callers' own limits: each waits for its answer.
    calls: Mutex<HashMap<u64, oneshot::Sender<LinkFrame>>>,
    next_call: AtomicU64,
    queue_bytes_max: usize,
    metrics: RoleMetrics,
}

/// Frames in the order in which they were sent, not yet given to the socket.
struct Pending {
    buffer: Vec<u8>,
    /// Bytes that the writer holds.
    writing: usize,
    frames: u64,
    idle: bool,
    closed: bool,
}

impl Link {
    pub(super) fn new(peer: Peer, queue_bytes_max: usize, metrics: RoleMetrics) -> Self {
        let pending =
            Pending { buffer: Vec::new(), writing: 0, frames: 0, idle: false, closed: false };
        Self {
            shared: Arc::new(Shared {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                peer,
                pending: Mutex::new(pending),
                wake: Notify::new(),
                reset: CancellationToken::new(),
                why: Mutex::new(None),
                calls: Mutex::default(),
                next_call: AtomicU64::new(1),
                queue_bytes_max,
                metrics,
            }),
        }
    }

    /// A number that no other link of this process has.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    /// Queues a message; never waits. `request` is 0 where no answer is expected, and below 2⁶³
    /// where the handler will recognise the answer by it.
    pub fn send(&self, kind: u16, request: u64, message: &impl Message) -> Result<(), LinkError> {
        debug_assert!(kind < OWN_KINDS, "the kind is the link's own");
        self.put(Head { kind, answer: false, request }, |buffer| encode(message, buffer))
    }

    /// Queues a body that is encoded already; otherwise as [`Self::send`].
    pub fn send_raw(&self, kind: u16, request: u64, body: &[u8]) -> Result<(), LinkError> {
        debug_assert!(kind < OWN_KINDS, "the kind is the link's own");
        self.put(Head { kind, answer: false, request }, |buffer| buffer.extend_from_slice(body))
    }

    /// Queues the answer to a frame that came in on this link.
    pub fn answer(
        &self,
        to: &LinkFrame,
        kind: u16,
        message: &impl Message,
    ) -> Result<(), LinkError> {
        self.answer_request(to.request, kind, message)
    }

    /// Queues the answer to the request of that number; for answers that come later.
    pub fn answer_request(
        &self,
        request: u64,
        kind: u16,
        message: &impl Message,
    ) -> Result<(), LinkError> {
        debug_assert!(kind < OWN_KINDS, "the kind is the link's own");
        self.put(Head { kind, answer: true, request }, |buffer| encode(message, buffer))
    }

    /// Sends a question and waits for its answer, for at most `limit`. Cancel-safe: an answer that
    /// nobody waits for is dropped.
    pub async fn call<M: Message + Default>(
        &self,
        kind: u16,
        message: &impl Message,
        limit: Duration,
    ) -> Result<M, CallError> {
        let answer = self.call_raw(kind, message, limit).await?;
        answer.parse().map_err(|_error| CallError::Malformed)
    }

    /// As [`Self::call`], for answers of more than one kind.
    async fn call_raw(
        &self,
        kind: u16,
        message: &impl Message,
        limit: Duration,
    ) -> Result<LinkFrame, CallError> {
        let request = CALL | self.shared.next_call.fetch_add(1, Ordering::Relaxed);
        let (answer, waiting) = oneshot::channel();
        self.shared.calls.lock().insert(request, answer);
        let _forgotten_however_this_ends = Call { link: self, request };
        self.send(kind, request, message)?;
        // The same number stands in the span of whoever answers: so a question is followed from one
        // daemon's log into the other's.
        debug!(peer = %self.peer().name, kind, request, "asked");
        match timeout(limit, waiting).await {
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(_closed)) => Err(CallError::Closed),
            Err(_elapsed) => Err(CallError::TimedOut),
        }
    }

    /// The body of a frame that came on this link, as a message. One that cannot be read is a bug of ours:
    /// the link is of no use, and is reset.
    pub fn read<M: Message + Default>(&self, frame: &LinkFrame) -> Option<M> {
        match frame.parse() {
            Ok(message) => Some(message),
            Err(error) => {
                warn!(%error, kind = frame.kind, link = ?self, "a message that cannot be read");
                self.reset("it sent a message that cannot be read");
                None
            }
        }
    }

    /// Closes the link at once; a dialer dials again. What was queued may be lost.
    pub fn reset(&self, why: &'static str) {
        self.shared.why.lock().get_or_insert(why);
        self.shared.metrics.resets.inc();
        self.shared.reset.cancel();
    }

    /// Whether the link is down or about to be.
    pub fn is_closed(&self) -> bool {
        self.shared.reset.is_cancelled() || self.shared.pending.lock().closed
    }

    /// Bytes that wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        let pending = self.shared.pending.lock();
        pending.buffer.len() + pending.writing
    }

    fn put(&self, head: Head, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), LinkError> {
        let mut pending = self.shared.pending.lock();
        if pending.closed {
            return Err(LinkError::Closed);
        }
        let before = pending.buffer.len();
        frame::put(&mut pending.buffer, head, encode).ok_or(LinkError::TooLong)?;
        if pending.buffer.len() + pending.writing > self.shared.queue_bytes_max {
            pending.buffer.truncate(before);
            return Err(LinkError::Full);
        }
        pending.frames += 1;
        if mem::take(&mut pending.idle) {
            drop(pending);
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    pub(super) fn metrics(&self) -> &RoleMetrics {
        &self.shared.metrics
    }

    /// Completes when the link was reset. Cancel-safe.
    pub(super) async fn resetting(&self) {
        self.shared.reset.cancelled().await;
    }

    pub(super) fn reset_reason(&self) -> &'static str {
        self.shared.why.lock().unwrap_or("reset")
    }

    /// For the writer: swaps what is queued into `spare`, which must be empty; or, if nothing is,
    /// remembers that the writer sleeps. `None` when nothing will be queued any more.
    pub(super) fn take(&self, spare: &mut Vec<u8>) -> Option<usize> {
        if spare.capacity() > SPARE_LEN_MAX {
            *spare = Vec::new();
        }
        let mut pending = self.shared.pending.lock();
        mem::swap(&mut pending.buffer, spare);
        pending.writing = spare.len();
        pending.idle = spare.is_empty();
        if spare.is_empty() && pending.closed {
            return None;
        }
        self.shared.metrics.frames_out.inc_by(mem::take(&mut pending.frames));
        Some(spare.len())
    }

    /// For the writer: completes when something was queued after [`Self::take`] found nothing.
    pub(super) async fn queued(&self) {
        self.shared.wake.notified().await;
    }

    /// For the writer: a sign of life for the peer.
    pub(super) fn ping(&self) {
        let head = Head { kind: frame::PING, answer: false, request: 0 };
        if self.put(head, |_empty| {}).is_err() {
            // Full or closed: then there is no silence to break.
        }
    }

    /// For the reader: gives an answer to whoever waits for it, and returns what is for the handler.
    pub(super) fn sort(&self, frame: LinkFrame) -> Option<LinkFrame> {
        if frame.kind >= OWN_KINDS {
            return None;
        }
        if !frame.answer || frame.request & CALL == 0 {
            return Some(frame);
        }
        let waiting = self.shared.calls.lock().remove(&frame.request);
        if let Some(waiting) = waiting
            && waiting.send(frame).is_err()
        {
            // The caller has given up in this very moment.
        }
        None
    }

    /// Takes nothing more; what is queued is still written unless the link was reset.
    pub(super) fn close(&self) {
        self.shared.pending.lock().closed = true;
        self.shared.wake.notify_one();
    }

    /// Tells every caller that no answer will come. After [`Self::close`], which keeps new ones out.
    pub(super) fn fail_calls(&self) {
        self.shared.calls.lock().clear();
    }

    /// For the writer: ends the link for this reason, without counting it as a reset of ours.
    pub(super) fn break_off(&self, why: &'static str) {
        self.shared.why.lock().get_or_insert(why);
        self.abort();
    }

    /// Stops reader and writer without counting a reset.
    pub(super) fn abort(&self) {
        self.shared.reset.cancel();
    }
}

fn encode(message: &impl Message, buffer: &mut Vec<u8>) {
    message.encode(buffer).expect("a vector has room for every message");
}

/// Forgets a call when it ends, by answer, time or cancellation.
struct Call<'a> {
    link: &'a Link,
    request: u64,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.link.shared.calls.lock().remove(&self.request);
    }
}

impl PartialEq for Link {
    fn eq(&self, other: &Self) -> bool {
        self.shared.id == other.shared.id
    }
}

impl Eq for Link {}

impl Hash for Link {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shared.id.hash(state);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peer { role, name, .. } = &self.shared.peer;
        write!(f, "Link {} to {role} {name}", self.shared.id)
    }
}
