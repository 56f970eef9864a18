//! How many records come at once, and which are left out.

use proto::cluster::{RECORDS_UNHANDLED_MAX, SMALL_RECORDS_UNHANDLED_MAX};

use super::*;

#[tokio::test]
async fn batches_that_are_older_than_what_a_consumer_wants_do_not_come() {
    let proxy = Setup { segment_bytes: 32 << 20, ..Setup::new() }.start().await;
    let mut side = Side::of(&proxy).await;
    for _message in 0..8 {
        proxy.send(saying(single(1, 2), 1, Bytes::from(vec![7; 300_000]))).await;
    }
    let (mut all, last) = (side.reader("all").await, proxy.state().last());
    let mut batches = Vec::new();
    while batches.last().is_none_or(|batch: &Records| batch.upto_offset < last.0) {
        batches.push(all.records().await);
        side.handled(&all, "all", batches.last().unwrap().upto_offset);
    }
    let time_of = |batch: &Records| batch.records.last().unwrap().timestamp_ms;
    let newest = time_of(batches.last().unwrap());
    let from_ms = Some(newest);
    let mut late = side.process("late").await;
    side.consumers.consume(&late.link, Consume { from_ms, ..from_oldest("late") });
    let first = late.records().await;
    let expected = batches.iter().find(|batch| time_of(batch) == newest).unwrap();
    assert_eq!(first, Records { name: "late".to_owned(), ..expected.clone() });
    // What was left out counts as handled.
    is_at(&proxy, "late", first.after_offset).await;
    let mut never = side.process("never").await;
    let from_ms = Some(u64::MAX);
    side.consumers.consume(&never.link, Consume { from_ms, ..from_oldest("never") });
    is_at(&proxy, "never", last.0).await;
    assert!(never.far.try_frame().is_none(), "nothing of it is wanted");
    drop(side);
    proxy.stop().await;
}

#[tokio::test]
async fn no_more_is_sent_than_may_be_unhandled() {
    let proxy = Setup { segment_bytes: 32 << 20, ..Setup::new() }.start().await;
    let mut side = Side::of(&proxy).await;
    for _message in 0..20 {
        proxy.send(saying(single(1, 2), 1, Bytes::from(vec![7; 150_000]))).await;
    }
    let mut push = side.reader("push").await;
    let mut sent = Vec::new();
    for _batch in 0..RECORDS_UNHANDLED_MAX {
        sent.push(push.records().await);
    }
    assert_eq!(sent.iter().map(|batch| messages(batch).len()).max(), Some(2), "in bytes");
    proxy.send(message(single(1, 2), 1)).await;
    assert!(push.far.try_frame().is_none());
    side.handled(&push, "push", sent[1].upto_offset);
    for _batch in 0..2 {
        sent.push(push.records().await);
    }
    assert!(push.far.try_frame().is_none());
    let ends: Vec<_> = sent.iter().map(|batch| (batch.after_offset, batch.upto_offset)).collect();
    assert!(ends.windows(2).all(|two| two[0].1 == two[1].0), "without a hole: {ends:?}");
    drop(side);
    proxy.stop().await;
}

#[tokio::test]
async fn a_consumer_that_takes_many_small_batches_gets_more_of_them() {
    let proxy = Setup { segment_bytes: 32 << 20, ..Setup::new() }.start().await;
    let mut side = Side::of(&proxy).await;
    let mut push = side.process("push").await;
    let unhandled_max = Some(u32::MAX);
    side.consumers.consume(&push.link, Consume { unhandled_max, ..from_oldest("push") });
    // What the owner has written itself.
    let first = push.records().await;
    side.handled(&push, "push", first.upto_offset);
    for small in 0..SMALL_RECORDS_UNHANDLED_MAX {
        proxy.send(message(single(1, 2), 1)).await;
        assert_eq!(messages(&push.records().await).len(), 1, "{small}");
    }
    proxy.send(message(single(1, 2), 1)).await;
    assert!(push.far.try_frame().is_none(), "so many at most");
    side.handled(&push, "push", proxy.state().last().0 - 1);
    push.records().await;
    // They are small together as well.
    for _large in 0..20 {
        proxy.send(saying(single(1, 2), 1, Bytes::from(vec![7; 150_000]))).await;
    }
    let mut bytes = 0;
    while bytes <= (RECORDS_UNHANDLED_MAX - 1) * (256 << 10) {
        let records = push.records().await;
        bytes += records.records.iter().map(|record| record.record.len()).sum::<usize>();
    }
    proxy.send(message(single(1, 2), 1)).await;
    assert!(push.far.try_frame().is_none());
    drop(side);
    proxy.stop().await;
}

#[tokio::test]
async fn many_small_records_come_in_several_batches() {
    let proxy = Proxy::start().await;
    let mut side = Side::of(&proxy).await;
    for _some in 0..3 {
        let sends = (0..400).map(|_message| proxy.send(message(single(1, 2), 1)));
        futures_util::future::join_all(sends).await;
    }
    let mut push = side.reader("push").await;
    let mut sizes = Vec::new();
    loop {
        let records = push.records().await;
        sizes.push(records.upto_offset - records.after_offset);
        if records.upto_offset == proxy.state().last().0 {
            break;
        }
    }
    assert_eq!(sizes[..2], [512, 512], "{sizes:?}");
    drop(side);
    proxy.stop().await;
}
