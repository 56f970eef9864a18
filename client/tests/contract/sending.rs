//! What a program may rely on when it sends.

use std::fs;
use std::time::Duration;

use crate::fake::{Gateway, PEER, next, options, show, within};
use client::{
    CallError, Client, Conversation, Event, FileOutbox, Limits, NotSent, Options, Outcome,
};
use proto::Command;
use proto::client::{
    MessageAck, RefuseReason, Refused, TimeReply, TimeRequest, UnreadCountRequest,
};
use proto::ids::MsgId;
use proto::limits::MESSAGE_BODY_MAX;

#[tokio::test]
async fn a_message_has_its_outcome_when_the_server_has_stored_it() {
    let gateway = Gateway::start().await;
    let (client, mut events, mut served) = gateway.client(&[]).await;

    let sending = client.send_text(PEER, "hello");
    let message = served.message().await;
    assert_eq!(show(&message.1), "hello");
    assert_eq!(message.1.client_msg_id.as_deref(), Some(&sending.client_msg_id().0[..]));
    served.accept(&message, 1).await;

    let stored = Outcome::Ok { msg_id: MsgId(1), create_time: 1_700_000_001 };
    assert_eq!(within(sending).await, stored);
    let own = crate::fake::message(&mut events).await;
    assert_eq!((own.msg_id.0, own.from, own.text().as_deref()), (1, crate::fake::ME, Ok("hello")));
}

#[tokio::test]
async fn after_a_reconnect_everything_unanswered_comes_again_in_order_before_anything_new() {
    let gateway = Gateway::start().await;
    let (client, _events, mut served) = gateway.client(&[]).await;
    let group = Conversation::group(9);

    let mut sendings: Vec<_> = ["1", "2", "3", "4"].map(|t| client.send_text(PEER, t)).into();
    sendings.push(client.send_text(group, "g1"));
    let mut ids = Vec::new();
    let mut second = None;
    for _ in 0..5 {
        let message = served.message().await;
        ids.push((
            proto::text::decrypt(&message.1.msg_data).unwrap(),
            message.1.client_msg_id.clone(),
        ));
        if show(&message.1) == "2" {
            second = Some(message);
        }
    }
    served.accept(&second.unwrap(), 1).await;
    let answered = sendings.remove(1);
    assert!(matches!(within(answered).await, Outcome::Ok { .. }));
    drop(served);

    let mut served = gateway.accept().await;
    sendings.push(client.send_text(PEER, "5"));
    served.list(&[]).await;
    let mut again = Vec::new();
    for number in 0..5 {
        let message = served.message().await;
        let text = proto::text::decrypt(&message.1.msg_data).unwrap();
        if let Some((_, id)) = ids.iter().find(|(known, _)| *known == text) {
            assert_eq!(message.1.client_msg_id, *id, "{text}");
        }
        served.accept(&message, 2 + number).await;
        again.push(show(&message.1));
    }
    let to_peer: Vec<_> = again.iter().filter(|text| !text.starts_with('g')).collect();
    assert_eq!(to_peer, ["1 again", "3 again", "4 again", "5"]);
    assert!(again.contains(&"g1 again".to_owned()));
    for sending in sendings {
        assert!(matches!(within(sending).await, Outcome::Ok { .. }));
    }
}

#[tokio::test]
async fn a_retry_keeps_the_id_and_takes_those_behind_it_along() {
    let gateway = Gateway::start().await;
    let (client, _events, mut served) = gateway.client(&[]).await;

    let first = client.send_text(PEER, "1");
    let second = client.send_text(PEER, "2");
    let one = served.message().await;
    let two = served.message().await;
    served.say_retry(&one).await;
    served.say_retry(&two).await;

    let one_again = served.message().await;
    let two_again = served.message().await;
    assert_eq!([show(&one_again.1), show(&two_again.1)], ["1 again", "2 again"]);
    assert_eq!(one_again.1.client_msg_id, one.1.client_msg_id);
    assert_eq!(two_again.1.client_msg_id, two.1.client_msg_id);
    served.accept(&one_again, 1).await;
    served.accept(&two_again, 2).await;
    assert!(matches!(within(first).await, Outcome::Ok { msg_id: MsgId(1), .. }));
    assert!(matches!(within(second).await, Outcome::Ok { msg_id: MsgId(2), .. }));
}

