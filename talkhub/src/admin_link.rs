//! The links on which an administrator's requests reach the db_proxies.

#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;
use std::time::Duration;

use daemon::{CallError, Identity, LinkOptions, Shutdown};
use db_client::DbClient;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{AdminAnswer, AdminRequest};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::Failure;

/// How long the links may take to come up, and their ends to say what they own, once something listens.
const LINK_LIMIT: Duration = Duration::from_secs(5);
/// How long a partition may be without an owner.
const OWNER_LIMIT: Duration = Duration::from_secs(15);
/// How much longer one answer may take: 5,000 users in one transaction on a slow disk are the longest.
const ANSWER_LIMIT: Duration = Duration::from_secs(45);

/// Links to db_proxies with an administrator's rights.
#[derive(Debug)]
pub(crate) struct AdminLink {
    client: Arc<DbClient>,
    shutdown: Shutdown,
}

impl AdminLink {
    /// Connects to the db_proxies at `addrs` (`host:port`) as `identity`. If there are several,
    /// some may be down.
    pub(crate) async fn connect(addrs: &[String], identity: Identity) -> Result<Self, Failure> {
        let (mut there, mut failed) = (Vec::new(), Vec::new());
        for addr in addrs {
            // Dialing goes on for ever and says little. So if nothing listens there, it is said
            // here, at once.
            match TcpStream::connect(addr).await {
                Ok(_listens) => there.push(addr.clone()),
                Err(error) => failed.push(format!("{addr}: {error}")),
            }
        }
        if there.is_empty() {
            let failed = failed.join(", ");
            return Err(Failure::new(format!("cannot connect to db_proxy at {failed}")));
        }
        let (shutdown, names) = (Shutdown::default(), there.join(", "));
        let (_unchanging, targets) = watch::channel(there);
        let client = DbClient::connect(targets, identity, LinkOptions::default(), &shutdown);
        // Where a partition has no owner now, only what is about that has to wait.
        let is_ready = client.ready(Instant::now() + LINK_LIMIT).await;
        if !is_ready && client.partitions() == 0 {
            return Err(Failure::new(format!(
                "no link to {names}: it is not a db_proxy, or it has another cluster key"
            )));
        }
        Ok(Self { client, shutdown })
    }

    /// Asks, and waits for the answer. What db_proxy refuses is a failure with its text.
    pub(crate) async fn ask(&self, what: What) -> Result<AdminAnswer, Failure> {
        let request = AdminRequest { what: Some(what), by: None };
        let until = Instant::now() + OWNER_LIMIT;
        match self.client.administer(&request, until, ANSWER_LIMIT).await {
            Ok(answer) => checked(answer),
            // Sooner than an answer would be given up: none of them was the one to answer.
            Err(CallError::TimedOut) if Instant::now() < until + ANSWER_LIMIT => Err(Failure::new(
                "none of the db_proxies that were asked is the one for this: name all of them, with commas between",
            )),
            Err(error) => Err(Failure::new(format!(
                "no answer from db_proxy: {error}; nothing may have been done"
            ))),
        }
    }

    /// Closes the links.
    pub(crate) async fn close(self) {
        self.shutdown.begin();
        // The process is about to end: what is not closed by then closes with it.
        self.shutdown.drain(Duration::from_secs(1)).await.ok();
    }
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
    use daemon::Role;
    use proto::cluster::wire::UserList;
    use tokio::net::TcpListener;

    use super::testing::{DbProxy, identity};
    use super::*;

    /// Time is paused: it jumps to the next timer whenever all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn a_listener_that_says_nothing_is_given_up_after_five_seconds() {
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
    async fn each_address_without_a_listener_is_named_at_once() {
        let listeners = [
            TcpListener::bind(("127.0.0.1", 0)).await.unwrap(),
            TcpListener::bind(("127.0.0.1", 0)).await.unwrap(),
        ];
        let addrs = listeners.map(|listener| listener.local_addr().unwrap().to_string());
        let connected = AdminLink::connect(&addrs, identity(Role::Admin)).await;
        let failure = connected.unwrap_err().to_string();
        assert!(failure.starts_with("cannot connect to db_proxy at 127.0.0.1:"), "{failure}");
        assert!(addrs.iter().all(|addr| failure.contains(addr)), "{failure}");
        assert!(failure.contains("refused"), "{failure}");
    }

    #[tokio::test]
    async fn what_db_proxy_refuses_is_a_failure_with_its_text() {
        let (mut db_proxy, link) = DbProxy::linked().await;
        for (done, error, expected) in [
            (true, Some("all the same"), Ok(Some(7))),
            (false, Some("the name is taken"), Err("the name is taken")),
            (false, Some(""), Err("db_proxy has refused")),
            (false, None, Err("db_proxy has refused")),
        ] {
            let error = error.map(str::to_owned);
            let answer = AdminAnswer { done, error, id: Some(7), ..AdminAnswer::default() };
            let list = What::UserList(UserList { after: None, count: Some(3) });
            let (told, asked) = tokio::join!(link.ask(list.clone()), db_proxy.asked(&answer));
            assert_eq!(asked, list);
            let told = told.map(|answer| answer.id).map_err(|failure| failure.to_string());
            assert_eq!(told, expected.map_err(str::to_owned));
        }
        link.close().await;
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
