//! Stopping without losing anything.
//!
//! A daemon stops in three steps. [`Shutdown::begin`] asks: every task sees it and finishes what it
//! holds. [`Shutdown::drain`] waits for the tasks, but not for ever; then it closes the links, which
//! the tasks needed to finish, and waits for those.
//!
//! # Invariants
//!
//! - Every task and every named thread of a daemon is spawned here; `.clippy.toml` forbids
//!   `tokio::spawn`.
//! - Once begun, a shutdown cannot be taken back.
//! - A vital task cannot end unnoticed: its end, by return or by panic, begins the shutdown of its
//!   daemon and of the process that the daemon is a part of.
//! - After `drain` returns `Ok`, no task of the daemon is running.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument, Span, error};

/// What the links get to write out their last bytes, even if the tasks have used up all the time.
const LINKS_LIMIT: Duration = Duration::from_secs(1);

/// Spawns the tasks of one daemon and stops them together. Clones are handles to the same daemon.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    begun: CancellationToken,
    closing_links: CancellationToken,
    tasks: TaskTracker,
    links: TaskTracker,
    failed: AtomicBool,
    parent: Option<Shutdown>,
    kept: Mutex<Vec<Box<dyn Any + Send>>>,
}

/// Tasks were still running when the time to drain was over.
#[derive(Debug, thiserror::Error)]
#[error("{running} tasks still ran {after:?} after draining began")]
pub struct DrainTimedOut {
    running: usize,
    after: Duration,
}

/// Which of the two groups a task belongs to: the links outlive the rest.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Group {
    Tasks,
    Links,
}

impl Shutdown {
    /// A shutdown of its own that begins when this one begins, or earlier; for running several
    /// daemons in one process. This one's [`Self::drain`] waits for the child's tasks too.
    pub fn child(&self) -> Self {
        Self {
            inner: Arc::new(Inner {
                begun: self.inner.begun.child_token(),
                closing_links: self.inner.closing_links.child_token(),
                parent: Some(self.clone()),
                ..Inner::default()
            }),
        }
    }

    /// Runs one task of many inside `span`: a panic ends it and nothing else.
    ///
    /// The task should return soon after [`Self::begun`].
    pub fn spawn(&self, span: Span, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_in(Group::Tasks, span, task);
    }

    /// Runs a task that the daemon cannot do without: if it ends early, the daemon stops.
    pub fn spawn_vital(&self, span: Span, task: impl Future<Output = ()> + Send + 'static) {
        let vital = self.vital();
        self.spawn(span, async move {
            let _ends_with_the_task = vital;
            task.await;
        });
    }

