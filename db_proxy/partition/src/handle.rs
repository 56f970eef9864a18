//! The way to a partition, for changes and for reads.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use fold::admission::{Change, Facts};
use proto::cluster::wire::Origin;
use proto::ids::Offset;
use tokio::sync::oneshot;
use tracing::debug;

use crate::ending::Ending;
use crate::metrics::PartitionMetrics;
use crate::request::{Counted, Event, Outcome, Reply, Request, Waiter};
use crate::state::State;
use crate::submit_queues::{ClosedQueues, SubmitQueue};

/// Before the queue, which was full, is tried again.
pub(crate) const FULL_PAUSE: Duration = Duration::from_millis(2);

/// The way to a partition. Clones lead to the same one.
#[derive(Clone)]
pub struct Partition {
    pub(crate) events: SyncSender<Event>,
    pub(crate) state: State,
    pub(crate) closed_queues: Arc<ClosedQueues>,
    pub(crate) ending: Ending,
    pub(crate) metrics: Arc<PartitionMetrics>,
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition").finish_non_exhaustive()
    }
}

impl Partition {
    /// The partition's state, for reading.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where it shows that the ownership has ended.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Hands a change to the partition. Never waits: if there is no room, the outcome is "retry".
    ///
    /// After a message was told to retry, no message behind it is taken before that message comes
    /// again (see `submit_queues.rs`).
    pub fn submit(&self, change: Change, reply: Reply) {
        let origin = match &change {
            Change::Send(send) => send.origin,
            _ => None,
        };
        self.submit_from(origin, change, reply);
    }

    fn submit_from(&self, origin: Option<Origin>, change: Change, reply: Reply) {
        let reply = match SubmitQueue::of(&change) {
            Some(queue) => self.closing_on_retry(queue, reply),
            None => reply,
        };
        let waiter = Waiter(Some(reply));
        let request = Request { change, facts: Facts::default(), waiter, origin };
        let counted = Counted::of(&self.metrics.queued);
        let sent = self.events.try_send(Event::Request(request, counted));
        if let Err(TrySendError::Full(Event::Request(request, _counted))) = sent {
            self.metrics.retries.inc();
            request.waiter.tell(Outcome::Retry);
        }
        // A waiter that comes back because the thread has ended is told as it goes.
    }

    fn closing_on_retry(&self, queue: SubmitQueue, reply: Reply) -> Reply {
        let queues = Arc::clone(&self.closed_queues);
        Box::new(move |outcome| {
            if outcome == Outcome::Retry {
                queues.close(queue);
            }
            reply(outcome);
        })
    }

    /// Hands a change to the partition and waits for its outcome. If the caller goes away, the
    /// change may still happen.
    pub async fn change(&self, change: Change) -> Outcome {
        self.change_from(None, change).await
    }

    /// As [`Self::change`], for a change that a session asked for: it gets the outcome, and no
    /// notice beside it.
    pub async fn change_from(&self, origin: Option<Origin>, change: Change) -> Outcome {
        let (sender, outcome) = oneshot::channel();
        self.submit_from(
            origin,
            change,
            Box::new(move |outcome| {
                if sender.send(outcome).is_err() {
                    debug!("who asked for a change has gone");
                }
            }),
        );
        outcome.await.unwrap_or(Outcome::Moved)
    }

    /// Tells the partition that the store has everything up to `offset` for good.
    pub(crate) fn trim(&self, offset: Offset) {
        if self.events.try_send(Event::Trim(offset)).is_err() {
            debug!("the queue is full: the log is trimmed next time");
        }
    }

    /// Lets the thread finish what it has admitted, and waits until it has. What comes later is
    /// answered "moved".
    pub async fn stop(&self) {
        let (stopping, stopped) = oneshot::channel();
        let mut event = Event::Stop(stopping);
        loop {
            match self.events.try_send(event) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) => event = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            tokio::time::sleep(FULL_PAUSE).await;
        }
        if stopped.await.is_err() {
            debug!("the partition has stopped");
        }
    }
}
