//! How long things took, as `/metrics` shows it.

use std::sync::atomic::Ordering;

use proto::cluster::{Kind, wire};
use proto::{Command, client};
use tokio::time::timeout;

use super::harness::*;

/// The number that is shown under this name.
fn shown(world: &World, name: &str) -> u64 {
    let page = world.page.encode().unwrap();
    let line = format!("talkhub_msg_server_{name} ");
    page.lines().find_map(|found| found.strip_prefix(&line)).unwrap().parse().unwrap()
}

/// How many were measured under this name.
fn count(world: &World, name: &str) -> u64 {
    shown(world, &format!("{name}_count"))
}

#[tokio::test]
async fn a_login_is_measured_when_it_is_answered_whatever_the_answer() {
    let world = World::start().await;
    let mut client = world.connect().await;
    assert_eq!(count(&world, "login_seconds"), 0);
    client.log_in(5, WINDOWS).await;
    assert_eq!(count(&world, "login_seconds"), 1);
    let mut stranger = world.connect().await;
    let wrong = client::LoginRequest { password: "wrong".to_owned(), ..login(6, WINDOWS) };
    stranger.send(Command::LoginRequest, 1, &wrong).await;
    let refused: client::LoginReply = stranger.expect(Command::LoginReply, 1).await;
    assert_ne!(refused.result, 0);
    assert_eq!(count(&world, "login_seconds"), 2);
    world.stop().await;
}

#[tokio::test]
async fn an_acknowledgement_is_measured_when_it_says_that_a_message_is_stored() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.extended(5, WINDOWS).await;
    let named = |id: u8| client::MessageData {
        client_msg_id: Some(vec![id; 16].into()),
        ..text(6, "hello")
    };
    for (id, outcome, counted) in
        [(1, wire::Outcome::Refused, 0), (2, wire::Outcome::Ok, 1), (3, wire::Outcome::Ok, 2)]
    {
        client.send(Command::MessageData, u16::from(id), &named(id)).await;
        let submit = world.db.next_submit().await;
        world.db.answer(&submit, outcome, Some(u32::from(id)));
        client.expect::<client::SendResult>(Command::SendResult, u16::from(id)).await;
        assert_eq!(count(&world, "acknowledge_seconds"), counted);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_delivery_is_measured_once_for_what_came_together_and_not_for_what_is_known() {
    let world = World::start().await;
    let mut client = world.client(5, WINDOWS).await;
    world.hub.send(Kind::Publish, &publish(single(5, 6), 1, 6));
    client.expect_push().await;
    assert_eq!(count(&world, "delivery_seconds"), 1);
    world.hub.send(Kind::Publish, &publish(single(5, 6), 1, 6));
    let is_dropped = async {
        while shown(&world, "duplicates_total") == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, is_dropped).await.expect("it is known");
    assert_eq!(count(&world, "delivery_seconds"), 1);
    world.hub.send(Kind::Publish, &publish(single(5, 6), 2, 6));
    world.hub.send(Kind::Publish, &publish(single(5, 6), 3, 6));
    for _message in 0..2 {
        client.expect_push().await;
    }
    assert_eq!(count(&world, "delivery_seconds"), 2);
    world.stop().await;
}
