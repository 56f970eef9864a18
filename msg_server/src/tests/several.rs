//! Several partitions, each with an owner, a log and a cursor of its own.

use std::sync::atomic::Ordering;

use prost::Message;
use proto::cluster::{Kind, wire};
use proto::{Command, client};

use super::harness::*;

/// Message `msg_id` of user 5's conversation with somebody, in that partition.
fn message(partition: u32, msg_id: u32, offset: u64, epoch: u64) -> wire::Publish {
    let peer = peer_in(partition, 5);
    let publish = publish(single(5, peer), msg_id, peer);
    placed(wire::Publish { offset, prev_offset: 0, ..publish }, epoch)
}

#[tokio::test]
async fn a_message_goes_to_the_owner_of_its_conversation() {
    let world = World::start_two(100).await;
    let mut client = world.client(5, WINDOWS).await;
    for (partition, owner) in [(0, &world.db), (1, &world.db), (2, &world.other), (3, &world.other)]
    {
        let peer = peer_in(partition, 5);
        let seq = 10 + u16::try_from(partition).unwrap();
        client.send(Command::MessageData, seq, &text(peer, "hello")).await;
        assert_eq!(owner.next_submit().await.conversation, single(5, peer));
        client.expect::<client::MessageAck>(Command::MessageAck, seq).await;
    }
    for db in [&world.db, &world.other] {
        assert!(db.submitted.lock().await.try_recv().is_err());
    }
    world.stop().await;
}

/// One session with unread messages for each partition that is asked about.
fn unread() -> Reply {
    Box::new(|db, ask| {
        let session = |partition: &u32| client::UnreadSession {
            session_id: 100 + partition,
            session_type: client::SessionType::Single.into(),
            unread_count: 2,
            latest_msg_id: 7,
            latest_msg_data: b"content".as_slice().into(),
            latest_msg_type: client::MessageType::SingleText.into(),
            latest_msg_from: 100 + partition,
        };
        let sessions: Vec<_> = ask.partitions.iter().map(session).collect();
        let total_count = 2 * u32::try_from(sessions.len()).unwrap();
        let reply = client::UnreadCountReply { total_count, sessions, ..Default::default() };
        wire::Answer {
            status: wire::AskStatus::Answered.into(),
            command: Some(Command::UnreadCountReply.number().into()),
            body: Some(reply.encode_to_vec().into()),
            by: db.by(&ask.partitions),
            // Those of even partitions are newer.
            newest_ms: ask.partitions.iter().map(|p| 1_000 - u64::from(p % 2 * 100 + p)).collect(),
            ..wire::Answer::default()
        }
    })
}

#[tokio::test]
async fn a_list_is_merged_from_all_owners() {
    let world = World::start_two(100).await;
    let mut client = world.client(5, WINDOWS).await;
    for db in [&world.db, &world.other] {
        *db.reply.lock() = Some(unread());
    }
    client.send(Command::UnreadCountRequest, 3, &client::UnreadCountRequest::default()).await;
    let reply: client::UnreadCountReply = client.expect(Command::UnreadCountReply, 3).await;
    let ids: Vec<u32> = reply.sessions.iter().map(|session| session.session_id).collect();
    assert_eq!((reply.user_id, reply.total_count), (5, 8));
    assert_eq!(ids, [100, 102, 101, 103]);
    assert_eq!(world.db.next_ask().await.partitions, [0, 1]);
    assert_eq!(world.other.next_ask().await.partitions, [2, 3]);

    // While an owner has only a part of what it was asked about, there is no short list.
    world.other.owned.lock().pop();
    client.send(Command::UnreadCountRequest, 4, &client::UnreadCountRequest::default()).await;
    for _again in 0..2 {
        assert_eq!(world.other.next_ask().await.partitions, [2, 3]);
    }
    world.other.own(&[(2, 5)]);
    world.db.own(&[(0, 5), (1, 5), (3, 6)]);
    let reply: client::UnreadCountReply = client.expect(Command::UnreadCountReply, 4).await;
    assert_eq!(reply.sessions.len(), 4);
    world.stop().await;
}

