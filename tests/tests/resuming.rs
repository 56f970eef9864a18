//! Logins by a token or a ticket, over real processes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{ClientType, Connection, Login, LoginError, hello};
use data_encoding::HEXLOWER;
use proto::Command;
use proto::client::{
    Hello, KickNotify, LoginResult, LogoutReply, LogoutRequest, ResumeRequest, ResumeToken,
    ResumeTokenKept, TicketReply, TicketRequest,
};
use proto::features::KEEPS_TOKENS;
use tests::{Cluster, PASSWORD, PATIENCE};

/// How many password hashes a db_proxy has computed for logins.
const HASHES: &str = "talkhub_db_proxy_password_hashes_total";

/// How soon sessions end.
const AT_ONCE: Duration = Duration::from_secs(5);

fn keeping() -> Hello {
    Hello { features: Some(KEEPS_TOKENS), ..hello() }
}

async fn connect(gateway: &str) -> Connection {
    Connection::connect(gateway, None).await.expect("connect to the gateway")
}

/// The token that comes after a login.
async fn given(connection: &mut Connection) -> Bytes {
    loop {
        let frame = connection.next_frame(PATIENCE).await.expect("a token comes after the login");
        if frame.known_command() == Some(Command::ResumeToken) {
            return frame.parse::<ResumeToken>().expect("a token").token;
        }
        assert_eq!(frame.seq, 0, "whatever else is pushed");
    }
}

/// Says that the newer of two tokens is kept, and waits until the older one is of no use.
async fn keep(connection: &mut Connection, newer: &Bytes, older: &Bytes) {
    let kept = ResumeTokenKept { token: newer.clone() };
    connection.send(Command::ResumeTokenKept, &kept).await.expect("say that it is kept");
    let began = Instant::now();
    while ticket(connection, older).await.result_code != 1 {
        assert!(began.elapsed() < PATIENCE, "the newer one counts in time");
    }
}

async fn ticket(connection: &mut Connection, token: &Bytes) -> TicketReply {
    let client_type = ClientType::Android.into();
    let request = TicketRequest { token: token.clone(), client_type };
    connection.call(Command::TicketRequest, &request).await.expect("an answer")
}

/// A PC client that has logged in with its password, and its token.
async fn log_in(gateway: &str, user: u32) -> (Connection, Bytes) {
    let mut connection = connect(gateway).await;
    let (name, kind) = (format!("u{user}"), ClientType::Windows);
    connection.login(&name, PASSWORD, kind, Some(keeping())).await.expect("let in");
    let token = given(&mut connection).await;
    (connection, token)
}

async fn resume(gateway: &str, token: &Bytes) -> Result<(Connection, Login), LoginError> {
    show(gateway, ResumeRequest { token: Some(token.clone()), ..Default::default() }).await
}

async fn show(gateway: &str, request: ResumeRequest) -> Result<(Connection, Login), LoginError> {
    let mut connection = connect(gateway).await;
    let login = connection.resume_with(&request, keeping()).await;
    if login.is_err() {
        connection.expect_close(PATIENCE).await.expect("a refused login ends the connection");
    }
    login.map(|login| (connection, login))
}

fn assert_void<T>(login: Result<T, LoginError>, what: &str) {
    match login {
        Err(LoginError::Refused { result, .. }) => {
            assert_eq!(result, i32::from(LoginResult::BadCredentials), "{what}");
        }
        Err(other) => panic!("{what}: {other:?}"),
        Ok(_) => panic!("{what}: let in"),
    }
}

