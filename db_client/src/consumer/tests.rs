//! A consumer between db_proxies that do what the test says.

use std::time::Duration;

use bytes::Bytes;
use proto::cluster::wire::Owned;
use proto::ids::UserId;
use tokio::time::timeout;

use super::*;
use crate::test::{Far, PATIENCE, identity};

/// A db_proxy of a cluster of two partitions.
struct Proxy {
    far: Far,
    link: Link,
}

impl Proxy {
    fn owns(&self, owned: &[(u32, u64)]) {
        let owned = owned.iter().map(|&(partition, epoch)| Owned { partition, epoch }).collect();
        let ownership = Ownership { partitions: 2, owned, logins: true };
        self.link.send(Kind::Ownership.number(), 0, &ownership).unwrap();
    }

    async fn consume(&mut self) -> Consume {
        let frame = self.far.frame().await;
        assert_eq!(Kind::from_number(frame.kind), Some(Kind::Consume));
        frame.parse().unwrap()
    }

    async fn handled(&mut self) -> (u32, u64) {
        let frame = self.far.frame().await;
        assert_eq!(Kind::from_number(frame.kind), Some(Kind::Handled));
        let handled: Handled = frame.parse().unwrap();
        assert_eq!(handled.name, "push");
        (handled.partition, handled.upto_offset)
    }

    fn send(&self, records: &Records) {
        self.link.send(Kind::Records.number(), 0, records).unwrap();
    }
}

async fn linked<const N: usize>(shutdown: &Shutdown) -> (Consumer, [Proxy; N]) {
    let (mut fars, mut addrs) = (Vec::new(), Vec::new());
    for number in 0..N {
        let (far, addr) = Far::listen(&format!("db{number}"), shutdown).await;
        fars.push(far);
        addrs.push(addr.to_string());
    }
    let (_unchanging, targets) = watch::channel(addrs);
    let us = identity(Role::Consumer, "push_server");
    let reading = Reading { name: "push".to_owned(), from_oldest: true, from_ms: None };
    let consumer = Consumer::connect(targets, us, LinkOptions::default(), reading, shutdown);
    let mut proxies = Vec::new();
    for mut far in fars {
        let link = far.link().await;
        proxies.push(Proxy { far, link });
    }
    (consumer, proxies.try_into().ok().expect("as many as were made"))
}

/// One message, and a record that says nothing.
fn records(partition: u32, epoch: u64, after: u64) -> Records {
    let message = Message {
        conversation: ConversationId::single(UserId(1), UserId(2)).unwrap().number(),
        sender: 1,
        client_msg_id: Bytes::from_static(&[7; 16]),
        r#type: 1,
        body: Bytes::from_static(b"hello"),
        ..Message::default()
    };
    let record = log::Record { change: Some(Change::Message(message)), written_in_epoch: None };
    let of = |offset, msg_id, record: Vec<u8>| NumberedRecord {
        offset,
        timestamp_ms: 9,
        msg_id,
        record: record.into(),
    };
    Records {
        name: "push".to_owned(),
        partition,
        epoch,
        after_offset: after,
        upto_offset: after + 2,
        records: vec![
            of(after + 1, Some(5), record.encode_to_vec()),
            of(after + 2, None, Vec::new()),
        ],
        lost: None,
    }
}

async fn next(consumer: &mut Consumer) -> Batch {
    timeout(PATIENCE, consumer.next()).await.expect("a batch in time")
}

