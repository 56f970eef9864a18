//! What a gateway finishes before it ends.

use std::sync::atomic::Ordering;

use proto::cluster::wire;
use proto::{Command, client, encode_message};
use tokio::net::TcpStream;

use super::harness::*;

#[tokio::test]
async fn a_draining_gateway_answers_what_is_in_flight_and_closes_the_rest() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut idle = world.client(5, WINDOWS).await;
    let mut busy = world.client(6, WINDOWS).await;
    let mut stranger = world.connect().await;
    busy.send(Command::MessageData, 3, &text(5, "the last one")).await;
    let submit = world.db.next_submit().await;

    world.shutdown().begin();
    idle.expect_closed().await;
    stranger.expect_closed().await;
    assert!(TcpStream::connect(world.addr).await.is_err(), "nobody is accepted");
    world.db.answer(&submit, wire::Outcome::Ok, Some(1));
    busy.expect::<client::MessageAck>(Command::MessageAck, 3).await;
    busy.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn what_was_read_is_answered_before_the_end_even_if_it_had_to_wait() {
    let world = World::start_with(|limits| limits.unanswered_max = 2).await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.client(6, WINDOWS).await;
    let sends: Vec<u8> = (1..=5)
        .flat_map(|seq| encode_message(Command::MessageData, seq, &text(5, "in a row")))
        .collect();
    client.write(&sends).await;
    let first = world.db.next_submit().await;
    let mut submits = vec![first, world.db.next_submit().await];

    world.shutdown().begin();
    for seq in 1..=5 {
        let submit = submits.remove(0);
        world.db.answer(&submit, wire::Outcome::Ok, Some(seq));
        client.expect::<client::MessageAck>(Command::MessageAck, u16::try_from(seq).unwrap()).await;
        if seq <= 3 {
            submits.push(world.db.next_submit().await);
        }
    }
    client.expect_closed().await;
    world.stop().await;
}
