//! From a message to its answer, whatever happens to storage meanwhile.

use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::cluster::{Kind, wire};
use proto::{Command, client};

use super::harness::*;

#[tokio::test]
async fn an_old_client_hears_of_its_message_only_when_it_is_stored() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.client(5, WINDOWS).await;
    client.send(Command::MessageData, 44, &text(6, "hello")).await;
    let submit = world.db.next_submit().await;
    assert_eq!((submit.sender, submit.conversation), (5, single(5, 6)));
    assert_ne!(submit.fingerprint(), 0);
    client.expect_quiet().await;

    world.db.answer(&submit, wire::Outcome::Ok, Some(17));
    let ack: client::MessageAck = client.expect(Command::MessageAck, 44).await;
    assert_eq!((ack.user_id, ack.session_id, ack.msg_id, ack.session_type), (5, 6, 17, 1));
    world.stop().await;
}

#[tokio::test]
async fn a_client_with_the_extension_hears_of_every_outcome() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.extended(5, WINDOWS).await;
    let named = |id: u8| client::MessageData {
        client_msg_id: Some(vec![id; 16].into()),
        ..text(6, "hello")
    };
    client.send(Command::MessageData, 10, &named(1)).await;
    client.send(Command::MessageData, 11, &named(2)).await;
    let (first, second) = (world.db.next_submit().await, world.db.next_submit().await);
    assert_eq!(&first.client_msg_id[..], &[1; 16], "its own name is kept");
    world.db.answer(&second, wire::Outcome::Refused, None);
    let refused: client::SendResult = client.expect(Command::SendResult, 11).await;
    assert_eq!(refused.outcome(), client::SendOutcome::Refused);
    assert_eq!(refused.reason(), client::RefuseReason::NotMember);
    world.db.answer(&first, wire::Outcome::Ok, Some(3));
    let stored: client::SendResult = client.expect(Command::SendResult, 10).await;
    assert_eq!((stored.outcome(), stored.msg_id()), (client::SendOutcome::Ok, 3));

    let to_self = client::MessageData { client_msg_id: Some(vec![9; 16].into()), ..text(5, "x") };
    client.send(Command::MessageData, 12, &to_self).await;
    let refused: client::SendResult = client.expect(Command::SendResult, 12).await;
    assert_eq!(refused.reason(), client::RefuseReason::Self_);
    world.stop().await;
}

#[tokio::test]
async fn an_old_client_hears_nothing_of_a_message_that_is_refused() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.client(5, WINDOWS).await;
    client.send(Command::MessageData, 1, &text(5, "to myself")).await;
    client.send(Command::MessageData, 2, &text(6, "")).await;
    client.send(Command::MessageData, 3, &text(6, "not wanted")).await;
    let submit = world.db.next_submit().await;
    assert_eq!(&submit.body[..], b"not wanted");
    world.db.answer(&submit, wire::Outcome::Refused, None);
    client.send(Command::MessageData, 4, &text(6, "wanted")).await;
    let submit = world.db.next_submit().await;
    world.db.answer(&submit, wire::Outcome::Ok, Some(1));
    client.expect::<client::MessageAck>(Command::MessageAck, 4).await;
    world.stop().await;
}

#[tokio::test]
async fn what_is_unanswered_goes_again_in_order_when_storage_was_cut_off() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.client(5, WINDOWS).await;
    for seq in 1..=9 {
        let content = format!("message {seq}");
        client.send(Command::MessageData, seq, &text(6 + u32::from(seq % 2), &content)).await;
    }
    let mut first = Vec::new();
    for _ in 0..9 {
        first.push(world.db.next_submit().await);
    }
    world.db.answer(&first[3], wire::Outcome::Ok, Some(1));
    client.expect::<client::MessageAck>(Command::MessageAck, 4).await;

    world.cut_db();
    for old in first.iter().filter(|submit| &submit.body[..] != b"message 4") {
        let again = world.db.next_submit().await;
        assert_eq!((&again.body, &again.client_msg_id), (&old.body, &old.client_msg_id));
        assert!(again.resend() && !old.resend());
        world.db.answer(&again, wire::Outcome::Ok, Some(9));
    }
    for seq in [1, 2, 3, 5, 6, 7, 8, 9] {
        client.expect::<client::MessageAck>(Command::MessageAck, seq).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn what_is_sent_while_storage_is_away_is_stored_when_it_comes_back() {
    let world = World::start().await;
    let mut client = world.client(5, WINDOWS).await;
    world.stop_db().await;
    client.send(Command::MessageData, 3, &text(6, "into the void")).await;
    client.expect_quiet().await;
    world.restart_db().await;
    client.expect::<client::MessageAck>(Command::MessageAck, 3).await;
    world.stop().await;
}

#[tokio::test]
async fn a_message_that_storage_cannot_take_now_is_tried_again() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.client(5, WINDOWS).await;
    client.send(Command::MessageData, 3, &text(6, "patience")).await;
    let submit = world.db.next_submit().await;
    world.db.answer(&submit, wire::Outcome::Retry, None);
    let again = world.db.next_submit().await;
    assert!(again.resend());
    world.db.answer(&again, wire::Outcome::Ok, Some(1));
    client.expect::<client::MessageAck>(Command::MessageAck, 3).await;
    world.stop().await;
}

