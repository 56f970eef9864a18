//! A db_proxy for tests of those who ask one: the test gives the answers, and says how late they are.

use std::sync::Arc;
use std::time::Duration;

use daemon::{Identity, Link, LinkFrame, LinkHandler, LinkKey, LinkOptions, Role, Shutdown};
use proto::cluster::Kind;
use proto::cluster::wire::{AdminAnswer, Owned, Ownership};
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

/// Who all in the cluster believe.
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
        let link = AdminLink::connect(&[addr], identity(Role::Admin)).await.unwrap();
        (Self { questions }, link)
    }

    /// Answers the next question, that much time after it has come. The time is skipped.
    pub(crate) async fn answer(&mut self, late: Duration, answer: &AdminAnswer) {
        let question = timeout(SOON, self.questions.recv()).await.expect("it is asked");
        let (link, question) = question.unwrap();
        tokio::time::pause();
        tokio::time::advance(late).await;
        tokio::time::resume();
        link.answer(&question, Kind::Admin.number(), answer).unwrap();
    }
}
