//! Appends while brokers go away: what was returned is there afterwards, where it was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use backends::Kafka;
use bytes::Bytes;
use daemon::clock::unix_ms;
use proto::ids::Offset;

use super::{Topic, options, three, topic_with, until};
use crate::conformance::{Place as _, append, read};
use crate::kafka::Options;
use crate::{Log, LogError};

/// How long an append may take here.
const DELIVERY: Duration = Duration::from_secs(2);

/// How much longer it takes to give up: the producer is ended first.
const GIVING_UP: Duration = Duration::from_secs(12);

fn impatient(kafka: &Kafka) -> Topic {
    topic_with(Options { delivery_timeout: DELIVERY, ..options(kafka, 1) })
}

/// An owner that appends, and takes the partition again whenever it lost it.
struct Owner<'a> {
    place: &'a Topic,
    log: Option<Box<dyn Log>>,
    /// What was returned.
    acked: BTreeMap<u64, Bytes>,
    sent: usize,
    lost: usize,
}

impl<'a> Owner<'a> {
    fn new(place: &'a Topic) -> Self {
        Self { place, log: None, acked: BTreeMap::new(), sent: 0, lost: 0 }
    }

    /// Appends three payloads that were never appended before. Returns whether they are there.
    fn append(&mut self) -> bool {
        let Some(log) = &mut self.log else {
            match self.place.find().open(Offset(0)) {
                Ok(log) => self.log = Some(log),
                Err(LogError::Io { .. }) => {}
                Err(error) => panic!("a broker that is away is no damage: {error}"),
            }
            return false;
        };
        let payloads: Vec<_> =
            (0..3).map(|of| Bytes::from(format!("{} {of}", self.sent))).collect();
        self.sent += 1;
        match log.append(&payloads, unix_ms()) {
            Ok(appended) => {
                for appended in appended {
                    let record = appended.record;
                    if let Some(of) = appended.of {
                        assert_eq!(record.payload, payloads[of]);
                        self.acked.insert(record.offset.0, record.payload);
                    }
                }
                true
            }
            Err(LogError::Lost(why)) => {
                assert!(!why.is_empty());
                let again = log.append(&payloads, unix_ms());
                assert!(matches!(again, Err(LogError::Lost(_))), "nothing is appended any more");
                assert!(matches!(log.idle(), Err(LogError::Lost(_))));
                self.log = None;
                self.lost += 1;
                false
            }
            Err(error) => panic!("it is lost or it is there: {error}"),
        }
    }

    fn append_until_it_works(&mut self) {
        until("an append succeeds", || self.append().then_some(()));
    }

    /// Whatever was returned is where it was, and of every append there is a beginning.
    fn check(&mut self) {
        // A leader that is new may not know yet how far its followers are, and so tell of less than there is. It
        // knows once it has taken an append.
        self.log = None;
        self.append_until_it_works();
        let log = self.log.as_ref().expect("it has just been appended to");
        let records = read(&**log, 1);
        let mut acked = self.acked.clone();
        for record in &records {
            let payload = acked.remove(&record.offset.0);
            assert!(payload.is_none_or(|payload| payload == record.payload), "{record:?}");
        }
        assert!(acked.is_empty(), "these are gone: {acked:?}");
        let mut counts = BTreeMap::new();
        for record in &records {
            let text = std::str::from_utf8(&record.payload).unwrap();
            let (append, of) = text.split_once(' ').unwrap();
            let count = counts.entry(append.parse::<usize>().unwrap()).or_insert(0);
            assert_eq!(of.parse::<usize>().unwrap(), *count, "a gap in append {append}");
            *count += 1;
        }
    }
}

#[test]
fn nothing_returned_is_missing_after_leaders_were_away() {
    let three = three();
    let kafka = three.as_ref().unwrap();
    let place = impatient(kafka);
    let mut owner = Owner::new(&place);
    owner.append_until_it_works();
    for [take_down, bring_back] in [[Kafka::kill, Kafka::restart], [Kafka::pause, Kafka::resume]] {
        let topic = &place.topic.options().topic;
        let leader = until("there is a leader", || kafka.partition(topic, 0)?.leader);
        std::thread::scope(|scope| {
            let killing = scope.spawn(|| take_down(kafka, leader));
            while !killing.is_finished() {
                owner.append();
            }
        });
        owner.append_until_it_works();
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| bring_back(kafka, leader));
            while !starting.is_finished() {
                owner.append();
            }
        });
        owner.append_until_it_works();
        until("all are in sync", || (kafka.partition(topic, 0)?.in_sync.len() == 3).then_some(()));
    }
    owner.check();
    println!("{} appends, {} lost", owner.sent, owner.lost);
}

#[test]
fn nothing_is_returned_while_only_one_replica_is_left() {
    let three = three();
    let kafka = three.as_ref().unwrap();
    let place = impatient(kafka);
    let mut owner = Owner::new(&place);
    owner.append_until_it_works();
    let topic = &place.topic.options().topic;
    let leader = until("there is a leader", || kafka.partition(topic, 0)?.leader);
    let others: Vec<_> = (1..=3).filter(|broker| *broker != leader).collect();
    for other in &others {
        kafka.pause(*other);
    }
    for _try in 0..2 {
        assert!(!owner.append(), "one replica is not enough");
    }
    for other in &others {
        kafka.resume(*other);
    }
    owner.append_until_it_works();
    owner.check();
    assert!(owner.lost > 0);
    until("all are in sync", || (kafka.partition(topic, 0)?.in_sync.len() == 3).then_some(()));
}

#[test]
fn a_silent_broker_costs_the_log_in_time() {
    let kafka = Kafka::start(1);
    let place = impatient(&kafka);
    let mut owner = Owner::new(&place);
    owner.append_until_it_works();
    kafka.pause(1);
    let began = Instant::now();
    assert!(!owner.append());
    assert!(owner.lost == 1 && began.elapsed() >= DELIVERY, "it was waited for");
    assert!(began.elapsed() < DELIVERY + GIVING_UP, "and not for long: {:?}", began.elapsed());
    kafka.resume(1);
    owner.append_until_it_works();
    owner.check();

    // A process that dies is no different.
    kafka.kill(1);
    assert!(!owner.append());
    kafka.restart(1);
    owner.append_until_it_works();
    owner.check();
    assert_eq!(owner.lost, 2);
}

#[test]
fn a_broker_that_is_back_in_time_costs_nothing() {
    let kafka = Kafka::start(1);
    let place = topic_with(options(&kafka, 1));
    let mut log = place.open();
    append(&mut *log, &[Bytes::from_static(b"before")], unix_ms());
    kafka.kill(1);
    std::thread::scope(|scope| {
        scope.spawn(|| kafka.restart(1));
        let records = append(&mut *log, &[Bytes::from_static(b"after")], unix_ms());
        assert_eq!(records[0].offset, Offset(2));
    });
}