    /// Runs `work` on a thread of its own called `name`, which [`Self::drain`] waits for. The daemon
    /// cannot do without it: if it ends early, the daemon stops.
    pub fn spawn_thread(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        let vital = self.vital();
        let tracked = self.tokens(Group::Tasks);
        let own = self.inner.tasks.token();
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Dropped in this order, so that a task that waits for the thread finds it ended and
            // its end judged.
            let _tracked = (own, tracked);
            let _ends_with_the_thread = vital;
            work();
        });
        if let Err(error) = spawned {
            // `vital` went with the closure, so the shutdown has already begun.
            error!(thread = name, %error, "cannot start a thread");
        }
    }

    /// Runs a task that others need while they finish, such as a link: it should return soon after
    /// [`Self::closing_links`], not after [`Self::begun`].
    pub fn spawn_link(&self, span: Span, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_in(Group::Links, span, task);
    }

    /// Something that a task holds which the daemon cannot do without.
    pub(crate) fn vital(&self) -> Vital {
        Vital(self.clone())
    }

    pub(crate) fn spawn_in(
        &self,
        group: Group,
        span: Span,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        // In a box, the runtime's part of a task is compiled once, and not for each of a hundred kinds of tasks.
        self.spawn_boxed(group, span, Box::pin(task));
    }

    fn spawn_boxed(&self, group: Group, span: Span, task: BoxFuture<'static, ()>) {
        let tracked = self.tokens(group);
        let task = async move {
            let _also_waited_for_by_parents = tracked;
            task.await;
        };
        self.tracker(group).spawn(task.instrument(span));
    }

    /// Completes when the tasks of `group` should end.
    pub(crate) async fn ends(&self, group: Group) {
        match group {
            Group::Tasks => self.begun().await,
            Group::Links => self.closing_links().await,
        }
    }

    fn tracker(&self, group: Group) -> &TaskTracker {
        match group {
            Group::Tasks => &self.inner.tasks,
            Group::Links => &self.inner.links,
        }
    }

    /// One token for each parent. Allocates nothing where there is none.
    fn tokens(&self, group: Group) -> Vec<TaskTrackerToken> {
        let mut tokens = Vec::new();
        let mut parent = self.inner.parent.as_ref();
        while let Some(shutdown) = parent {
            tokens.push(shutdown.tracker(group).token());
            parent = shutdown.inner.parent.as_ref();
        }
        tokens
    }

    /// Keeps `thing` for as long as the daemon has a handle to itself.
    pub(crate) fn keep(&self, thing: impl Any + Send) {
        self.inner.kept.lock().push(Box::new(thing));
    }

    /// Asks every task to stop. Asking twice is the same as asking once.
    pub fn begin(&self) {
        self.inner.begun.cancel();
    }

    /// Stops the daemon, and the process it is a part of, because something it cannot do without
    /// has failed.
    pub fn fail(&self) {
        if !self.is_begun() {
            self.inner.failed.store(true, Ordering::Relaxed);
            self.begin();
            if let Some(parent) = &self.inner.parent {
                parent.fail();
            }
        }
    }

    /// Completes once shutdown has begun. Cancel-safe.
    pub async fn begun(&self) {
        self.inner.begun.cancelled().await;
    }

    /// Whether shutdown has begun.
    pub fn is_begun(&self) -> bool {
        self.inner.begun.is_cancelled()
    }

    /// Whether the shutdown was begun by the end of a vital task.
    pub fn failed(&self) -> bool {
        self.inner.failed.load(Ordering::Relaxed)
    }

    /// Asks the links to write what they hold and close. [`Self::drain`] does this after the tasks
    /// have ended.
    pub fn close_links(&self) {
        self.inner.closing_links.cancel();
    }

    /// Completes once nothing needs the links. Cancel-safe.
    pub async fn closing_links(&self) {
        self.inner.closing_links.cancelled().await;
    }

    /// Cancelled when the links are closed. Cancelling it closes no link but those that wait for it.
    pub(crate) fn links_token(&self) -> CancellationToken {
        self.inner.closing_links.child_token()
    }

    /// Waits until every task has returned, for at most `limit`; then closes the links and waits
    /// for them until the limit, or for a second if that is later.
    pub async fn drain(&self, limit: Duration) -> Result<(), DrainTimedOut> {
        let deadline = Instant::now() + limit;
        let Inner { tasks, links, .. } = self.inner.as_ref();

        tasks.close();
        let tasks_ended = timeout_at(deadline, tasks.wait()).await.is_ok();

        self.close_links();
        links.close();
        let deadline = deadline.max(Instant::now() + LINKS_LIMIT);
        let links_ended = timeout_at(deadline, links.wait()).await.is_ok();

        if tasks_ended && links_ended {
            Ok(())
        } else {
            Err(DrainTimedOut { running: tasks.len() + links.len(), after: limit })
        }
    }
}

/// Held by a vital task; dropped when it returns and when it panics.
pub(crate) struct Vital(Shutdown);

