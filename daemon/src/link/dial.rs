//! The dialing end of links: one to each address that the targets resolve to.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, info_span, warn};

use crate::backoff::{self, Backoff};
use crate::shutdown::Shutdown;

use super::connection::{self, End, Socket};
use super::handler::LinkHandler;
use super::handshake::{self, BINDING_LABEL, Channel, Claim, HandshakeError};
use super::identity::{Identity, Peer, Role};
use super::options::LinkOptions;

/// How long a name may take to resolve.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);

/// A link that was up this long was a success: the next attempt after it comes soon.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// Keeps a link to each of `targets`, which are `ip:port` or `name:port`, and follows when the list
/// or what the names resolve to changes. Ends when shutdown closes the links.
#[expect(clippy::too_many_arguments, reason = "each is a decision of the daemon that dials")]
pub fn dial(
    targets: watch::Receiver<Vec<String>>,
    identity: Identity,
    expects: Role,
    handler: Arc<dyn LinkHandler>,
    options: LinkOptions,
    shutdown: &Shutdown,
) {
    let dialing = Arc::new(Dialing {
        expects,
        end: End { identity, handler, options, shutdown: shutdown.clone() },
        linked: Mutex::default(),
    });
    let (vital, closing) = (shutdown.vital(), shutdown.links_token());
    shutdown.spawn_link(info_span!("links", to = %expects), async move {
        let _ends_with_the_loop = vital;
        tokio::select! {
            () = closing.cancelled() => {}
            () = dialing.follow(targets) => {}
        }
    });
}

/// The addresses of each target.
type Resolved = HashMap<String, Vec<SocketAddr>>;
/// What ends the dialing of each address.
type Dialed = HashMap<SocketAddr, CancellationToken>;

struct Dialing {
    expects: Role,
    end: End,
    /// Name and boot number of those that there is a link to: the addresses of one daemon, such as
    /// both of `localhost`, must not make two.
    linked: Mutex<HashSet<(String, u64)>>,
}

/// A daemon's place in `linked`.
struct Linked {
    dialing: Arc<Dialing>,
    who: (String, u64),
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.dialing.linked.lock().remove(&self.who);
    }
}

impl Dialing {
    /// Keeps the dialed addresses what the targets say. Never returns.
    async fn follow(self: &Arc<Self>, mut targets: watch::Receiver<Vec<String>>) {
        let mut resolved = Resolved::new();
        let mut dialed = Dialed::new();
        let mut changing = true;
        loop {
            let names = targets.borrow_and_update().clone();
            let names = take_literals(names, &mut resolved);
            self.apply(&resolved, &mut dialed);
            if !names.is_empty() {
                resolve(names, &mut resolved).await;
                self.apply(&resolved, &mut dialed);
            }
            tokio::select! {
                changed = targets.changed(), if changing => changing = changed.is_ok(),
                () = sleep(self.end.options.resolve_every) => {}
            }
        }
    }

    /// Stops what is dialed and no longer wanted, and starts what is not dialed yet.
    fn apply(self: &Arc<Self>, resolved: &Resolved, dialed: &mut Dialed) {
        let wanted: HashSet<SocketAddr> = resolved.values().flatten().copied().collect();
        dialed.retain(|addr, until| {
            let stays = wanted.contains(addr);
            if !stays {
                until.cancel();
            }
            stays
        });
        for addr in wanted {
            dialed.entry(addr).or_insert_with(|| self.start(addr));
        }
    }

    fn start(self: &Arc<Self>, addr: SocketAddr) -> CancellationToken {
        let until = self.end.shutdown.links_token();
        let (dialing, token) = (Arc::clone(self), until.clone());
        let span = info_span!("link", to = %self.expects, %addr);
        self.end.shutdown.spawn_link(span, async move { dialing.keep(addr, token).await });
        until
    }

