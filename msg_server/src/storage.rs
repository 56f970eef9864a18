//! The links to the db_proxies, and the questions that are asked over them.
//!
//! Sends go their own way ([`crate::sends`]): they are answered by name, not by request number.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use daemon::{CallError, Link, LinkTable};
use prost::Message;
use proto::Command;
use proto::cluster::Kind;
use proto::cluster::wire::{
    Answer, Ask, FetchRequest, Fetched, Memberships, MembershipsRequest, Origin, Verified, Verify,
};

use tokio::sync::Notify;

use crate::session::Login;

/// How long a client's request may take: Android waits this long.
const ASK_LIMIT: Duration = Duration::from_secs(8);

/// How long the check of a password may take.
const VERIFY_LIMIT: Duration = Duration::from_secs(5);

/// How long questions of our own may take.
const OWN_LIMIT: Duration = Duration::from_secs(5);

/// The links to the db_proxies.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    links: LinkTable,
    came: Notify,
}

/// On whose behalf something is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    pub(crate) login: Login,
    pub(crate) origin: Origin,
}

impl Storage {
    /// A db_proxy is linked.
    pub(crate) fn up(&self, link: &Link) {
        self.links.add(link);
        self.came.notify_waiters();
    }

    /// A db_proxy is gone.
    pub(crate) fn down(&self, link: &Link) {
        self.links.remove(link);
    }

    /// Whether no db_proxy is linked.
    pub(crate) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Waits until a db_proxy is linked.
    pub(crate) async fn linked(&self) {
        loop {
            let mut came = pin!(self.came.notified());
            // From here on no link is missed.
            came.as_mut().enable();
            if !self.is_empty() {
                return;
            }
            came.await;
        }
    }

    /// The newest link that is up.
    pub(crate) fn newest(&self) -> Option<Link> {
        self.links.all().iter().rev().find(|link| !link.is_closed()).cloned()
    }

    /// Asks whether a client is who it says.
    pub(crate) async fn verify(&self, verify: &Verify) -> Result<Verified, CallError> {
        self.call(Kind::Verify, verify, VERIFY_LIMIT).await
    }

    /// Asks which groups a user is in.
    pub(crate) async fn memberships(&self, user: u32) -> Result<Memberships, CallError> {
        let request = MembershipsRequest { user };
        self.call(Kind::Memberships, &request, OWN_LIMIT).await
    }

    /// Asks for messages as they were published.
    pub(crate) async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, CallError> {
        self.call(Kind::Fetch, request, OWN_LIMIT).await
    }

    /// Passes a client's request on.
    pub(crate) async fn ask(
        &self,
        asker: Asker,
        command: Command,
        body: Bytes,
    ) -> Result<Answer, CallError> {
        let Asker { login, origin } = asker;
        let ask = Ask {
            user: login.user,
            client_type: login.client_type,
            origin,
            command: u32::from(command.number()),
            body,
        };
        self.call(Kind::Ask, &ask, ASK_LIMIT).await
    }

    async fn call<M: Message + Default>(
        &self,
        kind: Kind,
        message: &impl Message,
        limit: Duration,
    ) -> Result<M, CallError> {
        let link = self.newest().ok_or(CallError::Closed)?;
        link.call(kind.number(), message, limit).await
    }
}
