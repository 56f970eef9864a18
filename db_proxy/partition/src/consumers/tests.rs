//! Consumers over a real log and a real store, and the far ends of their links.

mod sizes;

use std::time::Duration;

use bytes::Bytes;
use daemon::{LinkFrame, Metrics, Role};
use fold::admission::{self, Message};
use prost::Message as _;
use proto::cluster::Kind;
use proto::cluster::wire::{NumberedRecord, Records};
use proto::ids::ConversationId;
use proto::log::record::Change;
use proto::log::{self, MembersChanged, Record};
use record_log::embedded::EmbeddedLog;
use record_log::{Log as _, LogId};
use store::{ConsumerCursor, ConsumerStore as _, ConversationStore as _};
use tokio::time::timeout;

use super::*;
use crate::metrics::OneMetrics;
use crate::test::far::{self, Far};
use crate::test::gated::Gate;
use crate::test::{PATIENCE, Proxy, Setup, message, saying, single};
use crate::tests::restarts::options;

/// The consumers of a partition, and the near ends of links.
struct Side {
    consumers: Arc<Consumers>,
    near: Far,
    addr: std::net::SocketAddr,
    shutdown: Shutdown,
}

/// A process that consumes.
struct Process {
    link: Link,
    far: Far,
}

impl Side {
    async fn of(proxy: &Proxy) -> Self {
        let metrics = OneMetrics::new(&Metrics::new("db_proxy")).consumers;
        let consumers = Consumers::new(proxy.source(), metrics, &proxy.shutdown);
        let (near, addr) = Far::listen(Role::DbProxy, "db", &proxy.shutdown).await;
        Self { consumers, near, addr, shutdown: proxy.shutdown.clone() }
    }

    async fn process(&mut self, name: &str) -> Process {
        let who = far::identity(Role::DbProxy, name, 7);
        let (far, _its_link) = Far::dial(self.addr, who, &self.shutdown).await;
        Process { link: self.near.link().await, far }
    }

    /// A process that asks for everything under this name.
    async fn reader(&mut self, name: &str) -> Process {
        let process = self.process(name).await;
        self.consumers.consume(&process.link, from_oldest(name));
        process
    }

    fn handled(&self, process: &Process, name: &str, upto: u64) {
        let handled = Handled { name: name.to_owned(), partition: 0, upto_offset: upto };
        self.consumers.handled(&process.link, &handled);
    }

    /// The link of a process goes down, as far as is seen here.
    fn down(&self, process: &Process) {
        self.consumers.down(&process.link);
    }
}

impl Process {
    async fn records(&mut self) -> Records {
        let (_link, frame) = self.far.frame().await;
        read(&frame)
    }

    /// Reads to the end of the log. Returns the messages, and the last offset.
    async fn messages(&mut self, last: Offset) -> Vec<(ConversationId, u32)> {
        let mut seen = Vec::new();
        loop {
            let records = self.records().await;
            seen.extend(messages(&records));
            if records.upto_offset == last.0 {
                return seen;
            }
        }
    }
}

fn read(frame: &LinkFrame) -> Records {
    assert_eq!(Kind::from_number(frame.kind), Some(Kind::Records));
    frame.parse().unwrap()
}

fn change(record: &NumberedRecord) -> Change {
    Record::decode(record.record.clone()).unwrap().change.unwrap()
}

fn messages(records: &Records) -> Vec<(ConversationId, u32)> {
    let message = |record| match change(record) {
        Change::Message(message) => {
            Some((ConversationId::from_number(message.conversation)?, record.msg_id.unwrap()))
        }
        _ => None,
    };
    records.records.iter().filter_map(message).collect()
}

fn from_now(name: &str) -> Consume {
    Consume { name: name.to_owned(), partition: 0, ..Consume::default() }
}

fn from_oldest(name: &str) -> Consume {
    Consume { from_oldest: Some(true), ..from_now(name) }
}

