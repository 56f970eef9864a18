//! Appends beside other owners, and topics that are not as they were left.

use std::ops::ControlFlow;
use std::time::Duration;

use backends::Kafka;
use bytes::Bytes;
use proto::ids::Offset;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, DefaultConsumerContext};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};

use super::{Topic, fresh, until};
use crate::conformance::{NOW_MS, Place as _, append, read};
use crate::kafka::client::{config, reading};
use crate::{Appended, LogError, Unopened as _};

const LIMIT: Duration = Duration::from_secs(20);

fn payloads(texts: &[&'static str]) -> Vec<Bytes> {
    texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()
}

/// The offset, the payload and whose it is.
fn seen(appended: &[Appended]) -> Vec<(u64, &[u8], Option<usize>)> {
    appended
        .iter()
        .map(|appended| (appended.record.offset.0, &appended.record.payload[..], appended.of))
        .collect()
}

#[test]
fn what_another_owner_appended_comes_before_ones_own() {
    let place = fresh();
    let (mut old, mut new) = (place.open(), place.open());
    append(&mut *old, &payloads(&["a", "b"]), *NOW_MS);
    let appended = new.append(&payloads(&["epoch"]), *NOW_MS).unwrap();
    assert_eq!(seen(&appended), [(1, &b"a"[..], None), (2, b"b", None), (3, b"epoch", Some(0))]);
    let appended = old.append(&payloads(&["c", "d"]), *NOW_MS).unwrap();
    assert_eq!(seen(&appended), [(3, &b"epoch"[..], None), (4, b"c", Some(0)), (5, b"d", Some(1))]);
    assert_eq!(read(&*place.open(), 1).len(), 5);
}

#[test]
fn an_idle_owner_sees_what_another_one_appends() {
    let place = fresh();
    let (mut old, mut new) = (place.open(), place.open());
    append(&mut *old, &payloads(&["a"]), *NOW_MS);
    until("the new owner sees what is there", || new.idle().unwrap().pop());
    append(&mut *new, &payloads(&["epoch", "b"]), *NOW_MS);
    let mut found = Vec::new();
    until("the old owner sees two records", || {
        found.extend(old.idle().unwrap());
        (found.len() == 2).then_some(())
    });
    assert_eq!(found, read(&*new, 2));
    assert_eq!(old.range(), new.range());
}

#[test]
fn each_record_is_passed_on_once() {
    let place = fresh();
    let mut old = place.open();
    append(&mut *old, &payloads(&["a", "b"]), *NOW_MS);
    let mut new = place.open();
    append(&mut *old, &payloads(&["late"]), *NOW_MS);
    // What came after it was opened comes with the first append, so it does not come by reading.
    assert_eq!(read(&*new, 1).len(), 2);
    let appended = new.append(&payloads(&["epoch"]), *NOW_MS).unwrap();
    assert_eq!(seen(&appended), [(3, &b"late"[..], None), (4, b"epoch", Some(0))]);
    assert_eq!(read(&*new, 1).len(), 4);
}

#[test]
fn partitions_are_logs_of_their_own() {
    let place = super::topic(Kafka::shared(), 3);
    let ids: Vec<_> = (0..3).map(|partition| place.topic.partition(partition).id()).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    for partition in 0..3 {
        let mut log = place.owner(partition, 0);
        assert_eq!(append(&mut *log, &payloads(&["x"]), *NOW_MS)[0].offset, Offset(1));
    }
}

#[test]
fn numbers_tell_lag_and_margin() {
    let place = fresh();
    let numbers = place.topic.numbers()[0].clone();
    let mut log = place.open();
    append(&mut *log, &payloads(&["a", "b", "c", "d"]), *NOW_MS);
    log.trim(Offset(3));
    assert_eq!((numbers.lag(), numbers.margin()), (1, 3));
    delete_up_to(&place, 2);
    until("the beginning of the topic is looked at now and then", || {
        log.idle().unwrap();
        (numbers.first() == Offset(3)).then_some(())
    });
    assert_eq!((numbers.lag(), numbers.margin()), (1, 1));
    let watching: BaseConsumer =
        reading(place.topic.options()).create_with_context(DefaultConsumerContext).unwrap();
    until("Kafka is told how far the store is", || {
        log.idle().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition(&place.topic.options().topic, 0);
        let noted = watching.committed_offsets(list, LIMIT).unwrap();
        (noted.elements()[0].offset() == At::Offset(3)).then_some(())
    });
}

/// Deletes records as retention does.
fn delete_up_to(place: &Topic, offset: i64) {
    let admin: AdminClient<DefaultClientContext> = config(place.topic.options()).create().unwrap();
    let mut list = TopicPartitionList::new();
    let topic = &place.topic.options().topic;
    list.add_partition_offset(topic, 0, At::Offset(offset)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let deleted = runtime.block_on(admin.delete_records(&list, &AdminOptions::new())).unwrap();
    deleted.elements()[0].error().unwrap();
}

#[test]
fn stored_records_may_be_deleted_and_others_may_not() {
    let place = fresh();
    append(&mut *place.open(), &payloads(&["a", "b", "c", "d", "e"]), *NOW_MS);
    delete_up_to(&place, 3);

    let log = place.open_after(3);
    assert_eq!(log.range(), (Offset(4), Offset(6)));
    assert_eq!(read(&*log, 4).len(), 2);
    let before = log.read(Offset(3), &mut |_record| ControlFlow::Continue(()));
    assert!(matches!(before, Err(LogError::NotHere { asked: 3, first: 4, next: 6 })), "{before:?}");

    for (applied, gone) in
        [(2, "the record with offset 3 is gone"), (0, "from offset 1 to 3 are gone")]
    {
        let opened = place.find().open(Offset(applied)).map(|log| log.name());
        let Err(LogError::Damaged(why)) = opened else { panic!("it is refused: {opened:?}") };
        assert!(why.contains("retention has deleted records") && why.contains(gone), "{why}");
    }
}

#[test]
fn records_that_are_deleted_under_a_reader_are_an_error() {
    let place = fresh();
    let mut log = place.open();
    append(&mut *log, &payloads(&["a", "b", "c"]), *NOW_MS);
    delete_up_to(&place, 2);
    let read = log.read(Offset(1), &mut |_record| ControlFlow::Continue(()));
    let Err(LogError::Damaged(why)) = read else { panic!("it is an error: {read:?}") };
    assert!(why.contains("does not have offset 1 any more"), "{why}");
    assert_eq!(append(&mut *log, &payloads(&["d"]), *NOW_MS)[0].offset, Offset(4));
}

#[test]
fn a_missing_record_is_an_error_that_names_it() {
    let place = fresh();
    let mut log = place.open();
    append(&mut *log, &payloads(&["a"]), *NOW_MS);
    // The end of a transaction takes an offset, and no reader gets it.
    let options = place.topic.options();
    let mut config = config(options);
    let producer: BaseProducer = config.set("transactional.id", &options.topic).create().unwrap();
    producer.init_transactions(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    let foreign: BaseRecord<'_, (), str> = BaseRecord::to(&options.topic).partition(0).payload("x");
    producer.send(foreign).map_err(|(error, _record)| error).unwrap();
    producer.commit_transaction(LIMIT).unwrap();

    // The broker writes it a little later.
    let mut last = 1;
    let why = until("an append meets the end", || match log.append(&payloads(&["b"]), *NOW_MS) {
        Ok(appended) => {
            last = appended.last().unwrap().record.offset.0;
            None
        }
        Err(error) => Some(error.to_string()),
    });
    let missing = format!("the record with offset {} is missing in partition 0", last + 1);
    assert!(why.contains(&missing), "{why}");
    let again = place.open();
    let read = again.read(Offset(1), &mut |_record| ControlFlow::Continue(()));
    let Err(LogError::Damaged(why)) = read else { panic!("it is an error: {read:?}") };
    assert!(why.contains(&missing), "{why}");
    assert!(why.contains(&format!("goes on with offset {}", last + 2)), "{why}");
}
