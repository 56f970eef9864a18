//! The client library as a program uses it: through the login server, with an outbox on disk, and
//! with servers that come and go.

use std::collections::HashMap;
use std::path::Path;

use client::{
    Client, Conversation, Event, Events, FileOutbox, Message, Options, Outcome, Servers, StartFrom,
};
use proto::ids::{GroupId, MsgId, UserId};
use tempfile::TempDir;
use tests::{Cluster, Device, PASSWORD, PATIENCE};
use tokio::time::timeout;

#[tokio::test]
async fn two_programs_talk_through_the_login_server() {
    let cluster = Cluster::start();
    let (anna, mut annas) = start(options(&cluster, 1)).await;
    let (ben, mut bens) = start(options(&cluster, 2)).await;
    assert_eq!(anna.online().await.expect("she gets in").user_id, 1);
    assert_eq!(ben.online().await.expect("he gets in").user_id, 2);

    let (with_ben, with_anna) = (Conversation::user(2), Conversation::user(1));
    for number in 1..=10 {
        let text = format!("line {number}");
        assert_eq!(ok(anna.send_text(with_ben, &text).await), 2 * number - 1);
        let heard = message(&mut bens).await;
        assert_eq!((heard.conversation, heard.msg_id.0), (with_anna, 2 * number - 1));
        assert_eq!(heard.text().as_deref(), Ok(text.as_str()));
        assert_eq!(ok(ben.send_text(with_anna, &text).await), 2 * number);
        // Her own messages are handed out too, in their place.
        assert_eq!(message(&mut annas).await.msg_id.0, 2 * number - 1);
        assert_eq!(message(&mut annas).await.msg_id.0, 2 * number);
        assert_eq!(message(&mut bens).await.msg_id.0, 2 * number);
    }

    let group = anna.create_group("climbing", &[UserId(1), UserId(2)]).await.expect("a new group");
    assert_eq!(ok(anna.send_text(Conversation::Group(group), "welcome").await), 1);
    assert_eq!(message(&mut bens).await.conversation, Conversation::Group(group));
    let nowhere = Conversation::Group(GroupId(4711));
    let refused = ben.send_text(nowhere, "hello?").await;
    assert!(matches!(refused, Outcome::Refused { reason: Some(_), .. }), "{refused:?}");
}

#[tokio::test]
async fn what_was_missed_comes_in_order_and_once() {
    let cluster = Cluster::start();
    let (ben, mut bens) = start(options(&cluster, 2)).await;
    ben.online().await.expect("he gets in");
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    anna.say(Conversation::user(2), "while ben is there").await;
    assert_eq!(message(&mut bens).await.msg_id.0, 1);
    drop((ben, bens));

    for number in 2..=150 {
        anna.say(Conversation::user(2), &format!("{number}")).await;
    }
    // The program knows how far it had come.
    let marks = HashMap::from([(Conversation::user(1), MsgId(1))]);
    let (_ben, mut bens) = start(Options { marks, ..options(&cluster, 2) }).await;
    for number in 2..=150 {
        let heard = message(&mut bens).await;
        assert_eq!((heard.msg_id.0, heard.text()), (number, Ok(number.to_string())));
    }
}

#[tokio::test]
async fn messages_without_an_answer_outlive_the_program_and_are_stored_once() {
    let folder = TempDir::new().expect("a folder");
    let outbox = folder.path().join("outbox");
    let cluster = Cluster::start();
    let (anna, events) = start(with_outbox(&cluster, &outbox)).await;
    anna.online().await.expect("she gets in");
    assert_eq!(ok(anna.send_text(Conversation::user(2), "answered").await), 1);

    let ended = cluster.stop();
    let unanswered: Vec<_> = ["one", "two", "three"]
        .map(|text| anna.send_text(Conversation::user(2), text))
        .into_iter()
        .collect();
    drop((anna, events));
    for sending in unanswered {
        assert_eq!(sending.await, Outcome::Unknown, "it is still in the outbox");
    }

    let cluster = ended.start_again(&tests::Options::default());
    let (anna, mut events) = start(with_outbox(&cluster, &outbox)).await;
    let mut sent = Vec::new();
    while sent.len() < 3 {
        match next(&mut events).await {
            Event::Sent { outcome, .. } => sent.push(ok(outcome)),
            Event::Kicked(_) | Event::Rejected { .. } => panic!("she is let in"),
            _ => {}
        }
    }
    assert_eq!(sent, [2, 3, 4], "in the order in which they were said");
    assert_eq!(ok(anna.send_text(Conversation::user(2), "new").await), 5);
    let mut ben = Device::pc(&cluster.gateways[0], 2).await;
    let history = ben.texts(Conversation::user(1)).await;
    assert_eq!(history, ["answered", "one", "two", "three", "new"]);
}

#[tokio::test]
async fn a_client_that_is_thrown_out_does_not_come_back_by_itself() {
    let cluster = Cluster::start();
    let (first, mut events) = start(options(&cluster, 1)).await;
    first.online().await.expect("she gets in");
    let mut second = Device::pc(&cluster.gateways[0], 1).await;
    loop {
        match next(&mut events).await {
            Event::Kicked(reason) => {
                assert_eq!(reason, Some(proto::client::KickReason::DuplicateLogin));
                break;
            }
            event => assert!(!matches!(event, Event::Rejected { .. }), "{event:?}"),
        }
    }
    assert_eq!(timeout(PATIENCE, events.next()).await.expect("it ends"), None);
    second.say(Conversation::user(2), "not disturbed").await;
}

fn options(cluster: &Cluster, user: u32) -> Options {
    let servers = Servers::Login(vec![cluster.login.clone()]);
    let options = Options::new(servers, format!("u{user}"), PASSWORD);
    Options { start_from: StartFrom::Beginning, ..options }
}

fn with_outbox(cluster: &Cluster, outbox: &Path) -> Options {
    let outbox = FileOutbox::open(outbox).expect("open the outbox");
    Options { outbox: Some(Box::new(outbox)), ..options(cluster, 1) }
}

async fn start(options: Options) -> (Client, Events) {
    Client::start(options).await.expect("a client starts")
}

async fn next(events: &mut Events) -> Event {
    let event = timeout(PATIENCE, events.next()).await.expect("something happens");
    event.expect("the client goes on")
}

/// The next message that is handed out.
async fn message(events: &mut Events) -> Message {
    loop {
        match next(events).await {
            Event::Message(message) => return message,
            event @ (Event::Skipped { .. } | Event::Kicked(_) | Event::Rejected { .. }) => {
                panic!("{event:?}")
            }
            _ => {}
        }
    }
}

fn ok(outcome: Outcome) -> u32 {
    match outcome {
        Outcome::Ok { msg_id, .. } => msg_id.0,
        other => panic!("it is stored, not {other:?}"),
    }
}
