//! One client's socket, from accept to close.
//!
//! A connection is a task that waits for four things at once: something to read, room to write what
//! waits in its outbox, the end of the request that it works on, and time. It reads a frame only
//! when it can serve it: no request is being worked on, no answer waits to be written, and no limit
//! says "later". So a client that asks faster than we answer is slowed down by TCP.
//!
//! # Why it polls by hand
//!
//! A `select!` waits for several futures that do not need each other. Here all of them need the whole
//! connection: with TLS reading and writing go through one stream, an answer that was written decides
//! whether the next frame is read, and a frame that was served decides what is waited for. So every
//! wake-up takes the same steps in the same order: write, look whether it is the end, go on with the
//! request, serve or read one frame, look at the time. The five limits of time share one timer, and an
//! idle connection holds no future beside it.
//!
//! # What bounds it
//!
//! - Memory: what was read and not served yet, at most one frame and one read; the outbox; one
//!   request. An idle connection keeps no buffer: reading goes through one of the thread's.
//! - Time: the login, a frame that was begun ([`Partial`]), silence, and writing without progress, each
//!   with a limit of its own. While a frame comes, its sender is not silent.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use daemon::places::Place;
use proto::client::ClientType;
use proto::limits::{LIMIT_AFTER_LOGIN, LIMIT_BEFORE_LOGIN};
use proto::{Frame, FrameError, State, frame};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;
use tracing::{debug, info};

use crate::client::closing::CloseReason;
use crate::client::connections::Entry;
use crate::client::counted::Counted;
use crate::client::outbox::{Ending, Outbox, View};
use crate::client::partial::Partial;
use crate::client::traffic::Traffic;
use crate::commands::client_commands::{ClientCommands, Served, Work};
use crate::gateway::Gateway;
use crate::parts::Parts;
use crate::sessions::session::Login;

/// Under this name operators choose the lines of sessions in `process.log_level`: it stays the same,
/// wherever this file is.
const SESSIONS_TARGET: &str = "msg_server::connection";

/// Bytes read at once.
const READ_LEN: usize = 32 << 10;

/// How long a client that was told goodbye gets to close first.
const LINGER: Duration = Duration::from_millis(200);

/// Bytes of a frame that is too long which are read so that its client gets the answer. What is longer
/// than that is no mistake of a client.
const SKIPPED_MAX: usize = 16 << 20;

/// How long work in flight may take when the gateway stops.
const WORK_LIMIT: Duration = Duration::from_secs(8);

/// Frames served before others get their turn.
const TURNS_MAX: u32 = 64;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_LEN]);
}

/// Where a client's bytes come from.
#[derive(Debug)]
pub(crate) enum Reader {
    /// Writing goes past the connection, through the outbox.
    Plain(OwnedReadHalf),
    /// The connection alone writes.
    Tls(Box<TlsStream<TcpStream>>),
}

/// One client's connection.
pub(crate) struct Connection {
    parts: Arc<Parts>,
    outbox: Arc<Outbox>,
    reader: Reader,
    /// What was read and is not a whole frame yet, or is not served yet.
    buffer: BytesMut,
    received: Traffic,
    commands: ClientCommands,
    work: Option<Work>,
    /// A frame that cannot be served yet.
    stalled: Option<Box<Stalled>>,
    opened_at: Instant,
    frame_at: Instant,
    partial: Option<Partial>,
    ending_since: Option<Instant>,
    /// Since the end has begun, everything that was read has been served.
    all_served: bool,
    /// Bytes of a refused frame that are still to come.
    to_skip: usize,
    /// Given up before the login if others need it.
    place: Place,
    counted: Counted,
    _entry: Entry,
}

/// A connection as it was accepted.
pub(crate) struct Accepted {
    /// Among those that are open.
    pub(crate) counted: Counted,
    /// Where the client is.
    pub(crate) address: IpAddr,
    /// Its place among those that have not logged in.
    pub(crate) place: Place,
}

struct Stalled {
    frame: Frame,
    /// When to try again, if nothing wakes us before.
    until: Instant,
}

/// When something must happen.
struct Deadline {
    at: Instant,
    /// Why the connection ends then; `None` if it is only looked at again.
    reason: Option<CloseReason>,
}

