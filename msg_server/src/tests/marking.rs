//! What becomes of read marks that storage cannot take at once, and of a client's last ones.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proto::cluster::{Kind, wire};
use proto::{Command, client, encode_message};

use super::harness::*;

fn mark(msg_id: u32) -> client::ReadAck {
    client::ReadAck { user_id: 0, session_id: 6, msg_id, session_type: 1 }
}

/// The next mark that storage is asked to take.
async fn next_mark(world: &World) -> u32 {
    let ask = world.db.next_ask().await;
    assert_eq!(ask.command, 0x0303);
    <client::ReadAck as prost::Message>::decode(ask.body).unwrap().msg_id
}

fn is(status: wire::AskStatus, changed: bool) -> wire::Answer {
    wire::Answer { status: status.into(), changed: Some(changed), ..wire::Answer::default() }
}

/// The first `times` marks are answered with this, and all others taken.
fn refuse(world: &World, times: u32, status: wire::AskStatus) {
    let refused = AtomicU32::new(0);
    *world.db.reply.lock() = Some(Box::new(move |_db, _ask| {
        if refused.fetch_add(1, Ordering::SeqCst) < times {
            is(status, false)
        } else {
            is(wire::AskStatus::Answered, true)
        }
    }));
}

/// Four marks that go at once, and a fifth that waits for its second.
async fn mark_five(world: &World, client: &mut Client) {
    for msg_id in 1..=5 {
        client.send(Command::ReadAck, 0, &mark(msg_id)).await;
    }
    for msg_id in 1..=4 {
        assert_eq!(next_mark(world).await, msg_id);
    }
}

#[tokio::test]
async fn a_mark_that_storage_cannot_take_is_kept_and_the_other_devices_are_told_when_it_is_taken() {
    let world = World::start().await;
    refuse(&world, 2, wire::AskStatus::Unavailable);
    let mut pc = world.client(5, WINDOWS).await;
    let mut phone = world.client(5, ANDROID).await;
    pc.send(Command::ReadAck, 0, &mark(7)).await;
    assert_eq!(next_mark(&world).await, 7);
    pc.expect_quiet().await;
    // By the way that the notice would come.
    let signal = client::PeerSignal { to_user_id: 5, ..client::PeerSignal::default() };
    let frame = encode_message(Command::PeerSignal, 0, &signal);
    world.hub.send(Kind::Forward, &wire::Forward { users: vec![5], frame, ..Default::default() });
    phone.expect::<client::PeerSignal>(Command::PeerSignal, 0).await;

    assert_eq!(next_mark(&world).await, 7, "after a second");
    assert_eq!(next_mark(&world).await, 7, "after two more");
    assert_eq!(phone.expect::<client::ReadNotify>(Command::ReadNotify, 0).await.msg_id, 7);
    world.stop().await;
}

#[tokio::test]
async fn of_a_mark_that_changes_nothing_the_other_devices_are_not_told() {
    let world = World::start().await;
    refuse(&world, 1, wire::AskStatus::Answered);
    let mut pc = world.client(5, WINDOWS).await;
    let mut phone = world.client(5, ANDROID).await;
    for msg_id in [7, 8] {
        pc.send(Command::ReadAck, 0, &mark(msg_id)).await;
        assert_eq!(next_mark(&world).await, msg_id);
    }
    assert_eq!(phone.expect::<client::ReadNotify>(Command::ReadNotify, 0).await.msg_id, 8);
    world.stop().await;
}

#[tokio::test]
async fn a_mark_that_nobody_is_there_to_take_waits_for_somebody() {
    let world = World::start().await;
    let mut pc = world.client(5, WINDOWS).await;
    world.stop_db().await;
    pc.send(Command::ReadAck, 0, &mark(7)).await;
    pc.expect_quiet().await;
    world.restart_db().await;
    assert_eq!(next_mark(&world).await, 7);
    world.stop().await;
}

#[tokio::test]
async fn the_last_mark_of_a_client_that_leaves_does_not_wait_for_its_time() {
    let world = World::start().await;
    refuse(&world, 3, wire::AskStatus::Unavailable);
    let mut pc = world.client(5, WINDOWS).await;
    pc.send(Command::ReadAck, 0, &mark(7)).await;
    for _try in 0..3 {
        assert_eq!(next_mark(&world).await, 7);
    }
    // The next try would be four seconds later.
    let left = Instant::now();
    drop(pc);
    assert_eq!(next_mark(&world).await, 7);
    assert!(left.elapsed() < Duration::from_secs(3), "{:?}", left.elapsed());
    world.stop().await;
}

#[tokio::test]
async fn a_logout_is_answered_when_the_last_mark_is_stored() {
    let world = World::start().await;
    let mut phone = world.client(5, ANDROID).await;
    mark_five(&world, &mut phone).await;
    phone.send(Command::LogoutRequest, 9, &client::LogoutRequest::default()).await;
    assert_eq!(next_mark(&world).await, 5);
    assert_eq!(world.db.next_ask().await.command, 0x0105);
    phone.expect::<client::LogoutReply>(Command::LogoutReply, 9).await;
    phone.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn a_logout_does_not_wait_long_for_a_mark_that_nobody_stores() {
    let world = World::start().await;
    let mut pc = world.client(5, WINDOWS).await;
    mark_five(&world, &mut pc).await;
    world.db.answers_asks.store(false, Ordering::SeqCst);
    let began = Instant::now();
    pc.send(Command::LogoutRequest, 9, &client::LogoutRequest::default()).await;
    assert_eq!(next_mark(&world).await, 5);
    world.db.answers_asks.store(true, Ordering::SeqCst);
    pc.expect::<client::LogoutReply>(Command::LogoutReply, 9).await;
    // Clients wait for 5 s.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    pc.expect_closed().await;
    assert_eq!(next_mark(&world).await, 5, "it is tried again");
    world.stop().await;
}

#[tokio::test]
async fn a_mark_whose_client_is_thrown_out_while_it_is_stored_is_tried_again() {
    let world = World::start().await;
    world.db.answers_asks.store(false, Ordering::SeqCst);
    let mut pc = world.client(5, WINDOWS).await;
    pc.send(Command::ReadAck, 0, &mark(7)).await;
    assert_eq!(next_mark(&world).await, 7);
    world.db.answers_asks.store(true, Ordering::SeqCst);
    let kick = wire::Kick { user: 5, reason: Some(1), ..wire::Kick::default() };
    world.hub.send(Kind::Kick, &kick);
    pc.expect::<client::KickNotify>(Command::KickNotify, 0).await;
    pc.expect_closed().await;
    assert_eq!(next_mark(&world).await, 7);
    world.stop().await;
}

#[tokio::test]
async fn a_gateway_that_stops_stores_what_waits_although_its_client_has_gone() {
    let world = World::start().await;
    refuse(&world, 4, wire::AskStatus::Unavailable);
    let mut pc = world.client(5, WINDOWS).await;
    pc.send(Command::ReadAck, 0, &mark(7)).await;
    for _try in 0..3 {
        assert_eq!(next_mark(&world).await, 7);
    }
    drop(pc);
    assert_eq!(next_mark(&world).await, 7, "as it leaves");
    let began = Instant::now();
    world.shutdown().begin();
    assert_eq!(next_mark(&world).await, 7, "as the gateway stops");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    world.stop().await;
}
