//! A db_proxy for tests of commands that ask one: the test gives the answers, and says how late
//! they are.

use std::sync::Arc;
use std::time::Duration;

use daemon::{Identity, Link, LinkFrame, LinkHandler, LinkKey, LinkOptions, Role, Shutdown};
use proto::cluster::Kind;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{AdminAnswer, AdminRequest, Owned, Ownership};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::AdminLink;

/// Longer than a question takes to come.
const SOON: Duration = Duration::from_secs(10);

/// The far end of an administrator's link.
pub(crate) struct DbProxy {
    questions: mpsc::Receiver<(Link, LinkFrame)>,
}

/// Hands the questions to the test.
struct Handler {
    questions: mpsc::Sender<(Link, LinkFrame)>,
}

impl LinkHandler for Handler {
    fn up(&self, link: &Link) {
        let owned = vec![Owned { partition: 0, epoch: 1 }];
        let ownership = Ownership { partitions: 1, owned, logins: true };
        link.send(Kind::Ownership.number(), 0, &ownership).expect("the link is up");
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        // After the last one that is expected the test lets go of its end: then this ends the link.
        self.questions.try_send((link.clone(), frame)).expect("a question that is expected");
    }

    fn down(&self, _link: &Link) {}
}

/// The identity of a daemon that all daemons of the tests' cluster believe.
pub(crate) fn identity(role: Role) -> Identity {
    let (name, key) = (role.name().to_owned(), LinkKey::new(b"key"));
    Identity { role, name, boot: 1, key, tls: None }
}

impl DbProxy {
    /// One, and a link to it.
    pub(crate) async fn linked() -> (Self, AdminLink) {
        let (ask, questions) = mpsc::channel(1);
        let shutdown = Shutdown::default();
        let addr = daemon::link::listen(
            "127.0.0.1:0".parse().unwrap(),
            identity(Role::DbProxy),
            &[Role::Admin],
            Arc::new(Handler { questions: ask }),
            LinkOptions::default(),
            &shutdown,
        );
        let addr = addr.await.unwrap().to_string();
        // If several are named, some may be down.
        let nobody = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addrs = [nobody.local_addr().unwrap().to_string(), addr];
        drop(nobody);
        let link = AdminLink::connect(&addrs, identity(Role::Admin)).await.unwrap();
        (Self { questions }, link)
    }

    /// Answers the next question, that much time after it has come. The time is skipped.
    pub(crate) async fn answer(&mut self, late: Duration, answer: &AdminAnswer) {
        let (link, question) = self.question().await;
        tokio::time::pause();
        tokio::time::advance(late).await;
        tokio::time::resume();
        link.answer(&question, Kind::Admin.number(), answer).unwrap();
    }

    /// Answers the next question, and returns what was asked.
    pub(crate) async fn asked(&mut self, answer: &AdminAnswer) -> What {
        let (link, question) = self.question().await;
        link.answer(&question, Kind::Admin.number(), answer).unwrap();
        let request: AdminRequest = question.parse().unwrap();
        request.what.expect("something is asked for")
    }

    async fn question(&mut self) -> (Link, LinkFrame) {
        timeout(SOON, self.questions.recv()).await.expect("it is asked").unwrap()
    }
}