impl Deadline {
    fn end(at: Instant, reason: CloseReason) -> Self {
        Self { at, reason: Some(reason) }
    }

    fn look(at: Instant) -> Self {
        Self { at, reason: None }
    }
}

impl Connection {
    /// A connection that has just been accepted.
    pub(crate) fn enter(
        gateway: &Arc<Gateway>,
        outbox: Outbox,
        reader: Reader,
        Accepted { counted, address, place }: Accepted,
    ) -> Box<Self> {
        let outbox = Arc::new(outbox);
        let leaving = Arc::clone(&outbox);
        place.when_told(move || leaving.close(CloseReason::MadeWay));
        let opened_at = Instant::now();
        Box::new(Self {
            commands: ClientCommands::new(Arc::clone(gateway), Arc::clone(&outbox), address),
            _entry: gateway.parts.connections.enter(&outbox),
            parts: Arc::clone(&gateway.parts),
            outbox,
            reader,
            buffer: BytesMut::new(),
            received: Traffic::default(),
            work: None,
            stalled: None,
            opened_at,
            frame_at: opened_at,
            partial: None,
            ending_since: None,
            all_served: false,
            to_skip: 0,
            place,
            counted,
        })
    }

    /// Serves the client until the connection ends.
    pub(crate) async fn run(&mut self) {
        let mut timer = pin!(sleep_until(self.opened_at + self.parts.limits.login_limit()));
        let reason = poll_fn(|context| self.poll(context, timer.as_mut())).await;
        self.counted.close(reason);
        self.log_end(reason);

        // From here on the session cannot be found.
        self.work = None;
        self.commands.leave(reason);
        if matches!(self.outbox.ending(), Ending::Polite(_)) {
            // Unread bytes would make the kernel reset the connection, and the client might never
            // read what it was told. And a client that is told to go closes first if it can.
            self.buffer = BytesMut::new();
            let to_skip = std::mem::take(&mut self.to_skip);
            if to_skip > 0 {
                // The client may read nothing before it has written the whole frame.
                let until = Instant::now() + self.parts.limits.partial_frame_limit();
                self.discard(to_skip, until, timer.as_mut()).await;
            }
            self.discard(usize::MAX, Instant::now() + LINGER, timer.as_mut()).await;
        }
    }

    /// One line for each session, with everything that was counted of it. Strangers, who may come and go
    /// as often as they like, cause none.
    fn log_end(&self, reason: CloseReason) {
        let Some(Login { user, client_type, .. }) = self.commands.login() else { return };
        let known =
            i32::try_from(client_type).ok().and_then(|kind| ClientType::try_from(kind).ok());
        let client = known.map_or_else(|| client_type.to_string(), |known| format!("{known:?}"));
        let (received, sent) = (self.received, self.outbox.sent());
        info!(
            target: SESSIONS_TARGET,
            user = user.0,
            client,
            seconds = self.opened_at.elapsed().as_secs(),
            frames_in = received.frames,
            bytes_in = received.bytes,
            frames_out = sent.frames,
            bytes_out = sent.bytes,
            // As in the metric.
            ?reason,
            "session ended"
        );
    }

    /// Reads so many bytes without looking at them, until a moment or until the client closes.
    async fn discard(&mut self, mut bytes: usize, until: Instant, mut timer: Pin<&mut Sleep>) {
        timer.as_mut().reset(until);
        poll_fn(|context| {
            let done = self.poll_discard(context, &mut bytes);
            if done.is_ready() { done } else { timer.as_mut().poll(context) }
        })
        .await;
    }

