//! The two halves of a connection as frames: reading and writing, each on its own.
//!
//! A caller that sends more than a little must serve both halves at the same time: a gateway that
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
/// [`FrameWriter::flush`]. The queue has no bound of its own: the caller bounds it by looking at
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

    fn frame(body: &'static [u8]) -> Vec<u8> {
        Frame { command: 0x0301, seq: 1, body: body.into() }.encode().to_vec()
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_a_frame_is_an_error_and_between_two_it_is_none() {
        let whole = frame(b"body");
        for cut in 0..=whole.len() {
            let (near, mut far) = tokio::io::duplex(1024);
            let (mut reader, _writer) = halves(Box::new(near));
            far.write_all(&whole[..cut]).await.unwrap();
            drop(far);
            let first = reader.next().await;
            match cut {
                0 => assert!(matches!(first, Ok(None)), "{first:?}"),
                _ if cut < whole.len() => assert!(
                    matches!(&first, Err(FrameError::Io(error))
                        if error.kind() == io::ErrorKind::UnexpectedEof),
                    "{cut}: {first:?}"
                ),
                _ => {
                    assert_eq!(first.unwrap().unwrap().body, "body");
                    assert!(matches!(reader.next().await, Ok(None)));
                }
            }
        }
    }

    /// Time stands still but for the test.
    #[tokio::test(start_paused = true)]
    async fn a_frame_is_on_its_way_in_as_long_as_its_bytes_come() {
        let (near, mut far) = tokio::io::duplex(1024);
        let (mut reader, _writer) = halves(Box::new(near));
        let (pause, whole) = (Duration::from_secs(10), Duration::from_secs(25));
        let is_reading = |reader: &FrameReader| reader.is_reading(Instant::now(), pause, whole);
        assert!(!is_reading(&reader), "nothing has come");
        let bytes = [frame(b"one"), frame(b"two")].concat();
        let mut sent = 0;
        let mut come = async |reader: &mut FrameReader, len: usize| {
            far.write_all(&bytes[sent..sent + len]).await.unwrap();
            sent += len;
            // It takes what is there, and then waits.
            futures_util::poll!(std::pin::pin!(reader.next())).map(|frame| frame.unwrap().unwrap())
        };
        for _byte in 0..2 {
            assert!(come(&mut reader, 1).await.is_pending());
            tokio::time::advance(Duration::from_millis(9_999)).await;
            assert!(is_reading(&reader));
        }
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!is_reading(&reader), "ten seconds without a byte");
        assert!(come(&mut reader, 1).await.is_pending());
        assert!(is_reading(&reader), "it goes on");
        tokio::time::advance(Duration::from_millis(5_001)).await;
        assert!(!is_reading(&reader), "25 seconds for one frame");

        // The rest, and a part of the next: that has begun only with it.
        let rest = frame(b"one").len() - 3;
        assert!(come(&mut reader, rest + 1).await.is_ready());
        assert!(is_reading(&reader));
        let left = bytes.len() - rest - 4;
        assert!(come(&mut reader, left).await.is_ready());
        assert!(!is_reading(&reader), "nothing is left of it");
    }

    #[tokio::test]
    async fn a_writer_is_idle_when_all_has_reached_the_system() {
        let (near, mut far) = tokio::io::duplex(16);
        let (_reader, mut writer) = halves(Box::new(near));
        assert!(writer.is_idle());
        writer.queue(b"0123456789");
        writer.queue(b"abcdefghij");
        assert!(!writer.is_idle());
        writer.write_some().await.unwrap();
        assert_eq!(writer.queued(), 4, "so much found room");
        let mut heard = [0; 20];
        let (flushed, read) = tokio::join!(writer.flush(), far.read_exact(&mut heard));
        flushed.unwrap();
        read.unwrap();
        assert_eq!(&heard, b"0123456789abcdefghij");
        assert!(writer.is_idle());

        // One that keeps to itself what it has taken, as TLS does.
        let (near, mut behind) = tokio::io::duplex(16);
        let (_reader, mut keeps) = halves(Box::new(tokio::io::BufStream::new(near)));
        keeps.queue(b"kept");
        keeps.write_some().await.unwrap();
        assert!(!keeps.is_idle(), "it is not on its way yet");
        keeps.flush().await.unwrap();
        let mut heard = [0; 4];
        behind.read_exact(&mut heard).await.unwrap();
        assert!(keeps.is_idle() && &heard == b"kept");

        writer.queue(b"end");
        writer.shut_down().await.unwrap();
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"end", "what was queued goes before the end");
        drop(far);
        writer.queue(b"nobody");
        writer.flush().await.unwrap_err();
    }
}
