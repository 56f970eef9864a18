//! Answers of storage and of the hub that say less than they should, too much, or the same for ever.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use proto::cluster::wire;
use proto::limits::{HEADER_LEN, LIMIT_TO_CLIENT};
use proto::{Command, Frame, client};

use super::harness::*;

fn named(id: u8, resend: bool) -> client::MessageData {
    client::MessageData {
        client_msg_id: Some(vec![id; 16].into()),
        resend: Some(resend),
        ..text(6, &format!("message {id}"))
    }
}

#[tokio::test]
async fn stored_without_a_number_is_not_known_to_be_stored() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut new = world.extended(5, ANDROID).await;
    new.send(Command::MessageData, 3, &named(1, false)).await;
    let submit = world.db.next_submit().await;
    world.db.answer(&submit, wire::Outcome::Ok, None);
    let result: client::SendResult = new.expect(Command::SendResult, 3).await;
    assert_eq!((result.outcome(), result.msg_id), (client::SendOutcome::Retry, None));

    // For an old client the gateway tries again by itself.
    let mut old = world.client(7, ANDROID).await;
    old.send(Command::MessageData, 4, &text(6, "of an old client")).await;
    let first = world.db.next_submit().await;
    world.db.answer(&first, wire::Outcome::Ok, None);
    let again = world.db.next_submit().await;
    assert_eq!(again.client_msg_id, first.client_msg_id);
    world.db.answer(&again, wire::Outcome::Ok, Some(9));
    assert_eq!(old.expect::<client::MessageAck>(Command::MessageAck, 4).await.msg_id, 9);
    world.stop().await;
}

/// It would be told to try again for ever, and remembered for ever.
#[tokio::test]
async fn a_client_that_never_begins_again_is_served_in_its_own_order_in_the_end() {
    let world = World::start_with(|limits| limits.unanswered_max = 2).await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.extended(5, ANDROID).await;
    client.send(Command::MessageData, 1, &named(1, false)).await;
    let submit = world.db.next_submit().await;
    world.db.answer(&submit, wire::Outcome::Retry, None);
    client.expect::<client::SendResult>(Command::SendResult, 1).await;
    // Twice as many as may be unanswered are given back, this one among them.
    for id in 2..=4 {
        client.send(Command::MessageData, id.into(), &named(id, false)).await;
        let result: client::SendResult = client.expect(Command::SendResult, id.into()).await;
        assert_eq!(result.outcome(), client::SendOutcome::Retry, "{id}");
    }
    client.send(Command::MessageData, 5, &named(5, false)).await;
    let submit = world.db.next_submit().await;
    assert_eq!(submit.client_msg_id[0], 5, "nothing of what was given back was stored");
    world.db.answer(&submit, wire::Outcome::Ok, Some(1));
    let result: client::SendResult = client.expect(Command::SendResult, 5).await;
    assert_eq!(result.outcome(), client::SendOutcome::Ok);
    world.stop().await;
}

/// Answers everything with so many bytes.
fn of_length(len: usize) -> Reply {
    Box::new(move |_db, ask| wire::Answer {
        status: wire::AskStatus::Answered.into(),
        command: Some(ask.command + 1),
        body: Some(vec![0; len].into()),
        by: vec![wire::Owned { partition: 0, epoch: 1 }],
        ..wire::Answer::default()
    })
}

#[tokio::test]
async fn an_answer_that_no_client_would_take_is_none() {
    let world = World::start().await;
    let mut new = world.extended(5, ANDROID).await;
    let mut old = world.client(7, ANDROID).await;
    let longest = LIMIT_TO_CLIENT - HEADER_LEN;
    let ask = client::LatestMessageIdRequest { session_id: 6, ..Default::default() };
    *world.db.reply.lock() = Some(of_length(longest));
    for (client, seq) in [(&mut new, 3), (&mut old, 4)] {
        client.send(Command::LatestMessageIdRequest, seq, &ask).await;
        let frame: Frame = client.next().await.expect("an answer");
        assert_eq!((frame.seq, frame.body.len()), (seq, longest));
    }
    *world.db.reply.lock() = Some(of_length(longest + 1));
    new.send(Command::LatestMessageIdRequest, 5, &ask).await;
    let refused: client::Refused = new.expect(Command::Refused, 5).await;
    assert_eq!(refused.reason, 0, "not now");
    old.send(Command::LatestMessageIdRequest, 6, &ask).await;
    old.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn without_the_hub_nobody_is_said_to_be_offline() {
    let world = World::start().await;
    let mut new = world.extended(5, WINDOWS).await;
    let mut old = world.client(7, WINDOWS).await;
    world.hub.answers_status.store(false, Ordering::SeqCst);
    let ask = client::UsersStatusRequest { user_ids: vec![1, 2], ..Default::default() };
    new.send(Command::UsersStatusRequest, 3, &ask).await;
    let refused: client::Refused = new.expect(Command::Refused, 3).await;
    assert_eq!((refused.command, refused.reason), (0x020a, 0));
    old.send(Command::UsersStatusRequest, 4, &ask).await;
    old.expect_quiet().await;
    world.hub.answers_status.store(true, Ordering::SeqCst);
    old.send(Command::UsersStatusRequest, 5, &ask).await;
    let reply: client::UsersStatusReply = old.expect(Command::UsersStatusReply, 5).await;
    assert_eq!(reply.users.len(), 2);
    world.stop().await;
}

/// Two gateways that raise their epochs against each other would never come to an end.
#[tokio::test]
async fn a_login_raises_its_epoch_three_times_and_then_goes_on() {
    let world = World::start().await;
    world.hub.stays_ahead.store(true, Ordering::SeqCst);
    let _client = world.client(5, WINDOWS).await;
    let mut epochs = Vec::new();
    for _told in 0..4 {
        epochs.push(world.hub.next_change().await.add_users[0].epoch);
    }
    assert!(epochs.is_sorted_by(|one, next| one < next), "{epochs:?}");
    let more = world.hub.changed.lock().await.try_recv().ok();
    assert_eq!(more, None, "it has been answered, and raises nothing more");
    world.stop().await;
}

#[tokio::test]
async fn a_login_that_cannot_be_read_is_passed_over() {
    let world = World::start().await;
    let mut client = world.connect().await;
    let body = Bytes::from_static(b"\xff\xff\xff");
    let frame = Frame { command: Command::LoginRequest.number(), seq: 3, body };
    client.write(&frame.encode()).await;
    client.log_in(5, WINDOWS).await;
    world.stop().await;
}
