//! The listening end of links.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsStream};
use tracing::{debug, info, info_span, warn};

use crate::accept::{self, Acceptor, Doors, Guest};
use crate::shutdown::{Group, Shutdown};

use super::connection::{self, End, Socket};
use super::handler::LinkHandler;
use super::handshake::{self, BINDING_LABEL, Channel, Claim, HandshakeError};
use super::identity::{Identity, Peer, Role};
use super::options::LinkOptions;

/// Addresses whose last refusal is remembered, so that each is logged once.
const REFUSED_MAX: usize = 1024;

/// Listens at `addr` for daemons of the roles that it accepts, and returns where. Each link is
/// served until shutdown closes the links.
#[expect(clippy::too_many_arguments, reason = "each is a decision of the daemon that listens")]
pub async fn listen(
    addr: SocketAddr,
    identity: Identity,
    accepts: &[Role],
    handler: Arc<dyn LinkHandler>,
    options: LinkOptions,
    shutdown: &Shutdown,
) -> io::Result<SocketAddr> {
    let listener = accept::bind(addr)?;
    let addr = listener.local_addr()?;
    let acceptor = Acceptor::new(listener, Doors::new(options.links_max));
    let listening = Arc::new(Listening {
        accepts: accepts.to_vec(),
        end: End { identity, handler, options, shutdown: shutdown.clone() },
        refused: Mutex::default(),
    });
    let (vital, own) = (shutdown.vital(), shutdown.clone());
    shutdown.spawn_link(info_span!("links", %addr), async move {
        let _ends_with_the_loop = vital;
        let serve = move |guest: Guest| {
            let listening = Arc::clone(&listening);
            async move { listening.serve(guest).await }
        };
        acceptor.run_in(Group::Links, own, serve).await;
    });
    Ok(addr)
}

struct Listening {
    accepts: Vec<Role>,
    end: End,
    /// Why each address was refused last.
    refused: Mutex<HashMap<IpAddr, String>>,
}

impl Listening {
    async fn serve(&self, guest: Guest) {
        let Guest { socket, peer: addr, place } = guest;
        let end = &self.end;
        let until = end.shutdown.links_token();
        let handshake = timeout(end.options.handshake_limit, self.handshake(socket));
        let handshake = tokio::select! {
            // Before its handshake a connection may have to give way to the next; a link never does.
            handshake = place.unless_told(handshake) => match handshake {
                Some(handshake) => handshake.unwrap_or(Err(HandshakeError::TimedOut)),
                None => return,
            },
            () = until.cancelled() => return,
        };
        place.settle();
        let (socket, Claim { role, name, boot }) = match handshake {
            Ok(done) => done,
            Err(error) => return self.note(addr, &error),
        };
        self.refused.lock().remove(&addr.ip());
        let peer = Peer { role, name, boot, addr };
        info!(%role, name = peer.name, %addr, "link up");
        let name = peer.name.clone();
        let reason = connection::run(socket, peer, end, until).await;
        info!(%role, name, %addr, %reason, "link down");
    }

    async fn handshake(&self, socket: TcpStream) -> Result<(Socket, Claim), HandshakeError> {
        let identity = &self.end.identity;
        let Some(tls) = &identity.tls else {
            let mut socket = socket;
            let channel = Channel::default();
            let claim = handshake::listen(&mut socket, identity, &self.accepts, &channel).await?;
            return Ok((Socket::Plain(socket), claim));
        };
        let mut socket = TlsAcceptor::from(tls.server()).accept(socket).await?;
        let (_tcp, state) = socket.get_ref();
        let binding = state.export_keying_material(vec![0; 32], BINDING_LABEL, None);
        let certificate = state.peer_certificates().and_then(|chain| chain.first());
        let channel = Channel {
            binding: binding.map_err(|_early| HandshakeError::Malformed)?,
            certificate: Some(certificate.ok_or(HandshakeError::Certificate)?.clone()),
        };
        let claim = handshake::listen(&mut socket, identity, &self.accepts, &channel).await?;
        Ok((Socket::Tls(Box::new(TlsStream::Server(socket))), claim))
    }

    /// A stranger can fail as often as they like. So a failure that can only be the stranger's fault is
    /// logged at debug level. What an operator may have to mend is one line for each address and
    /// reason.
    fn note(&self, addr: SocketAddr, error: &HandshakeError) {
        if !error.is_refusal() {
            debug!(%addr, %error, "no link");
            return;
        }
        self.end.options.metrics.refused();
        let reason = error.to_string();
        let mut refused = self.refused.lock();
        if refused.len() >= REFUSED_MAX {
            refused.clear();
        }
        if refused.insert(addr.ip(), reason.clone()).is_none_or(|last| last != reason) {
            warn!(%addr, reason, "a daemon was refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::link::{Link, LinkFrame, LinkKey};

    /// Has no links.
    struct Nobody;

    impl LinkHandler for Nobody {
        fn up(&self, _link: &Link) {}

        fn frame(&self, _link: &Link, _frame: LinkFrame) {}

        fn down(&self, _link: &Link) {}
    }

    #[test]
    fn of_strangers_from_everywhere_only_some_are_remembered() {
        let (role, name, key) = (Role::DbProxy, "db".to_owned(), LinkKey::new(b"key"));
        let end = End {
            identity: Identity { role, name, boot: 1, key, tls: None },
            handler: Arc::new(Nobody),
            options: LinkOptions::default(),
            shutdown: Shutdown::default(),
        };
        let listening = Listening { accepts: Vec::new(), end, refused: Mutex::default() };
        for number in 0..3 * 1024_u32 {
            let addr = SocketAddr::from((Ipv4Addr::from(number), 1));
            listening.note(addr, &HandshakeError::Key);
            let refused = listening.refused.lock();
            assert!(refused.contains_key(&addr.ip()), "the last one always is");
            assert!(refused.len() <= REFUSED_MAX, "{}", refused.len());
        }
    }
}
