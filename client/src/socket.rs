//! The two halves of a connection as frames: reading and writing, each on its own.
//!
//! Both halves must be served at the same time by whoever sends more than a little: a gateway that
//! waits for its answers to be read does not read requests meanwhile.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use proto::frame::{self, Frame, FrameError};
use proto::limits::LIMIT_AFTER_LOGIN;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::tls::TlsConfig;

/// Anything that bytes can be read from and written to: TCP, TLS, or a pipe in a test.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for T {}

/// The reading half of a connection.
pub struct FrameReader {
    socket: ReadHalf<Box<dyn Socket>>,
    buffer: BytesMut,
    /// When the first and the last bytes came of a frame that is not whole yet.
    coming: Option<(Instant, Instant)>,
}

/// The writing half of a connection.
///
/// Frames are queued without waiting and written by [`FrameWriter::write_some`] or
/// [`FrameWriter::flush`]. The queue has no bound of its own: whoever queues looks at
/// [`FrameWriter::queued`].
pub struct FrameWriter {
    socket: WriteHalf<Box<dyn Socket>>,
    buffer: BytesMut,
    /// Bytes went to the socket since it was flushed last; TLS may still hold them.
    is_dirty: bool,
}

/// Takes `socket` apart.
pub(crate) fn halves(socket: Box<dyn Socket>) -> (FrameReader, FrameWriter) {
    let (reader, writer) = tokio::io::split(socket);
    let reader = FrameReader { socket: reader, buffer: BytesMut::new(), coming: None };
    let writer = FrameWriter { socket: writer, buffer: BytesMut::new(), is_dirty: false };
    (reader, writer)
}

/// Connects to `addr`, which is `host:port`, and shakes hands if `tls` says how.
pub(crate) async fn connect(addr: &str, tls: Option<&TlsConfig>) -> io::Result<Box<dyn Socket>> {
    let socket = TcpStream::connect(addr).await?;
    socket.set_nodelay(true)?;
    match tls {
        None => Ok(Box::new(socket)),
        Some(tls) => Ok(Box::new(tls.shake(host_of(addr), socket).await?)),
    }
}

/// The host in `host:port`, without the brackets of an IPv6 address.
fn host_of(addr: &str) -> &str {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _port)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

impl FrameReader {
    /// Waits for the next frame; `None` once the peer has closed. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = frame::decode(&mut self.buffer, LIMIT_AFTER_LOGIN)? {
                let rest = self.coming.filter(|_times| !self.buffer.is_empty());
                self.coming = rest.map(|(_began, last)| (last, last));
                return Ok(Some(frame));
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
                };
            }
            let now = Instant::now();
            self.coming = Some((self.coming.map_or(now, |(began, _last)| began), now));
        }
    }

    /// Whether a frame is on its way in: its last bytes came less than `pause` ago, its first ones less
    /// than `whole`.
    pub(crate) fn is_reading(&self, now: Instant, pause: Duration, whole: Duration) -> bool {
        self.coming.is_some_and(|(began, last)| now < last + pause && now < began + whole)
    }
}

impl FrameWriter {
    /// Queues bytes, normally a whole encoded frame, behind what is queued already.
    pub fn queue(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns how many bytes are queued.
    pub fn queued(&self) -> usize {
        self.buffer.len()
    }

    /// Returns whether everything queued has reached the operating system.
    pub fn is_idle(&self) -> bool {
        self.buffer.is_empty() && !self.is_dirty
    }

    /// Takes one step: writes what the socket takes at once, or flushes it. Cancel-safe.
    pub async fn write_some(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            self.socket.flush().await?;
            self.is_dirty = false;
            return Ok(());
        }
        self.is_dirty = true;
        match self.socket.write_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            _ => Ok(()),
        }
    }

    /// Writes everything that is queued.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.is_idle() {
            self.write_some().await?;
        }
        Ok(())
    }

    /// Tells the peer that nothing more will come.
    pub async fn shut_down(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.socket.shutdown().await
    }
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameWriter").field("queued", &self.buffer.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_what_stands_before_the_port() {
        assert_eq!(host_of("im.example.org:8000"), "im.example.org");
        assert_eq!(host_of("127.0.0.1:8000"), "127.0.0.1");
        assert_eq!(host_of("[::1]:8000"), "::1");
    }
}
