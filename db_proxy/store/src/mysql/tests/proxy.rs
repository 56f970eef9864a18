//! A server's port with a fault in front of it: it knows a COMMIT when it sees one, and counts what
//! is asked.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What happens to the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection is cut, and the server never sees it.
    CutBefore,
    /// The server does it, then the connection is cut instead of the answer.
    CutAfter,
    /// The server does it, and its answer never comes.
    Silence,
}

/// A proxy for as long as its runtime lives.
#[derive(Debug, Clone)]
pub(super) struct Proxy {
    pub(super) port: u16,
    next: Arc<Mutex<Option<Fault>>>,
    done: Arc<AtomicU32>,
    executed: Arc<AtomicU32>,
    news: Arc<Notify>,
}

impl Proxy {
    pub(super) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self {
            port,
            next: Arc::default(),
            done: Arc::default(),
            executed: Arc::default(),
            news: Arc::default(),
        };
        let plan = proxy.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
                tokio::spawn(pass(client, server, plan.clone()));
            }
        });
        proxy
    }

    /// The next COMMIT meets this.
    pub(super) fn plan(&self, fault: Fault) {
        *self.next.lock() = Some(fault);
    }

    /// Waits until the server had a COMMIT whose answer does not come.
    pub(super) async fn fault(&self) {
        self.news.notified().await;
    }

    /// How many faults there were.
    pub(super) fn done(&self) -> u32 {
        self.done.load(Ordering::Relaxed)
    }

    /// How many prepared statements were run since this was asked last.
    pub(super) fn executed(&self) -> u32 {
        self.executed.swap(0, Ordering::Relaxed)
    }
}

/// Passes bytes on, both ways, until one side ends or a fault is done.
async fn pass(mut client: TcpStream, mut server: TcpStream, proxy: Proxy) {
    let (mut asked, mut answered) = (BytesMut::new(), BytesMut::new());
    let mut silent = false;
    loop {
        tokio::select! {
            read = client.read_buf(&mut asked) => {
                let Ok(1..) = read else { return };
                while let Some(packet) = packet(&mut asked) {
                    let commits = is_commit(&packet);
                    let fault = if commits { proxy.next.lock().take() } else { None };
                    if is_execution(&packet) {
                        proxy.executed.fetch_add(1, Ordering::Relaxed);
                    }
                    if fault.is_some() {
                        proxy.done.fetch_add(1, Ordering::Relaxed);
                    }
                    if fault == Some(Fault::CutBefore) {
                        return;
                    }
                    if server.write_all(&packet).await.is_err() {
                        return;
                    }
                    if fault == Some(Fault::CutAfter) {
                        server.read_buf(&mut answered).await.unwrap();
                        return;
                    }
                    if fault == Some(Fault::Silence) {
                        silent = true;
                        proxy.news.notify_one();
                    }
                }
            }
            read = server.read_buf(&mut answered) => {
                let Ok(1..) = read else { return };
                if !silent && client.write_all(&answered).await.is_err() {
                    return;
                }
                answered.clear();
            }
        }
    }
}

/// Takes a whole packet off the front, header and all.
fn packet(from: &mut BytesMut) -> Option<BytesMut> {
    const HEADER_LEN: usize = 4;
    let length = from.get(..HEADER_LEN)?.get_uint_le(3);
    let whole = HEADER_LEN + usize::try_from(length).unwrap();
    (from.len() >= whole).then(|| from.split_to(whole))
}

fn is_commit(packet: &[u8]) -> bool {
    const QUERY: u8 = 3;
    packet.get(4..).is_some_and(|body| body.split_first() == Some((&QUERY, b"COMMIT")))
}

fn is_execution(packet: &[u8]) -> bool {
    const EXECUTE: u8 = 0x17;
    // The first packet of a command has number 0.
    packet.get(3..5) == Some(&[0, EXECUTE])
}