    /// Keeps a link to `addr` until the token is cancelled.
    async fn keep(self: &Arc<Self>, addr: SocketAddr, until: CancellationToken) {
        let mut backoff = Backoff::jittered();
        // What was complained about last: one line for each change, not for each attempt.
        let mut complaint = None;
        loop {
            let attempt = timeout(self.end.options.handshake_limit, self.connect(addr));
            let attempt = tokio::select! {
                () = until.cancelled() => return,
                attempt = attempt => attempt.unwrap_or(Err(HandshakeError::TimedOut)),
            };
            let wait = match attempt {
                Ok((socket, peer, linked)) => {
                    complaint = None;
                    info!(name = peer.name, "link up");
                    let (name, since) = (peer.name.clone(), Instant::now());
                    let reason = connection::run(socket, peer, &self.end, until.clone()).await;
                    drop(linked);
                    info!(name, %reason, "link down");
                    if since.elapsed() >= GOOD_AFTER {
                        backoff.reset();
                    }
                    backoff.next_wait()
                }
                Err(HandshakeError::Known) => backoff::LAST,
                Err(error) => {
                    self.note(&error, &mut complaint);
                    backoff.next_wait()
                }
            };
            tokio::select! {
                () = until.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    fn note(&self, error: &HandshakeError, complaint: &mut Option<String>) {
        let metrics = &self.end.options.metrics;
        metrics.failed_dial(self.expects);
        if error.is_refusal() {
            metrics.refused();
        }
        let reason = match error {
            HandshakeError::Io(error) => error.to_string(),
            error => error.to_string(),
        };
        if complaint.as_ref() == Some(&reason) {
            debug!(reason, "still no link");
        } else {
            warn!(reason, "no link");
            *complaint = Some(reason);
        }
    }

    async fn connect(
        self: &Arc<Self>,
        addr: SocketAddr,
    ) -> Result<(Socket, Peer, Linked), HandshakeError> {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let mut linked = None;
        let admit = |claim: &Claim| {
            let who = (claim.name.clone(), claim.boot);
            let new = self.linked.lock().insert(who.clone());
            linked = new.then(|| Linked { dialing: Arc::clone(self), who });
            new
        };
        let (socket, claim) = self.handshake(tcp, admit).await?;
        let Claim { role, name, boot } = claim;
        let linked = linked.ok_or(HandshakeError::Known)?;
        Ok((socket, Peer { role, name, boot, addr }, linked))
    }

    async fn handshake(
        &self,
        mut tcp: TcpStream,
        admit: impl FnOnce(&Claim) -> bool,
    ) -> Result<(Socket, Claim), HandshakeError> {
        let Identity { tls, .. } = &self.end.identity;
        let Some(tls) = tls else {
            let channel = Channel::default();
            let claim =
                handshake::dial(&mut tcp, &self.end.identity, self.expects, &channel, admit)
                    .await?;
            return Ok((Socket::Plain(tcp), claim));
        };
        let name = ServerName::try_from(self.expects.certificate_name())
            .map_err(|_name| HandshakeError::Certificate)?;
        // TLS itself checks that the certificate is for the role that is expected.
        let mut socket = TlsConnector::from(tls.client()).connect(name, tcp).await?;
        let (_tcp, state) = socket.get_ref();
        let binding = state.export_keying_material(vec![0; 32], BINDING_LABEL, None);
        let channel = Channel {
            binding: binding.map_err(|_early| HandshakeError::Malformed)?,
            certificate: None,
        };
        let claim =
            handshake::dial(&mut socket, &self.end.identity, self.expects, &channel, admit).await?;
        Ok((Socket::Tls(Box::new(TlsStream::Client(socket))), claim))
    }
}

/// Takes up the targets that are addresses, which must not wait for a name server, forgets those
/// that are targets no more, and returns the names.
fn take_literals(targets: Vec<String>, resolved: &mut Resolved) -> Vec<String> {
    resolved.retain(|target, _addrs| targets.contains(target));
    let mut names = Vec::new();
    for target in targets {
        match target.parse() {
            Ok(addr) => {
                resolved.insert(target, vec![addr]);
            }
            Err(_) => names.push(target),
        }
    }
    names
}

/// Takes up what the names resolve to. One that does not at the moment keeps its addresses: losing
/// the name server must not lose the links.
async fn resolve(names: Vec<String>, resolved: &mut Resolved) {
    let answers = names.into_iter().map(|name| async move {
        let addrs = match timeout(RESOLVE_LIMIT, lookup_host(name.as_str())).await {
            Ok(Ok(addrs)) => Ok(addrs.collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err("no answer in time".to_owned()),
        };
        (name, addrs)
    });
    for (name, addrs) in join_all(answers).await {
        match addrs {
            Ok(addrs) => {
                resolved.insert(name, addrs);
            }
            Err(error) => warn!(name, error, "a name does not resolve"),
        }
    }
}

#[cfg(test)]
mod tests;