impl Drop for Vital {
    fn drop(&mut self) {
        let Self(shutdown) = self;
        shutdown.fail();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn links_close_only_after_the_tasks_have_ended() {
        let shutdown = Shutdown::default();
        let order = Arc::new(Mutex::new(Vec::new()));

        let (task, seen) = (shutdown.clone(), Arc::clone(&order));
        shutdown.spawn(Span::none(), async move {
            task.begun().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            seen.lock().push("task");
        });
        let (link, seen) = (shutdown.clone(), Arc::clone(&order));
        shutdown.spawn_link(Span::none(), async move {
            link.closing_links().await;
            seen.lock().push("link");
        });

        shutdown.begin();
        shutdown.drain(SOON).await.unwrap();
        assert_eq!(*order.lock(), ["task", "link"]);
    }

    #[tokio::test(start_paused = true)]
    async fn drain_gives_up_on_a_task_that_does_not_stop() {
        let shutdown = Shutdown::default();
        shutdown.spawn(Span::none(), std::future::pending());
        shutdown.begin();
        let error = shutdown.drain(SOON).await.unwrap_err();
        assert_eq!(error.to_string(), "1 tasks still ran 5s after draining began");
    }

    #[tokio::test(start_paused = true)]
    async fn links_get_a_second_when_the_tasks_have_used_up_all_the_time() {
        let shutdown = Shutdown::default();
        shutdown.spawn(Span::none(), std::future::pending());
        shutdown.spawn_link(Span::none(), std::future::pending());
        let (wrote, written) = mpsc::channel();
        let link = shutdown.clone();
        shutdown.spawn_link(Span::none(), async move {
            link.closing_links().await;
            tokio::time::sleep(Duration::from_millis(900)).await;
            wrote.send(()).unwrap();
        });
        let began = Instant::now();
        shutdown.begin();
        shutdown.drain(SOON).await.unwrap_err();
        written.try_recv().expect("the link has written its last bytes");
        assert_eq!(began.elapsed().as_secs(), 6, "the one that hangs is given up");
    }

    #[tokio::test]
    async fn the_end_of_a_vital_task_is_a_failure_of_the_daemon() {
        let shutdown = Shutdown::default();
        shutdown.spawn_vital(Span::none(), async {});
        shutdown.begun().await;
        assert!(shutdown.failed());
    }

    #[tokio::test]
    async fn the_panic_of_a_vital_thread_is_a_failure_of_the_daemon() {
        let shutdown = Shutdown::default();
        shutdown.spawn_thread("doomed", || panic!("on purpose"));
        shutdown.begun().await;
        assert!(shutdown.failed());
        shutdown.drain(SOON).await.unwrap();
    }

    #[tokio::test]
    async fn drain_waits_for_threads() {
        let shutdown = Shutdown::default();
        let (finish, finished) = mpsc::channel::<()>();
        let (ended, end) = mpsc::channel();
        shutdown.spawn_thread("worker", move || {
            finished.recv().unwrap_err();
            ended.send(()).unwrap();
        });
        shutdown.begin();
        drop(finish);
        shutdown.drain(SOON).await.unwrap();
        end.try_recv().expect("the thread ended before drain returned");
        assert!(!shutdown.failed(), "a vital thread may end once shutdown has begun");
    }

    #[tokio::test]
    async fn a_child_begins_with_its_parent_and_not_the_other_way_round() {
        let parent = Shutdown::default();
        let (one, other) = (parent.child(), parent.child());
        one.begin();
        assert!(one.is_begun() && !parent.is_begun() && !other.is_begun());
        parent.begin();
        other.begun().await;
        assert!(!parent.failed());
    }

    #[tokio::test]
    async fn a_failing_child_stops_the_whole_process() {
        let parent = Shutdown::default();
        let child = parent.child();
        child.spawn_vital(Span::none(), async {});
        parent.begun().await;
        assert!(child.failed() && parent.failed());
    }

    /// A shutdown so many levels below this one.
    fn below(parent: &Shutdown, levels: usize) -> Shutdown {
        (0..levels).fold(parent.clone(), |shutdown, _level| shutdown.child())
    }

    #[tokio::test(start_paused = true)]
    async fn a_parent_waits_for_the_tasks_and_links_of_all_below_it() {
        for levels in 1..=2 {
            let parent = Shutdown::default();
            below(&parent, levels).spawn(Span::none(), std::future::pending());
            below(&parent, levels).spawn_link(Span::none(), std::future::pending());
            parent.begin();
            let error = parent.drain(SOON).await.unwrap_err();
            assert!(error.to_string().starts_with("2 tasks still ran"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_parent_waits_for_the_threads_of_all_below_it() {
        for levels in 1..=2 {
            let parent = Shutdown::default();
            let (finish, finished) = mpsc::channel::<()>();
            let work = move || assert!(finished.recv().is_err(), "the test lets go");
            below(&parent, levels).spawn_thread("worker", work);
            parent.begin();
            parent.drain(Duration::ZERO).await.expect_err("the thread still runs");
            drop(finish);
            parent.drain(SOON).await.expect("it has ended");
            assert!(!parent.failed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_waits_only_for_its_own_tasks() {
        let parent = Shutdown::default();
        let (child, sibling) = (parent.child(), parent.child());
        parent.spawn(Span::none(), std::future::pending());
        sibling.spawn_link(Span::none(), std::future::pending());
        child.begin();
        child.drain(SOON).await.unwrap();
        assert!(!parent.is_begun() && !sibling.is_begun());
        assert!(!sibling.links_token().is_cancelled(), "its links are in use");
        parent.close_links();
        sibling.closing_links().await;
    }

    #[tokio::test]
    async fn a_panic_of_one_task_of_many_ends_it_and_nothing_else() {
        let shutdown = Shutdown::default();
        shutdown.spawn(Span::none(), async { panic!("on purpose") });
        shutdown.spawn_link(Span::none(), async { panic!("on purpose") });
        let (done, is_done) = tokio::sync::oneshot::channel();
        shutdown.spawn(Span::none(), async move { done.send(()).unwrap() });
        is_done.await.unwrap();
        assert!(!shutdown.is_begun());
        shutdown.begin();
        shutdown.drain(SOON).await.unwrap();
        assert!(!shutdown.failed());
    }

    #[tokio::test]
    async fn a_vital_task_may_end_once_shutdown_has_begun() {
        let parent = Shutdown::default();
        let child = parent.child();
        let begun = child.clone();
        child.spawn_vital(Span::none(), async move { begun.begun().await });
        parent.begin();
        parent.drain(SOON).await.unwrap();
        assert!(!child.failed() && !parent.failed());
    }

    #[tokio::test]
    async fn each_group_ends_at_its_own_time() {
        let shutdown = Shutdown::default();
        let one_of_many = shutdown.links_token();
        one_of_many.cancel();
        shutdown.begin();
        shutdown.ends(Group::Tasks).await;
        let links = std::pin::pin!(shutdown.ends(Group::Links));
        assert!(futures_util::poll!(links).is_pending(), "one closed link closes no other");
        assert!(!shutdown.links_token().is_cancelled());
        shutdown.close_links();
        shutdown.ends(Group::Links).await;
        assert!(shutdown.links_token().is_cancelled());
    }
}
