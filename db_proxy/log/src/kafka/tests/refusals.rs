//! What is refused, and in which words.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use backends::Kafka;

use super::{options, three};
use crate::Unopened as _;
use crate::kafka::{ConnectError, KafkaTopic, NewTopic, Options, ensure_topic};

/// Why it is refused for good, in one line.
pub(super) fn refused<T: std::fmt::Debug>(result: Result<T, ConnectError>) -> String {
    match result {
        Err(ConnectError::Refused(why)) => {
            assert!(!why.contains('\n'), "one line: {why}");
            why
        }
        other => panic!("it is refused: {other:?}"),
    }
}

/// Why no broker answers now.
fn away<T: std::fmt::Debug>(result: Result<T, ConnectError>) -> String {
    match result {
        Err(ConnectError::Away(why)) => {
            assert!(!why.contains('\n'), "one line: {why}");
            why
        }
        other => panic!("nobody answers: {other:?}"),
    }
}

fn safe(kafka: &Kafka, partitions: u32) -> Options {
    Options { allow_unsafe_topic: false, ..options(kafka, partitions) }
}

#[test]
fn a_missing_topic_is_refused_with_the_way_out() {
    let options = options(Kafka::shared(), 1);
    let why = refused(KafkaTopic::connect(options.clone()));
    let expected = format!("there is no topic {} at", options.topic);
    assert!(why.starts_with(&expected) && why.ends_with("`db_proxy create-topic`"), "{why}");
}

#[test]
fn another_number_of_partitions_is_refused_however_unsafe() {
    let kafka = Kafka::shared();
    let options = options(kafka, 4);
    kafka.create_topic(&options.topic, 3, &[]);
    let why = refused(KafkaTopic::connect(options.clone()));
    let expected = format!("the topic {} has 3 partitions, and 4 are configured", options.topic);
    assert!(why.starts_with(&expected), "{why}");
}

#[test]
fn each_setting_that_cannot_keep_the_promise_is_named() {
    let kafka = Kafka::shared();
    let good = [
        ("min.insync.replicas", "2"),
        ("max.message.bytes", "2000000"),
        ("message.timestamp.after.max.ms", "9223372036854775807"),
        ("message.timestamp.before.max.ms", "1800000"),
    ];
    let cases = [
        ("min.insync.replicas", "1", "at least 2"),
        ("unclean.leader.election.enable", "true", "false"),
        ("cleanup.policy", "compact", "delete"),
        ("cleanup.policy", "compact,delete", "delete"),
        ("retention.ms", "3600000", "at least 604800000 (7 days), or -1"),
        ("retention.bytes", "1000000000", "-1"),
        ("message.timestamp.type", "LogAppendTime", "CreateTime"),
        ("max.message.bytes", "1048588", "at least 1115136"),
        ("compression.type", "lz4", "producer"),
        ("message.timestamp.after.max.ms", "3600000", "at least 31536000000 (365 days)"),
        (
            "message.timestamp.before.max.ms",
            "400000000",
            "at most 302400000 (half of retention.ms)",
        ),
    ];
    for (name, value, must_be) in cases {
        let mut settings: Vec<_> = good.into_iter().filter(|(good, _)| *good != name).collect();
        settings.push((name, value));
        let options = safe(kafka, 1);
        kafka.create_topic(&options.topic, 1, &settings);
        assert_eq!(
            refused(KafkaTopic::connect(options.clone())),
            format!(
                "the topic {} cannot keep what was acknowledged: the replication factor is 1, must be \
                 at least 3; {name} is {value}, must be {must_be} (allow_unsafe_topic = true takes it \
                 for development)",
                options.topic
            )
        );
        KafkaTopic::connect(Options { allow_unsafe_topic: true, ..options }).unwrap();
    }
}

