//! What waits to be written to one client.
//!
//! Frames go out in the order in which they were put here. The task that brings a frame writes it, as
//! long as nothing waits and the socket takes it: delivering to a thousand clients wakes no task.
//! What the socket does not take waits, and the connection's task writes it when it can.
//!
//! # Invariants
//!
//! - Pushes are bounded, for each client and for all together; beyond, the client is closed, since
//!   it would miss something without knowing. A single push is taken whatever its size while nothing
//!   waits.
//! - Answers are never dropped while the connection lives. They are bounded by the connection, which
//!   reads nothing while an answer waits.
//! - Until [`Outbox::release`] no push is written: the first frame that a client gets is the answer
//!   to its login. Pushes beyond the bounds are dropped until then, since the client has yet to ask
//!   what it missed.
//! - After it is ended, no push is taken.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use parking_lot::{Mutex, MutexGuard};
use proto::ids::ClientMsgId;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use crate::client::closing::CloseReason;
use crate::client::frames_told::FramesTold;
use crate::client::traffic::Traffic;
use crate::config::LimitsConfig;
use crate::metrics::GatewayMetrics;

/// Frames given to one write at most.
const SLICES_MAX: usize = 32;

/// What all outboxes share: their limits and their bytes.
#[derive(Debug)]
pub(crate) struct OutboxPool {
    frames_max: u32,
    bytes_max: usize,
    total_max: usize,
    unanswered_max: u32,
    queued: AtomicUsize,
    metrics: GatewayMetrics,
}

impl OutboxPool {
    pub(crate) fn new(limits: &LimitsConfig, metrics: GatewayMetrics) -> Self {
        Self {
            frames_max: limits.outbox_frames_max,
            bytes_max: limits.outbox_bytes_max,
            total_max: limits.outbox_bytes_total_max,
            unanswered_max: limits.unanswered_max,
            queued: AtomicUsize::new(0),
            metrics,
        }
    }

    /// Bytes of pushes that wait, of all clients together.
    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }
}

/// How far the end of a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It goes on.
    Open,
    /// What is in flight is finished first.
    AfterWork(CloseReason),
    /// What waits is written first.
    Polite(CloseReason),
    /// At once.
    Now(CloseReason),
}

/// What the connection's task needs to know of its outbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// How far the end has come.
    pub(crate) ending: Ending,
    /// Whether an answer waits to be written.
    pub(crate) answer_waits: bool,
    /// The last progress in writing, if anything waits.
    pub(crate) blocked_since: Option<Instant>,
    /// Messages from this client that are not answered yet.
    pub(crate) unanswered: u32,
}

/// One client's outbox.
pub(crate) struct Outbox {
    /// The socket of a plain connection, written to by the task that brings a frame.
    socket: Option<OwnedWriteHalf>,
    extended: AtomicBool,
    keeps_tokens: AtomicBool,
    state: Mutex<OutboxState>,
    pool: Arc<OutboxPool>,
}

#[expect(clippy::struct_excessive_bools, reason = "each changes by itself")]
struct OutboxState {
    queue: VecDeque<Item>,
    push_bytes: usize,
    push_frames: u32,
    answers: u32,
    unanswered: u32,
    /// No push is written before the login is answered.
    held: bool,
    /// No push is taken, since one before it is missing.
    pushes_stopped: bool,
    /// The connection has stopped reading for want of room for unanswered messages.
    waits_for_answers: bool,
    /// TLS has taken bytes that may not have reached the socket.
    unflushed: bool,
    ending: Ending,
    /// The frames that were taken, and what was written of them.
    sent: Traffic,
    progress_at: Option<Instant>,
    /// The last frame without a name that was answered.
    last_frame: Option<(ClientMsgId, Instant)>,
    /// The answer to that frame may never be written: it came too late, or was dropped.
    answer_lost: bool,
    /// The last of these frames that was given up: it may be stored, and has no answer.
    given_up: Option<ClientMsgId>,
    /// The connection's task.
    waker: Option<Waker>,
    /// Who waits for the answers to be written.
    written: Option<Waker>,
}

struct Item {
    bytes: Bytes,
    /// 0 for an answer.
    pushes: u32,
}

impl Outbox {
    /// The outbox of a plain connection.
    pub(crate) fn plain(socket: OwnedWriteHalf, pool: Arc<OutboxPool>) -> Self {
        Self::new(Some(socket), pool)
    }

    /// The outbox of a connection whose task alone can write.
    pub(crate) fn queued(pool: Arc<OutboxPool>) -> Self {
        Self::new(None, pool)
    }

