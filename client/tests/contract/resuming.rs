//! What a client does with tokens and tickets.

use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use client::{Client, ClientType, Event, Events, Options};
use proto::client::{
    HelloReply, LoginReply, LoginResult, LogoutReply, LogoutRequest, ResumeRequest, ResumeToken,
    ResumeTokenKept, TicketReply, TicketRequest, UserInfo,
};
use proto::{Command, Frame};

use crate::fake::{Gateway, ME, PATIENCE, Served, next, within};

/// Takes a connection up to the login, which it returns.
async fn accept(gateway: &Gateway) -> (Served, Frame) {
    let mut served = Served { connection: gateway.accept_socket().await };
    let hello = served.next_of(Command::Hello).await;
    let reply = HelloReply { server: "fake".into(), features: 1 };
    served.answer(&hello, Command::HelloReply, &reply).await;
    let login = served.next().await;
    (served, login)
}

/// The same, of a client that shows something.
async fn accept_shown(gateway: &Gateway) -> (Served, Frame, ResumeRequest) {
    let (served, login) = accept(gateway).await;
    assert_eq!(login.known_command(), Some(Command::ResumeRequest));
    let shown = login.parse().unwrap();
    (served, login, shown)
}

async fn let_in(served: &mut Served, login: &Frame, nick_name: &str) {
    let user = UserInfo { user_id: ME.0, nick_name: nick_name.into(), ..UserInfo::default() };
    let reply = LoginReply {
        result: LoginResult::Accepted.into(),
        user_info: Some(user),
        ..LoginReply::default()
    };
    served.answer(login, Command::LoginReply, &reply).await;
    served.list(&[]).await;
}

async fn refuse(served: &mut Served, login: &Frame) {
    let result = LoginResult::BadCredentials.into();
    let reply = LoginReply { result, result_text: Some("no".into()), ..LoginReply::default() };
    served.answer(login, Command::LoginReply, &reply).await;
}

/// Gives the client a token, and waits until it says that it has it.
async fn give(served: &mut Served, token: &'static str) {
    let given = ResumeToken { token: Bytes::from_static(token.as_bytes()), lifetime_s: 60 };
    served.push(Command::ResumeToken, &given).await;
    let kept: ResumeTokenKept = served.next_of(Command::ResumeTokenKept).await.parse().unwrap();
    assert_eq!(kept.token, given.token);
}

