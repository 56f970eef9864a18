//! The connection, or the way to one.

use std::time::Duration;

use proto::{Frame, FrameError};
use tokio::time::{Instant, sleep_until};

use crate::dialer::{DialError, Dialed};
use crate::socket::{FrameReader, FrameWriter};

/// Frames are not queued behind more bytes than this.
const QUEUED_MAX: usize = 256 * 1024;

/// How long one frame may take to come: the largest on a line of 2 KB/s.
const FRAME_MAX: Duration = Duration::from_secs(200);

type Dialing = futures_util::future::BoxFuture<'static, Result<Box<Dialed>, DialError>>;

/// Where the client stands with the server.
pub(super) enum Link {
    /// There is no connection; the next attempt is at this time.
    Down(Instant),
    /// An attempt is under way.
    Dialing(Dialing),
    /// Logged in.
    Up(Online),
}

/// A connection that is logged in.
pub(super) struct Online {
    pub(super) reader: FrameReader,
    pub(super) writer: FrameWriter,
}

/// What happened to a link.
pub(super) enum LinkEvent {
    /// It is time for an attempt.
    Due,
    /// The attempt is over.
    Dialed(Result<Box<Dialed>, DialError>),
    /// A frame came.
    Frame(Frame),
    /// Something was written.
    Wrote,
    /// The connection is gone.
    Lost(String),
}

impl Link {
    /// Waits for the next event. Reads, if `reads`, and writes at the same time: a gateway that waits for
    /// its answers to be read does not read. Cancel-safe.
    pub(super) async fn next(&mut self, reads: bool) -> LinkEvent {
        match self {
            Self::Down(until) => {
                sleep_until(*until).await;
                LinkEvent::Due
            }
            Self::Dialing(dialing) => LinkEvent::Dialed(dialing.await),
            Self::Up(online) => online.next(reads).await,
        }
    }

    /// The writer, if there is a connection and not too much queued on it.
    pub(super) fn writer(&mut self) -> Option<&mut FrameWriter> {
        match self {
            Self::Up(online) if online.writer.queued() < QUEUED_MAX => Some(&mut online.writer),
            _ => None,
        }
    }

    /// Whether a frame is on its way in, whose last bytes came less than `pause` ago. The largest takes
    /// 100 seconds on a line of 4 KB/s.
    pub(super) fn is_reading(&self, now: Instant, pause: Duration) -> bool {
        matches!(self, Self::Up(online) if online.reader.is_reading(now, pause, FRAME_MAX))
    }

    pub(super) const fn is_up(&self) -> bool {
        matches!(self, Self::Up(_))
    }

    pub(super) fn has_room(&self) -> bool {
        matches!(self, Self::Up(online) if online.writer.queued() < QUEUED_MAX)
    }
}

impl Online {
    async fn next(&mut self, reads: bool) -> LinkEvent {
        let is_idle = self.writer.is_idle();
        tokio::select! {
            frame = self.reader.next(), if reads => match frame {
                Ok(Some(frame)) => LinkEvent::Frame(frame),
                Ok(None) => LinkEvent::Lost("the gateway closed the connection".to_owned()),
                Err(FrameError::Io(error)) => LinkEvent::Lost(error.to_string()),
                Err(error) => LinkEvent::Lost(error.to_string()),
            },
            written = self.writer.write_some(), if !is_idle => match written {
                Ok(()) => LinkEvent::Wrote,
                Err(error) => LinkEvent::Lost(error.to_string()),
            },
            else => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket;

    #[test]
    fn a_connection_that_takes_nothing_is_given_no_more_than_so_much() {
        let (near, _far) = tokio::io::duplex(16);
        let (reader, writer) = socket::halves(Box::new(near));
        let mut link = Link::Up(Online { reader, writer });
        link.writer().unwrap().queue(&vec![0; QUEUED_MAX - 1]);
        assert!(link.has_room());
        link.writer().unwrap().queue(&[0]);
        assert!(!link.has_room() && link.writer().is_none());
    }
}
