//! Stopping a daemon whose work in flight needs another daemon.

use std::sync::Arc;
use std::time::Duration;

use daemon::link::{dial, listen, new_boot};
use daemon::{
    Identity, Link, LinkFrame, LinkHandler, LinkKey, LinkOptions, Role, Running, Serving, Shutdown,
};
use tokio::sync::{mpsc, watch};
use tracing::Span;

const SOON: Duration = Duration::from_secs(20);

/// Hands out links and answers everything with an empty message.
struct Answers {
    links: mpsc::Sender<Link>,
}

impl LinkHandler for Answers {
    fn up(&self, link: &Link) {
        self.links.try_send(link.clone()).expect("one link");
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        link.answer(&frame, frame.kind, &()).expect("the link is up");
    }

    fn down(&self, _link: &Link) {}
}

fn identity(role: Role, key: &LinkKey) -> Identity {
    Identity { role, name: role.name().to_owned(), boot: new_boot(), key: key.clone(), tls: None }
}

/// The shutdowns of a gateway and a store in one process, and the gateway's link to the store.
async fn linked(process: &Shutdown) -> (Shutdown, Shutdown, Link) {
    let (gateway, store) = (process.child(), process.child());
    let (links, mut up) = mpsc::channel(8);
    let handler = Arc::new(Answers { links });
    let key = LinkKey::random();
    let options = LinkOptions::default();
    let addr = "127.0.0.1:0".parse().expect("an address");
    let addr = listen(
        addr,
        identity(Role::DbProxy, &key),
        &[Role::MsgServer],
        Arc::clone(&handler) as Arc<dyn LinkHandler>,
        options.clone(),
        &store,
    )
    .await
    .expect("a free port");
    let (_never_changed, targets) = watch::channel(vec![addr.to_string()]);
    dial(targets, identity(Role::MsgServer, &key), Role::DbProxy, handler, options, &gateway);
    loop {
        let link = up.recv().await.expect("a link comes up");
        if link.peer().role == Role::DbProxy {
            return (gateway, store, link);
        }
    }
}

#[tokio::test]
async fn work_in_flight_still_has_its_links_and_everything_ends() {
    let process = Shutdown::default();
    let (gateway, store, link) = linked(&process).await;
    let (answers, mut answered) = mpsc::channel(2);

    // One piece of work ends with the tasks, the other with the daemon's own drain.
    let (begun, task_link, task_answers) = (gateway.clone(), link.clone(), answers.clone());
    gateway.spawn(Span::none(), async move {
        begun.begun().await;
        task_answers.send(task_link.call::<()>(7, &(), SOON).await).await.expect("the test waits");
    });
    let drain_link = link.clone();
    let serving = Serving::new("gateway").drain(async move {
        answers.send(drain_link.call::<()>(7, &(), SOON).await).await.expect("the test waits");
    });

    // As on SIGTERM: everything begins to stop at once.
    process.begin();
    Running { serving, shutdown: gateway.clone() }.stop(SOON).await.unwrap();
    assert_eq!(answered.recv().await, Some(Ok(())));
    assert_eq!(answered.recv().await, Some(Ok(())));
    assert!(link.is_closed(), "the links close last");

    Running { serving: Serving::new("store"), shutdown: store }.stop(SOON).await.unwrap();
    process.drain(SOON).await.unwrap();
    assert!(!process.failed());
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_hangs_is_cut_off_at_the_limit() {
    let shutdown = Shutdown::default();
    let began = tokio::time::Instant::now();
    let serving = Serving::new("stuck").drain(std::future::pending());
    shutdown.spawn(Span::none(), std::future::pending());
    let stopped = Running { serving, shutdown }.stop(Duration::from_secs(10)).await;
    stopped.expect_err("a task still runs");
    assert!(began.elapsed() <= Duration::from_secs(12), "{:?}", began.elapsed());
}