#[tokio::test]
async fn every_owner_is_asked_for_its_partitions_and_told_what_was_handled() {
    let shutdown = Shutdown::default();
    let (mut consumer, [mut one, mut other]) = linked(&shutdown).await;
    one.owns(&[(0, 3)]);
    other.owns(&[(1, 4)]);
    for (proxy, partition) in [(&mut one, 0), (&mut other, 1)] {
        let expected = Consume {
            name: "push".to_owned(),
            partition,
            from_oldest: Some(true),
            from_ms: None,
            unhandled_max: Some(256),
            ..Consume::default()
        };
        assert_eq!(proxy.consume().await, expected);
    }
    one.send(&records(0, 3, 10));
    let batch = next(&mut consumer).await;
    assert_eq!((batch.partition, batch.lost, batch.records.len()), (0, false, 1));
    let record = &batch.records[0];
    assert_eq!((record.offset, record.timestamp_ms), (Offset(11), 9));
    let (conversation, msg_id, message) = record.message().unwrap();
    let expected = ConversationId::single(UserId(1), UserId(2)).unwrap();
    assert_eq!((conversation, msg_id, &message.body[..]), (expected, MsgId(5), &b"hello"[..]));
    batch.handled();
    assert_eq!(one.handled().await, (0, 12));
    other.send(&Records { lost: Some(true), records: Vec::new(), ..records(1, 4, 0) });
    let batch = next(&mut consumer).await;
    assert!(batch.lost && batch.records.is_empty());
    batch.handled();
    assert_eq!(other.handled().await, (1, 2));
    shutdown.drain(PATIENCE).await.unwrap();
}

/// A consumer of two db_proxies, the first of which has sent three batches, up to 16.
async fn with_three_batches(shutdown: &Shutdown) -> (Consumer, [Proxy; 2], [Batch; 3]) {
    let (mut consumer, [mut one, other]) = linked(shutdown).await;
    one.owns(&[(0, 3)]);
    one.consume().await;
    for after in [10, 12, 14] {
        one.send(&records(0, 3, after));
    }
    let batches = [next(&mut consumer).await, next(&mut consumer).await, next(&mut consumer).await];
    (consumer, [one, other], batches)
}

