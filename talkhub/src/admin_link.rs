//! The links on which an administrator's requests reach the db_proxies.
//!
//! A request goes to one after another until one says that it is the right one: a group belongs to
//! whoever owns its partition now.

#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;
use std::time::Duration;

use daemon::{CallError, Identity, Link, LinkFrame, LinkHandler, LinkOptions, Role, Shutdown};
use proto::cluster::Kind;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{AdminAnswer, AdminRequest};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::failure::Failure;

/// How long the links may take to come up, once something listens.
const LINK_LIMIT: Duration = Duration::from_secs(5);
/// How long one request may take: 5,000 users in one transaction on a slow disk are the longest.
const CALL_LIMIT: Duration = Duration::from_mins(1);
/// How long a partition may be without an owner.
const OWNER_LIMIT: Duration = Duration::from_secs(15);
/// Between two rounds of asking everybody.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Links to db_proxies with an administrator's rights.
#[derive(Debug)]
pub(crate) struct AdminLink {
    links: watch::Receiver<Vec<Link>>,
    shutdown: Shutdown,
}

/// Knows the links that are up.
struct Waiting {
    up: watch::Sender<Vec<Link>>,
}

impl LinkHandler for Waiting {
    fn up(&self, link: &Link) {
        self.up.send_modify(|links| links.push(link.clone()));
    }

    fn frame(&self, _link: &Link, _frame: LinkFrame) {
        // An administrator is told nothing that he did not ask for.
    }

    fn down(&self, link: &Link) {
        self.up.send_modify(|links| links.retain(|other| other.id() != link.id()));
    }
}

impl AdminLink {
    /// Connects to the db_proxies at `addrs` (`host:port`) as `identity`. Of several, some may be
    /// away.
    pub(crate) async fn connect(addrs: &[String], identity: Identity) -> Result<Self, Failure> {
        let (mut there, mut failed) = (Vec::new(), Vec::new());
        for addr in addrs {
            // Dialing goes on for ever and says little: that nobody listens is said here, at once.
            match TcpStream::connect(addr).await {
                Ok(_listens) => there.push(addr.clone()),
                Err(error) => failed.push(format!("{addr}: {error}")),
            }
        }
        if there.is_empty() {
            let failed = failed.join(", ");
            return Err(Failure::new(format!("cannot connect to db_proxy at {failed}")));
        }
        let (shutdown, wanted) = (Shutdown::default(), there.len());
        let names = there.join(", ");
        let (up, mut links) = watch::channel(Vec::new());
        let (_unchanging, targets) = watch::channel(there);
        let handler = Arc::new(Waiting { up });
        daemon::link::dial(
            targets,
            identity,
            Role::DbProxy,
            handler,
            LinkOptions::default(),
            &shutdown,
        );
        // One that stands still is done without.
        let all_up = links.wait_for(|links: &Vec<Link>| links.len() >= wanted);
        timeout(LINK_LIMIT, all_up).await.ok();
        if links.borrow().is_empty() {
            return Err(Failure::new(format!(
                "no link to {names}: it is not a db_proxy, or it has another cluster key"
            )));
        }
        Ok(Self { links, shutdown })
    }

    /// Asks, and waits for the answer. What db_proxy refuses is a failure with its text.
    pub(crate) async fn ask(&self, what: What) -> Result<AdminAnswer, Failure> {
        let request = AdminRequest { what: Some(what) };
        let began = Instant::now();
        loop {
            let links = self.links.borrow().clone();
            for link in links {
                let answer = ask_one(&link, &request).await?;
                if answer.not_here != Some(true) {
                    return checked(answer);
                }
            }
            if began.elapsed() >= OWNER_LIMIT {
                return Err(Failure::new(
                    "none of the db_proxies that were asked is the one for this: name all of them, with commas between",
                ));
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// Closes the links.
    pub(crate) async fn close(self) {
        self.shutdown.begin();
        // The process is about to end: what is not closed by then closes with it.
        self.shutdown.drain(Duration::from_secs(1)).await.ok();
    }
}

async fn ask_one(link: &Link, request: &AdminRequest) -> Result<AdminAnswer, Failure> {
    let answer = link.call(Kind::Admin.number(), request, CALL_LIMIT).await;
    answer.map_err(|error: CallError| {
        Failure::new(format!("no answer from db_proxy: {error}; nothing may have been done"))
    })
}

fn checked(answer: AdminAnswer) -> Result<AdminAnswer, Failure> {
    if answer.done {
        return Ok(answer);
    }
    let why = answer.error.filter(|error| !error.is_empty());
    Err(Failure::new(why.unwrap_or_else(|| "db_proxy has refused".to_owned())))
}

#[cfg(test)]
mod tests {
    use proto::cluster::wire::UserList;
    use tokio::net::TcpListener;

    use super::testing::{DbProxy, identity};
    use super::*;

    /// Time is paused: it jumps to the next timer whenever everybody waits.
    #[tokio::test(start_paused = true)]
    async fn whoever_listens_and_says_nothing_is_left_after_five_seconds() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addrs = [listener.local_addr().unwrap().to_string()];
        let mut silent = Vec::new();
        let began = Instant::now();
        let connected = tokio::select! {
            connected = AdminLink::connect(&addrs, identity(Role::Admin)) => connected,
            () = async {
                while silent.len() < 100 {
                    silent.push(listener.accept().await.unwrap());
                }
            } => panic!("it tries for ever"),
        };
        let failure = connected.unwrap_err().to_string();
        assert!(failure.contains("it is not a db_proxy"), "{failure}");
        assert_eq!(began.elapsed().as_secs(), 5);
    }

    #[tokio::test]
    async fn a_partition_may_be_without_an_owner_for_fifteen_seconds() {
        let (mut db_proxy, link) = DbProxy::linked().await;
        let not_here = AdminAnswer { not_here: Some(true), ..AdminAnswer::default() };
        let answers = async move {
            db_proxy.answer(Duration::from_secs(10), &not_here).await;
            // It is asked again, for the last time.
            db_proxy.answer(Duration::from_secs(5), &not_here).await;
        };
        let asking = link.ask(What::UserList(UserList::default()));
        let (asked, ()) = tokio::join!(asking, answers);
        let failure = asked.unwrap_err().to_string();
        assert!(failure.contains("name all of them"), "{failure}");
    }
}
