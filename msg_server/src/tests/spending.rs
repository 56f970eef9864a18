//! What one user may spend of what belongs to all, and who else notices.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message;
use proto::client::{self, GroupChange, RefuseReason, UserInfo};
use proto::cluster::wire;
use proto::{Command, encode_message};

use super::harness::*;

/// Storage that keeps the one signature and the one picture that there are.
fn keep_profile(world: &World) {
    let kept = Arc::new(Mutex::new(UserInfo::default()));
    let reply = move |_db: &FakeDb, ask: &wire::Ask| {
        let (command, body) =
            (Command::from_number(u16::try_from(ask.command).unwrap()), &ask.body);
        let user_id = ask.user;
        let body = match command {
            Some(Command::ChangeSignatureRequest) => {
                let asked = client::ChangeSignatureRequest::decode(body.clone()).unwrap();
                kept.lock().signature = Some(asked.signature);
                client::ChangeSignatureReply { user_id, ..Default::default() }.encode_to_vec()
            }
            Some(Command::ChangeAvatarRequest) => {
                let asked = client::ChangeAvatarRequest::decode(body.clone()).unwrap();
                kept.lock().avatar_url = asked.avatar_url;
                client::ChangeAvatarReply { user_id, ..Default::default() }.encode_to_vec()
            }
            _ => {
                let users = vec![UserInfo { user_id, ..kept.lock().clone() }];
                client::UsersInfoReply { user_id, users, ..Default::default() }.encode_to_vec()
            }
        };
        wire::Answer {
            status: wire::AskStatus::Answered.into(),
            command: Some(ask.command + 1),
            body: Some(body.into()),
            ..wire::Answer::default()
        }
    };
    *world.db.reply.lock() = Some(Box::new(reply));
}

async fn sign(client: &mut Client, seq: u16, signature: &str) {
    let request =
        client::ChangeSignatureRequest { signature: signature.to_owned(), ..Default::default() };
    client.send(Command::ChangeSignatureRequest, seq, &request).await;
    loop {
        let frame = client.next().await.expect("an answer");
        if frame.seq == seq {
            assert_eq!(frame.known_command(), Some(Command::ChangeSignatureReply));
            assert_eq!(frame.parse::<client::ChangeSignatureReply>().unwrap().result_code, 0);
            break;
        }
    }
}

async fn told(client: &mut Client) -> String {
    let notify: client::SignatureChangedNotify =
        client.expect(Command::SignatureChangedNotify, 0).await;
    assert_eq!(notify.user_id, 5);
    notify.signature
}