#[test]
fn a_topic_needs_as_many_brokers_as_replicas() {
    let kafka = Kafka::shared();
    let options = safe(kafka, 2);
    let why = refused(ensure_topic(&options, NewTopic::default()));
    assert!(
        why.starts_with("a topic with 3 replicas needs as many brokers, and there are 1"),
        "{why}"
    );
    let one = NewTopic { replicas: 1, ..NewTopic::default() };
    let why = refused(ensure_topic(&options, one));
    assert!(why.contains("the replication factor is 1, must be at least 3; min.insync"), "{why}");
    let soon = NewTopic { retention: Duration::from_mins(1), ..NewTopic::default() };
    let unsafe_options = Options { allow_unsafe_topic: true, ..options.clone() };
    ensure_topic(&unsafe_options, soon).unwrap();
    let why = refused(KafkaTopic::connect(options));
    assert!(why.contains("; retention.ms is 60000, must be at least 604800000 (7 days)"), "{why}");
    KafkaTopic::connect(unsafe_options).unwrap();
}

#[test]
fn a_topic_made_here_is_good_and_is_not_made_twice() {
    let three = three();
    let options = safe(three.as_ref().unwrap(), 2);
    assert!(ensure_topic(&options, NewTopic::default()).unwrap());
    KafkaTopic::connect(options.clone()).unwrap();
    assert!(!ensure_topic(&options, NewTopic::default()).unwrap());
    let other = Options { partitions: 3, ..options.clone() };
    let why = refused(ensure_topic(&other, NewTopic::default()));
    let expected = format!("the topic {} has 2 partitions, and 3 are configured", options.topic);
    assert!(why.starts_with(&expected), "{why}");
}

#[test]
fn a_topic_is_told_apart_from_one_of_another_name() {
    let kafka = Kafka::shared();
    let (one, other) = (super::topic(kafka, 1), super::topic(kafka, 1));
    assert_ne!(one.topic.partition(0).id(), other.topic.partition(0).id());
    let again = KafkaTopic::connect(one.topic.options().clone()).unwrap();
    assert_eq!(one.topic.partition(0).id(), again.partition(0).id());
}

fn at(bootstrap: String) -> Options {
    Options { patience: Duration::from_secs(2), ..Options::new(bootstrap, "topic", 1) }
}

#[test]
fn brokers_that_are_away_may_come_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let why = away(KafkaTopic::connect(at(address.clone())));
    assert!(why.starts_with(&format!("no answer from Kafka at {address}: ")), "{why}");
    assert!(why.contains("refused"), "{why}");
}

#[test]
fn a_broker_that_says_nothing_may_come_back() {
    // The test never accepts: the kernel does, and nothing is ever answered.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let why = away(KafkaTopic::connect(at(address)));
    assert!(why.ends_with("it does not answer"), "{why}");
}

#[test]
fn a_port_that_is_not_kafkas_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // For as long as the process lives: it does not matter how often it is asked.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let heard = stream.read(&mut [0; 4096]);
            heard.and_then(|_| stream.write_all(b"-ERR unknown command\r\n")).ok();
        }
    });
    let why = refused(KafkaTopic::connect(at(address.clone())));
    assert!(why.starts_with(&format!("{address} is not Kafka")), "{why}");
}

#[test]
fn settings_that_the_library_does_not_know_are_refused() {
    for (name, value, expected) in [
        ("sasl.pasword", "hunter2", "sasl.pasword: No such configuration property"),
        ("security.protocol", "TLS", "security.protocol: Invalid value"),
        ("ssl.key.location", "/no/such/file", "ssl.key.location"),
    ] {
        let mut options = at("127.0.0.1:1".to_owned());
        options.settings.insert("security.protocol".to_owned(), "SSL".to_owned());
        options.settings.insert(name.to_owned(), value.to_owned());
        let why = refused(KafkaTopic::connect(options));
        assert!(why.contains(expected), "{why}");
        assert!(!why.contains("hunter2"), "a value may be a password: {why}");
    }
}