    fn new(socket: Option<OwnedWriteHalf>, pool: Arc<OutboxPool>) -> Self {
        let state = OutboxState {
            queue: VecDeque::new(),
            push_bytes: 0,
            push_frames: 0,
            answers: 0,
            unanswered: 0,
            held: false,
            pushes_stopped: false,
            waits_for_answers: false,
            unflushed: false,
            ending: Ending::Open,
            sent: Traffic::default(),
            progress_at: None,
            last_frame: None,
            answer_lost: false,
            given_up: None,
            waker: None,
            written: None,
        };
        let (extended, keeps_tokens) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { socket, extended, keeps_tokens, state: Mutex::new(state), pool }
    }

    /// Whether the client knows the extension.
    pub(crate) fn is_extended(&self) -> bool {
        self.extended.load(Ordering::Relaxed)
    }

    /// The client has said that it knows the extension, and whether it keeps resume tokens.
    pub(crate) fn set_extended(&self, keeps_tokens: bool) {
        self.keeps_tokens.store(keeps_tokens, Ordering::Relaxed);
        self.extended.store(true, Ordering::Relaxed);
    }

    /// Whether the client keeps resume tokens.
    pub(crate) fn keeps_tokens(&self) -> bool {
        self.keeps_tokens.load(Ordering::Relaxed)
    }

    /// Holds all pushes back until [`Self::release`].
    pub(crate) fn hold(&self) {
        self.state.lock().held = true;
    }

    /// Whether the login is not answered yet.
    pub(crate) fn is_held(&self) -> bool {
        self.state.lock().held
    }

