//! Logins by a token or a ticket, and the tokens that follow logins.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use proto::cluster::wire::token_answer::Outcome;
use proto::cluster::wire::token_question::What;
use proto::cluster::wire::{TicketGive, TokenGive};
use proto::features::KEEPS_TOKENS;
use proto::{Command, client};

use super::harness::*;

async fn hello(client: &mut Client, features: Option<u32>) -> u32 {
    let hello = client::Hello { client: "test".to_owned(), features };
    client.send(Command::Hello, 1, &hello).await;
    client.expect::<client::HelloReply>(Command::HelloReply, 1).await.features
}

/// A client that has said hello and keeps tokens.
async fn connect(world: &World) -> Client {
    let mut client = world.connect().await;
    assert_eq!(hello(&mut client, Some(KEEPS_TOKENS | 1 << 30)).await, KEEPS_TOKENS);
    client
}

fn token(user: u32) -> client::ResumeRequest {
    client::ResumeRequest {
        token: Some(format!("token {user}").into()),
        online_status: Some(client::UserStatus::Offline.into()),
        ..client::ResumeRequest::default()
    }
}

fn ticket(user: u32) -> client::ResumeRequest {
    client::ResumeRequest {
        ticket: Some(format!("ticket {user}").into()),
        ..client::ResumeRequest::default()
    }
}

async fn resume(client: &mut Client, shown: &client::ResumeRequest) -> client::LoginReply {
    client.send(Command::ResumeRequest, 7, shown).await;
    client.expect(Command::LoginReply, 7).await
}

async fn expect_token(client: &mut Client) {
    let given: client::ResumeToken = client.expect(Command::ResumeToken, 0).await;
    assert_eq!((&*given.token, given.lifetime_s), (&b"secret"[..], 60));
}