#[tokio::test]
async fn of_many_changes_the_first_is_told_at_once_and_then_the_last_although_its_user_has_left() {
    let world = World::start_with(|limits| limits.told_every_s = 1).await;
    keep_profile(&world);
    let mut other = world.client(6, ANDROID).await;
    let mut client = world.client(5, WINDOWS).await;
    for seq in 1..=20 {
        sign(&mut client, seq, &format!("number {seq}")).await;
    }
    drop(client);
    assert_eq!(told(&mut other).await, "number 1");
    assert_eq!(told(&mut other).await, "number 20");
    other.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn news_that_storage_cannot_confirm_is_told_when_it_can() {
    let world = World::start_with(|limits| limits.told_every_s = 1).await;
    keep_profile(&world);
    let mut other = world.client(6, WINDOWS).await;
    let mut client = world.client(5, WINDOWS).await;
    sign(&mut client, 1, "first").await;
    sign(&mut client, 2, "second").await;
    let keeping = world.db.reply.lock().take();
    *world.db.reply.lock() = Some(Box::new(|_db: &FakeDb, _ask: &wire::Ask| wire::Answer {
        status: wire::AskStatus::Unavailable.into(),
        ..wire::Answer::default()
    }));
    assert_eq!(told(&mut other).await, "first");
    for _ in 0..3 {
        world.db.next_ask().await;
    }
    *world.db.reply.lock() = keeping;
    assert_eq!(told(&mut other).await, "second");
    other.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_gateway_that_stops_tells_what_waits() {
    let world = World::start_with(|limits| limits.told_every_s = 3_600).await;
    keep_profile(&world);
    let mut other = world.client(6, WINDOWS).await;
    let mut client = world.client(5, WINDOWS).await;
    sign(&mut client, 1, "first").await;
    sign(&mut client, 2, "second").await;
    sign(&mut client, 3, "third").await;
    assert_eq!(told(&mut other).await, "first");
    world.shutdown().begin();
    assert_eq!(told(&mut other).await, "third");
    world.stop().await;
}

fn new_group() -> client::GroupCreateRequest {
    client::GroupCreateRequest {
        group_type: client::GroupType::Temporary.into(),
        name: "all".to_owned(),
        member_ids: vec![6],
        ..Default::default()
    }
}

#[tokio::test]
async fn groups_beyond_the_rate_fail_for_old_clients_and_no_other_user_notices() {
    let world = World::start().await;
    let mut pc = world.client(5, WINDOWS).await;
    let mut phone = world.client(5, ANDROID).await;
    for seq in 1..=9 {
        pc.send(Command::GroupCreateRequest, seq, &new_group()).await;
        pc.expect::<client::GroupCreateReply>(Command::GroupCreateReply, seq).await;
        world.db.next_ask().await;
    }
    let mut change = client::GroupChangeMembersRequest {
        change: GroupChange::Add.into(),
        group_id: 9,
        member_ids: vec![7],
        ..Default::default()
    };
    phone.send(Command::GroupChangeMembersRequest, 3, &change).await;
    let added: client::GroupChangeMembersReply =
        phone.expect(Command::GroupChangeMembersReply, 3).await;
    assert_eq!(added.result_code, 0);
    world.db.next_ask().await;

    // Ten are used up, whichever session asked.
    phone.send(Command::GroupChangeMembersRequest, 4, &change).await;
    let added: client::GroupChangeMembersReply =
        phone.expect(Command::GroupChangeMembersReply, 4).await;
    assert_eq!((added.user_id, added.result_code, added.group_id), (5, 1, 9));
    pc.send(Command::GroupCreateRequest, 10, &new_group()).await;
    let made: client::GroupCreateReply = pc.expect(Command::GroupCreateReply, 10).await;
    assert_eq!((made.user_id, made.result_code, made.group_id), (5, 1, None));
    assert_eq!(made.name, "all");
    assert!(world.db.asked.lock().await.try_recv().is_err(), "storage was not asked");

    // Who is removed is told to nobody new.
    change.change = GroupChange::Remove.into();
    pc.send(Command::GroupChangeMembersRequest, 11, &change).await;
    pc.expect::<client::GroupChangeMembersReply>(Command::GroupChangeMembersReply, 11).await;
    assert_eq!(world.db.next_ask().await.user, 5);
    let mut other = world.client(6, WINDOWS).await;
    other.send(Command::GroupCreateRequest, 1, &new_group()).await;
    other.expect::<client::GroupCreateReply>(Command::GroupCreateReply, 1).await;
    assert_eq!(world.db.next_ask().await.user, 6);
    world.stop().await;
}

#[tokio::test]
async fn a_client_with_the_hello_is_told_to_slow_down() {
    let world = World::start_with(|limits| {
        limits.group_changes_per_minute = 1;
        limits.profile_changes_per_minute = 1;
    })
    .await;
    let mut client = world.extended(5, WINDOWS).await;
    client.send(Command::GroupCreateRequest, 3, &new_group()).await;
    client.expect::<client::GroupCreateReply>(Command::GroupCreateReply, 3).await;
    client.send(Command::GroupCreateRequest, 4, &new_group()).await;
    let refused: client::Refused = client.expect(Command::Refused, 4).await;
    assert_eq!((refused.command, refused.reason), (0x0405, RefuseReason::SlowDown as u32));
    sign(&mut client, 5, "one").await;
    let request = client::ChangeSignatureRequest::default();
    client.expect::<client::SignatureChangedNotify>(Command::SignatureChangedNotify, 0).await;
    client.send(Command::ChangeSignatureRequest, 6, &request).await;
    let refused: client::Refused = client.expect(Command::Refused, 6).await;
    assert_eq!((refused.command, refused.reason), (0x0213, 11));
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn bytes_beyond_the_rate_wait_and_are_all_acknowledged_even_after_a_new_login() {
    let world = World::start_with(|limits| {
        limits.sent_bytes_per_s = 200_000;
        limits.sent_bytes_burst = 200_000;
    })
    .await;
    let started = Instant::now();
    let message = text(6, &"x".repeat(50_000));
    for login in 0..2 {
        let mut client = world.client(5, WINDOWS).await;
        for seq in 1..=4 {
            client.write(&encode_message(Command::MessageData, seq, &message)).await;
        }
        for seq in 1..=4 {
            client.expect::<client::MessageAck>(Command::MessageAck, seq).await;
        }
        assert!(login == 1 || started.elapsed() < Duration::from_millis(900), "the burst");
    }
    assert!(started.elapsed() >= Duration::from_millis(950), "200 KB more at 200 KB a second");
    world.stop().await;
}

#[tokio::test]
async fn questions_beyond_the_rate_wait_and_are_all_answered() {
    let world = World::start_with(|limits| {
        limits.questions_per_s = 100;
        limits.questions_burst = 200;
    })
    .await;
    let mut client = world.client(5, WINDOWS).await;
    let mut other = world.client(6, WINDOWS).await;
    let started = Instant::now();
    for seq in 1..=3 {
        client.send(Command::AllUsersRequest, seq, &client::AllUsersRequest::default()).await;
    }
    other.send(Command::AllUsersRequest, 1, &client::AllUsersRequest::default()).await;
    other.expect::<client::AllUsersReply>(Command::AllUsersReply, 1).await;
    for seq in 1..=3 {
        client.expect::<client::AllUsersReply>(Command::AllUsersReply, seq).await;
    }
    assert!(started.elapsed() >= Duration::from_millis(950), "100 units at 100 a second");
    assert!(world.db.answers_asks.load(Ordering::SeqCst));
    world.stop().await;
}

#[tokio::test]
async fn only_a_client_with_the_hello_can_ask_to_delete_a_group() {
    let world = World::start().await;
    let request = client::GroupDeleteRequest { group_id: 9 };
    let mut old = world.client(5, WINDOWS).await;
    old.send(Command::GroupDeleteRequest, 3, &request).await;
    old.expect_quiet().await;
    assert!(world.db.asked.lock().await.try_recv().is_err(), "storage was not asked");
    let mut new = world.extended(6, WINDOWS).await;
    new.send(Command::GroupDeleteRequest, 3, &request).await;
    new.expect::<client::GroupDeleteReply>(Command::GroupDeleteReply, 3).await;
    assert_eq!(world.db.next_ask().await.command, 0x2005);
    world.stop().await;
}