async fn connected(events: &mut Events) -> UserInfo {
    loop {
        match next(events).await {
            Event::Connected { user, .. } => return *user,
            Event::Disconnected { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A client that has logged in with its password and has this token.
async fn with_token(
    gateway: &Gateway,
    options: Options,
    token: &'static str,
) -> (Client, Events, Served) {
    let (client, mut events) = Client::start(options).await.unwrap();
    let (mut served, login) = accept(gateway).await;
    assert_eq!(login.known_command(), Some(Command::LoginRequest));
    let_in(&mut served, &login, "me").await;
    connected(&mut events).await;
    give(&mut served, token).await;
    (client, events, served)
}

#[tokio::test]
async fn the_next_login_is_with_the_newest_token_and_the_record_that_is_known() {
    let gateway = Gateway::start().await;
    let (_client, mut events, mut served) = with_token(&gateway, gateway.options(), "one").await;
    give(&mut served, "two").await;
    for token in ["two", "three"] {
        drop(served);
        let (mut again, login, shown) = accept_shown(&gateway).await;
        assert_eq!((shown.token.as_deref(), shown.ticket), (Some(token.as_bytes()), None));
        let_in(&mut again, &login, "").await;
        assert_eq!(connected(&mut events).await.nick_name, "me");
        give(&mut again, "three").await;
        served = again;
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_forgotten_and_the_password_used() {
    let gateway = Gateway::start().await;
    let (_client, mut events, served) = with_token(&gateway, gateway.options(), "one").await;
    drop(served);
    let (mut served, login, _shown) = accept_shown(&gateway).await;
    refuse(&mut served, &login).await;
    for _login in 0..2 {
        let (mut served, login) = accept(&gateway).await;
        assert_eq!(login.known_command(), Some(Command::LoginRequest));
        let_in(&mut served, &login, "me").await;
        connected(&mut events).await;
    }
}

#[tokio::test]
async fn a_gateway_that_does_not_know_tokens_is_given_the_password() {
    let gateway = Gateway::start().await;
    let (_client, mut events, served) = with_token(&gateway, gateway.options(), "one").await;
    drop(served);
    let (served, _login, _shown) = accept_shown(&gateway).await;
    drop(served);
    let (mut served, login) = accept(&gateway).await;
    assert_eq!(login.known_command(), Some(Command::LoginRequest));
    let_in(&mut served, &login, "me").await;
    connected(&mut events).await;
    // The token may be good elsewhere.
    drop(served);
    let (_served, _login, shown) = accept_shown(&gateway).await;
    assert_eq!(shown.token.as_deref(), Some(&b"one"[..]));
}

#[tokio::test]
async fn a_token_in_a_file_outlives_the_program_and_needs_no_password() {
    let gateway = Gateway::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let token_file = Some(file.clone());
    let options = Options { token_file: token_file.clone(), ..gateway.options() };
    let (client, events, served) = with_token(&gateway, options, "one").await;
    assert_eq!(std::fs::read(&file).unwrap(), b"one", "it was there when the server heard so");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    drop((client, events, served));

    let options = Options { token_file, password: String::new(), ..gateway.options() };
    let (_client, mut events) = Client::start(options).await.unwrap();
    let (mut served, login, shown) = accept_shown(&gateway).await;
    assert_eq!(shown.token.as_deref(), Some(&b"one"[..]));
    let_in(&mut served, &login, "me").await;
    connected(&mut events).await;
    give(&mut served, "two").await;
    assert_eq!(std::fs::read(&file).unwrap(), b"two");
}

#[tokio::test]
async fn without_a_password_a_token_that_is_refused_is_the_end() {
    let gateway = Gateway::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "over").unwrap();
    let token_file = Some(file.clone());
    let options = Options { token_file, password: String::new(), ..gateway.options() };
    let (_client, mut events) = Client::start(options).await.unwrap();
    let (mut served, login, _shown) = accept_shown(&gateway).await;
    refuse(&mut served, &login).await;
    let result = LoginResult::BadCredentials;
    assert_eq!(next(&mut events).await, Event::Rejected { result, text: "no".into() });
    assert!(!file.exists());
}

#[tokio::test]
async fn a_file_that_is_none_of_a_token_is_refused_at_the_start() {
    let gateway = Gateway::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    for content in [vec![], vec![0; 257]] {
        std::fs::write(&file, &content).unwrap();
        let options = Options { token_file: Some(file.clone()), ..gateway.options() };
        assert!(Client::start(options).await.is_err(), "{}", content.len());
        assert_eq!(std::fs::read(&file).unwrap(), content, "it stays as it is");
    }
}

#[tokio::test]
async fn a_ticket_is_shown_once_in_place_of_the_password() {
    let gateway = Gateway::start().await;
    let ticket = Some(Bytes::from_static(b"ticket"));
    let options = Options { ticket: ticket.clone(), ..gateway.options() };
    let (_client, mut events) = Client::start(options).await.unwrap();
    let (mut served, login, shown) = accept_shown(&gateway).await;
    assert_eq!((shown.token, shown.ticket), (None, ticket));
    let_in(&mut served, &login, "me").await;
    connected(&mut events).await;
    drop(served);
    let (_served, login) = accept(&gateway).await;
    assert_eq!(login.known_command(), Some(Command::LoginRequest), "no token came");
}

#[tokio::test]
async fn a_ticket_that_was_not_looked_at_is_shown_again() {
    let gateway = Gateway::start().await;
    let ticket = Some(Bytes::from_static(b"ticket"));
    let password = String::new();
    let options = Options { ticket: ticket.clone(), password, ..gateway.options() };
    let (_client, mut events) = Client::start(options).await.unwrap();
    let (mut served, login, _shown) = accept_shown(&gateway).await;
    let result = LoginResult::NoDbServer.into();
    let not_now = LoginReply { result, ..LoginReply::default() };
    served.answer(&login, Command::LoginReply, &not_now).await;
    let (served, _login, shown) = accept_shown(&gateway).await;
    assert_eq!(shown.ticket, ticket);
    drop(served);
    let (mut served, login, shown) = accept_shown(&gateway).await;
    assert_eq!(shown.ticket, ticket);
    let_in(&mut served, &login, "me").await;
    connected(&mut events).await;
}

#[tokio::test]
async fn a_ticket_is_asked_for_and_a_logout_made_with_the_token() {
    let gateway = Gateway::start().await;
    let (client, _events, mut served) = with_token(&gateway, gateway.options(), "one").await;
    let ticket = Bytes::from_static(b"ticket");
    let give = async {
        let asked = served.next_of(Command::TicketRequest).await;
        let request: TicketRequest = asked.parse().unwrap();
        assert_eq!((&*request.token, request.client_type()), (&b"one"[..], ClientType::Windows));
        let ticket = Some(ticket.clone());
        let reply = TicketReply { result_code: 0, ticket, lifetime_s: Some(60) };
        served.answer(&asked, Command::TicketReply, &reply).await;
    };
    let (got, ()) = within(async { tokio::join!(client.ticket(ClientType::Windows), give) }).await;
    assert_eq!(got.unwrap(), (ticket, 60));

    let let_go = async {
        let asked = served.next_of(Command::LogoutRequest).await;
        let request: LogoutRequest = asked.parse().unwrap();
        assert_eq!(request.token.as_deref(), Some(&b"one"[..]));
        served.answer(&asked, Command::LogoutReply, &LogoutReply { result_code: 0 }).await;
    };
    let (gone, ()) = within(async { tokio::join!(client.log_out(), let_go) }).await;
    gone.unwrap();
    drop(served);
    let (mut served, login) = accept(&gateway).await;
    assert_eq!(login.known_command(), Some(Command::LoginRequest), "the token is forgotten");
    refuse(&mut served, &login).await;
    served.connection.expect_close(PATIENCE).await.unwrap();
}