/// The session is told that it ends, and ends.
async fn assert_ended(mut connection: Connection) {
    let began = Instant::now();
    let frames = connection.expect_close(PATIENCE).await.expect("it ends");
    let is_kick = |frame: &proto::Frame| frame.known_command() == Some(Command::KickNotify);
    assert!(frames.iter().any(is_kick), "it is told: {frames:?}");
    let kick = frames.iter().find(|frame| is_kick(frame)).expect("found above");
    kick.parse::<KickNotify>().expect("a notice");
    assert!(began.elapsed() <= AT_ONCE, "it ended after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_token_logs_in_on_any_gateway_and_across_restarts_without_a_hash() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let (mut connection, mut token) = log_in(here, 1).await;
    let hashes = cluster.metric("db_proxy", HASHES);
    assert_eq!(hashes, 1);
    for gateway in [there, here, there] {
        let (mut again, login) = resume(gateway, &token).await.expect("let in");
        assert_eq!((login.user.user_id, login.user.nick_name.as_str()), (1, "u1"));
        let newer = given(&mut again).await;
        assert_ne!(newer, token);
        keep(&mut again, &newer, &token).await;
        (connection, token) = (again, newer);
    }
    assert_eq!(cluster.metric("db_proxy", HASHES), hashes);

    let old = cluster.kill("db_proxy");
    cluster.wait_restarted("db_proxy", old);
    drop(connection);
    resume(here, &token).await.expect("let in after a restart");
    assert_eq!(cluster.metric("db_proxy", HASHES), 0);
}

#[tokio::test]
async fn a_replaced_token_that_is_shown_again_ends_all_sessions_and_tokens_of_its_family() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let (connection, stolen) = log_in(here, 1).await;
    drop(connection);
    let (mut owner, _login) = resume(here, &stolen).await.expect("let in");
    let newer = given(&mut owner).await;
    keep(&mut owner, &newer, &stolen).await;

    assert_void(resume(there, &stolen).await, "the copy");
    assert_ended(owner).await;
    assert_void(resume(here, &newer).await, "what followed from it");
    log_in(here, 1).await;
    assert_eq!(cluster.metric("db_proxy", "talkhub_db_proxy_tokens_copied_total"), 1);
}

#[tokio::test]
async fn a_ticket_logs_in_once_as_what_it_was_made_for() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let (mut connection, token) = log_in(here, 1).await;
    let reply = ticket(&mut connection, &token).await;
    assert_eq!((reply.result_code, reply.lifetime_s), (0, Some(60)));
    let shown = ResumeRequest { ticket: reply.ticket, ..Default::default() };
    let (mut phone, login) = show(there, shown.clone()).await.expect("let in");
    assert_eq!(login.user.user_id, 1);
    for gateway in [here, there] {
        assert_void(show(gateway, shown.clone()).await, "the same ticket");
    }
    // It is another device class: the PC stays. And it has a token of its own.
    connection.heartbeat().await.expect("the PC is still there");
    let own = given(&mut phone).await;
    assert_eq!(ticket(&mut phone, &own).await.result_code, 0);

    let made = cluster.admin(&["user", "ticket", "u2", "--device", "ios"]).expect("a ticket");
    let made: Bytes = HEXLOWER.decode(made.trim().as_bytes()).expect("hex digits").into();
    let shown = ResumeRequest { ticket: Some(made), ..Default::default() };
    let (_phone, login) = show(here, shown).await.expect("let in");
    assert_eq!(login.user.user_id, 2);
}

#[tokio::test]
async fn a_logout_a_kick_a_new_password_and_a_closed_account_end_tokens() {
    let cluster = Cluster::start();
    let gateway = &cluster.gateways[0];
    let (mut connection, token) = log_in(gateway, 1).await;
    let leaving = LogoutRequest { token: Some(token.clone()) };
    connection.call::<LogoutReply>(Command::LogoutRequest, &leaving).await.expect("an answer");
    assert_void(resume(gateway, &token).await, "after a logout");

    for (user, command) in [
        (2, &["user", "kick", "u2"][..]),
        (3, &["user", "passwd", "u3", "--password", "battery staple"]),
        (4, &["user", "disable", "u4"]),
    ] {
        let (connection, token) = log_in(gateway, user).await;
        let (other, bystander) = log_in(gateway, 5).await;
        cluster.admin(command).expect("done");
        assert_ended(connection).await;
        assert_void(resume(gateway, &token).await, command[1]);
        drop(other);
        resume(gateway, &bystander).await.expect("somebody else is let in");
    }
}
