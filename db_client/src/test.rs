//! The far ends of links, for tests: db_proxies that do what the test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::link::{self, LinkHandler, LinkKey};
use daemon::{Identity, Link, LinkFrame, LinkOptions, Role, Shutdown};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Long enough for a loaded machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One side of links: which come up, and what comes in.
pub(crate) struct Far {
    links: mpsc::Receiver<Link>,
    frames: mpsc::Receiver<LinkFrame>,
}

/// Passes on what comes in.
struct Handler {
    links: mpsc::Sender<Link>,
    frames: mpsc::Sender<LinkFrame>,
}

impl LinkHandler for Handler {
    fn up(&self, link: &Link) {
        self.links.try_send(link.clone()).unwrap();
    }

    fn frame(&self, _link: &Link, frame: LinkFrame) {
        self.frames.try_send(frame).unwrap();
    }

    fn down(&self, _link: &Link) {}
}

/// A daemon of the cluster of these tests.
pub(crate) fn identity(role: Role, name: &str) -> Identity {
    let key = LinkKey::new(b"the key of these tests");
    Identity { role, name: name.to_owned(), boot: 1, key, tls: None }
}

impl Far {
    fn new() -> (Self, Arc<Handler>) {
        let (links, up) = mpsc::channel(8);
        let (frames, come) = mpsc::channel(1_000);
        (Self { links: up, frames: come }, Arc::new(Handler { links, frames }))
    }

    /// Listens as a db_proxy of this name.
    pub(crate) async fn listen(name: &str, shutdown: &Shutdown) -> (Self, SocketAddr) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (far, handler) = Self::new();
        let (us, options) = (identity(Role::DbProxy, name), LinkOptions::default());
        let accepts = [Role::MsgServer, Role::ApiServer, Role::Consumer];
        let addr = link::listen(any, us, &accepts, handler, options, shutdown).await.unwrap();
        (far, addr)
    }

    /// Dials a db_proxy as a gateway.
    pub(crate) fn dial(addr: SocketAddr, shutdown: &Shutdown) -> Self {
        let (far, handler) = Self::new();
        let (_unchanging, addrs) = watch::channel(vec![addr.to_string()]);
        let (us, options) = (identity(Role::MsgServer, "gateway"), LinkOptions::default());
        link::dial(addrs, us, Role::DbProxy, handler, options, shutdown);
        far
    }

    /// The next link that comes up.
    pub(crate) async fn link(&mut self) -> Link {
        timeout(PATIENCE, self.links.recv()).await.expect("a link in time").unwrap()
    }

    /// The next frame that comes in.
    pub(crate) async fn frame(&mut self) -> LinkFrame {
        timeout(PATIENCE, self.frames.recv()).await.expect("a frame in time").unwrap()
    }
}