    /// Takes something that others cause: `frames` whole frames, joined. Whether it was taken.
    pub(crate) fn push(&self, bytes: &Bytes, frames: u32) -> bool {
        let mut state = self.state.lock();
        if state.ending != Ending::Open || state.pushes_stopped {
            return false;
        }
        let direct = !state.held && state.queue.is_empty() && !state.unflushed;
        let written = match &self.socket {
            Some(socket) if direct => match socket.try_write(bytes) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_gone) => {
                    self.end(state, Ending::Now(CloseReason::ClientReset));
                    return false;
                }
            },
            _ => 0,
        };
        self.pool.metrics.pushes_out.inc_by(u64::from(frames));
        state.sent.frames += u64::from(frames);
        state.sent.bytes += written as u64;
        if written == bytes.len() {
            return true;
        }
        let rest = bytes.slice(written..);
        if !self.has_room(&state, rest.len(), frames) {
            self.pool.metrics.pushes_dropped.inc_by(u64::from(frames));
            if !state.held {
                self.end(state, Ending::Now(CloseReason::SlowReader));
            }
            return false;
        }
        self.pool.queued.fetch_add(rest.len(), Ordering::Relaxed);
        state.push_bytes += rest.len();
        state.push_frames += frames;
        let held = state.held;
        enqueue(&mut state, Item { bytes: rest, pushes: frames });
        if !held {
            wake(state);
        }
        true
    }

    /// Takes no more pushes: one will be missing, and what came after it would hide that. The
    /// connection will be ended.
    pub(crate) fn stop_pushes(&self) {
        self.state.lock().pushes_stopped = true;
    }

    fn has_room(&self, state: &OutboxState, bytes: usize, frames: u32) -> bool {
        let own = state.push_frames == 0
            || (state.push_frames + frames <= self.pool.frames_max
                && state.push_bytes + bytes <= self.pool.bytes_max);
        own && self.pool.queued() + bytes <= self.pool.total_max
    }

    /// Takes the answer to something that this client asked.
    pub(crate) fn answer(&self, bytes: Bytes) {
        self.put_answer(self.state.lock(), bytes);
    }

    fn put_answer(&self, mut state: MutexGuard<'_, OutboxState>, mut bytes: Bytes) {
        if is_over(state.ending) {
            return;
        }
        self.pool.metrics.answers_out.inc();
        state.sent.frames += 1;
        if let Some(socket) = &self.socket
            && state.queue.is_empty()
        {
            match socket.try_write(&bytes) {
                Ok(written) => {
                    state.sent.bytes += written as u64;
                    bytes.advance(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_gone) => return self.end(state, Ending::Now(CloseReason::ClientReset)),
            }
        }
        if !bytes.is_empty() {
            state.answers += 1;
            enqueue(&mut state, Item { bytes, pushes: 0 });
            wake(state);
        }
    }

    /// Waits until every answer is written, or will not be. For one waiter: the work of the
    /// connection, which puts an answer of several frames here one by one. Cancel-safe.
    pub(crate) async fn written(&self) {
        poll_fn(|context| {
            let mut state = self.state.lock();
            if state.answers == 0 || matches!(state.ending, Ending::Now(_)) {
                return Poll::Ready(());
            }
            state.written = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Writes the answer to an accepted login, then what was held back.
    pub(crate) fn release(&self, login_answer: Bytes) {
        let mut state = self.state.lock();
        if is_over(state.ending) {
            return;
        }
        self.pool.metrics.answers_out.inc();
        state.sent.frames += 1;
        state.held = false;
        state.answers += 1;
        state.progress_at = Some(Instant::now());
        state.queue.push_front(Item { bytes: login_answer, pushes: 0 });
        wake(state);
    }

    /// Counts a message that will be answered. Fails if too many are unanswered; then the connection
    /// is woken by the next answer.
    pub(crate) fn begin_send(&self) -> bool {
        let mut state = self.state.lock();
        let room = state.unanswered < self.pool.unanswered_max;
        if room {
            state.unanswered += 1;
        } else {
            state.waits_for_answers = true;
        }
        room
    }

    /// A message was answered, perhaps by silence.
    pub(crate) fn end_send(&self, answer: Option<Bytes>) {
        self.conclude(self.state.lock(), answer);
    }

    /// A frame of a client that repeats frames is answered.
    pub(crate) fn end_frame(&self, id: ClientMsgId, answer: Bytes) {
        let mut state = self.state.lock();
        state.last_frame = Some((id, Instant::now()));
        state.answer_lost = is_over(state.ending);
        self.conclude(state, Some(answer));
    }

    /// A frame of a client that repeats frames is given up: nobody knows whether it is stored.
    pub(crate) fn give_up_frame(&self, id: ClientMsgId) {
        let mut state = self.state.lock();
        state.given_up = Some(id);
        self.conclude(state, None);
    }

    fn conclude(&self, mut state: MutexGuard<'_, OutboxState>, answer: Option<Bytes>) {
        state.unanswered = state.unanswered.saturating_sub(1);
        let woken = std::mem::take(&mut state.waits_for_answers) || state.ending != Ending::Open;
        let waker = if woken { state.waker.take() } else { None };
        if let Some(answer) = answer {
            self.put_answer(state, answer);
        } else {
            drop(state);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What the client was told of such frames.
    pub(crate) fn frames_told(&self) -> FramesTold {
        let state = self.state.lock();
        FramesTold {
            last: state.last_frame,
            written: state.answers == 0 && !state.answer_lost,
            unanswered: state.unanswered > 0,
            given_up: state.given_up,
        }
    }

    /// How much has gone out until now.
    pub(crate) fn sent(&self) -> Traffic {
        self.state.lock().sent
    }

    /// How far the end has come.
    pub(crate) fn ending(&self) -> Ending {
        self.state.lock().ending
    }

    /// Ends the connection at once.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.end(self.state.lock(), Ending::Now(reason));
    }

    /// Ends the connection when what is in flight is finished and written.
    pub(crate) fn close_after_work(&self, reason: CloseReason) {
        self.end(self.state.lock(), Ending::AfterWork(reason));
    }

    /// Ends the connection after what waits, and after `last`.
    pub(crate) fn finish(&self, last: Option<Bytes>, reason: CloseReason) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.held) {
            // Nothing may come before the answer to the login, which will not come.
            self.forget_queue(&mut state);
        }
        if let Some(last) = last {
            self.put_answer(state, last);
            state = self.state.lock();
        }
        self.end(state, Ending::Polite(reason));
    }

    /// The end only ever comes nearer.
    fn end(&self, mut state: MutexGuard<'_, OutboxState>, ending: Ending) {
        if rank(ending) > rank(state.ending) {
            state.ending = ending;
            if matches!(ending, Ending::Now(_)) {
                self.forget_queue(&mut state);
            }
            wake(state);
        }
    }

    fn forget_queue(&self, state: &mut OutboxState) {
        self.pool.queued.fetch_sub(state.push_bytes, Ordering::Relaxed);
        state.answer_lost |= state.answers > 0;
        state.queue = VecDeque::new();
        state.push_bytes = 0;
        state.push_frames = 0;
        state.answers = 0;
        state.progress_at = None;
        wake_written(state);
    }

    /// For the connection's task: writes what the socket takes, and says how things stand. The task
    /// is woken when that changes. `tls` is what a connection without `socket` writes to.
    pub(crate) fn poll_write(
        &self,
        context: &mut Context<'_>,
        mut tls: Option<&mut TlsStream<TcpStream>>,
    ) -> View {
        let mut state = self.state.lock();
        while !matches!(state.ending, Ending::Now(_)) && !state.held {
            let polled = match (&self.socket, tls.as_deref_mut()) {
                _ if state.queue.is_empty() && !state.unflushed => break,
                (Some(socket), _) => poll_plain(socket, &state.queue, context),
                (None, Some(tls)) => poll_tls(tls, &mut state, context),
                (None, None) => break,
            };
            match polled {
                Poll::Ready(Ok(written)) => self.consume(&mut state, written),
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Poll::Ready(Err(_gone)) => {
                    state.ending = Ending::Now(CloseReason::ClientReset);
                    self.forget_queue(&mut state);
                }
                Poll::Pending => break,
            }
        }
        match &mut state.waker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            waker => *waker = Some(context.waker().clone()),
        }
        View {
            ending: state.ending,
            answer_waits: state.answers > 0,
            blocked_since: state.progress_at.filter(|_at| !state.held),
            unanswered: state.unanswered,
        }
    }

    fn consume(&self, state: &mut OutboxState, mut written: usize) {
        state.sent.bytes += written as u64;
        while let Some(item) = state.queue.front_mut() {
            let taken = written.min(item.bytes.len());
            item.bytes.advance(taken);
            written -= taken;
            if item.pushes > 0 {
                state.push_bytes -= taken;
                self.pool.queued.fetch_sub(taken, Ordering::Relaxed);
            }
            if !item.bytes.is_empty() {
                break;
            }
            if item.pushes > 0 {
                state.push_frames -= item.pushes;
            } else {
                state.answers -= 1;
                if state.answers == 0 {
                    wake_written(state);
                }
            }
            state.queue.pop_front();
        }
        if state.queue.is_empty() {
            // Most clients are idle most of the time: they get to keep no memory here.
            state.queue = VecDeque::new();
        }
        let waits = !state.queue.is_empty() || state.unflushed;
        state.progress_at = waits.then(Instant::now);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        self.pool.queued.fetch_sub(state.push_bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

/// Whether no more answers are taken.
const fn is_over(ending: Ending) -> bool {
    matches!(ending, Ending::Polite(_) | Ending::Now(_))
}

fn rank(ending: Ending) -> u8 {
    match ending {
        Ending::Open => 0,
        Ending::AfterWork(_) => 1,
        Ending::Polite(_) => 2,
        Ending::Now(_) => 3,
    }
}

fn enqueue(state: &mut OutboxState, item: Item) {
    if state.queue.is_empty() {
        state.progress_at = Some(Instant::now());
    }
    state.queue.push_back(item);
}

/// Wakes the future that waits for the answers to be written. The connection's task polls it, and is
/// running now.
fn wake_written(state: &mut OutboxState) {
    if let Some(waker) = state.written.take() {
        waker.wake();
    }
}

/// Wakes the connection's task, after giving back the lock that it will want.
fn wake(mut state: MutexGuard<'_, OutboxState>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn slices<'a>(queue: &'a VecDeque<Item>, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
    let filled = slices.iter_mut().zip(queue);
    filled.map(|(slice, item)| *slice = IoSlice::new(&item.bytes)).count()
}

fn poll_plain(
    socket: &OwnedWriteHalf,
    queue: &VecDeque<Item>,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    std::task::ready!(socket.as_ref().poll_write_ready(context))?;
    let mut together = [IoSlice::new(&[]); SLICES_MAX];
    let count = slices(queue, &mut together);
    Poll::Ready(socket.try_write_vectored(together.get(..count).unwrap_or_default()))
}

fn poll_tls(
    tls: &mut TlsStream<TcpStream>,
    state: &mut OutboxState,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut tls = Pin::new(tls);
    if state.queue.is_empty() {
        std::task::ready!(tls.as_mut().poll_flush(context))?;
        state.unflushed = false;
        return Poll::Ready(Ok(0));
    }
    let mut together = [IoSlice::new(&[]); SLICES_MAX];
    let count = slices(&state.queue, &mut together);
    let together = together.get(..count).unwrap_or_default();
    let written = std::task::ready!(tls.as_mut().poll_write_vectored(context, together))?;
    state.unflushed = true;
    Poll::Ready(Ok(written))
}

#[cfg(test)]
mod tests;