    /// Does what can be done now. Ready when the connection ends.
    fn poll(&mut self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<CloseReason> {
        for _turn in 0..TURNS_MAX {
            let view = self.poll_outbox(context);
            if let Some(reason) = self.end(&view) {
                return Poll::Ready(reason);
            }
            if self.poll_work(context) {
                continue;
            }
            match self.poll_serve(context, &view) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(reason)) => {
                    self.outbox.close(reason);
                    return Poll::Ready(reason);
                }
                Poll::Pending => {}
            }
            let Deadline { at: deadline, reason } = self.deadline(&view);
            let now = Instant::now();
            if deadline <= now {
                match reason {
                    Some(reason) => {
                        self.outbox.close(reason);
                        return Poll::Ready(reason);
                    }
                    None => continue,
                }
            }
            // A deadline that has moved away is noticed when the old one comes.
            if deadline < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_outbox(&mut self, context: &mut Context<'_>) -> View {
        let tls = match &mut self.reader {
            Reader::Plain(_) => None,
            Reader::Tls(stream) => Some(stream.as_mut()),
        };
        self.outbox.poll_write(context, tls)
    }

    /// Whether, and why, the connection is at its end.
    fn end(&mut self, view: &View) -> Option<CloseReason> {
        match view.ending {
            Ending::Open => None,
            Ending::Now(reason) => Some(reason),
            Ending::Polite(reason) => view.blocked_since.is_none().then_some(reason),
            Ending::AfterWork(reason) => {
                let since = *self.ending_since.get_or_insert_with(Instant::now);
                let works = self.work.is_some() || view.unanswered > 0 || !self.all_served;
                if !works || since.elapsed() >= WORK_LIMIT {
                    self.work = None;
                    self.outbox.finish(None, reason);
                    return view.blocked_since.is_none().then_some(reason);
                }
                None
            }
        }
    }

    /// Whether the work has ended.
    fn poll_work(&mut self, context: &mut Context<'_>) -> bool {
        let Some(work) = &mut self.work else { return false };
        let Poll::Ready(entered) = work.as_mut().poll(context) else { return false };
        self.work = None;
        if let Some(entered) = entered {
            self.commands.entered(entered);
        }
        true
    }

    fn can_serve(&self, view: &View) -> bool {
        let goes_on = matches!(view.ending, Ending::Open | Ending::AfterWork(_));
        self.work.is_none() && !view.answer_waits && goes_on
    }

    /// Serves one frame, or reads. Ready if anything was done.
    fn poll_serve(
        &mut self,
        context: &mut Context<'_>,
        view: &View,
    ) -> Poll<Result<(), CloseReason>> {
        if !self.can_serve(view) {
            // The gateway does not read: a frame that was begun cannot be finished meanwhile.
            self.partial = None;
            let logs_in = self.work.is_some() && self.commands.class().is_none();
            if logs_in && self.buffer.is_empty() && view.ending == Ending::Open {
                // A client that has gone must not throw out its own newer session elsewhere.
                return self.poll_read(context);
            }
            return Poll::Pending;
        }
        if let Some(stalled) = self.stalled.take() {
            return self.serve(stalled.frame);
        }
        if self.to_skip > 0 {
            // Nothing more is served.
            let news = !std::mem::replace(&mut self.all_served, true);
            return if news { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let limit = match self.commands.state() {
            State::Any => LIMIT_BEFORE_LOGIN,
            State::LoggedIn => LIMIT_AFTER_LOGIN,
        };
        match frame::decode(&mut self.buffer, limit) {
            Ok(Some(frame)) => {
                if self.buffer.is_empty() {
                    self.buffer = BytesMut::new();
                }
                self.partial = None;
                self.frame_at = Instant::now();
                self.parts.metrics.frames_in.inc();
                self.received.frames += 1;
                self.serve(frame)
            }
            // What was read is served to the last; nothing more is read.
            Ok(None) if view.ending != Ending::Open => {
                let news = !std::mem::replace(&mut self.all_served, true);
                if news { Poll::Ready(Ok(())) } else { Poll::Pending }
            }
            Ok(None) => {
                if !self.buffer.is_empty() {
                    self.partial.get_or_insert_with(|| Partial::begin(Instant::now()));
                }
                self.poll_read(context)
            }
            Err(error) => Poll::Ready(self.refuse(&error)),
        }
    }

    /// What has come is not a frame, or one above its command's limit. Nobody knows where the next
    /// one begins, so the connection ends; a client that knows an answer which says so gets it first.
    fn refuse(&mut self, error: &FrameError) -> Result<(), CloseReason> {
        self.parts.metrics.malformed.inc();
        debug!(%error, "not a frame");
        let FrameError::TooLong { command, seq, len, .. } = *error else {
            return Err(CloseReason::ProtocolError);
        };
        if !self.commands.too_long(command, seq) {
            return Err(CloseReason::TooLong);
        }
        self.to_skip = len.saturating_sub(self.buffer.len()).min(SKIPPED_MAX);
        self.buffer = BytesMut::new();
        self.partial = None;
        self.outbox.close_after_work(CloseReason::TooLong);
        Ok(())
    }

    fn serve(&mut self, frame: Frame) -> Poll<Result<(), CloseReason>> {
        match self.commands.serve(frame) {
            Served::Done => Poll::Ready(Ok(())),
            Served::Work(work) => {
                if self.commands.class().is_none() {
                    // It logs in: from here on it is worth its place.
                    self.place.settle();
                }
                self.work = Some(work);
                Poll::Ready(Ok(()))
            }
            Served::Later(frame, wait) => {
                self.stalled = Some(Box::new(Stalled { frame, until: Instant::now() + wait }));
                Poll::Pending
            }
            Served::Close(reason) => Poll::Ready(Err(reason)),
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let Self { reader, buffer, .. } = self;
        let read = SCRATCH.with_borrow_mut(|scratch| {
            let read = std::task::ready!(reader.poll_read(context, scratch))?;
            buffer.extend_from_slice(read);
            Poll::Ready(Ok::<_, io::Error>(read.len()))
        });
        match std::task::ready!(read) {
            Ok(0) => Poll::Ready(Err(CloseReason::ClientLeft)),
            Ok(read) => {
                self.received.bytes += read as u64;
                if let Some(partial) = &mut self.partial {
                    partial.progress(Instant::now());
                }
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                debug!(%error, "cannot read");
                Poll::Ready(Err(CloseReason::ClientReset))
            }
        }
    }

    /// Reads without looking, until the client closes or so many bytes have come.
    fn poll_discard(&mut self, context: &mut Context<'_>, bytes: &mut usize) -> Poll<()> {
        while *bytes > 0 {
            let reader = &mut self.reader;
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let read = std::task::ready!(reader.poll_read(context, scratch))?;
                Poll::Ready(Ok::<_, io::Error>(read.len()))
            });
            match std::task::ready!(read) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(discarded) => *bytes = bytes.saturating_sub(discarded),
            }
        }
        Poll::Ready(())
    }

    /// When something must happen next.
    fn deadline(&self, view: &View) -> Deadline {
        let limits = &self.parts.limits;
        let quiet = match self.commands.class() {
            None => {
                Deadline::end(self.opened_at + limits.login_limit(), CloseReason::LoginTimedOut)
            }
            Some(class) => {
                Deadline::end(self.frame_at + limits.idle_limit(class), CloseReason::Idle)
            }
        };
        let logged_in = self.commands.class().is_some();
        let partial = self.partial.map(|partial| {
            let deadline = partial.deadline(&self.buffer, limits, logged_in);
            Deadline::end(deadline, CloseReason::PartialFrame)
        });
        let blocked = view
            .blocked_since
            .map(|since| Deadline::end(since + limits.write_limit(), CloseReason::SlowReader));
        let stalled = self.stalled.as_ref().filter(|_stalled| self.can_serve(view));
        let stalled = stalled.map(|stalled| Deadline::look(stalled.until));
        let finishing = matches!(view.ending, Ending::AfterWork(_));
        let ending = self.ending_since.filter(|_since| finishing);
        let ending = ending.map(|since| Deadline::look(since + WORK_LIMIT));
        // Work has limits of its own, and a client that waits for our answer is not silent; nor is one whose
        // frame is coming, which has a limit as well.
        let quiet = if logged_in && (self.work.is_some() || partial.is_some()) {
            Deadline::look(Instant::now() + WORK_LIMIT)
        } else {
            quiet
        };
        let others = [partial, blocked, stalled, ending];
        others.into_iter().flatten().fold(
            quiet,
            |first, other| {
                if other.at < first.at { other } else { first }
            },
        )
    }
}

impl Reader {
    fn poll_read<'a>(
        &mut self,
        context: &mut Context<'_>,
        scratch: &'a mut [u8],
    ) -> Poll<io::Result<&'a [u8]>> {
        let mut read = ReadBuf::new(scratch);
        std::task::ready!(match self {
            Self::Plain(half) => Pin::new(half).poll_read(context, &mut read),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, &mut read),
        })?;
        let len = read.filled().len();
        Poll::Ready(Ok(scratch.get(..len).unwrap_or_default()))
    }
}
