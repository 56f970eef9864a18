//! The link on which an administrator's requests reach db_proxy.

use std::sync::Arc;
use std::time::Duration;

use daemon::{CallError, Identity, Link, LinkFrame, LinkHandler, LinkOptions, Role, Shutdown};
use proto::cluster::Kind;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{AdminAnswer, AdminRequest};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::failure::Failure;

/// How long the link may take to come up, once something listens.
const LINK_LIMIT: Duration = Duration::from_secs(5);
/// How long one request may take: 5,000 users in one transaction on a slow disk are the longest.
const CALL_LIMIT: Duration = Duration::from_mins(1);

/// A link to db_proxy with an administrator's rights.
#[derive(Debug)]
pub(crate) struct AdminLink {
    link: Link,
    shutdown: Shutdown,
}

/// Hands the link out when it is up.
struct Waiting {
    up: watch::Sender<Option<Link>>,
}

impl LinkHandler for Waiting {
    fn up(&self, link: &Link) {
        self.up.send_replace(Some(link.clone()));
    }

    fn frame(&self, _link: &Link, _frame: LinkFrame) {
        // An administrator is told nothing that he did not ask for.
    }

    fn down(&self, _link: &Link) {}
}

impl AdminLink {
    /// Connects to the db_proxy at `addr` (`host:port`) as `identity`.
    pub(crate) async fn connect(addr: &str, identity: Identity) -> Result<Self, Failure> {
        // Dialing goes on for ever and says little: that nobody listens is said here, at once.
        if let Err(error) = TcpStream::connect(addr).await {
            return Err(Failure::new(format!("cannot connect to db_proxy at {addr}: {error}")));
        }
        let shutdown = Shutdown::default();
        let (up, mut link) = watch::channel(None);
        let (_unchanging, targets) = watch::channel(vec![addr.to_owned()]);
        let handler = Arc::new(Waiting { up });
        daemon::link::dial(
            targets,
            identity,
            Role::DbProxy,
            handler,
            LinkOptions::default(),
            &shutdown,
        );
        let link = timeout(LINK_LIMIT, link.wait_for(Option::is_some)).await;
        match link.ok().and_then(Result::ok).and_then(|link| link.clone()) {
            Some(link) => Ok(Self { link, shutdown }),
            None => Err(Failure::new(format!(
                "no link to {addr}: it is not a db_proxy, or it has another cluster key"
            ))),
        }
    }

    /// Asks, and waits for the answer. What db_proxy refuses is a failure with its text.
    pub(crate) async fn ask(&self, what: What) -> Result<AdminAnswer, Failure> {
        let request = AdminRequest { what: Some(what) };
        let answer = self.link.call(Kind::Admin.number(), &request, CALL_LIMIT).await;
        let answer: AdminAnswer = answer.map_err(|error: CallError| {
            Failure::new(format!("no answer from db_proxy: {error}; nothing may have been done"))
        })?;
        if answer.done {
            Ok(answer)
        } else {
            let why = answer.error.filter(|error| !error.is_empty());
            Err(Failure::new(why.unwrap_or_else(|| "db_proxy has refused".to_owned())))
        }
    }

    /// Closes the link.
    pub(crate) async fn close(self) {
        self.shutdown.begin();
        // The process is about to end: what is not closed by then closes with it.
        self.shutdown.drain(Duration::from_secs(1)).await.ok();
    }
}