/// Waits until the store has the consumer at this place.
async fn is_at(proxy: &Proxy, name: &str, offset: u64) -> ConsumerCursor {
    let found = async {
        loop {
            let consumers = proxy.store.consumers().await.unwrap();
            let cursor = consumers.iter().find(|one| one.name == name).map(|one| one.cursor);
            if let Some(cursor) = cursor.filter(|cursor| cursor.offset == Offset(offset)) {
                return cursor;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, found).await.expect("the place is stored in time")
}

async fn wait_for(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it is so in time");
}

#[tokio::test]
async fn a_consumer_hears_of_each_message_with_its_number_in_the_order_of_the_log() {
    let proxy = Proxy::start().await;
    let mut side = Side::of(&proxy).await;
    proxy.make_group(1, &[1, 2]).await;
    let mut expected = Vec::new();
    for number in 0..40 {
        let conversation = [single(1, 2), single(1, 3), crate::test::group(1)][number % 3];
        expected.push((conversation, proxy.send(message(conversation, 1)).await));
    }
    let mut push = side.reader("push").await;
    assert_eq!(push.messages(proxy.state().last()).await, expected);
    // And of what is sent while it listens.
    let msg_id = proxy.send(message(single(2, 3), 2)).await;
    let next = push.records().await;
    assert_eq!(messages(&next), [(single(2, 3), msg_id)]);
    assert_eq!((next.partition, next.epoch, next.lost), (0, proxy.epoch, None));
    assert_eq!(side.consumers.shared.metrics.records.get(), 1 + 41, "the group and the messages");
    drop(side);
    proxy.stop().await;
}

#[tokio::test]
async fn a_consumer_begins_with_what_comes_from_now_on_unless_it_wants_all() {
    let proxy = Proxy::start().await;
    let mut side = Side::of(&proxy).await;
    proxy.send(message(single(1, 2), 1)).await;
    let last = proxy.state().last();
    let mut push = side.process("push").await;
    side.consumers.consume(&push.link, from_now("push"));
    let cursor = is_at(&proxy, "push", last.0).await;
    assert_eq!((cursor.log, cursor.epoch), (proxy.log, proxy.epoch));
    let msg_id = proxy.send(message(single(1, 2), 1)).await;
    let records = push.records().await;
    assert_eq!((records.after_offset, messages(&records)), (last.0, vec![(single(1, 2), msg_id)]));
    drop(side);
    proxy.stop().await;
}

#[tokio::test]
async fn what_was_handled_does_not_come_again_after_a_restart_and_all_else_does() {
    let proxy = Proxy::start().await;
    let mut side = Side::of(&proxy).await;
    let mut push = side.reader("push").await;
    let mut last = 0;
    for expected in 1..=3 {
        proxy.send(message(single(1, 2), 1)).await;
        let sent = proxy.state().last();
        assert_eq!(push.messages(sent).await, [(single(1, 2), expected)]);
        if expected < 3 {
            last = sent.0;
            side.handled(&push, "push", last);
        }
    }
    side.down(&push);
    is_at(&proxy, "push", last).await;
    drop(side);
    let proxy = proxy.kill().await.start().await;
    let mut side = Side::of(&proxy).await;
    let mut again = side.reader("push").await;
    let records = again.records().await;
    assert_eq!(records.after_offset, last);
    assert_eq!(messages(&records), [(single(1, 2), 3)]);
    drop(side);
    proxy.stop().await;
}

#[tokio::test]
async fn a_place_is_stored_while_the_consumer_is_linked() {
    let proxy = Proxy::start().await;
    let mut side = Side::of(&proxy).await;
    let mut push = side.reader("push").await;
    let upto = push.records().await.upto_offset;
    side.handled(&push, "push", upto);
    is_at(&proxy, "push", upto).await;
    // What was not sent cannot be handled.
    side.handled(&push, "push", 1_000);
    proxy.send(message(single(1, 2), 1)).await;
    let next = push.records().await;
    side.handled(&push, "push", next.upto_offset);
    is_at(&proxy, "push", next.upto_offset).await;
    drop(side);
    proxy.stop().await;
}

/// Puts records into the log of a stopped db_proxy: a message, the same again, one of an owner that was
/// replaced, one that cannot be read, changes of a group, and another message.
fn write(setup: &Setup, one: &Message, other: &Message) {
    let mut log = EmbeddedLog::open(options(setup), Offset(0)).unwrap().log;
    let sent = |message: &Message| {
        Change::Message(log::Message {
            conversation: message.conversation.number(),
            sender: message.identity.sender.0,
            client_msg_id: Bytes::copy_from_slice(&message.identity.client_msg_id.0),
            r#type: message.kind,
            body: message.body.clone(),
            ..log::Message::default()
        })
    };
    let replaced = message(single(1, 2), 1);
    let members = |added: &[u32], removed: &[u32]| {
        Change::MembersChanged(MembersChanged {
            group: 1,
            actor: 1,
            added: added.to_vec(),
            removed: removed.to_vec(),
            deleted: None,
        })
    };
    let group =
        log::GroupCreated { group: 1, creator: 1, members: vec![1, 2], ..Default::default() };
    let read = log::Read { conversation: single(1, 2).number(), user: 2, msg_id: 1, own_up_to: 0 };
    let records = [
        (sent(one), 1),
        (sent(one), 1),
        (sent(&replaced), 0),
        (Change::Read(read), 0),
        (Change::GroupCreated(group.clone()), 1),
        (Change::GroupCreated(group), 1),
        (members(&[2, 3], &[]), 1),
        (members(&[2], &[9]), 1),
        (Change::Read(read), 1),
        (sent(other), 1),
    ];
    let payloads: Vec<Bytes> = records
        .into_iter()
        .map(|(change, epoch)| Bytes::from(admission::record(change, epoch).encode_to_vec()))
        .chain([Bytes::from_static(&[0xff; 9])])
        .collect();
    log.append(&payloads, 1).unwrap();
}

/// What a consumer is told of these records.
fn shown(records: &Records) -> Vec<String> {
    let show = |record| match change(record) {
        Change::Message(message) => format!("{} {:?}", message.sender, record.msg_id),
        Change::GroupCreated(created) => format!("group of {:?}", created.members),
        Change::MembersChanged(changed) => format!("{:?} {:?}", changed.added, changed.removed),
        Change::Read(read) => format!("read {}", read.msg_id),
        other => panic!("{other:?}"),
    };
    records.records.iter().map(show).collect()
}

#[tokio::test]
async fn only_what_counts_is_told_whether_the_fold_or_the_store_knows_the_number() {
    let setup = Setup { store_writer: false, ..Setup::new() };
    setup.start().await.kill().await;
    write(&setup, &message(single(1, 2), 1), &message(single(1, 2), 2));
    // Folded by this owner; then by an earlier one.
    let mut told = Vec::new();
    for store_writer in [true, true] {
        let proxy = Setup { store_writer, ..setup.clone() }.start().await;
        proxy.stored().await;
        let mut side = Side::of(&proxy).await;
        let mut push = side.reader(&format!("push{}", told.len())).await;
        let mut records = push.records().await;
        while records.upto_offset < proxy.state().last().0 {
            let more = push.records().await;
            records.upto_offset = more.upto_offset;
            records.records.extend(more.records);
        }
        told.push(shown(&records));
        drop(side);
        proxy.stop().await;
    }
    let messages = ["1 Some(1)", "read 1", "2 Some(2)"];
    let folded_here =
        [messages[0], "group of [1, 2]", "[3] []", messages[1], messages[2]].map(str::to_owned);
    assert_eq!(told[0], folded_here);
    let of_another = [
        messages[0],
        "group of [1, 2]",
        "group of [1, 2]",
        "[2, 3] []",
        "[2] [9]",
        messages[1],
        messages[2],
    ];
    assert_eq!(told[1], of_another.map(str::to_owned), "what was asked for");
}

#[tokio::test]
async fn of_two_that_ask_under_one_name_the_second_is_served_when_the_first_is_gone() {
    let proxy = Proxy::start().await;
    let mut side = Side::of(&proxy).await;
    let mut first = side.reader("push").await;
    let mut second = side.reader("push").await;
    let mut other = side.reader("audit").await;
    let begin = first.records().await;
    assert_eq!(other.records().await, Records { name: "audit".to_owned(), ..begin.clone() });
    side.handled(&first, "push", begin.upto_offset);
    // Of one that is not served nothing is believed.
    side.handled(&second, "push", 1_000);
    proxy.send(message(single(1, 2), 1)).await;
    let unhandled = first.records().await;
    assert!(second.far.try_frame().is_none(), "it waits");
    assert_eq!(side.consumers.shared.metrics.served.get(), 2);
    side.down(&first);
    assert_eq!(second.records().await, unhandled);
    side.down(&second);
    side.down(&other);
    wait_for(|| side.consumers.shared.metrics.served.get() == 0).await;
    drop(side);
    proxy.stop().await;
}

#[tokio::test]
async fn what_a_process_has_had_from_another_owner_is_not_sent_to_it_again() {
    let proxy = Proxy::start().await;
    let mut side = Side::of(&proxy).await;
    let mut offsets = Vec::new();
    for _message in 0..6 {
        proxy.send(message(single(1, 2), 1)).await;
        offsets.push(proxy.state().last().0);
    }
    let mut push = side.process("push").await;
    let consume = Consume {
        handled_offset: Some(offsets[1]),
        received_offset: Some(offsets[3]),
        ..from_oldest("push")
    };
    side.consumers.consume(&push.link, consume);
    let records = push.records().await;
    assert_eq!((records.after_offset, messages(&records).len()), (offsets[3], 2));
    let cursor = is_at(&proxy, "push", offsets[1]).await;
    assert_eq!(cursor.epoch, proxy.epoch);
    side.handled(&push, "push", offsets[3]);
    is_at(&proxy, "push", offsets[3]).await;
    drop(side);
    proxy.stop().await;
}

#[tokio::test]
async fn a_consumer_that_is_behind_what_was_trimmed_is_told_and_goes_on() {
    let setup = Setup { segment_bytes: 64 << 10, keep_bytes: 0, ..Setup::new() };
    let proxy = setup.start().await;
    let mut side = Side::of(&proxy).await;
    let early = side.reader("push").await;
    is_at(&proxy, "push", 0).await;
    side.down(&early);
    for _message in 0..12 {
        let large = saying(single(1, 2), 1, Bytes::from(vec![7; 20_000]));
        while proxy.change(admission::Change::Send(large.clone())).await == crate::Outcome::Retry {
            tokio::task::yield_now().await; // The next segment is still being made.
        }
    }
    proxy.stored().await;
    let flushed = proxy.store.flushed_progress().await.unwrap();
    proxy.partition.trim(flushed);
    proxy.partition.trim(flushed);
    wait_for(|| proxy.tails.first().unwrap() > Offset(4)).await;
    let metrics = side.consumers.shared.metrics.clone();
    for _look in 0..2 {
        watch::look(&side.consumers.shared).await;
        assert_eq!(metrics.fallen_behind.get(), 1, "once");
    }
    assert_eq!(metrics.behind.get(), i64::try_from(proxy.state().last().0).unwrap());
    let mut push = side.reader("push").await;
    let lost = push.records().await;
    let first = proxy.tails.first().unwrap();
    assert_eq!((lost.lost, lost.after_offset, lost.upto_offset), (Some(true), 0, first.0 - 1));
    assert_eq!(lost.records, []);
    let next = push.records().await;
    assert_eq!((next.lost, next.after_offset), (None, first.0 - 1));
    side.handled(&push, "push", next.upto_offset);
    is_at(&proxy, "push", next.upto_offset).await;
    assert_eq!(metrics.fallen_behind.get(), 1);
    drop(side);
    proxy.stop().await;
}

#[tokio::test]
async fn a_place_in_another_log_means_nothing() {
    let proxy = Proxy::start().await;
    let mut side = Side::of(&proxy).await;
    let msg_id = proxy.send(message(single(1, 2), 1)).await;
    let elsewhere = ConsumerCursor { log: LogId([9; 16]), offset: Offset(70), epoch: 3 };
    let store = &proxy.store;
    assert!(store.move_consumer(proxy.epoch, "push".to_owned(), None, elsewhere).await.unwrap());
    let mut push = side.reader("push").await;
    let lost = push.records().await;
    assert_eq!((lost.lost, lost.upto_offset), (Some(true), 0));
    let next = push.records().await;
    assert_eq!(messages(&next), [(single(1, 2), msg_id)]);
    side.handled(&push, "push", next.upto_offset);
    assert_eq!(is_at(&proxy, "push", next.upto_offset).await.log, proxy.log);
    drop(side);
    proxy.stop().await;
}

#[tokio::test]
async fn a_consumer_waits_for_a_store_that_is_away() {
    let setup = Setup { store_writer: false, ..Setup::new() };
    setup.start().await.kill().await;
    write(&setup, &message(single(1, 2), 1), &message(single(1, 2), 2));
    let proxy = Setup { store_writer: true, ..setup.clone() }.start().await;
    proxy.stored().await;
    let proxy = proxy.stop().await.start().await;
    let mut side = Side::of(&proxy).await;
    proxy.store.reads.send_replace(Gate::Away);
    let mut push = side.reader("push").await;
    proxy.store.was_asked(2).await;
    assert!(push.far.try_frame().is_none());
    // The place is found; the numbers are not.
    proxy.store.reads.send_replace(Gate::One);
    let asked = *proxy.store.asked.borrow();
    proxy.store.was_asked(asked + 1).await;
    proxy.store.reads.send_replace(Gate::Open);
    assert_eq!(push.messages(proxy.state().last()).await.len(), 2);
    drop(side);
    proxy.stop().await;
}

#[tokio::test]
async fn names_that_are_none_and_names_beyond_the_bound_end_the_link() {
    let proxy = Proxy::start().await;
    let mut side = Side::of(&proxy).await;
    for name in ["", "a b", &"x".repeat(65), "ü"] {
        let process = side.process("wrong").await;
        side.consumers.consume(&process.link, from_now(name));
        assert!(process.link.is_closed(), "{name:?}");
    }
    let process = side.process("many").await;
    for number in 0..NAMES_MAX {
        side.consumers.consume(&process.link, from_now(&format!("consumer-{number}")));
    }
    assert!(!process.link.is_closed());
    side.consumers.consume(&process.link, from_now("consumer-0"));
    assert!(!process.link.is_closed(), "it is known");
    side.consumers.consume(&process.link, from_now("one-more"));
    assert!(process.link.is_closed());
    drop(side);
    proxy.stop().await;
}

#[tokio::test]
async fn a_consumer_that_is_forgotten_begins_anew() {
    let proxy = Proxy::start().await;
    let mut side = Side::of(&proxy).await;
    let mut push = side.reader("push").await;
    let upto = push.records().await.upto_offset;
    is_at(&proxy, "push", 0).await;
    assert!(proxy.store.forget_consumer("push".to_owned()).await.unwrap());
    side.handled(&push, "push", upto);
    wait_for(|| push.link.is_closed()).await;
    side.down(&push);
    // It dials again.
    let link = side.near.link().await;
    side.consumers.consume(&link, from_oldest("push"));
    assert_eq!(push.records().await.after_offset, 0);
    drop(side);
    proxy.stop().await;
}
