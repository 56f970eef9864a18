//! Finding a gateway, staying with it, and knowing when to stop.

use std::time::Duration;

use crate::fake::{Gateway, ME, PATIENCE, PEER, next, options, within};
use client::{
    Client, ClientType, Connection, ConnectionError, Draft, Event, LoginError, LookupError, Push,
    SendReply, Servers, hello, lookup, lookup_any,
};
use proto::client::{KickReason, LoginReply, LoginResult, MessageData, TimeReply, TimeRequest};
use proto::{Command, encode_message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_login_server_that_is_no_help_is_passed_over() {
    let gateway = Gateway::start().await;
    let (host, port) = gateway.addr.split_once(':').unwrap();
    let nobody = closed_port().await;
    let full = login_server(r#"{"code":2,"msg":"full"}"#.to_owned()).await;
    let good = login_server(format!(
        r#"{{"code":0,"msg":"","priorIP":"{host}","backupIP":"","port":"{port}"}}"#
    ))
    .await;

    let found = lookup(&good, None).await.unwrap();
    assert_eq!((found.host.as_str(), found.port.to_string().as_str()), (host, port));
    let urls = vec![nobody, full, good];
    assert_eq!(lookup_any(&urls, None).await.unwrap(), found);
    let (client, _events) = Client::start(options(Servers::Login(urls))).await.unwrap();
    let _served = gateway.accept().await;
    assert_eq!(within(client.online()).await.unwrap().user_id, ME.0);
}

#[tokio::test]
async fn an_answer_of_a_login_server_that_is_too_long_is_not_read() {
    let answer = r#"{"priorIP":"h","port":"1"}"#;
    // Blanks behind it mean nothing.
    let long = login_server(format!("{answer:<16384}")).await;
    assert_eq!(lookup(&long, None).await.unwrap().host, "h");
    let too_long = login_server(format!("{answer:<16385}")).await;
    let error = lookup(&too_long, None).await.unwrap_err();
    assert!(matches!(error, LookupError::Http(_)), "{error}");
}

#[tokio::test]
async fn a_gateway_that_cannot_be_reached_is_passed_over() {
    let gateway = Gateway::start().await;
    let nobody = closed_port().await.trim_start_matches("http://").to_owned();
    let servers = Servers::Gateways(vec![nobody, gateway.addr.clone()]);
    let (client, _events) = Client::start(options(servers)).await.unwrap();
    let _served = gateway.accept().await;
    assert!(within(client.online()).await.is_some());
}

#[tokio::test]
async fn a_kick_is_the_end() {
    let gateway = Gateway::start().await;
    let (client, mut events, mut served) = gateway.client(&[]).await;
    served.kick().await;
    assert_eq!(next(&mut events).await, Event::Kicked(Some(KickReason::DuplicateLogin)));
    assert_eq!(within(events.next()).await, None);
    // The engine has returned, so nothing is left that could connect again.
    assert_eq!(client.online().await, None);
    assert!(client.server_time().await.is_err());
    served.connection.expect_close(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_rejected_login_is_the_end_and_a_busy_server_is_not() {
    let gateway = Gateway::start().await;
    let (_client, mut events) = Client::start(gateway.options()).await.unwrap();
    turn_away(&gateway, LoginResult::NoDbServer).await;
    assert!(matches!(next(&mut events).await, Event::Disconnected { .. }));
    turn_away(&gateway, LoginResult::BadCredentials).await;
    let result = LoginResult::BadCredentials;
    assert_eq!(next(&mut events).await, Event::Rejected { result, text: "no".into() });
    assert_eq!(within(events.next()).await, None);
}

#[tokio::test]
async fn after_a_login_that_succeeded_the_fifth_rejection_in_a_row_is_believed() {
    let gateway = Gateway::start().await;
    let (_client, mut events, served) = gateway.client(&[]).await;
    drop(served);
    // The loss and four rejections.
    for _attempt in 0..5 {
        assert!(matches!(next(&mut events).await, Event::Disconnected { .. }));
        turn_away(&gateway, LoginResult::BadCredentials).await;
    }
    let result = LoginResult::BadCredentials;
    assert_eq!(next(&mut events).await, Event::Rejected { result, text: "no".into() });
    assert_eq!(within(events.next()).await, None);
}

#[tokio::test]
async fn a_gateway_that_falls_silent_is_left() {
    let gateway = Gateway::start().await;
    let mut options = gateway.options();
    options.limits.heartbeat = Duration::from_millis(50);
    options.limits.answer = Duration::from_millis(200);
    let (_client, mut events, mut served) = gateway.client_with(options, &[]).await;
    let heartbeat = served.next_of(Command::Heartbeat).await;
    served.connection.send_frame(&heartbeat).await.unwrap();
    served.next_of(Command::Heartbeat).await; // And no answer.
    assert!(matches!(next(&mut events).await, Event::Disconnected { .. }));
    let _served = gateway.accept().await;
}

#[tokio::test]
async fn a_gateway_whose_frame_comes_slowly_is_not_silent() {
    let gateway = Gateway::start().await;
    let mut options = gateway.options();
    options.limits.heartbeat = Duration::from_millis(50);
    options.limits.answer = Duration::from_millis(400);
    let (_client, mut events, mut served) = gateway.client_with(options, &[]).await;
    let heartbeat = served.next_of(Command::Heartbeat).await;
    let data = MessageData {
        from_user_id: PEER.number(),
        to_session_id: ME.0,
        msg_id: 1,
        msg_type: 1,
        msg_data: proto::text::encrypt(&"slow ".repeat(2_000)),
        ..MessageData::default()
    };
    // Longer than an answer may take, and the answer is behind it.
    let frame = encode_message(Command::MessageData, 0, &data);
    for piece in frame.chunks(frame.len() / 10) {
        served.connection.send_bytes(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    served.connection.send_frame(&heartbeat).await.unwrap();
    assert!(matches!(next(&mut events).await, Event::Message(message) if message.msg_id.0 == 1));
}

#[tokio::test]
async fn a_connection_by_hand_shows_every_frame() {
    let gateway = Gateway::start().await;
    let mut connection = Connection::connect(&gateway.addr, None).await.unwrap();
    let login = connection.login("me", "secret", ClientType::Android, Some(hello()));
    let (login, mut served) = tokio::join!(login, gateway.accept());
    let login = login.unwrap();
    assert_eq!((login.user.user_id, login.text.as_str()), (ME.0, "welcome"));
    assert_eq!(login.hello.unwrap().server, "fake");

    // A call sets pushes aside; they come afterwards, in order.
    let call = connection.call::<TimeReply>(Command::TimeRequest, &TimeRequest {});
    let (reply, ()) = tokio::join!(call, async {
        let frame = served.next_of(Command::TimeRequest).await;
        served.push_messages([1, 2]).await;
        served.answer(&frame, Command::TimeReply, &TimeReply { server_time: 5 }).await;
    });
    assert_eq!(reply.unwrap().server_time, 5);
    for id in [1, 2] {
        let push = connection.next_push(PATIENCE).await.unwrap();
        assert!(matches!(push, Push::Message(data) if data.msg_id == id));
    }
    connection.expect_silence(Duration::from_millis(20)).await.unwrap();

    let draft = Draft::text(PEER, "hi");
    let (reply, ()) = tokio::join!(connection.send_message(&draft), async {
        let message = served.message().await;
        served.accept(&message, 3).await;
    });
    assert!(matches!(reply, Ok(SendReply::Result(result)) if result.msg_id == Some(3)));

    served.kick().await;
    drop(served);
    let last = connection.expect_close(PATIENCE).await.unwrap();
    assert_eq!(last.len(), 1);
    let error = connection.heartbeat().await.unwrap_err();
    assert!(matches!(error, ConnectionError::Closed | ConnectionError::Frame(_)), "{error}");
}

#[tokio::test]
async fn a_connection_by_hand_sends_whatever_it_is_told() {
    let gateway = Gateway::start().await;
    let mut connection = Connection::connect(&gateway.addr, None).await.unwrap();
    let mut served = gateway.accept_socket().await;
    connection.send_bytes(&[0, 0, 0, 7]).await.unwrap();
    connection.send_bytes(&[0xff; 12]).await.unwrap();
    let error = served.next_frame(PATIENCE).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Frame(proto::FrameError::TooShort(7))), "{error}");
}

#[tokio::test]
async fn a_login_that_is_refused_says_why() {
    let gateway = Gateway::start().await;
    let mut connection = Connection::connect(&gateway.addr, None).await.unwrap();
    let login = connection.login("me", "wrong", ClientType::Mac, Some(hello()));
    let (login, ()) = tokio::join!(login, turn_away(&gateway, LoginResult::BadCredentials));
    assert!(matches!(login, Err(LoginError::Refused { result: 6, text }) if text == "no"));
}

async fn turn_away(gateway: &Gateway, result: LoginResult) {
    let mut connection = gateway.accept_socket().await;
    connection.next_frame(PATIENCE).await.unwrap();
    let login = connection.next_frame(PATIENCE).await.unwrap();
    assert_eq!(login.known_command(), Some(Command::LoginRequest));
    let reply = LoginReply {
        result: result.into(),
        result_text: Some("no".into()),
        ..LoginReply::default()
    };
    let bytes = encode_message(Command::LoginReply, login.seq, &reply);
    connection.send_bytes(&bytes).await.unwrap();
}

/// The address of a server that is not there.
async fn closed_port() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A login server that always answers this.
#[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
async fn login_server(body: String) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = vec![0; 1024];
            let len = socket.read(&mut request).await.unwrap();
            assert!(request[..len].starts_with(b"GET /msg_server HTTP/1.1\r\n"));
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/html;charset=utf-8\r\nConnection: close";
            let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    }));
    format!("http://{addr}")
}
