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
    /// The calls that wait for an answer, by number. Bounded by the callers' own limits, since each
    /// caller waits for its answer.
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

    /// The daemon at the other end.
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
    /// no call waits for is dropped.
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
        // The span of the daemon that answers has the same number, so that a question can be followed
        // from one daemon's log into the other's.
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
    /// remembers that the writer sleeps. `None` when nothing more will be queued.
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

    /// For the reader: gives an answer to the call that waits for it, and returns what is for the
    /// handler.
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use bytes::Bytes;
    use futures_util::poll;

    use super::super::identity::Role;
    use super::super::metrics::LinkMetrics;
    use super::*;

    fn link(queue_bytes_max: usize) -> Link {
        let addr = "127.0.0.1:1".parse().unwrap();
        let peer = Peer { role: Role::DbProxy, name: "db".to_owned(), boot: 1, addr };
        Link::new(peer, queue_bytes_max, LinkMetrics::default().of(Role::DbProxy))
    }

    fn frame(kind: u16, answer: bool, request: u64, body: &'static [u8]) -> LinkFrame {
        LinkFrame { kind, answer, request, body: Bytes::from_static(body) }
    }

    /// The request number of the question that was queued last.
    fn asked(link: &Link) -> u64 {
        let mut queued = Vec::new();
        link.take(&mut queued).expect("the link is open");
        let mut queued = bytes::BytesMut::from(&queued[..]);
        let question = frame::split(&mut queued, frame::FRAME_LEN_MAX).unwrap().expect("a frame");
        assert!(!question.answer);
        question.request
    }

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test(start_paused = true)]
    async fn each_caller_gets_the_answer_to_its_own_question() {
        let link = link(1 << 20);
        let mut first = pin!(link.call::<String>(1, &(), LONG));
        assert_eq!(poll!(first.as_mut()), Poll::Pending);
        let of_first = asked(&link);
        let mut second = pin!(link.call::<String>(1, &(), LONG));
        assert_eq!(poll!(second.as_mut()), Poll::Pending);
        let of_second = asked(&link);

        assert_eq!(link.sort(frame(1, true, of_second, b"\x0a\x01b")), None);
        assert_eq!(poll!(first.as_mut()), Poll::Pending);
        assert_eq!(second.await, Ok("b".to_owned()));
        assert_eq!(link.sort(frame(1, true, of_first, b"\x0a\x01a")), None);
        assert_eq!(first.await, Ok("a".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn only_answers_to_calls_are_kept_from_the_handler() {
        let link = link(1 << 20);
        let mut call = pin!(link.call::<()>(1, &(), LONG));
        assert_eq!(poll!(call.as_mut()), Poll::Pending);
        let request = asked(&link);
        // A question of the peer's own that has the same number, and an answer to one of the handler's.
        for other in [frame(1, false, request, b""), frame(1, true, request & !CALL, b"")] {
            assert_eq!(link.sort(other.clone()), Some(other));
            assert_eq!(poll!(call.as_mut()), Poll::Pending);
        }
        // No call waits for this one, and pings are the link's own.
        assert_eq!(link.sort(frame(1, true, request + 1, b"")), None);
        assert_eq!(link.sort(frame(OWN_KINDS, false, 0, b"")), None);
        let last = frame(OWN_KINDS - 1, false, 0, b"");
        assert_eq!(link.sort(last.clone()), Some(last));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_cannot_be_sent_or_read_says_so() {
        let small = link(100);
        let long = "x".repeat(200);
        assert_eq!(small.call::<()>(1, &long, LONG).await, Err(CallError::Full));
        let wide = link(64 << 20);
        let longer = "x".repeat(frame::FRAME_LEN_MAX);
        assert_eq!(wide.call::<()>(1, &longer, LONG).await, Err(CallError::Malformed));
        assert_eq!(wide.queued_bytes(), 0, "nothing of it is left behind");

        let mut call = pin!(wide.call::<String>(1, &(), LONG));
        assert_eq!(poll!(call.as_mut()), Poll::Pending);
        wide.sort(frame(1, true, asked(&wide), b"\x0a\x05a"));
        assert_eq!(call.await, Err(CallError::Malformed));
        wide.close();
        assert_eq!(wide.call::<()>(1, &(), LONG).await, Err(CallError::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_over_leaves_nothing_behind() {
        let link = link(1 << 20);
        let began = tokio::time::Instant::now();
        let limit = Duration::from_secs(3);
        assert_eq!(link.call::<()>(1, &(), limit).await, Err(CallError::TimedOut));
        assert_eq!(began.elapsed(), limit);
        {
            let mut given_up = pin!(link.call::<()>(1, &(), LONG));
            assert_eq!(poll!(given_up.as_mut()), Poll::Pending);
            assert_eq!(link.shared.calls.lock().len(), 1);
        }
        assert_eq!(link.shared.calls.lock().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_are_told_at_once_when_a_link_goes_down() {
        let link = link(1 << 20);
        let began = tokio::time::Instant::now();
        let went_down = async {
            link.close();
            link.fail_calls();
        };
        let (called, ()) = tokio::join!(link.call::<()>(1, &(), LONG), went_down);
        assert_eq!(called, Err(CallError::Closed));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[test]
    fn the_first_reason_for_a_reset_is_the_one_that_counts() {
        let link = link(1 << 20);
        assert_eq!(link.reset_reason(), "reset");
        link.reset("a queue is full");
        link.break_off("the peer has gone");
        link.reset("again");
        assert_eq!(link.reset_reason(), "a queue is full");
        assert!(link.is_closed(), "it is about to be");
    }

    #[test]
    fn what_the_writer_holds_counts_until_it_comes_for_more() {
        let link = link(100);
        link.send_raw(1, 0, &[0; 84]).unwrap();
        let mut taken = Vec::new();
        assert_eq!(link.take(&mut taken), Some(100));
        assert_eq!(link.queued_bytes(), 100);
        assert_eq!(link.send_raw(1, 0, b""), Err(LinkError::Full));
        taken.clear();
        assert_eq!(link.take(&mut taken), Some(0));
        link.send_raw(1, 0, &[0; 84]).unwrap();
    }
}
