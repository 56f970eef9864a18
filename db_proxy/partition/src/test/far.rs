//! The far ends of links: fake gateways and fake route_servers.

use std::net::SocketAddr;
use std::sync::Arc;

use daemon::{Identity, Link, LinkFrame, LinkHandler, LinkKey, LinkOptions, Role, Shutdown};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::PATIENCE;

/// What has come in that the test has not looked at yet, at most.
const FRAMES_MAX: usize = 65_536;

/// The far end of links: hands what comes in to the test.
pub struct Far {
    links: mpsc::Receiver<Link>,
    frames: mpsc::Receiver<(Link, LinkFrame)>,
}

struct Handler {
    links: mpsc::Sender<Link>,
    frames: mpsc::Sender<(Link, LinkFrame)>,
}

impl LinkHandler for Handler {
    fn up(&self, link: &Link) {
        self.links.try_send(link.clone()).expect("few links");
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        self.frames.try_send((link.clone(), frame)).expect("the test reads what comes in");
    }

    fn down(&self, _link: &Link) {}
}

impl Far {
    fn new() -> (Self, Arc<Handler>) {
        let (links, up) = mpsc::channel(64);
        let (frames, come) = mpsc::channel(FRAMES_MAX);
        (Self { links: up, frames: come }, Arc::new(Handler { links, frames }))
    }

    /// Listens as a daemon of this role and name.
    pub async fn listen(role: Role, name: &str, shutdown: &Shutdown) -> (Self, SocketAddr) {
        let (far, handler) = Self::new();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listening = daemon::link::listen(
            any,
            identity(role, name, 1),
            &[Role::DbProxy],
            handler,
            LinkOptions::default(),
            shutdown,
        );
        (far, listening.await.unwrap())
    }

    /// Dials as a daemon of this identity.
    pub async fn dial(addr: SocketAddr, identity: Identity, shutdown: &Shutdown) -> (Self, Link) {
        let (mut far, handler) = Self::new();
        let (_targets, addrs) = watch::channel(vec![addr.to_string()]);
        let options = LinkOptions::default();
        daemon::link::dial(addrs, identity, Role::DbProxy, handler, options, shutdown);
        let link = far.link().await;
        (far, link)
    }

    /// The next link that comes up.
    pub async fn link(&mut self) -> Link {
        timeout(PATIENCE, self.links.recv()).await.expect("a link in time").unwrap()
    }

    /// The next frame that comes in.
    pub async fn frame(&mut self) -> (Link, LinkFrame) {
        timeout(PATIENCE, self.frames.recv()).await.expect("a frame in time").unwrap()
    }

    /// The next frame, if one has come in.
    pub fn try_frame(&mut self) -> Option<(Link, LinkFrame)> {
        self.frames.try_recv().ok()
    }
}

pub fn identity(role: Role, name: &str, boot: u64) -> Identity {
    let key = LinkKey::new(b"the key of these tests");
    Identity { role, name: name.to_owned(), boot, key, tls: None }
}