#[tokio::test]
async fn the_next_owner_is_told_how_far_it_is_and_the_last_one_is_not_heard_any_longer() {
    let shutdown = Shutdown::default();
    let (mut consumer, [mut one, mut other], [first, second, third]) =
        with_three_batches(&shutdown).await;
    first.handled();
    assert_eq!(one.handled().await, (0, 12));
    other.owns(&[(0, 4)]);
    let consume = other.consume().await;
    assert_eq!((consume.received_offset, consume.handled_offset), (Some(16), Some(12)));
    one.send(&records(0, 3, 16));
    other.send(&records(0, 3, 16));
    other.send(&records(0, 4, 16));
    let from_other = next(&mut consumer).await;
    assert_eq!(from_other.upto, Offset(18));
    let nothing = timeout(Duration::from_millis(100), consumer.next()).await;
    assert!(nothing.is_err(), "of an older epoch nothing is taken: {nothing:?}");
    // What was handled before counts for the new owner.
    for (batch, upto) in [(second, 14), (third, 16), (from_other, 18)] {
        batch.handled();
        assert_eq!(other.handled().await, (0, upto));
    }
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_owner_on_a_new_link_is_asked_again_from_there() {
    let shutdown = Shutdown::default();
    let (mut consumer, [mut one]) = linked(&shutdown).await;
    one.owns(&[(0, 3), (1, 3)]);
    let asked = [one.consume().await.partition, one.consume().await.partition];
    assert_eq!(asked, [0, 1]);
    one.send(&records(1, 3, 0));
    next(&mut consumer).await.handled();
    assert_eq!(one.handled().await, (1, 2));
    one.link.reset("the test ends it");
    one.link = one.far.link().await;
    one.owns(&[(0, 3), (1, 3)]);
    let asked = [one.consume().await, one.consume().await];
    let offsets = asked.map(|consume| (consume.received_offset, consume.handled_offset));
    assert_eq!(offsets, [(None, None), (Some(2), Some(2))]);
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_owner_that_sends_what_cannot_be_read_or_without_end_is_reset() {
    let shutdown = Shutdown::default();
    let (consumer, [mut one]) = linked(&shutdown).await;
    for round in 0..2 {
        one.owns(&[(0, 3)]);
        one.consume().await;
        if round == 0 {
            let mut wrong = records(0, 3, 0);
            wrong.records[0].record = Bytes::from_static(&[0xff; 7]);
            one.send(&wrong);
        } else {
            let mut after = 0;
            for _batch in 0..=2 * SMALL_RECORDS_UNHANDLED_MAX + 1 {
                one.send(&records(0, 3, after));
                after += 2;
            }
        }
        one.link = one.far.link().await;
    }
    drop(consumer);
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn what_is_handled_out_of_order_or_without_an_owner_is_told_to_the_next_owner() {
    let shutdown = Shutdown::default();
    let (_consumer, [mut one, mut other], [first, second, third]) =
        with_three_batches(&shutdown).await;
    second.handled();
    assert_eq!(one.handled().await, (0, 14));
    first.handled();
    one.handled().await;
    other.owns(&[(0, 4)]);
    let consume = other.consume().await;
    assert_eq!((consume.received_offset, consume.handled_offset), (Some(16), Some(14)));
    // Nobody owns it any longer: what is handled meanwhile is not forgotten.
    one.owns(&[(1, 1)]);
    assert_eq!(one.consume().await.partition, 1);
    other.owns(&[(1, 2)]);
    assert_eq!(other.consume().await.partition, 1);
    third.handled();
    other.owns(&[(0, 5), (1, 2)]);
    let consume = other.consume().await;
    assert_eq!((consume.partition, consume.handled_offset), (0, Some(16)));
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn records_for_another_or_of_a_partition_of_another_are_not_taken() {
    let shutdown = Shutdown::default();
    let (mut consumer, [mut one, mut other]) = linked(&shutdown).await;
    one.owns(&[(0, 3)]);
    one.consume().await;
    other.owns(&[(1, 3)]);
    other.consume().await;
    one.send(&Records { name: "audit".to_owned(), ..records(0, 3, 0) });
    one.send(&records(1, 3, 0));
    one.send(&records(2, 3, 0));
    one.send(&records(0, 4, 0));
    one.link.send(Kind::Submit.number(), 0, &Handled::default()).unwrap();
    one.send(&records(0, 3, 40));
    let batch = next(&mut consumer).await;
    assert_eq!((batch.partition, batch.upto), (0, Offset(42)), "the others are passed over");
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_db_proxy_of_another_cluster_is_not_asked_for_anything() {
    let shutdown = Shutdown::default();
    let (_consumer, [mut one, mut other]) = linked(&shutdown).await;
    one.owns(&[(0, 3)]);
    one.consume().await;
    let owned = vec![Owned { partition: 1, epoch: 9 }];
    let wrong = [
        Ownership { partitions: 3, owned: owned.clone(), logins: true },
        Ownership { partitions: 0, owned, logins: true },
        Ownership { partitions: 2, owned: vec![Owned { partition: 2, epoch: 9 }], logins: true },
    ];
    for ownership in wrong {
        other.link.send(Kind::Ownership.number(), 0, &ownership).unwrap();
        // It is reset, and linked again.
        other.link = other.far.link().await;
    }
    other.owns(&[(1, 1)]);
    assert_eq!(other.consume().await.partition, 1, "it was asked for nothing before");
    shutdown.drain(PATIENCE).await.unwrap();
}

#[test]
fn a_message_has_a_number_and_a_conversation_and_nothing_else_is_one() {
    let message = |conversation| Message { conversation, sender: 1, ..Message::default() };
    let record = |change, msg_id| Record { offset: Offset(1), timestamp_ms: 9, msg_id, change };
    let two = ConversationId::single(UserId(1), UserId(2)).unwrap();
    let said = record(Change::Message(message(two.number())), Some(MsgId(3)));
    assert_eq!(said.message().map(|(id, msg_id, _)| (id, msg_id)), Some((two, MsgId(3))));
    let unnumbered = record(Change::Message(message(two.number())), None);
    assert!(unnumbered.message().is_none(), "it was sent again, or its owner was replaced");
    let nowhere = record(Change::Message(message(5 << 32 | 5)), Some(MsgId(3)));
    assert!(nowhere.message().is_none());
}

#[tokio::test]
#[should_panic(expected = "is no name of a consumer")]
async fn a_name_that_no_consumer_may_have_is_noticed_at_once() {
    let (_unchanging, targets) = watch::channel(Vec::new());
    let us = identity(Role::Consumer, "push_server");
    let reading = Reading { name: "push server".to_owned(), from_oldest: false, from_ms: None };
    Consumer::connect(targets, us, LinkOptions::default(), reading, &Shutdown::default());
}
