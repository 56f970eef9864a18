//! Who hears of whom when many are online.

use std::time::{Duration, Instant};

use proto::cluster::{Kind, wire};
use proto::{Command, client};

use super::harness::*;
use crate::commands::answers::STATUS_MAX;

/// Asks about users 1 to 3,000 in groups of 300, as Windows clients do.
async fn ask_about_all(client: &mut Client) {
    for (seq, users) in (2..).zip((1..=3_000_u32).collect::<Vec<_>>().chunks(300)) {
        let ask = client::UsersStatusRequest { user_ids: users.to_vec(), ..Default::default() };
        client.send(Command::UsersStatusRequest, seq, &ask).await;
        let reply: client::UsersStatusReply = client.expect(Command::UsersStatusReply, seq).await;
        assert_eq!(reply.users.len(), 300);
    }
}

fn changes(online: Vec<u32>, offline: Vec<u32>) -> wire::PresenceChanges {
    wire::PresenceChanges { online, offline, pc_users_online: 1_100 }
}

async fn told(client: &mut Client) -> (u32, i32) {
    let notify: client::UserStatusNotify = client.expect(Command::UserStatusNotify, 0).await;
    (notify.user.user_id, notify.user.status)
}

#[tokio::test]
async fn with_more_than_a_thousand_online_a_client_hears_of_everybody_it_asked_about() {
    let world = World::start().await;
    let mut pc = world.client(5, WINDOWS).await;
    ask_about_all(&mut pc).await;
    let started = Instant::now();
    for user in [2_500, 50, 3_000] {
        world.hub.send(Kind::PresenceChanges, &changes(vec![user], vec![4_000]));
        assert_eq!(told(&mut pc).await, (user, 1));
        world.hub.send(Kind::PresenceChanges, &changes(vec![], vec![user]));
        assert_eq!(told(&mut pc).await, (user, 2));
    }
    assert!(started.elapsed() < Duration::from_secs(2));
    pc.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn beyond_the_bound_a_client_hears_of_those_it_asked_about_last() {
    let world = World::start_with(|limits| limits.watched_max = 1_000).await;
    let mut pc = world.client(5, WINDOWS).await;
    ask_about_all(&mut pc).await;
    world.hub.send(Kind::PresenceChanges, &changes(vec![50, 2_000, 2_001, 2_500], vec![]));
    assert_eq!(told(&mut pc).await, (2_001, 1));
    assert_eq!(told(&mut pc).await, (2_500, 1));
    pc.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn news_that_come_while_a_client_asks_are_told_after_the_answer() {
    let world = World::start().await;
    let mut pc = world.client(5, WINDOWS).await;
    // The hub answers that 4 is offline.
    *world.hub.says_before.lock() = Some(changes(vec![4], vec![]));
    let request = client::UsersStatusRequest { user_ids: vec![4], ..Default::default() };
    pc.send(Command::UsersStatusRequest, 9, &request).await;
    let mut last = Vec::new();
    loop {
        let frame = pc.next().await.expect("it stays connected");
        match frame.known_command() {
            Some(Command::UsersStatusReply) => last
                .extend(frame.parse::<client::UsersStatusReply>().unwrap().users.first().copied()),
            _ if last.is_empty() => {}
            _ => break last.extend([frame.parse::<client::UserStatusNotify>().unwrap().user]),
        }
    }
    let told: Vec<_> = last.iter().map(|entry| (entry.user_id, entry.status)).collect();
    assert_eq!(told, [(4, 2), (4, 1)]);
    world.stop().await;
}

#[tokio::test]
async fn of_more_users_than_a_question_may_be_about_the_first_are_answered() {
    let world = World::start().await;
    let mut pc = world.client(5, WINDOWS).await;
    let user_ids = vec![7; STATUS_MAX + 1];
    let request = client::UsersStatusRequest { user_ids, ..Default::default() };
    pc.send(Command::UsersStatusRequest, 3, &request).await;
    let reply: client::UsersStatusReply = pc.expect(Command::UsersStatusReply, 3).await;
    assert_eq!(reply.users.len(), STATUS_MAX);
    world.stop().await;
}