#[tokio::test]
async fn no_answer_in_time_means_once_more_with_the_same_id() {
    let gateway = Gateway::start().await;
    let options = with_limits(gateway.options(), |limits| {
        limits.answer = Duration::from_millis(200);
    });
    let (client, _events, mut served) = gateway.client_with(options, &[]).await;

    let sending = client.send_text(PEER, "1");
    let first = served.message().await;
    let again = served.message().await;
    assert_eq!(show(&again.1), "1 again");
    assert_eq!(again.1.client_msg_id, first.1.client_msg_id);
    // The answer to the first try is as good as the answer to the second.
    served.accept(&first, 7).await;
    assert!(matches!(within(sending).await, Outcome::Ok { msg_id: MsgId(7), .. }));
}

#[tokio::test]
async fn a_refused_message_is_not_sent_again() {
    let gateway = Gateway::start().await;
    let (client, _events, mut served) = gateway.client(&[]).await;

    let refused = client.send_text(Conversation::group(5), "no");
    let message = served.message().await;
    served.refuse(&message, RefuseReason::NotMember).await;
    assert_eq!(
        within(refused).await,
        Outcome::Refused { reason: Some(RefuseReason::NotMember), text: None }
    );
    drop(served);

    let mut served = gateway.accept().await;
    served.list(&[]).await;
    let _next = client.send_text(PEER, "next");
    assert_eq!(served.texts(1).await, ["next"]);
}

#[tokio::test]
async fn a_message_is_on_disk_before_it_is_sent_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox");
    let gateway = Gateway::start().await;
    let outbox = FileOutbox::open(&path).unwrap();
    let options = Options { outbox: Some(Box::new(outbox)), ..gateway.options() };
    let (client, mut events, mut served) = gateway.client_with(options, &[]).await;

    let sendings = ["1", "2", "3"].map(|text| client.send_text(PEER, text));
    let first = served.message().await;
    let saved = fs::read_to_string(&path).unwrap();
    let id = format!("{:032x}", u128::from_be_bytes(sendings[0].client_msg_id().0));
    assert!(saved.contains(&id), "{saved}");
    assert_eq!(served.texts(2).await, ["2", "3"]);
    served.accept(&first, 1).await;
    let [one, two, three] = sendings;
    let ids = [two.client_msg_id(), three.client_msg_id()];
    assert!(matches!(within(one).await, Outcome::Ok { .. }));

    // The program ends. Its last event is the end, and then the outbox is closed.
    drop(client);
    assert_eq!(within(two).await, Outcome::Unknown);
    while within(events.next()).await.is_some() {}

    let outbox = FileOutbox::open(&path).unwrap();
    let options = Options { outbox: Some(Box::new(outbox)), ..gateway.options() };
    let (client, mut events, mut served) = gateway.client_with(options, &[(PEER, 1)]).await;
    let _four = client.send_text(PEER, "4");
    for (number, id) in (2..).zip(ids) {
        let message = served.message().await;
        assert_eq!(show(&message.1), format!("{number} again"));
        assert_eq!(message.1.client_msg_id.as_deref(), Some(&id.0[..]));
        served.accept(&message, number).await;
    }
    assert_eq!(served.texts(1).await, ["4"]);
    let mut sent = Vec::new();
    while sent.len() < 2 {
        if let Event::Sent { client_msg_id, outcome, .. } = next(&mut events).await {
            assert!(matches!(outcome, Outcome::Ok { .. }));
            sent.push(client_msg_id);
        }
    }
    assert_eq!(sent, ids);
}

#[tokio::test]
async fn too_many_unanswered_messages_are_not_taken() {
    let gateway = Gateway::start().await;
    let options = with_limits(gateway.options(), |limits| limits.unanswered_max = 2);
    let (client, _events, mut served) = gateway.client_with(options, &[]).await;

    let _one = client.send_text(PEER, "1");
    let _two = client.send_text(PEER, "2");
    let three = client.send_text(PEER, "3");
    assert_eq!(within(three).await, Outcome::NotSent(NotSent::Full));
    let message = served.message().await;
    served.accept(&message, 1).await;
    within(client.room()).await;
    let _four = client.send_text(PEER, "4");
    assert_eq!(served.texts(2).await, ["2", "4"]);
}

