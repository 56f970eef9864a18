//! What storage does not answer, or not as it should, and what becomes of it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::cluster::{Kind, wire};
use proto::{Command, client, encode_message};
use tokio::time::timeout;

use super::harness::*;

#[tokio::test]
async fn a_login_whose_groups_are_not_told_completely_waits_for_them() {
    let world = World::start().await;
    world.db.join(5, 9, 1, 1);
    world.db.groups_incomplete.store(2, Ordering::SeqCst);
    let mut client = world.client(5, WINDOWS).await;
    assert_eq!(world.db.groups_incomplete.load(Ordering::SeqCst), 0, "it was asked again");
    world.hub.send(Kind::Publish, &publish(group(9), 1, 6));
    assert_eq!(client.expect_push().await.msg_id, 1);
    world.stop().await;
}

#[tokio::test]
async fn a_login_whose_groups_are_never_told_completely_is_refused_for_now() {
    let world = World::start().await;
    world.db.groups_incomplete.store(u32::MAX, Ordering::SeqCst);
    let mut client = world.connect().await;
    client.send(Command::LoginRequest, 7, &login(5, WINDOWS)).await;
    let reply: client::LoginReply = client.expect(Command::LoginReply, 7).await;
    assert_eq!((reply.result, reply.user_info), (3, None));
    client.expect_closed().await;
    let added = world.hub.next_change().await;
    assert_eq!(added.add_users[0].user, 5);
    assert_eq!(world.hub.next_change().await.remove_users[0].user, 5, "nobody is left behind");
    world.stop().await;
}

#[tokio::test]
async fn a_question_that_is_not_answered_in_8_seconds_is_refused_for_now() {
    let world = World::start().await;
    world.db.answers_asks.store(false, Ordering::SeqCst);
    let mut old = world.client(5, ANDROID).await;
    let mut new = world.extended(6, ANDROID).await;
    let began = Instant::now();
    let request = client::NormalGroupsRequest::default();
    old.send(Command::NormalGroupsRequest, 3, &request).await;
    new.send(Command::NormalGroupsRequest, 4, &request).await;
    timeout(Duration::from_secs(6), new.next()).await.unwrap_err();
    let refused: client::Refused = new.expect(Command::Refused, 4).await;
    assert_eq!((refused.command, refused.reason), (0x0401, 0));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(13), "{took:?}");
    // The old one knows no such answer, and is served on.
    old.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_message_that_is_not_answered_in_15_seconds_is_given_up_and_may_come_again() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut old = world.client(5, ANDROID).await;
    let mut new = world.extended(6, ANDROID).await;
    let began = Instant::now();
    old.send(Command::MessageData, 3, &text(7, "of an old client")).await;
    let named = client::MessageData {
        client_msg_id: Some(Bytes::from_static(&[6; 16])),
        ..text(7, "of a new one")
    };
    new.send(Command::MessageData, 4, &named).await;
    for _message in 0..2 {
        world.db.next_submit().await;
    }
    // Longer than what is waited for elsewhere.
    let (first, wait) = (new.next(), Duration::from_secs(9));
    let frame = match timeout(wait, first).await {
        Ok(frame) => frame,
        Err(_elapsed) => new.next().await,
    };
    let frame = frame.expect("an answer, not the end");
    let took = began.elapsed();
    assert!((15..20).contains(&took.as_secs()), "{took:?}");
    let result: client::SendResult = frame.parse().unwrap();
    assert_eq!((frame.seq, result.outcome()), (4, client::SendOutcome::Retry));
    // The old one hears nothing, which it shows as failed; the same again is a try of its own.
    old.expect_quiet().await;
    new.send(Command::MessageData, 5, &client::MessageData { resend: Some(true), ..named }).await;
    let again = world.db.next_submit().await;
    assert_eq!((&again.client_msg_id[..], again.resend()), (&[6; 16][..], true));
    world.db.answer(&again, wire::Outcome::Ok, Some(1));
    new.expect::<client::SendResult>(Command::SendResult, 5).await;
    world.stop().await;
}