#[tokio::test]
async fn a_login_with_a_password_is_followed_by_a_token_for_clients_that_keep_them() {
    let world = World::start().await;
    world.db.stamp.store(9, Ordering::SeqCst);
    let mut client = connect(&world).await;
    client.log_in(5, ANDROID).await;
    expect_token(&mut client).await;
    let asked = world.db.next_token().await;
    let give = TokenGive { client_type: ANDROID, stamp: 9, shown: None };
    assert_eq!((asked.user, asked.what), (5, Some(What::Give(give))));
    client.expect_quiet().await;

    // Everybody else hears nothing of it.
    for features in [None, Some(0), Some(1 << 30)] {
        let mut other = world.connect().await;
        assert_eq!(hello(&mut other, features).await, 0);
        other.log_in(6, ANDROID).await;
        other.expect_quiet().await;
        // By the way that the question would go.
        other.send(Command::UnreadCountRequest, 9, &client::UnreadCountRequest::default()).await;
        world.db.next_ask().await;
    }
    assert!(world.db.asked_of_tokens.lock().await.try_recv().is_err());
    world.client(7, WINDOWS).await.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_token_logs_in_as_whom_it_is_for_and_is_followed_by_a_newer_one() {
    let world = World::start().await;
    let mut client = connect(&world).await;
    let reply = resume(&mut client, &token(5)).await;
    assert_eq!((reply.result, reply.online_status()), (0, client::UserStatus::Offline));
    assert_eq!(reply.user_info.unwrap().user_id, 5);
    expect_token(&mut client).await;
    let shown = Some(Bytes::from_static(b"token 5"));
    let Some(What::Give(give)) = world.db.next_token().await.what else { panic!("gives") };
    assert_eq!((give.shown, give.client_type), (shown, ANDROID));
    let added = world.hub.next_change().await.add_users[0];
    assert_eq!((added.user, added.client_type), (5, ANDROID));

    // It is a login like any other: it takes the seat of the phone, and no second one counts.
    client.send(Command::ResumeRequest, 8, &token(6)).await;
    client.expect_quiet().await;
    let mut newer = connect(&world).await;
    assert_eq!(resume(&mut newer, &token(5)).await.result, 0);
    assert_eq!(client.expect::<client::KickNotify>(Command::KickNotify, 0).await.reason, 1);
    client.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn a_ticket_logs_in_and_begins_tokens_of_its_own() {
    let world = World::start().await;
    let mut client = connect(&world).await;
    let reply = resume(&mut client, &ticket(5)).await;
    assert_eq!((reply.result, reply.online_status()), (0, client::UserStatus::Online));
    let Some(What::Give(give)) = world.db.next_token().await.what else { panic!("gives") };
    assert_eq!(give, TokenGive { client_type: WINDOWS, stamp: 1, shown: None });
    expect_token(&mut client).await;
    world.stop().await;
}

#[tokio::test]
async fn what_is_of_no_use_is_told_from_what_is_not_known_now() {
    let world = World::start().await;
    let void = client::ResumeRequest { token: Some("else".into()), ..Default::default() };
    let mut client = connect(&world).await;
    assert_eq!(resume(&mut client, &void).await.result, 6);
    client.expect_closed().await;
    world.stop_db().await;
    let mut client = connect(&world).await;
    assert_eq!(resume(&mut client, &token(5)).await.result, 3, "try again");
    client.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn a_token_that_the_store_was_not_asked_about_logs_in_without_more_than_a_number() {
    let world = World::start().await;
    world.db.store_is_there.store(false, Ordering::SeqCst);
    *world.db.token_outcome.lock() = Outcome::NotNow;
    let mut client = connect(&world).await;
    let reply = resume(&mut client, &token(5)).await;
    let alone = client::UserInfo { user_id: 5, ..client::UserInfo::default() };
    assert_eq!((reply.result, reply.user_info), (0, Some(alone)));
    world.db.next_token().await;
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_token_of_user_0_is_no_answer() {
    let world = World::start().await;
    let mut client = connect(&world).await;
    assert_eq!(resume(&mut client, &token(0)).await.result, 3);
    client.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn nobody_who_said_no_hello_resumes() {
    let world = World::start().await;
    let mut client = world.connect().await;
    client.send(Command::ResumeRequest, 7, &token(5)).await;
    client.expect_closed().await;
    let mut client = world.client(5, WINDOWS).await;
    client.send(Command::TicketRequest, 8, &asked_ticket(WINDOWS)).await;
    client.send(Command::ResumeTokenKept, 9, &kept()).await;
    client.expect_quiet().await;
    assert!(world.db.asked_of_tokens.lock().await.try_recv().is_err());
    world.stop().await;
}

#[tokio::test]
async fn that_a_token_is_kept_is_passed_on_and_holds_nothing_up() {
    let world = World::start().await;
    let mut client = world.extended(5, WINDOWS).await;
    client.send(Command::ResumeTokenKept, 9, &kept()).await;
    client.expect_quiet().await;
    let asked = world.db.next_token().await;
    assert_eq!((asked.user, asked.what), (5, Some(What::Kept(Bytes::from_static(b"mine")))));
    world.stop().await;
}

#[tokio::test]
async fn a_ticket_is_asked_for_with_a_token_and_answered() {
    let world = World::start().await;
    let mut client = world.extended(5, WINDOWS).await;
    for (outcome, result_code) in [(Outcome::Done, 0), (Outcome::Refused, 1), (Outcome::NotNow, 2)]
    {
        *world.db.token_outcome.lock() = outcome;
        client.send(Command::TicketRequest, 9, &asked_ticket(ANDROID)).await;
        let reply: client::TicketReply = client.expect(Command::TicketReply, 9).await;
        assert_eq!(reply.result_code, result_code);
        let lifetime_s = (result_code == 0).then_some(60);
        assert_eq!((reply.ticket.is_some(), reply.lifetime_s), (result_code == 0, lifetime_s));
        let give = TicketGive { token: Bytes::from_static(b"mine"), client_type: ANDROID };
        let asked = world.db.next_token().await;
        assert_eq!((asked.user, asked.what), (5, Some(What::Ticket(give))));
    }
    world.stop_db().await;
    client.send(Command::TicketRequest, 9, &asked_ticket(ANDROID)).await;
    let reply: client::TicketReply = client.expect(Command::TicketReply, 9).await;
    assert_eq!(reply.result_code, 2);
    world.stop().await;
}

#[tokio::test]
async fn a_logout_ends_the_token_that_it_names() {
    let world = World::start().await;
    let mut client = world.extended(5, WINDOWS).await;
    let token = Some(Bytes::from_static(b"mine"));
    client.send(Command::LogoutRequest, 9, &client::LogoutRequest { token: token.clone() }).await;
    client.expect::<client::LogoutReply>(Command::LogoutReply, 9).await;
    let asked = world.db.next_token().await;
    assert_eq!((asked.user, asked.what), (5, token.map(What::End)));

    for named in [None, Some(Bytes::from_static(b"mine"))] {
        // Of an old client the field is noise.
        let is_extended = named.is_none();
        let mut client = if is_extended {
            world.extended(6, WINDOWS).await
        } else {
            world.client(6, WINDOWS).await
        };
        client.send(Command::LogoutRequest, 9, &client::LogoutRequest { token: named }).await;
        client.expect::<client::LogoutReply>(Command::LogoutReply, 9).await;
    }
    assert!(world.db.asked_of_tokens.lock().await.try_recv().is_err());
    world.stop().await;
}

fn asked_ticket(client_type: u32) -> client::TicketRequest {
    let client_type = i32::try_from(client_type).unwrap();
    client::TicketRequest { token: Bytes::from_static(b"mine"), client_type }
}

fn kept() -> client::ResumeTokenKept {
    client::ResumeTokenKept { token: Bytes::from_static(b"mine") }
}