#[tokio::test]
async fn the_publication_answers_if_it_comes_before_the_answer() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut sender = world.client(5, WINDOWS).await;
    let mut phone = world.client(5, ANDROID).await;
    sender.send(Command::MessageData, 3, &text(6, "hello")).await;
    let submit = world.db.next_submit().await;
    let published = wire::Publish {
        origin: Some(submit.origin),
        client_msg_id: Some(submit.client_msg_id.clone()),
        ..publish(single(5, 6), 8, 5)
    };
    world.hub.send(Kind::Publish, &published);
    let ack: client::MessageAck = sender.expect(Command::MessageAck, 3).await;
    assert_eq!(ack.msg_id, 8);
    assert_eq!(phone.expect_push().await.msg_id, 8, "the sender's other devices get it");

    world.db.answer(&submit, wire::Outcome::Ok, Some(8));
    sender.expect_quiet().await;
    world.stop().await;
}

/// Otherwise its author would be the only one who never hears of it: an old client is told nothing when a message
/// is given up.
#[tokio::test]
async fn what_was_given_up_and_is_stored_after_all_is_told_to_its_author_as_well() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut sender = world.client(5, WINDOWS).await;
    sender.send(Command::MessageData, 3, &text(6, "hello")).await;
    let submit = world.db.next_submit().await;
    tokio::time::pause();
    // A message is given up after 15 s.
    tokio::time::advance(Duration::from_secs(16)).await;
    tokio::time::resume();
    sender.expect_quiet().await;
    let published = wire::Publish {
        origin: Some(submit.origin),
        client_msg_id: Some(submit.client_msg_id),
        ..publish(single(5, 6), 8, 5)
    };
    world.hub.send(Kind::Publish, &published);
    assert_eq!(sender.expect_push().await.msg_id, 8);
    world.stop().await;
}

#[tokio::test]
async fn when_a_message_was_taken_is_told_with_the_answer_and_with_its_delivery() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.extended(5, WINDOWS).await;
    for msg_id in [1, 2] {
        let id = vec![u8::try_from(msg_id).unwrap(); 16];
        let message = client::MessageData { client_msg_id: Some(id.into()), ..text(6, "hello") };
        client.send(Command::MessageData, 3, &message).await;
        let submit = world.db.next_submit().await;
        if msg_id == 1 {
            world.db.answer(&submit, wire::Outcome::Ok, Some(msg_id));
        } else {
            let (origin, client_msg_id) = (Some(submit.origin), Some(submit.client_msg_id));
            let published = publish(single(5, 6), msg_id, 5);
            let published = wire::Publish { origin, client_msg_id, ..published };
            world.hub.send(Kind::Publish, &published);
        }
        let result: client::SendResult = client.expect(Command::SendResult, 3).await;
        assert_eq!((result.msg_id(), result.create_time), (msg_id, Some(1_700_000_000)));
    }
    world.stop().await;
}

#[tokio::test]
async fn a_repeat_on_a_new_connection_is_answered_there() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut old = world.extended(5, WINDOWS).await;
    let message =
        client::MessageData { client_msg_id: Some(vec![7; 16].into()), ..text(6, "once") };
    old.send(Command::MessageData, 3, &message).await;
    let submit = world.db.next_submit().await;
    let mut new = world.extended(5, WINDOWS).await;
    let repeat = client::MessageData { resend: Some(true), ..message };
    new.send(Command::MessageData, 4, &repeat).await;
    new.expect_quiet().await;
    world.db.answer(&submit, wire::Outcome::Ok, Some(2));
    let result: client::SendResult = new.expect(Command::SendResult, 4).await;
    assert_eq!(result.msg_id(), 2);
    world.stop().await;
}

#[tokio::test]
async fn a_frame_that_windows_repeats_before_its_answer_is_sent_once_and_answered_once() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.client(5, WINDOWS).await;
    for content in ["hello", "hello", "other"] {
        client.send(Command::MessageData, 7, &text(6, content)).await;
    }
    let first = world.db.next_submit().await;
    let other = world.db.next_submit().await;
    assert_eq!(&other.body[..], b"other", "the repeat was not handed on");
    assert_ne!(first.fingerprint(), other.fingerprint());
    assert!(first.may_repeat() && other.may_repeat(), "nothing was answered before");
    world.db.answer(&first, wire::Outcome::Ok, Some(3));
    let ack: client::MessageAck = client.expect(Command::MessageAck, 7).await;
    assert_eq!(ack.msg_id, 3);
    client.expect_quiet().await;

    client.send(Command::MessageData, 7, &text(6, "hello")).await;
    let again = world.db.next_submit().await;
    assert_eq!(again.fingerprint(), first.fingerprint());
    assert_ne!(again.client_msg_id, first.client_msg_id);
    assert!(!again.may_repeat(), "what was answered on this connection is said again");
    world.stop().await;
}

