//! A broker that is talked to over TLS, after a login.

use std::time::Duration;

use backends::{Resource, SecuredKafka};
use bytes::Bytes;
use proto::ids::Offset;

use super::refusals::refused;
use super::{Topic, options};
use crate::conformance::{NOW_MS, Place as _, append, read};
use crate::kafka::{Event, KafkaTopic, NewTopic, Options, Ownership, ensure_topic};

/// Options with a login, for a topic and a group that no other test has.
fn secured(kafka: &SecuredKafka) -> Options {
    let settings = kafka.settings();
    Options {
        bootstrap: kafka.bootstrap(),
        settings: settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        ..options(kafka.plain(), 2)
    }
}

/// The same with another value of one setting, and without patience: it is the last word that counts.
fn with(name: &str, value: &str) -> Options {
    let mut options = secured(SecuredKafka::shared());
    options.settings.insert(name.to_owned(), value.to_owned());
    options.patience = Duration::from_secs(3);
    options
}

#[test]
fn everything_is_done_over_tls_with_the_rights_that_the_manual_names() {
    let kafka = SecuredKafka::shared();
    let options = secured(kafka);
    let rights = ["Describe", "DescribeConfigs", "Read", "Write"];
    kafka.allow(Resource::Topic(&options.topic), &rights);
    kafka.allow(Resource::Group(&options.group), &["Read"]);
    kafka.allow(Resource::Group(&format!("{}.applied", options.group)), &["Read"]);

    let why = refused(ensure_topic(&options, NewTopic::default()));
    assert!(why.contains("Create"), "{why}");
    kafka.allow(Resource::Topic(&options.topic), &["Create"]);
    ensure_topic(&options, NewTopic::default()).unwrap();
    let topic = Topic { topic: KafkaTopic::connect(options.clone()).unwrap() };
    let mut first = topic.open();
    append(&mut *first, &[Bytes::from_static(b"a"), Bytes::from_static(b"b")], *NOW_MS);
    first.trim(Offset(1));
    drop(first);
    let mut second = topic.owner(0, 1);
    append(&mut *second, &[Bytes::from_static(b"c")], *NOW_MS);
    let texts: Vec<_> = read(&*second, 1).into_iter().map(|record| record.payload).collect();
    assert_eq!(texts, ["a", "b", "c"]);

    let mut member = Ownership::join(&options, "member").unwrap();
    let Some(Event::Assigned(partitions)) = member.blocking_next() else {
        panic!("it is given partitions")
    };
    assert_eq!(partitions, [0, 1]);

    let consumer = format!("{}.push", options.group);
    kafka.allow(Resource::Group(&consumer), &["Read"]);
    let goes_on = topic.topic.replay(&consumer, Offset(2), 0..1).unwrap();
    assert_eq!(goes_on, [(0, Offset(2))]);
}

#[test]
fn a_right_that_is_missing_is_named() {
    let kafka = SecuredKafka::shared();
    let options = secured(kafka);
    kafka.allow(Resource::Topic(&options.topic), &["Create", "Describe"]);
    ensure_topic(&options, NewTopic::default()).unwrap();
    let why = refused(KafkaTopic::connect(options));
    assert!(why.contains("DescribeConfigs"), "{why}");
}

#[test]
fn a_wrong_password_is_refused() {
    let options = with("sasl.password", "hunter2");
    let bootstrap = options.bootstrap.clone();
    let why = refused(KafkaTopic::connect(options));
    let expected = format!("Kafka at {bootstrap} does not take the login: ");
    assert!(why.starts_with(&expected) && why.contains("sasl.password"), "{why}");
    assert!(!why.contains("hunter2"), "{why}");
}

#[test]
fn a_mechanism_that_the_broker_does_not_have_is_refused() {
    let why = refused(KafkaTopic::connect(with("sasl.mechanism", "SCRAM-SHA-256")));
    assert!(why.contains("does not take the login") && why.contains("SCRAM-SHA-512"), "{why}");
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), other.cert.pem()).unwrap();
    let options = with("ssl.ca.location", &file.path().display().to_string());
    let bootstrap = options.bootstrap.clone();
    let why = refused(KafkaTopic::connect(options));
    let expected = format!("there is no TLS with Kafka at {bootstrap}: ");
    assert!(why.starts_with(&expected) && why.contains("ssl.ca.location"), "{why}");
}

#[test]
fn a_certificate_of_another_name_is_refused() {
    let mut options = with("ssl.endpoint.identification.algorithm", "https");
    options.bootstrap = options.bootstrap.replace("127.0.0.1", "localhost");
    let why = refused(KafkaTopic::connect(options));
    assert!(why.starts_with("there is no TLS with Kafka at localhost:"), "{why}");
    assert!(why.contains("for the name that it is reached by") && !why.contains("(after"), "{why}");
}

#[test]
fn a_client_without_tls_is_told_so_where_it_is_required() {
    let why = refused(KafkaTopic::connect(with("security.protocol", "SASL_PLAINTEXT")));
    assert!(why.contains("wants TLS") && why.contains("security.protocol"), "{why}");
}

#[test]
fn a_client_that_wants_tls_is_told_so_where_there_is_none() {
    let mut options = with("security.protocol", "SSL");
    options.bootstrap = SecuredKafka::shared().plain().bootstrap();
    let why = refused(KafkaTopic::connect(options));
    assert!(why.contains("TLS") && why.contains("security.protocol"), "{why}");
}

#[test]
fn no_secret_is_shown() {
    let shown = format!("{:?}", secured(SecuredKafka::shared()));
    assert!(shown.contains("sasl.password") && !shown.contains("correct-horse"), "{shown}");
}