#[tokio::test]
async fn a_page_of_a_former_owner_is_not_delivered() {
    let world = World::start_at(100).await;
    world.db.own(&[(0, 5)]);
    assert_eq!(world.db.next_follow().await, Some(100));
    let mut client = world.client(5, WINDOWS).await;
    let at = |msg_id: u32, offset, prev_offset, epoch| wire::Publish {
        offset,
        prev_offset,
        epoch,
        ..publish(single(5, 6), msg_id, 6)
    };
    // What the former owner had folded there was never in the log.
    world.db.fold([wire::Publish { frame: said("never said"), ..at(1, 110, 0, 4) }]);
    world.hub.send(Kind::Publish, &at(2, 120, 110, 5));
    world.db.next_fetch().await;
    client.expect_quiet().await;
    world.db.history.lock().clear();
    world.db.fold([wire::Publish { frame: said("said"), ..at(1, 110, 0, 5) }]);
    let first = client.expect_push().await;
    assert_eq!((first.msg_id, &first.msg_data[..]), (1, &b"said"[..]));
    assert_eq!(client.expect_push().await.msg_id, 2);
    world.stop().await;
}

fn said(words: &str) -> Bytes {
    let message = client::MessageData {
        from_user_id: 6,
        msg_id: 1,
        msg_type: client::MessageType::SingleText.into(),
        msg_data: Bytes::copy_from_slice(words.as_bytes()),
        ..client::MessageData::default()
    };
    encode_message(Command::MessageData, 0, &message)
}

#[tokio::test]
async fn of_a_page_with_very_many_changes_of_members_nobody_who_was_removed_hears_a_message() {
    let world = World::start_at(100).await;
    for user in [5, 6] {
        world.db.join(user, 9, 1, 1);
    }
    let mut member = world.client(5, WINDOWS).await;
    let mut removed = world.client(6, WINDOWS).await;
    // So many that storage tells them behind the messages, wherever they were.
    let changes = (0..64_u32).map(|number| {
        let notify = client::GroupMembersNotify { group_id: 9, ..Default::default() };
        let user = if number == 63 { 6 } else { 1_000 + number };
        wire::Publish {
            offset: 120 + u64::from(number),
            prev_offset: 119 + u64::from(number),
            member_version: u64::from(number) + 2,
            frame: encode_message(Command::GroupMembersNotify, 0, &notify),
            removed: vec![user],
            ..publish(group(9), 0, 5)
        }
    });
    let first = wire::Publish { offset: 119, prev_offset: 0, ..publish(group(9), 1, 5) };
    world.db.fold(std::iter::once(first).chain(changes));
    let next = wire::Publish {
        offset: 200,
        prev_offset: 183,
        member_version: 65,
        ..publish(group(9), 2, 5)
    };
    world.hub.send(Kind::Publish, &next);
    assert_eq!(member.expect_push().await.msg_id, 1);
    for _change in 0..64 {
        member.expect::<client::GroupMembersNotify>(Command::GroupMembersNotify, 0).await;
    }
    assert_eq!(member.expect_push().await.msg_id, 2);
    removed.write(&heartbeat(999)).await;
    loop {
        let frame = removed.next().await.expect("a frame, not the end");
        match frame.known_command() {
            Some(Command::GroupMembersNotify) => {}
            Some(Command::Heartbeat) => break,
            other => panic!("who was removed hears {other:?}"),
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn a_log_that_ends_before_the_cursor_is_another_one_and_everybody_must_ask() {
    let world = World::start_at(100).await;
    // Their floors are at 100, which is nothing in a log that ends at 50.
    let mut old = world.client(5, WINDOWS).await;
    let mut extended = world.extended(6, WINDOWS).await;
    world.stop_db().await;
    world.db.forgets.store(true, Ordering::SeqCst);
    world.db.head.store(50, Ordering::SeqCst);
    world.restart_db().await;
    assert_eq!(world.db.next_follow().await, Some(100));
    old.expect_closed().await;
    extended.expect_closed().await;
    world.stop().await;
}
