//! Partitions that go from one storage to another while clients send and ask.

use std::sync::atomic::Ordering;

use proto::cluster::{Kind, wire};
use proto::{Command, client};

use super::harness::*;

fn named(id: u8, to: u32) -> client::MessageData {
    client::MessageData {
        client_msg_id: Some(vec![id; 16].into()),
        ..text(to, &format!("message {id}"))
    }
}

fn latest(session_id: u32) -> client::LatestMessageIdRequest {
    let session_type = client::SessionType::Single.into();
    client::LatestMessageIdRequest { session_type, session_id, ..Default::default() }
}

/// Sends are answered only by the test.
fn keep_silent(world: &World) {
    for db in [&world.db, &world.other] {
        db.answers_sends.store(false, Ordering::SeqCst);
    }
}

async fn expect_stored(client: &mut Client, seq: u16) {
    let result: client::SendResult = client.expect(Command::SendResult, seq).await;
    assert_eq!(result.outcome(), client::SendOutcome::Ok);
}

#[tokio::test]
async fn a_move_hands_over_again_in_order_and_the_client_hears_only_that_all_is_stored() {
    let world = World::start_two(100).await;
    keep_silent(&world);
    let (moves, stays) = (peer_in(1, 5), peer_in(0, 5));
    let mut client = world.extended(5, ANDROID).await;
    for id in 1..=3 {
        client.send(Command::MessageData, id.into(), &named(id, moves)).await;
    }
    client.send(Command::MessageData, 4, &named(4, stays)).await;
    let mut old = Vec::new();
    for _ in 1..=4 {
        old.push(world.db.next_submit().await);
    }

    world.other.own(&[(1, 6), (2, 5), (3, 5)]);
    for id in 1..=3 {
        let again = world.other.next_submit().await;
        assert_eq!((again.client_msg_id[0], again.resend()), (id, true));
        assert_eq!(again.first(), id == 1);
    }
    // About copies that no longer count.
    world.db.answer(&old[1], wire::Outcome::Retry, None);
    world.db.answer(&old[1], wire::Outcome::Refused, None);
    world.db.answer(&old[1], wire::Outcome::Moved, None);
    // What is stored is stored, whichever owner says so.
    world.db.answer(&old[2], wire::Outcome::Ok, Some(3));
    expect_stored(&mut client, 3).await;
    for (seq, submit) in [(1, &old[0]), (2, &old[1])] {
        world.other.answer(submit, wire::Outcome::Ok, Some(1));
        expect_stored(&mut client, seq).await;
    }
    world.db.answer(&old[3], wire::Outcome::Ok, Some(1));
    expect_stored(&mut client, 4).await;
    assert!(world.db.submitted.lock().await.try_recv().is_err(), "what stays is not sent again");
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn what_an_owner_hands_back_waits_for_the_next_one_and_nothing_overtakes_it() {
    let world = World::start_two(100).await;
    keep_silent(&world);
    let peer = peer_in(1, 5);
    let mut client = world.extended(5, ANDROID).await;
    for id in 1..=2 {
        client.send(Command::MessageData, id.into(), &named(id, peer)).await;
    }
    for _ in 1..=2 {
        let submit = world.db.next_submit().await;
        world.db.answer(&submit, wire::Outcome::Moved, None);
    }
    world.db.own(&[(0, 5)]);
    client.expect_quiet().await;
    client.send(Command::MessageData, 3, &named(3, peer)).await;
    client.expect_quiet().await;
    world.other.own(&[(1, 6), (2, 5), (3, 5)]);
    for id in 1..=3 {
        let submit = world.other.next_submit().await;
        assert_eq!((submit.client_msg_id[0], submit.resend()), (id, true));
        world.other.answer(&submit, wire::Outcome::Ok, Some(id.into()));
        expect_stored(&mut client, id.into()).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn an_owner_that_has_a_partition_again_is_handed_everything_again() {
    let world = World::start_two(100).await;
    keep_silent(&world);
    let mut client = world.extended(5, ANDROID).await;
    client.send(Command::MessageData, 1, &named(1, peer_in(1, 5))).await;
    assert!(!world.db.next_submit().await.resend());
    world.db.own(&[(0, 5), (1, 6)]);
    let again = world.db.next_submit().await;
    assert!(again.resend());
    world.db.answer(&again, wire::Outcome::Ok, Some(1));
    expect_stored(&mut client, 1).await;
    world.stop().await;
}

#[tokio::test]
async fn an_answer_of_an_older_epoch_is_refused_and_the_new_owner_is_asked() {
    let world = World::start_two(100).await;
    let peer = peer_in(1, 5);
    let mut client = world.client(5, WINDOWS).await;
    *world.db.reply.lock() = Some(reply(vec![(1, 5)], 3));
    *world.other.reply.lock() = Some(reply(vec![(1, 6)], 4));
    // Somebody has published in epoch 6: of that, an owner in epoch 5 may know nothing.
    let newer = placed(publish(single(5, peer), 11, peer), 6);
    world.hub.send(Kind::Publish, &wire::Publish { prev_offset: 0, ..newer });
    assert_eq!(client.expect_push().await.msg_id, 11);
    client.send(Command::LatestMessageIdRequest, 3, &latest(peer)).await;
    for _again in 0..2 {
        assert_eq!(world.db.next_ask().await.user, 5);
    }
    world.other.own(&[(1, 6), (2, 5), (3, 5)]);
    let answer: client::LatestMessageIdReply =
        client.expect(Command::LatestMessageIdReply, 3).await;
    assert_eq!(answer.latest_msg_id, 4);
    client.expect_quiet().await;
    world.stop().await;
}

/// The newest message of a conversation, as read from those partitions in those epochs.
fn reply(by: Vec<(u32, u64)>, latest_msg_id: u32) -> Reply {
    Box::new(move |_db, ask| {
        let reply = client::LatestMessageIdReply { latest_msg_id, ..Default::default() };
        wire::Answer {
            status: wire::AskStatus::Answered.into(),
            command: Some(ask.command + 1),
            body: Some(prost::Message::encode_to_vec(&reply).into()),
            by: by.iter().map(|&(partition, epoch)| wire::Owned { partition, epoch }).collect(),
            ..wire::Answer::default()
        }
    })
}

/// Refuses everything, because it is owned elsewhere.
fn not_owner() -> Reply {
    Box::new(|_db, _ask| wire::Answer {
        status: wire::AskStatus::NotOwner.into(),
        ..wire::Answer::default()
    })
}

#[tokio::test]
async fn what_was_refused_because_it_moved_is_asked_of_the_next_owner_even_if_it_changes_something()
{
    let world = World::start_two(100).await;
    let peer = peer_in(1, 5);
    let mut client = world.client(5, WINDOWS).await;
    *world.db.reply.lock() = Some(not_owner());
    let session_type = client::SessionType::Single.into();
    let remove =
        client::RemoveSessionRequest { session_type, session_id: peer, ..Default::default() };
    client.send(Command::RemoveSessionRequest, 3, &remove).await;
    world.db.next_ask().await;
    world.db.own(&[(0, 5)]);
    world.other.own(&[(1, 6), (2, 5), (3, 5)]);
    client.expect::<client::RemoveSessionReply>(Command::RemoveSessionReply, 3).await;
    world.stop().await;
}

#[tokio::test]
async fn when_a_link_dies_reads_are_asked_again_and_changes_are_not() {
    let world = World::start_two(100).await;
    world.db.answers_asks.store(false, Ordering::SeqCst);
    let peer = peer_in(1, 5);
    let (mut reads, mut changes) =
        (world.extended(5, ANDROID).await, world.extended(6, ANDROID).await);
    reads.send(Command::LatestMessageIdRequest, 3, &latest(peer)).await;
    world.db.next_ask().await;
    let group = (1..100).find(|&id| group_partition(id) == 1).unwrap();
    let change = client::GroupChangeMembersRequest { group_id: group, ..Default::default() };
    changes.send(Command::GroupChangeMembersRequest, 4, &change).await;
    world.db.next_ask().await;

    world.other.own(&[(1, 6), (2, 5), (3, 5)]);
    world.cut_db();
    reads.expect::<client::LatestMessageIdReply>(Command::LatestMessageIdReply, 3).await;
    changes.expect::<client::Refused>(Command::Refused, 4).await;
    world.stop().await;
}

#[tokio::test]
async fn a_request_about_a_partition_without_an_owner_waits_for_one_and_others_do_not() {
    let world = World::start_two(100).await;
    let mut waits = world.client(5, WINDOWS).await;
    let mut other = world.client(5, ANDROID).await;
    world.db.own(&[(0, 5)]);
    world.db.answers_asks.store(false, Ordering::SeqCst);
    waits.send(Command::LatestMessageIdRequest, 3, &latest(peer_in(1, 5))).await;
    other.send(Command::LatestMessageIdRequest, 4, &latest(peer_in(2, 5))).await;
    other.expect::<client::LatestMessageIdReply>(Command::LatestMessageIdReply, 4).await;
    world.db.answers_asks.store(true, Ordering::SeqCst);
    world.db.own(&[(0, 5), (1, 6)]);
    waits.expect::<client::LatestMessageIdReply>(Command::LatestMessageIdReply, 3).await;
    world.stop().await;
}

#[tokio::test]
async fn a_login_waits_for_a_partition_without_an_owner() {
    let world = World::start_two(100).await;
    world.db.own(&[(0, 5)]);
    let mut client = world.connect().await;
    client.send(Command::LoginRequest, 1, &login(5, WINDOWS)).await;
    world.hub.next_change().await;
    client.write(&heartbeat(7)).await;
    world.other.own(&[(1, 6), (2, 5), (3, 5)]);
    let reply: client::LoginReply = client.expect(Command::LoginReply, 1).await;
    assert_eq!(reply.result, 0, "{:?}", reply.result_text);
    world.stop().await;
}

#[tokio::test]
async fn a_new_owner_is_told_the_cursor_before_it_is_handed_anything() {
    let world = World::start_two(100).await;
    keep_silent(&world);
    let mut client = world.client(5, WINDOWS).await;
    let peer = peer_in(1, 5);
    world.db.fold([wire::Publish { offset: 110, ..placed(publish(single(5, peer), 1, peer), 5) }]);
    world.db.send_changes(&world.db.changes_of(1, 100));
    assert_eq!(client.expect_push().await.msg_id, 1);
    world.db.settle(1, 110).await;

    // Folded and never published before its owner died.
    let missed = wire::Publish {
        offset: 120,
        prev_offset: 110,
        ..placed(publish(single(5, peer), 2, peer), 6)
    };
    world.other.fold([missed]);
    world.other.own(&[(1, 6), (2, 5), (3, 5)]);
    let follow = world.other.next_follow_of().await;
    assert_eq!(follow, wire::Follow { partition: 1, after_offset: Some(110) });
    assert_eq!(client.expect_push().await.msg_id, 2);
    client.expect_quiet().await;
    world.stop().await;
}