#[tokio::test]
async fn a_server_without_the_extension_acknowledges_in_its_way() {
    let gateway = Gateway::start().await;
    let options = with_limits(gateway.options(), |limits| {
        limits.answer = Duration::from_millis(200);
    });
    let (client, _events) = Client::start(options).await.unwrap();
    let mut served = gateway.accept_without_extension().await;
    served.list(&[]).await;

    let stored = client.send_text(PEER, "1");
    let (frame, _) = served.message().await;
    let ack = MessageAck { user_id: 1, session_id: 2, msg_id: 1, session_type: 1 };
    served.answer(&frame, Command::MessageAck, &ack).await;
    assert_eq!(within(stored).await, Outcome::Ok { msg_id: MsgId(1), create_time: 0 });

    // It refuses by saying nothing.
    let refused = client.send_text(PEER, "2");
    assert_eq!(served.texts(2).await, ["2", "2 again"]);
    assert_eq!(within(refused).await, Outcome::Unknown);
}

#[tokio::test]
async fn a_request_is_answered_refused_or_lost() {
    let gateway = Gateway::start().await;
    let (client, _events, mut served) = gateway.client(&[]).await;

    let (time, ()) = tokio::join!(client.server_time(), async {
        let frame = served.next_of(Command::TimeRequest).await;
        served.answer(&frame, Command::TimeReply, &TimeReply { server_time: 42 }).await;
    });
    assert_eq!(time.unwrap(), 42);

    let (refused, ()) = tokio::join!(client.unread(), async {
        let frame = served.next_of(Command::UnreadCountRequest).await;
        let command = Command::UnreadCountRequest.number().into();
        served.answer(&frame, Command::Refused, &Refused { command, reason: 3 }).await;
    });
    assert!(matches!(refused, Err(CallError::Refused(3))), "{refused:?}");

    let (lost, ()) = tokio::join!(client.server_time(), async {
        served.next_of(Command::TimeRequest).await;
        drop(served);
    });
    assert!(matches!(lost, Err(CallError::Lost)), "{lost:?}");

    // The next request waits for the next connection.
    let time = client.call::<TimeReply>(Command::TimeRequest, &TimeRequest {});
    let (time, ()) = tokio::join!(time, async {
        let mut served = gateway.accept().await;
        served.list(&[]).await;
        let frame = served.next_of(Command::TimeRequest).await;
        served.answer(&frame, Command::TimeReply, &TimeReply { server_time: 43 }).await;
    });
    assert_eq!(time.unwrap().server_time, 43);
}

#[tokio::test]
async fn a_request_that_the_server_would_not_take_is_not_sent() {
    let client = Client::start(options(client::Servers::Gateways(Vec::new()))).await.unwrap().0;
    let attach_data = Some(vec![0; 5000].into());
    let request = UnreadCountRequest { user_id: 0, attach_data };
    let error = client.tell(Command::UnreadCountRequest, &request).await.unwrap_err();
    assert!(matches!(error, CallError::TooLarge));

    let voice = client.send(PEER, client::Kind::Voice, vec![0; 500_000].into());
    assert_eq!(
        within(voice).await,
        Outcome::Refused { reason: Some(RefuseReason::TooLarge), text: None }
    );
}

#[tokio::test]
async fn the_longest_message_that_a_server_takes_is_sent() {
    let gateway = Gateway::start().await;
    let (client, _events, mut served) = gateway.client(&[]).await;
    let voice = client.send(PEER, client::Kind::Voice, vec![7; MESSAGE_BODY_MAX].into());
    let message = served.message().await;
    assert_eq!(message.1.msg_data.len(), MESSAGE_BODY_MAX);
    served.accept(&message, 1).await;
    assert!(matches!(within(voice).await, Outcome::Ok { .. }));
}

fn with_limits(mut options: Options, change: impl FnOnce(&mut Limits)) -> Options {
    change(&mut options.limits);
    options
}