#[tokio::test]
async fn records_of_one_partition_count_nothing_against_another() {
    let world = World::start_two(100).await;
    let mut client = world.client(5, WINDOWS).await;
    world.hub.send(Kind::Publish, &message(1, 1, 110, 9));
    assert_eq!(client.expect_push().await.msg_id, 1);
    // An older epoch and a smaller offset, elsewhere.
    world.hub.send(Kind::Publish, &message(2, 2, 105, 5));
    assert_eq!(client.expect_push().await.msg_id, 2);
    // Of a former owner.
    world.hub.send(Kind::Publish, &message(1, 3, 120, 8));
    // Of a partition that it does not belong to.
    world.hub.send(Kind::Publish, &wire::Publish { partition: 3, ..message(2, 4, 130, 9) });
    world.hub.send(Kind::Publish, &message(3, 5, 105, 5));
    assert_eq!(client.expect_push().await.msg_id, 5, "after both, on the same link");
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn what_one_partition_has_forgotten_concerns_only_those_behind_in_it() {
    let world = World::start_two(100).await;
    let mut behind = world.client(5, WINDOWS).await;
    world.db.head.store(200, Ordering::SeqCst);
    // Up to 200 this one asks for itself, in the partitions that are owned there.
    let mut ahead = world.client(6, WINDOWS).await;
    let forgotten = |partition, upto| wire::Changes {
        partition,
        epoch: 5,
        after_offset: upto,
        upto_offset: upto,
        conversations: Vec::new(),
        forgotten: Some(true),
    };
    world.other.send_changes(&forgotten(2, 100));
    world.other.settle(2, 100).await;
    behind.expect_quiet().await;
    world.db.send_changes(&forgotten(1, 150));
    behind.expect_closed().await;
    ahead.expect_quiet().await;
    assert_eq!(world.db.by(&[1]).len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn a_gap_in_one_partition_does_not_hold_up_the_cursor_of_another() {
    let world = World::start_two(100).await;
    let mut client = world.client(5, WINDOWS).await;
    world.db.answers_fetches.store(false, Ordering::SeqCst);
    world.db.fold([message(1, 1, 110, 5)]);
    world.db.send_changes(&world.db.changes_of(1, 100));
    world.db.next_fetch().await;
    world.other.fold([message(2, 2, 110, 5)]);
    world.other.send_changes(&world.other.changes_of(2, 100));
    assert_eq!(client.expect_push().await.msg_id, 2);
    world.other.settle(2, 110).await;
    world.db.answers_fetches.store(true, Ordering::SeqCst);
    assert_eq!(client.expect_push().await.msg_id, 1);
    world.stop().await;
}

#[tokio::test]
async fn a_storage_of_another_cluster_is_not_listened_to() {
    let world = World::start_two(100).await;
    let mut client = world.client(5, WINDOWS).await;
    world.other.partitions.store(8, Ordering::SeqCst);
    world.other.own(&[(1, 9), (2, 9), (3, 9)]);
    // It is cut off, and dialled again.
    world.other.partitions.store(PARTITIONS, Ordering::SeqCst);
    world.other.own(&[(2, 9), (3, 9)]);
    let mut followed = [world.other.next_follow_of().await, world.other.next_follow_of().await];
    followed.sort_unstable_by_key(|follow| follow.partition);
    assert_eq!(
        followed.map(|follow| (follow.partition, follow.after_offset)),
        [(2, Some(100)), (3, Some(100))]
    );
    client.send(Command::MessageData, 3, &text(peer_in(1, 5), "hello")).await;
    world.db.next_submit().await;
    client.expect::<client::MessageAck>(Command::MessageAck, 3).await;
    world.stop().await;
}