#[tokio::test]
async fn what_comes_again_before_its_answer_counts_once_among_the_unanswered() {
    let world = World::start_with(|limits| limits.unanswered_max = 2).await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut named = world.extended(5, ANDROID).await;
    let mut windows = world.client(7, WINDOWS).await;
    for (client, is_named) in [(&mut named, true), (&mut windows, false)] {
        for content in ["hello", "hello", "other"] {
            let id = is_named.then(|| vec![content.as_bytes()[0]; 16].into());
            let message = client::MessageData { client_msg_id: id, ..text(6, content) };
            client.send(Command::MessageData, 7, &message).await;
        }
        let submits = [world.db.next_submit().await, world.db.next_submit().await];
        for (submit, content) in submits.iter().zip(["hello", "other"]) {
            assert_eq!(&submit.body[..], content.as_bytes());
            world.db.answer(submit, wire::Outcome::Ok, Some(1));
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn frames_of_clients_that_repeat_nothing_are_never_taken_for_repeats() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    for kind in [MAC, ANDROID] {
        let mut client = world.client(5, kind).await;
        for _ in 0..2 {
            client.send(Command::MessageData, 7, &text(6, "hello")).await;
            let submit = world.db.next_submit().await;
            assert_eq!((submit.fingerprint, submit.may_repeat), (None, None), "{kind}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn the_owner_is_told_what_became_of_a_frame() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.client(5, WINDOWS).await;
    client.send(Command::MessageData, 7, &text(6, "hello")).await;
    let submit = world.db.next_submit().await;
    let question = wire::FrameQuestion {
        session: submit.origin.session,
        sender: 5,
        client_msg_id: submit.client_msg_id.clone(),
    };
    let fate = world.db.ask_fate(&question).await;
    assert_eq!(fate.answered(), wire::frame_fate::Answered::No);
    world.db.answer(&submit, wire::Outcome::Ok, Some(3));
    client.expect::<client::MessageAck>(Command::MessageAck, 7).await;
    let fate = world.db.ask_fate(&question).await;
    assert_eq!(fate.answered(), wire::frame_fate::Answered::Last);
    assert_eq!(fate.end(), wire::frame_fate::End::Open);
    client.send(Command::LogoutRequest, 8, &client::LogoutRequest::default()).await;
    client.expect::<client::LogoutReply>(Command::LogoutReply, 8).await;
    client.expect_closed().await;
    let fate = world.db.ask_fate(&question).await;
    assert_eq!(fate.answered(), wire::frame_fate::Answered::Last);
    assert_eq!(fate.end(), wire::frame_fate::End::LoggedOut);
    world.stop().await;
}

#[tokio::test]
async fn a_name_of_another_message_is_refused() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.extended(5, WINDOWS).await;
    let named =
        |message| client::MessageData { client_msg_id: Some(vec![1; 16].into()), ..message };
    client.send(Command::MessageData, 1, &named(text(6, "hello"))).await;
    let submit = world.db.next_submit().await;
    for other in [text(6, "other words"), text(7, "hello")] {
        client.send(Command::MessageData, 2, &named(other)).await;
        let told: client::SendResult = client.expect(Command::SendResult, 2).await;
        assert_eq!(told.outcome(), client::SendOutcome::Refused);
        assert_eq!(told.reason(), client::RefuseReason::IdReused);
    }
    world.db.answer(&submit, wire::Outcome::Ok, Some(4));
    let told: client::SendResult = client.expect(Command::SendResult, 1).await;
    assert_eq!(told.msg_id(), 4);
    world.stop().await;
}

#[tokio::test]
async fn what_was_under_way_behind_a_message_that_was_given_back_does_not_overtake_it() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.extended(5, ANDROID).await;
    let named = |id: u8, resend: bool| client::MessageData {
        client_msg_id: Some(vec![id; 16].into()),
        resend: Some(resend),
        ..text(6, &format!("message {id}"))
    };
    for id in 1..=2 {
        client.send(Command::MessageData, u16::from(id), &named(id, false)).await;
    }
    let first = world.db.next_submit().await;
    assert!(first.first() && !world.db.next_submit().await.first());
    world.db.answer(&first, wire::Outcome::Retry, None);
    for seq in 1..=2 {
        let result: client::SendResult = client.expect(Command::SendResult, seq).await;
        assert_eq!(result.outcome(), client::SendOutcome::Retry, "at once, and all behind it");
    }
    // Sent before the client knew.
    client.send(Command::MessageData, 3, &named(3, false)).await;
    let result: client::SendResult = client.expect(Command::SendResult, 3).await;
    assert_eq!(result.outcome(), client::SendOutcome::Retry);
    for id in 1..=3 {
        client.send(Command::MessageData, 10 + u16::from(id), &named(id, true)).await;
        let submit = world.db.next_submit().await;
        assert_eq!(submit.client_msg_id[0], id);
        world.db.answer(&submit, wire::Outcome::Ok, Some(u32::from(id)));
        let result: client::SendResult =
            client.expect(Command::SendResult, 10 + u16::from(id)).await;
        assert_eq!(result.outcome(), client::SendOutcome::Ok);
    }
    world.stop().await;
}
