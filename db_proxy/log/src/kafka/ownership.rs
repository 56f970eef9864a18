//! Which db_proxy has which partition: the members of one consumer group share them.
//!
//! Kafka only says which member may try. The epoch in the store says which one owns the partition. An
//! owner that was told nothing finds the epoch record of another owner in the log.
//!
//! A member that leaves in good order is told to stop each partition before another member gets it
//! ([`Event::Revoked`]); one that is silent for [`SESSION`] loses all of them. No member is a
//! static one (`group.instance.id`): that would keep the partitions of one that left until its session ends.
//!
//! # Invariants
//!
//! - Nothing is consumed here: the partitions are paused.
//! - No event is dropped: while they are not taken, the thread waits, and after [`SILENT_MAX`] the group
//!   gives the partitions to others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{ConnectError, Options, client};

/// How long a member may be silent. Brokers refuse less.
pub(super) const SESSION: Duration = Duration::from_secs(6);

/// How often it says that it is there: as often it hears that the group changes.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long an owner may take to stop its partitions before they are given away all the same.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(3);

/// How long events may wait to be taken.
pub(super) const SILENT_MAX: Duration = Duration::from_secs(30);

/// How many events wait to be taken; then the group waits.
const EVENTS_MAX: usize = 64;

/// How soon the thread sees that it is to leave.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What happened to our partitions.
#[derive(Debug)]
pub enum Event {
    /// These may be taken.
    Assigned(Vec<u32>),
    /// These are to be stopped; the group waits for the answer, for [`STOP_LIMIT`] at most.
    Revoked(Vec<u32>, Ack),
    /// These were given to others while nothing was heard of us.
    Lost(Vec<u32>),
}

/// Says that what was revoked has stopped, when it is dropped.
#[derive(Debug)]
pub struct Ack {
    _stopped: mpsc::SyncSender<()>,
}

/// A membership. Dropping it leaves the group, without waiting for anything to stop.
pub struct Ownership {
    events: Receiver<Event>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    leaving: AtomicBool,
    rebalances: AtomicU64,
}

impl Ownership {
    /// Joins the group of `options`. `owner` is the name that operators see for this member.
    pub fn join(options: &Options, owner: &str) -> Result<Self, ConnectError> {
        let (sender, events) = channel(EVENTS_MAX);
        let shared = Arc::new(Shared::default());
        let member = Member { events: sender, shared: Arc::clone(&shared) };
        let failed = |error: &dyn fmt::Display| {
            ConnectError::Refused(format!("cannot join the group {}: {error}", options.group))
        };
        let mut config = client::config(options);
        config
            .set("client.id", owner)
            .set("group.id", &options.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", SESSION.as_millis().to_string())
            .set("heartbeat.interval.ms", HEARTBEAT.as_millis().to_string())
            .set("max.poll.interval.ms", SILENT_MAX.as_millis().to_string())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Nothing is read here, from wherever it would be.
            .set("auto.offset.reset", "latest")
            .set("queued.max.messages.kbytes", "64")
            .set("fetch.message.max.bytes", "1024");
        let consumer: BaseConsumer<Member> =
            config.create_with_context(member).map_err(|error| failed(&error))?;
        consumer.subscribe(&[&options.topic]).map_err(|error| failed(&error))?;
        let thread = std::thread::Builder::new().name("kafka-group".to_owned());
        let leaving = Arc::clone(&shared);
        thread.spawn(move || take_part(consumer, &leaving)).map_err(|error| failed(&error))?;
        Ok(Self { events, shared })
    }

    /// What happened next; `None` after having left, or when the group cannot be taken part in any
    /// more.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// As [`Self::next`], for a thread.
    #[cfg(test)]
    pub(super) fn blocking_next(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }

    /// Leaves the group. What is ours is revoked first, and then the events end.
    pub fn leave(&self) {
        self.shared.leaving.store(true, Ordering::Relaxed);
    }

    /// How often the partitions were shared out anew since this member joined.
    pub fn rebalances(&self) -> u64 {
        self.shared.rebalances.load(Ordering::Relaxed)
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ownership").field("rebalances", &self.rebalances()).finish_non_exhaustive()
    }
}

/// The thread: everything happens in `poll`.
fn take_part(consumer: BaseConsumer<Member>, shared: &Shared) {
    let mut trouble = None;
    while !shared.leaving.load(Ordering::Relaxed) {
        match consumer.poll(LOOK_EVERY) {
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                tracing::error!(%code, "this member of the group cannot go on");
                return;
            }
            // One line for each kind of trouble, not for each time.
            Some(Err(error)) if trouble.as_ref() != Some(&error) => {
                tracing::warn!(%error, "of the group that shares the partitions");
                trouble = Some(error);
            }
            _ => {}
        }
    }
    // Closing it revokes what is ours, and tells the group.
    drop(consumer);
}

/// What the group tells this member.
struct Member {
    events: Sender<Event>,
    shared: Arc<Shared>,
}

impl Member {
    fn tell(&self, event: Event) {
        // When it cannot be sent, the membership was dropped and no event is wanted.
        self.events.blocking_send(event).ok();
    }

    fn revoke(&self, partitions: Vec<u32>) {
        let (sender, stopped) = mpsc::sync_channel(1);
        self.tell(Event::Revoked(partitions, Ack { _stopped: sender }));
        if stopped.recv_timeout(STOP_LIMIT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("partitions are given away that were not stopped in time");
        }
    }
}

impl ClientContext for Member {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "of the Kafka library");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "of the Kafka library");
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(list) if consumer.assignment_lost() => {
                self.shared.rebalances.fetch_add(1, Ordering::Relaxed);
                self.tell(Event::Lost(partitions(list)));
            }
            Rebalance::Revoke(list) => {
                let partitions = partitions(list);
                if !partitions.is_empty() {
                    self.revoke(partitions);
                }
            }
            Rebalance::Assign(_) | Rebalance::Error(_) => {}
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else { return };
        self.shared.rebalances.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = consumer.pause(list) {
            tracing::debug!(%error, "what is not wanted is read all the same");
        }
        let partitions = partitions(list);
        if !partitions.is_empty() {
            self.tell(Event::Assigned(partitions));
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<u32> {
    let elements = list.elements();
    let mut numbers: Vec<u32> =
        elements.iter().filter_map(|element| u32::try_from(element.partition()).ok()).collect();
    numbers.sort_unstable();
    numbers
}
