//! Links over a socket in memory, so that time can be skipped: silence, full queues, batches.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::connection::{self, End, Ended};
use super::frame::{self, FRAME_LEN_MAX, HEADER_LEN, Head};
use super::handshake::{self, Channel, HandshakeError};
use super::*;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// Counts, and hands out the link.
struct Counter {
    ups: mpsc::Sender<Link>,
    frames: AtomicUsize,
    batches: AtomicUsize,
    downs: AtomicUsize,
}

impl LinkHandler for Counter {
    fn up(&self, link: &Link) {
        self.ups.try_send(link.clone()).expect("one link");
    }

    fn frame(&self, _link: &Link, _frame: LinkFrame) {
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    fn batch_end(&self, _link: &Link) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    fn down(&self, link: &Link) {
        assert_eq!(link.send_raw(1, 0, b""), Err(LinkError::Closed), "it is down");
        self.downs.fetch_add(1, Ordering::Relaxed);
    }
}

fn identity(role: Role) -> Identity {
    let key = LinkKey::new(b"key");
    Identity { role, name: role.name().to_owned(), boot: 1, key, tls: None }
}

fn peer() -> Peer {
    Peer {
        role: Role::DbProxy,
        name: "db".to_owned(),
        boot: 1,
        addr: "127.0.0.1:1".parse().unwrap(),
    }
}

/// A link whose far end is the test.
struct Far {
    link: Link,
    socket: DuplexStream,
    handler: Arc<Counter>,
    until: CancellationToken,
    shutdown: Shutdown,
    ended: mpsc::Receiver<Ended>,
    began: Instant,
}

async fn link(socket_len: usize, queue_bytes_max: usize) -> Far {
    link_with(socket_len, LinkOptions { queue_bytes_max, ..LinkOptions::default() }).await
}

async fn link_with(socket_len: usize, options: LinkOptions) -> Far {
    let (near, socket) = duplex(socket_len);
    let (ups, mut up) = mpsc::channel(1);
    let handler = Arc::new(Counter {
        ups,
        frames: AtomicUsize::new(0),
        batches: AtomicUsize::new(0),
        downs: AtomicUsize::new(0),
    });
    let shutdown = Shutdown::default();
    let end = End {
        identity: identity(Role::MsgServer),
        handler: Arc::<Counter>::clone(&handler),
        options,
        shutdown: shutdown.clone(),
    };
    let peer = peer();
    let until = shutdown.links_token();
    let (tell, ended) = mpsc::channel(1);
    let began = Instant::now();
    let token = until.clone();
    shutdown.spawn_link(Span::none(), async move {
        let (reader, writer) = tokio::io::split(near);
        let why = connection::serve(reader, writer, peer, &end, token).await;
        tell.send(why).await.expect("the test waits for the end");
    });
    let link = up.recv().await.unwrap();
    Far { link, socket, handler, until, shutdown, ended, began }
}

fn frame_of(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = Head { kind, answer: false, request: 0 };
    frame::put(&mut bytes, head, |bytes| bytes.extend_from_slice(body)).unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dead_after_five_seconds() {
    let mut far = link(1 << 20, 1 << 20).await;
    assert!(matches!(far.ended.recv().await, Some(Ended::Silent)));
    assert_eq!(far.began.elapsed(), Duration::from_secs(5));
    assert_eq!(far.handler.downs.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_only_pings_lives_and_is_pinged() {
    let mut far = link(1 << 20, 1 << 20).await;
    let ping = frame_of(frame::PING, b"");
    let mut heard = vec![0; HEADER_LEN];
    for _ in 0..20 {
        far.socket.write_all(&ping).await.unwrap();
        let before = Instant::now();
        far.socket.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, ping);
        assert!(before.elapsed() <= Duration::from_millis(1_500), "{:?}", before.elapsed());
    }
    assert!(far.began.elapsed() > Duration::from_secs(15));
    assert!(far.ended.try_recv().is_err());
    assert_eq!(far.handler.frames.load(Ordering::Relaxed), 0, "pings are the link's own");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_dead_even_if_it_pings() {
    let mut far = link(64, 1 << 20).await;
    far.link.send_raw(1, 0, &[0; 1_000]).unwrap();
    let ping = frame_of(frame::PING, b"");
    while far.socket.write_all(&ping).await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let Some(Ended::Reset(why)) = far.ended.recv().await else { panic!("not ended by the writer") };
    assert_eq!(why, "the peer takes nothing");
    let dead_at = far.began.elapsed();
    assert!((5..=8).contains(&dead_at.as_secs()), "{dead_at:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_takes_again_when_it_is_written() {
    let mut far = link(64, 1_000).await;
    let mut sent = 0;
    let refusal = loop {
        match far.link.send_raw(1, 0, &[0; 84]) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refusal, LinkError::Full);
    assert_eq!(sent, 10, "ten frames of 100 bytes fill 1,000");
    assert_eq!(far.link.queued_bytes(), 1_000);
    let mut heard = vec![0; 1_000];
    far.socket.read_exact(&mut heard).await.unwrap();
    // The writer notices at its next turn.
    while far.link.queued_bytes() > 0 {
        tokio::task::yield_now().await;
    }
    far.link.send_raw(1, 0, &[0; 84]).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_frames_of_one_read_are_one_batch() {
    let mut far = link(1 << 20, 1 << 20).await;
    let many: Vec<u8> = (0..100).flat_map(|_| frame_of(1, b"body")).collect();
    far.socket.write_all(&many).await.unwrap();
    while far.handler.frames.load(Ordering::Relaxed) < 100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(far.handler.batches.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_a_close_is_written_and_what_comes_after_is_refused() {
    let mut far = link(1 << 20, 1 << 20).await;
    far.link.send_raw(1, 0, b"last words").unwrap();
    far.until.cancel();
    assert!(matches!(far.ended.recv().await, Some(Ended::Closed)));
    let mut heard = Vec::new();
    far.socket.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, frame_of(1, b"last words"));
    assert_eq!(far.link.send_raw(1, 0, b""), Err(LinkError::Closed));
    assert!(far.link.is_closed());
    far.shutdown.drain(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_length_that_no_frame_has_ends_the_link() {
    for length in [0, 15, u32::try_from(FRAME_LEN_MAX).unwrap() + 1, u32::MAX] {
        let mut far = link(1 << 20, 1 << 20).await;
        far.socket.write_all(&length.to_be_bytes()).await.unwrap();
        assert!(matches!(far.ended.recv().await, Some(Ended::Malformed)), "{length}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_read_resets_the_link() {
    let mut far = link(1 << 20, 1 << 20).await;
    let frame = |body: &'static [u8]| LinkFrame {
        kind: 1,
        answer: false,
        request: 0,
        body: Bytes::from_static(body),
    };
    assert!(far.link.read::<String>(&frame(b"")).is_some());
    assert!(!far.link.is_closed());
    // A text of five bytes, of which there is one.
    assert_eq!(far.link.read::<String>(&frame(b"\x0a\x05a")), None);
    assert!(matches!(far.ended.recv().await, Some(Ended::Reset(_why))));
}

#[tokio::test(start_paused = true)]
async fn a_frame_may_come_in_byte_by_byte() {
    let mut far = link(1 << 20, 1 << 20).await;
    for byte in frame_of(1, b"body") {
        assert_eq!(far.handler.frames.load(Ordering::Relaxed), 0);
        far.socket.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    while far.handler.frames.load(Ordering::Relaxed) < 1 {
        tokio::task::yield_now().await;
    }
}

/// How large a buffer a link keeps once a frame with a body of this length has been written.
fn kept_after(len: usize) -> usize {
    let link = Link::new(peer(), 1 << 20, LinkMetrics::default().of(Role::DbProxy));
    link.send_raw(1, 0, &vec![0; len]).unwrap();
    let mut spare = Vec::new();
    let written = link.take(&mut spare).unwrap();
    assert!(written > len);
    // It has two, which change places at each turn.
    let turns = [(); 2].map(|()| {
        spare.clear();
        link.take(&mut spare).unwrap();
        spare.capacity()
    });
    turns.into_iter().max().unwrap()
}

#[test]
fn a_link_does_not_keep_a_buffer_that_a_burst_has_made_large() {
    let small = kept_after(200 << 10);
    assert!(small >= 200 << 10, "it is used again: {small}");
    let large = kept_after(300 << 10);
    assert!(large <= 256 << 10, "{large}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_slow_but_takes_something_now_and_then_keeps_its_link() {
    let mut far = link(100, 1 << 20).await;
    far.link.send_raw(1, 0, &[0; 584]).unwrap();
    let ping = frame_of(frame::PING, b"");
    let mut heard = [0; 100];
    for _piece in 0..6 {
        for _second in 0..4 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            far.socket.write_all(&ping).await.unwrap();
        }
        far.socket.read_exact(&mut heard).await.unwrap();
    }
    assert!(far.began.elapsed() >= Duration::from_secs(24));
    assert!(far.ended.try_recv().is_err(), "it took something every four seconds");
}

#[tokio::test(start_paused = true)]
async fn a_reset_says_why_and_drops_what_is_queued() {
    let mut far = link(64, 1 << 20).await;
    far.link.send_raw(1, 0, &[0; 1_000]).unwrap();
    tokio::task::yield_now().await;
    far.link.reset("for a test");
    let Some(Ended::Reset(why)) = far.ended.recv().await else { panic!("it was reset") };
    assert_eq!(why, "for a test");
    let mut heard = Vec::new();
    far.socket.read_to_end(&mut heard).await.unwrap();
    assert!(heard.len() <= 64, "{} bytes after a reset", heard.len());
    assert_eq!(far.began.elapsed(), Duration::ZERO, "nobody was waited for");
}

#[tokio::test(start_paused = true)]
async fn nothing_more_is_written_to_a_peer_that_has_fallen_silent() {
    let mut far = link(100, 1 << 20).await;
    far.link.send_raw(1, 0, &[0; 584]).unwrap();
    // It still takes something, so that for the writer alone it is alive.
    tokio::time::sleep(Duration::from_secs(4)).await;
    far.socket.read_exact(&mut [0; 100]).await.unwrap();
    assert!(matches!(far.ended.recv().await, Some(Ended::Silent)));
    assert_eq!(far.began.elapsed(), Duration::from_secs(5));
    far.shutdown.drain(Duration::from_mins(1)).await.unwrap();
    assert_eq!(far.began.elapsed(), Duration::from_secs(5), "the writer has ended with the reader");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_ends_the_link_after_its_last_frame() {
    let mut far = link(1 << 20, 1 << 20).await;
    far.socket.write_all(&frame_of(1, b"last words")).await.unwrap();
    far.socket.shutdown().await.unwrap();
    assert!(matches!(far.ended.recv().await, Some(Ended::ByPeer)));
    assert_eq!(far.handler.frames.load(Ordering::Relaxed), 1);
    assert_eq!(far.handler.downs.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn the_frames_before_one_that_is_none_are_handed_over() {
    let mut far = link(1 << 20, 1 << 20).await;
    let bytes = [frame_of(1, b"one"), frame_of(1, b"two"), vec![0; 4]].concat();
    far.socket.write_all(&bytes).await.unwrap();
    assert!(matches!(far.ended.recv().await, Some(Ended::Malformed)));
    assert_eq!(far.handler.frames.load(Ordering::Relaxed), 2);
    assert_eq!(far.handler.batches.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn pings_alone_are_no_batch() {
    let mut far = link(1 << 20, 1 << 20).await;
    far.socket.write_all(&frame_of(frame::PING, b"")).await.unwrap();
    far.socket.shutdown().await.unwrap();
    assert!(far.ended.recv().await.is_some());
    assert_eq!(far.handler.batches.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_has_enough_to_say_does_not_ping() {
    let mut far = link(1 << 20, 1 << 20).await;
    let own = frame_of(1, b"");
    let ping = frame_of(frame::PING, b"");
    let mut heard = vec![0; HEADER_LEN];
    for _message in 0..20 {
        tokio::time::sleep(Duration::from_millis(450)).await;
        far.socket.write_all(&ping).await.unwrap();
        far.link.send_raw(1, 0, b"").unwrap();
        far.socket.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, own);
    }
}

/// The value of a metric of the links to db_proxies.
fn shown(page: &Metrics, name: &str) -> i64 {
    let page = page.encode().unwrap();
    let name = format!("talkhub_test_{name}{{role=\"db_proxy\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name}in {page}")).parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_goes_over_a_link_is_counted_from_its_beginning_to_its_end() {
    let page = Metrics::new("test");
    let options = LinkOptions {
        queue_bytes_max: 1 << 20,
        ..LinkOptions::counted(LinkMetrics::register(&page))
    };
    let mut far = link_with(64, options).await;
    assert_eq!((shown(&page, "links"), shown(&page, "link_opened_total")), (1, 1));
    far.socket.write_all(&frame_of(1, b"12345678")).await.unwrap();
    far.socket.write_all(&frame_of(frame::PING, b"")).await.unwrap();
    far.link.send_raw(1, 0, &[0; 984]).unwrap();
    far.link.send_raw(1, 0, b"").unwrap();
    // Of these, 64 bytes find room in the socket; the rest is shown half a second later.
    tokio::time::sleep(Duration::from_millis(501)).await;
    assert_eq!(shown(&page, "link_queued_bytes"), 1_016);
    assert_eq!(shown(&page, "link_bytes_out_total"), 64);
    assert_eq!(shown(&page, "link_frames_out_total"), 2);
    assert_eq!(shown(&page, "link_bytes_in_total"), 40);
    assert_eq!(shown(&page, "link_frames_in_total"), 2);

    assert!(matches!(far.ended.recv().await, Some(Ended::Silent | Ended::Reset(_))));
    far.shutdown.drain(Duration::from_secs(10)).await.unwrap();
    assert_eq!((shown(&page, "links"), shown(&page, "link_opened_total")), (0, 1));
    assert_eq!(shown(&page, "link_queued_bytes"), 0);
    assert!(shown(&page, "link_dead_total") >= 1);
    assert_eq!(shown(&page, "link_resets_total"), 0, "it was the peer's silence");
}

/// Panics at one of its turns.
struct Panics {
    at: &'static str,
}

impl Panics {
    fn turn(&self, turn: &str) {
        assert_ne!(self.at, turn, "on purpose");
    }
}

impl LinkHandler for Panics {
    fn up(&self, _link: &Link) {
        self.turn("up");
    }

    fn frame(&self, _link: &Link, _frame: LinkFrame) {
        self.turn("frame");
    }

    fn down(&self, _link: &Link) {
        self.turn("down");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_ends_its_link_in_order_whenever_it_does() {
    for at in ["up", "frame", "down"] {
        let page = Metrics::new("test");
        let (near, mut socket) = duplex(1 << 10);
        let end = End {
            identity: identity(Role::MsgServer),
            handler: Arc::new(Panics { at }),
            options: LinkOptions::counted(LinkMetrics::register(&page)),
            shutdown: Shutdown::default(),
        };
        socket.write_all(&frame_of(1, b"")).await.unwrap();
        socket.shutdown().await.unwrap();
        let (reader, writer) = tokio::io::split(near);
        let ended = connection::serve(reader, writer, peer(), &end, CancellationToken::new()).await;
        assert_eq!(matches!(ended, Ended::Panicked), at != "down", "{at}: {ended:?}");
        assert_eq!(shown(&page, "links"), 0, "{at}");
        end.shutdown.drain(Duration::from_secs(5)).await.expect("its writer has ended");
    }
}

/// Takes every byte, and then does not let itself be closed.
struct NeverClosed;

impl AsyncWrite for NeverClosed {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_cannot_be_closed_is_left_after_a_second() {
    let (reader, _far) = duplex(16);
    let end = End {
        identity: identity(Role::MsgServer),
        handler: Arc::new(Panics { at: "" }),
        options: LinkOptions::default(),
        shutdown: Shutdown::default(),
    };
    let until = CancellationToken::new();
    until.cancel();
    let ended = connection::serve(reader, NeverClosed, peer(), &end, until).await;
    assert!(matches!(ended, Ended::Closed), "{ended:?}");
    let began = Instant::now();
    end.shutdown.drain(Duration::from_mins(1)).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(1));
}

#[tokio::test]
async fn a_handshake_binds_both_ends_to_the_same_tls_connection() {
    let (mut dialer, mut listener) = duplex(4096);
    let channel = |binding: &[u8]| Channel { binding: binding.to_vec(), certificate: None };
    let (ours, theirs) = (identity(Role::MsgServer), identity(Role::DbProxy));
    let (one, other) = (channel(b"one"), channel(b"other"));
    let dial = handshake::dial(&mut dialer, &ours, Role::DbProxy, &one, |_claim| true);
    let listen = handshake::listen(&mut listener, &theirs, &[Role::MsgServer], &other);
    let (dialed, ()) = tokio::join!(dial, async {
        tokio::select! {
            listened = listen => panic!("{listened:?}"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    });
    assert!(matches!(dialed, Err(HandshakeError::Key)), "somebody sits between the two");
}

proptest::proptest! {
    #[test]
    fn no_introduction_makes_it_panic(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..120),
        like_ours in proptest::bool::ANY,
    ) {
        let mut bytes = BytesMut::from(&bytes[..]);
        if like_ours && bytes.len() > 4 {
            bytes[..4].copy_from_slice(&[0, 1, 2, 3]);
        }
        let mut bytes: Bytes = bytes.freeze();
        if handshake::parse_challenge(&bytes).is_ok() {
            assert!(bytes.len() > 64, "nonce and mac are part of it");
        }
        if let Ok(claim) = handshake::parse_introduction(&mut bytes) {
            assert!(!claim.name.is_empty());
        }
    }
}
