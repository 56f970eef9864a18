//! One link while it is up: a task that reads and one that writes.
//!
//! The reader calls the handler; the writer takes whatever is queued and writes it in one go, so
//! the more there is to do, the fewer system calls each frame costs.

use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{Span, error};

use crate::shutdown::Shutdown;

use super::frame::{self, FRAME_LEN_MAX};
use super::handle::Link;
use super::handler::LinkHandler;
use super::identity::{Identity, Peer};
use super::metrics::RoleMetrics;
use super::options::LinkOptions;

/// What is read at once. A longer frame makes the buffer grow, for as long as it takes.
const READ_LEN: usize = 64 << 10;
/// A buffer that has grown beyond this is given back once it is empty.
const READ_SPARE_LEN_MAX: usize = 256 << 10;
/// How long the last words may take: what was queued when the link was closed in good order.
const LAST_WRITE_LIMIT: Duration = Duration::from_secs(1);
/// Silence is looked for this often in the time after which it means death.
const LOOKS: u32 = 10;

/// Our end of links: everything that does not change from one to the next.
pub(super) struct End {
    pub(super) identity: Identity,
    pub(super) handler: Arc<dyn LinkHandler>,
    pub(super) options: LinkOptions,
    pub(super) shutdown: Shutdown,
}

/// A connected socket after its handshake.
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why a link went down.
#[derive(Debug)]
pub(super) enum Ended {
    /// We closed it in good order.
    Closed,
    ByPeer,
    Silent,
    Reset(&'static str),
    Malformed,
    Panicked,
    Io(io::Error),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::ByPeer => f.write_str("closed by the peer"),
            Self::Silent => f.write_str("the peer is silent"),
            Self::Reset(why) => f.write_str(why),
            Self::Malformed => f.write_str("the peer sent what is no frame"),
            Self::Panicked => f.write_str("a handler has panicked"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

/// Serves one link until it goes down or `until` is cancelled.
pub(super) async fn run(socket: Socket, peer: Peer, end: &End, until: CancellationToken) -> Ended {
    match socket {
        Socket::Plain(socket) => {
            let (reader, writer) = socket.into_split();
            serve(reader, writer, peer, end, until).await
        }
        Socket::Tls(socket) => {
            let (reader, writer) = tokio::io::split(*socket);
            serve(reader, writer, peer, end, until).await
        }
    }
}

/// As [`run`], for any two halves.
pub(super) async fn serve<R, W>(
    reader: R,
    writer: W,
    peer: Peer,
    end: &End,
    until: CancellationToken,
) -> Ended
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let metrics = end.options.metrics.of(peer.role);
    let link = Link::new(peer, end.options.queue_bytes_max, metrics.clone());
    metrics.opened.inc();
    metrics.up.inc();
    let writing = Writer::new(link.clone(), writer, &end.options);
    end.shutdown.spawn_link(Span::current(), writing.run());

    let handler = end.handler.as_ref();
    let reading = async {
        handler.up(&link);
        read_frames(&link, reader, end, until).await
    };
    // A handler that panics costs its link, and nothing else.
    let ended = AssertUnwindSafe(reading).catch_unwind().await.unwrap_or(Ended::Panicked);

    link.close();
    if !matches!(ended, Ended::Closed) {
        link.abort();
    }
    link.fail_calls();
    if panic::catch_unwind(AssertUnwindSafe(|| handler.down(&link))).is_err() {
        error!(?link, "the handler has panicked when told that a link is down");
    }
    metrics.up.dec();
    ended
}

/// An interval that does not make up for what it has missed, and does not begin at once.
fn ticks(period: Duration) -> Interval {
    let period = period.max(Duration::from_millis(1));
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn read_frames<R: AsyncRead + Unpin>(
    link: &Link,
    mut reader: R,
    end: &End,
    until: CancellationToken,
) -> Ended {
    let mut buffer = BytesMut::with_capacity(READ_LEN);
    let mut looks = ticks(end.options.dead_after / LOOKS);
    let mut silent_looks = 0;
    loop {
        make_room(&mut buffer);
        tokio::select! {
            // In this order: stop; then read; and only if there was nothing to read, silence.
            biased;

            () = until.cancelled() => return Ended::Closed,
            () = link.resetting() => return Ended::Reset(link.reset_reason()),
            read = reader.read_buf(&mut buffer) => match read {
                Ok(0) => return Ended::ByPeer,
                Ok(len) => {
                    silent_looks = 0;
                    link.metrics().bytes_in.inc_by(len as u64);
                }
                Err(error) => return Ended::Io(error),
            },
            _look = looks.tick() => {
                silent_looks += 1;
                if silent_looks >= LOOKS {
                    link.metrics().dead.inc();
                    return Ended::Silent;
                }
                continue;
            }
        }
        if hand_over(link, &mut buffer, end.handler.as_ref()).is_err() {
            return Ended::Malformed;
        }
    }
}

/// Keeps what was read and makes room for more. Frames that a handler holds on to keep their buffer
/// alive; then this takes a new one.
fn make_room(buffer: &mut BytesMut) {
    if buffer.is_empty() && buffer.capacity() > READ_SPARE_LEN_MAX {
        *buffer = BytesMut::with_capacity(READ_LEN);
    } else if buffer.capacity() - buffer.len() < READ_LEN / 4 {
        buffer.reserve(READ_LEN);
    }
}

/// Gives every whole frame to the caller or handler that it is for.
fn hand_over(
    link: &Link,
    buffer: &mut BytesMut,
    handler: &dyn LinkHandler,
) -> Result<(), frame::WrongLength> {
    let (mut frames, mut handed) = (0, 0);
    let rest = loop {
        match frame::split(buffer, FRAME_LEN_MAX) {
            Ok(Some(frame)) => {
                frames += 1;
                if let Some(frame) = link.sort(frame) {
                    handed += 1;
                    handler.frame(link, frame);
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    link.metrics().frames_in.inc_by(frames);
    if handed > 0 {
        handler.batch_end(link);
    }
    rest
}

/// The task that writes.
struct Writer<W> {
    link: Link,
    socket: W,
    looks: Interval,
    silent_looks_max: u32,
    stalled_looks_max: u32,
    queued: Queued,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    fn new(link: Link, socket: W, options: &LinkOptions) -> Self {
        let look = (options.keep_alive / 2).max(Duration::from_millis(1));
        let stalled = options.dead_after.as_millis().div_ceil(look.as_millis());
        Self {
            queued: Queued { metrics: link.metrics().clone(), shown: 0 },
            link,
            socket,
            looks: ticks(look),
            silent_looks_max: 2,
            stalled_looks_max: u32::try_from(stalled).unwrap_or(u32::MAX),
        }
    }

    async fn run(mut self) {
        if let Err(why) = self.write_frames().await {
            // The reader ends with this reason, unless it has ended already with a better one.
            self.link.break_off(why);
        }
    }

    async fn write_frames(&mut self) -> Result<(), &'static str> {
        let mut frames = Vec::new();
        let mut silent_looks = 0;
        loop {
            match self.link.take(&mut frames) {
                None => return self.finish().await,
                Some(0) => tokio::select! {
                    () = self.link.resetting() => return Ok(()),
                    () = self.link.queued() => {}
                    _look = self.looks.tick() => {
                        self.queued.show(0);
                        silent_looks += 1;
                        if silent_looks >= self.silent_looks_max {
                            self.link.ping();
                        }
                    }
                },
                Some(_) => {
                    self.write(&frames).await?;
                    frames.clear();
                    silent_looks = 0;
                }
            }
        }
    }

    /// Writes all of `bytes`, as long as the peer takes something now and then.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let mut rest = bytes;
        let mut stalled_looks = 0;
        loop {
            let step = async {
                if rest.is_empty() {
                    // For TLS: what it has not been able to write yet.
                    self.socket.flush().await.map(|()| 0)
                } else {
                    self.socket.write(rest).await
                }
            };
            tokio::select! {
                // Writing first: as long as it goes on, nothing else is looked at.
                biased;

                written = step => match (written, rest.is_empty()) {
                    (Ok(_), true) => return Ok(()),
                    (Ok(0), false) | (Err(_), _) => return Err("the peer has gone"),
                    (Ok(len), false) => {
                        rest = rest.get(len..).unwrap_or_default();
                        stalled_looks = 0;
                        self.link.metrics().bytes_out.inc_by(len as u64);
                    }
                },
                () = self.link.resetting() => return Err("reset"),
                _look = self.looks.tick() => {
                    self.queued.show(self.link.queued_bytes());
                    stalled_looks += 1;
                    if stalled_looks >= self.stalled_looks_max {
                        self.link.metrics().dead.inc();
                        return Err("the peer takes nothing");
                    }
                }
            }
        }
    }

    /// Everything has been written: says so to the peer.
    async fn finish(&mut self) -> Result<(), &'static str> {
        match timeout(LAST_WRITE_LIMIT, self.socket.shutdown()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err("the peer has gone"),
        }
    }
}

/// This link's share in the gauge of queued bytes.
struct Queued {
    metrics: RoleMetrics,
    shown: i64,
}

impl Queued {
    fn show(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if bytes != self.shown {
            self.metrics.queued_bytes.inc_by(bytes - self.shown);
            self.shown = bytes;
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.show(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_a_long_frame_has_made_large_is_given_back_once_it_is_empty() {
        let spare = 256 << 10;
        let mut buffer = BytesMut::with_capacity(spare);
        make_room(&mut buffer);
        assert_eq!(buffer.capacity(), spare, "it may stay");

        let mut buffer = BytesMut::with_capacity(spare + 1);
        buffer.extend_from_slice(b"x");
        make_room(&mut buffer);
        assert!(buffer.capacity() > spare, "something is in it");
        assert_eq!(&buffer[..], b"x");
        buffer.clear();
        make_room(&mut buffer);
        assert_eq!(buffer.capacity(), READ_LEN);
    }
}
