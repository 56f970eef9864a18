//! The log on real brokers.

mod append;
mod faults;
mod ownership;
mod refusals;
mod secured;
mod speed;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backends::{Kafka, PATIENCE};
use proto::ids::Offset;

use super::{KafkaTopic, NewTopic, Options, ensure_topic};
use crate::conformance::{Place, suite};
use crate::{Log, Unopened};

suite!(fresh);

/// A topic of its own on the broker that all tests share.
#[derive(Debug)]
pub(super) struct Topic {
    topic: KafkaTopic,
}

impl Place for Topic {
    fn find(&self) -> Box<dyn Unopened> {
        Box::new(self.topic.partition(0))
    }
}

impl Topic {
    /// Another owner of a partition.
    fn owner(&self, partition: u32, applied: u64) -> Box<dyn Log> {
        Box::new(self.topic.partition(partition)).open(Offset(applied)).unwrap()
    }
}

/// Options for a topic and a group that no other test has.
fn options(kafka: &Kafka, partitions: u32) -> Options {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Options {
        group: format!("group{number}"),
        allow_unsafe_topic: true,
        patience: Duration::from_secs(20),
        ..Options::new(kafka.bootstrap(), format!("topic{number}"), partitions)
    }
}

/// A new topic of so many partitions.
fn topic(kafka: &Kafka, partitions: u32) -> Topic {
    topic_with(options(kafka, partitions))
}

fn topic_with(options: Options) -> Topic {
    ensure_topic(&options, NewTopic::default()).unwrap();
    Topic { topic: KafkaTopic::connect(options).unwrap() }
}

fn fresh() -> Topic {
    topic(Kafka::shared(), 1)
}

/// Three brokers, for one test at a time, which leaves them running.
fn three() -> MutexGuard<'static, Option<Kafka>> {
    static THREE: Mutex<Option<Kafka>> = Mutex::new(None);
    let mut three = THREE.lock().unwrap_or_else(PoisonError::into_inner);
    let kafka = three.get_or_insert_with(|| Kafka::start(3));
    until("the test before has left three", || kafka.is_whole().then_some(()));
    three
}

/// Waits until there is an answer.
fn until<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "in time: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
