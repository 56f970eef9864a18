//! What a client does when the server says "not now", when a disk fails, and when nothing comes.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use client::{
    Backoff, CallError, Client, Conversation, Event, Events, Limits, NotSent, Options, Outbox,
    Outcome, Push, Servers, StartFrom, Unsent,
};
use proto::client::{
    HelloReply, LatestMessageIdReply, LatestMessageIdRequest, LoginReply, LoginResult, MessageData,
    MessageInfo, MessageListReply, RefuseReason, Refused, SendOutcome, SendResult, TimeReply,
};
use proto::ids::{ClientMsgId, MsgId};
use proto::{Command, Frame};
use tokio::net::TcpListener;

use crate::fake::{Gateway, PEER, Served, next, numbers, options, show, within};

/// The reason that is none: the same later may be done.
const NOT_NOW: u32 = 0;

async fn refuse(served: &mut Served, frame: &Frame, reason: u32) {
    let refused = Refused { command: frame.command.into(), reason };
    served.answer(frame, Command::Refused, &refused).await;
}

fn with_limits(mut options: Options, change: impl FnOnce(&mut Limits)) -> Options {
    change(&mut options.limits);
    options
}

/// The client says something and hears the answer: what it had to say before has come by then.
async fn round_trip(client: &Client, served: &mut Served) {
    let (time, ()) = tokio::join!(client.server_time(), async {
        let frame = served.next_of(Command::TimeRequest).await;
        served.answer(&frame, Command::TimeReply, &TimeReply { server_time: 42 }).await;
    });
    assert_eq!(time.unwrap(), 42);
}

async fn disconnected(events: &mut Events) -> Duration {
    match next(events).await {
        Event::Disconnected { retry_in, .. } => retry_in,
        other => panic!("{other:?} instead of a loss"),
    }
}

#[tokio::test]
async fn a_half_of_the_list_that_is_refused_is_asked_for_again_with_the_other() {
    let gateway = Gateway::start().await;
    let options = with_limits(gateway.options(), |limits| {
        // Long enough for both answers to come before both are asked for again.
        limits.retry = Backoff::new(Duration::from_millis(200), Duration::from_millis(200));
    });
    let (_client, mut events) = Client::start(options).await.unwrap();
    let mut served = gateway.accept().await;
    for refused in [Some(Command::RecentSessionsRequest), Some(Command::UnreadCountRequest), None] {
        let recent = served.next_of(Command::RecentSessionsRequest).await;
        let unread = served.next_of(Command::UnreadCountRequest).await;
        for (frame, command) in
            [(recent, Command::RecentSessionsReply), (unread, Command::UnreadCountReply)]
        {
            if refused.is_none_or(|refused| frame.known_command() == Some(refused)) {
                refuse(&mut served, &frame, NOT_NOW).await;
            } else {
                // Of an empty list nothing goes over the wire but the user's number.
                served.answer(&frame, command, &TimeReply { server_time: 1 }).await;
            }
        }
    }
    // Two refusals were one failure: it is asked for once more, not twice.
    served.list(&[(PEER, 3)]).await;
    served.push_messages([4]).await;
    assert!(matches!(next(&mut events).await, Event::Connected { .. }));
    assert_eq!(numbers(&mut events, 1).await, [4]);
    served.connection.expect_silence(Duration::from_millis(300)).await.unwrap();
}

#[tokio::test]
async fn a_list_that_is_not_answered_is_asked_for_again() {
    let gateway = Gateway::start().await;
    let options = with_limits(gateway.options(), |limits| {
        limits.answer = Duration::from_millis(100);
    });
    let (_client, mut events) = Client::start(options).await.unwrap();
    let mut served = gateway.accept().await;
    served.next_of(Command::RecentSessionsRequest).await;
    served.next_of(Command::UnreadCountRequest).await;
    served.list(&[(PEER, 3)]).await;
    served.push_messages([4]).await;
    assert!(matches!(next(&mut events).await, Event::Connected { .. }));
    assert_eq!(numbers(&mut events, 1).await, [4]);
}

/// A client that has a mark for the peer, who is not among the hundred that are listed.
async fn cut_list(limits: impl FnOnce(&mut Limits)) -> (Gateway, Client, Events, Served) {
    let many: Vec<_> = (1000..1100).map(|user| (Conversation::user(user), 5)).collect();
    let gateway = Gateway::start().await;
    let marks = HashMap::from([(PEER, MsgId(7))]);
    let options = with_limits(Options { marks, ..gateway.options() }, limits);
    let (client, events, served) = gateway.client_with(options, &many).await;
    (gateway, client, events, served)
}

async fn answer_head(served: &mut Served, latest_msg_id: u32) {
    let frame = served.next_of(Command::LatestMessageIdRequest).await;
    let request: LatestMessageIdRequest = frame.parse().unwrap();
    assert_eq!((request.session_type, request.session_id), (1, PEER.number()));
    let (session_type, session_id) = (request.session_type, request.session_id);
    let reply = LatestMessageIdReply {
        session_type,
        session_id,
        latest_msg_id,
        ..LatestMessageIdReply::default()
    };
    served.answer(&frame, Command::LatestMessageIdReply, &reply).await;
}

#[tokio::test]
async fn how_far_a_conversation_reaches_is_asked_again_if_the_server_cannot_say_now() {
    let (_gateway, _client, mut events, mut served) = cut_list(|_limits| {}).await;
    for _time in 0..2 {
        let frame = served.next_of(Command::LatestMessageIdRequest).await;
        refuse(&mut served, &frame, NOT_NOW).await;
    }
    answer_head(&mut served, 9).await;
    served.answer_history(&[7, 8, 9]).await;
    assert_eq!(numbers(&mut events, 2).await, [8, 9]);
}

#[tokio::test]
async fn how_far_a_conversation_reaches_is_not_asked_again_by_a_user_who_may_not_know() {
    let (_gateway, client, _events, mut served) = cut_list(|_limits| {}).await;
    let frame = served.next_of(Command::LatestMessageIdRequest).await;
    let reason = i32::from(RefuseReason::NotMember).unsigned_abs();
    refuse(&mut served, &frame, reason).await;
    round_trip(&client, &mut served).await;
    served.connection.expect_silence(Duration::from_millis(30)).await.unwrap();
}

#[tokio::test]
async fn how_far_a_conversation_reaches_is_asked_again_if_nothing_comes() {
    let limits = |limits: &mut Limits| limits.answer = Duration::from_millis(100);
    let (_gateway, _client, mut events, mut served) = cut_list(limits).await;
    served.next_of(Command::LatestMessageIdRequest).await;
    answer_head(&mut served, 8).await;
    served.answer_history(&[7, 8]).await;
    assert_eq!(numbers(&mut events, 1).await, [8]);
}

#[tokio::test]
async fn questions_that_a_lost_connection_took_along_are_asked_again() {
    let many: Vec<_> = (100..106).map(|user| (Conversation::user(user), 1)).collect();
    let gateway = Gateway::start().await;
    let options = Options { start_from: StartFrom::Beginning, ..gateway.options() };
    let (_client, mut events, mut served) = gateway.client_with(options, &many).await;
    for _lost in 0..2 {
        for _question in 0..4 {
            served.next_of(Command::MessageListRequest).await;
        }
        drop(served);
        disconnected(&mut events).await;
        served = gateway.accept().await;
        served.list(&many).await;
        assert!(matches!(next(&mut events).await, Event::Connected { .. }));
    }
    let mut asked = Vec::new();
    for _question in 0..4 {
        asked.push(served.next_of(Command::MessageListRequest).await);
    }
    for frame in asked {
        served.answer(&frame, Command::MessageListReply, &MessageListReply::default()).await;
    }
    // As many again as there were answers, of the two that are left.
    for _question in 0..2 {
        served.next_of(Command::MessageListRequest).await;
    }
}

#[tokio::test]
async fn attempts_come_more_and_more_slowly_until_a_list_of_conversations_has_come() {
    let gateway = Gateway::start().await;
    let options = with_limits(gateway.options(), |limits| {
        limits.reconnect = Backoff::new(Duration::from_millis(4), Duration::from_mins(1));
    });
    let (_client, mut events) = Client::start(options).await.unwrap();
    let between = |wait: Duration, most: u64| {
        let most = Duration::from_millis(most);
        assert!((most / 2..=most).contains(&wait), "{wait:?} of {most:?}");
    };
    for most in [4, 8, 16] {
        // It lets the user in, and is gone: that is no success.
        drop(gateway.accept().await);
        assert!(matches!(next(&mut events).await, Event::Connected { .. }));
        between(disconnected(&mut events).await, most);
    }
    let mut served = gateway.accept().await;
    served.list(&[(PEER, 1)]).await;
    // The answer has been taken when what comes behind it is handed out.
    served.push_messages([2]).await;
    assert!(matches!(next(&mut events).await, Event::Connected { .. }));
    assert_eq!(numbers(&mut events, 1).await, [2]);
    drop(served);
    between(disconnected(&mut events).await, 4);
}

async fn turn_away(gateway: &Gateway, result: LoginResult) {
    let mut served = Served { connection: gateway.accept_socket().await };
    served.next_of(Command::Hello).await;
    let login = served.next_of(Command::LoginRequest).await;
    let reply = LoginReply { result: result.into(), ..LoginReply::default() };
    served.answer(&login, Command::LoginReply, &reply).await;
}

#[tokio::test]
async fn a_login_between_them_takes_back_what_rejections_have_told() {
    let gateway = Gateway::start().await;
    let (_client, mut events, mut served) = gateway.client(&[]).await;
    for _round in 0..2 {
        drop(served);
        disconnected(&mut events).await;
        for _rejection in 0..4 {
            turn_away(&gateway, LoginResult::BadCredentials).await;
            disconnected(&mut events).await;
        }
        served = gateway.accept().await;
        served.list(&[]).await;
        assert!(matches!(next(&mut events).await, Event::Connected { .. }));
    }
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_a_login_is_left_for_the_next() {
    let (silent, gateway) = (Gateway::start().await, Gateway::start().await);
    let servers = Servers::Gateways(vec![silent.addr.clone(), gateway.addr.clone()]);
    let options = with_limits(options(servers), |limits| {
        limits.connect = Duration::from_millis(100);
    });
    let (client, mut events) = Client::start(options).await.unwrap();
    let _held = silent.accept_socket().await;
    disconnected(&mut events).await;
    assert_eq!(client.user(), None, "not yet");
    let _served = gateway.accept().await;
    let user = within(client.online()).await.unwrap();
    assert_eq!(client.user(), Some(user));
}

#[tokio::test]
async fn no_more_messages_are_under_way_than_the_window_says() {
    let gateway = Gateway::start().await;
    let options = with_limits(gateway.options(), |limits| limits.window = 2);
    let (client, _events, mut served) = gateway.client_with(options, &[]).await;
    let _sendings = ["1", "2", "3"].map(|text| client.send_text(PEER, text));
    let first = served.message().await;
    assert_eq!(served.texts(1).await, ["2"]);
    // The third would be ahead of this.
    round_trip(&client, &mut served).await;
    served.accept(&first, 1).await;
    assert_eq!(served.texts(1).await, ["3"]);
}

#[tokio::test]
async fn whatever_else_answers_a_message_it_is_sent_again_or_refused() {
    let gateway = Gateway::start().await;
    let (client, _events, mut served) = gateway.client(&[]).await;
    let sending = client.send_text(PEER, "1");
    let (frame, data) = served.message().await;
    served.answer(&frame, Command::TimeReply, &TimeReply { server_time: 1 }).await;
    let again = served.message().await;
    assert_eq!(show(&again.1), "1 again");
    // An outcome that this build does not know is no outcome.
    let result = SendResult { client_msg_id: data.client_msg_id.unwrap(), ..SendResult::default() };
    let unknown = SendResult { outcome: 99, ..result.clone() };
    served.answer(&again.0, Command::SendResult, &unknown).await;
    let (frame, data) = served.message().await;
    assert_eq!(show(&data), "1 again");
    // A refusal whose reason it does not know is one all the same.
    let outcome = SendOutcome::Refused.into();
    let unknown = SendResult { outcome, reason: Some(99), ..result };
    served.answer(&frame, Command::SendResult, &unknown).await;
    assert_eq!(within(sending).await, Outcome::Refused { reason: None, text: None });

    let sending = client.send_text(PEER, "2");
    let (frame, _data) = served.message().await;
    refuse(&mut served, &frame, 8).await;
    assert_eq!(within(sending).await, refused(RefuseReason::Muted, None));

    // A program of the site may say why.
    let sending = client.send_text(PEER, "3");
    let (frame, data) = served.message().await;
    let result = SendResult {
        client_msg_id: data.client_msg_id.unwrap(),
        outcome,
        reason: Some(RefuseReason::ByHook.into()),
        reason_text: Some("not here".to_owned()),
        ..SendResult::default()
    };
    served.answer(&frame, Command::SendResult, &result).await;
    assert_eq!(within(sending).await, refused(RefuseReason::ByHook, Some("not here")));
}

fn refused(reason: RefuseReason, text: Option<&str>) -> Outcome {
    Outcome::Refused { reason: Some(reason), text: text.map(str::to_owned) }
}

#[tokio::test]
async fn a_message_that_is_stored_without_a_number_has_its_outcome_and_is_not_handed_out() {
    let gateway = Gateway::start().await;
    let (client, mut events, mut served) = gateway.client(&[]).await;
    let sending = client.send_text(PEER, "mine");
    let message = served.message().await;
    served.accept(&message, 0).await;
    let stored = Outcome::Ok { msg_id: MsgId(0), create_time: 1_700_000_000 };
    assert_eq!(within(sending).await, stored);
    served.push_messages([1]).await;
    assert_eq!(numbers(&mut events, 1).await, [1]);
}

#[tokio::test]
async fn a_server_that_says_late_that_it_knows_the_extension_is_never_given_up_on() {
    let gateway = Gateway::start().await;
    let (client, _events) = Client::start(gateway.options()).await.unwrap();
    let mut served = gateway.accept_without_extension().await;
    let hello = HelloReply { server: "fake".into(), features: 0 };
    served.push(Command::HelloReply, &hello).await;
    served.list(&[]).await;
    let sending = client.send_text(PEER, "1");
    for _try in 0..3 {
        let message = served.message().await;
        served.say_retry(&message).await;
    }
    let message = served.message().await;
    served.accept(&message, 1).await;
    assert!(matches!(within(sending).await, Outcome::Ok { .. }));
}

#[tokio::test]
async fn what_cannot_be_understood_is_handed_out_as_it_is_and_its_number_counts() {
    let gateway = Gateway::start().await;
    let (_client, mut events, mut served) = gateway.client(&[(PEER, 1)]).await;
    let odd = MessageData {
        from_user_id: PEER.number(),
        to_session_id: 1,
        msg_id: 2,
        msg_type: 99,
        ..MessageData::default()
    };
    served.push(Command::MessageData, &odd).await;
    assert_eq!(next(&mut events).await, Event::Push(Push::Message(odd)));
    served.push_messages([3]).await;
    let frame = served.next_of(Command::MessageListRequest).await;
    let info = MessageInfo {
        msg_id: 2,
        from_user_id: PEER.number(),
        create_time: 7,
        msg_type: 99,
        msg_data: Bytes::from_static(b"odd"),
    };
    let reply = MessageListReply { messages: vec![info], ..MessageListReply::default() };
    served.answer(&frame, Command::MessageListReply, &reply).await;
    let message = crate::fake::message(&mut events).await;
    assert_eq!((message.msg_id.0, message.create_time, &message.data[..]), (2, 7, &b"odd"[..]));
    assert_eq!(numbers(&mut events, 1).await, [3]);
}

#[tokio::test]
async fn a_request_without_its_answer_says_why() {
    let nowhere = with_limits(options(Servers::Gateways(Vec::new())), |limits| {
        limits.answer = Duration::from_millis(20);
        limits.connect = Duration::from_millis(20);
    });
    let (offline, _events) = Client::start(nowhere).await.unwrap();
    let late = within(offline.server_time()).await;
    assert!(matches!(late, Err(CallError::TimedOut)), "there is no connection: {late:?}");

    let gateway = Gateway::start().await;
    let options = with_limits(gateway.options(), |limits| {
        limits.answer = Duration::from_millis(200);
    });
    let (client, mut events, mut served) = gateway.client_with(options, &[]).await;
    let (odd, ()) = tokio::join!(client.server_time(), async {
        let frame = served.next_of(Command::TimeRequest).await;
        served.answer(&frame, Command::UnreadCountReply, &TimeReply { server_time: 1 }).await;
    });
    assert!(matches!(odd, Err(CallError::Answer(_))), "{odd:?}");
    let (none, frame) = tokio::join!(client.server_time(), served.next_of(Command::TimeRequest));
    assert!(matches!(none, Err(CallError::TimedOut)), "{none:?}");
    // Too late: no call waits for it, and no other call gets it.
    served.answer(&frame, Command::TimeReply, &TimeReply { server_time: 1 }).await;
    round_trip(&client, &mut served).await;

    served.kick().await;
    while within(events.next()).await.is_some() {}
    let over = client.server_time().await;
    assert!(matches!(over, Err(CallError::Ended)), "{over:?}");
    let not_sent = within(client.send_text(PEER, "nobody")).await;
    assert_eq!(not_sent, Outcome::NotSent(NotSent::Ended));
}

/// Cannot save what it is told not to, and cannot be read if so told.
#[derive(Debug, Clone, Copy)]
enum Broken {
    Reading,
    Saving,
}

impl Outbox for Broken {
    fn load(&mut self) -> io::Result<Vec<Unsent>> {
        match self {
            Self::Reading => Err(io::Error::other("on purpose")),
            Self::Saving => Ok(Vec::new()),
        }
    }

    fn save(&mut self, _messages: &[Unsent]) -> io::Result<()> {
        Err(io::Error::other("on purpose"))
    }

    fn remove(&mut self, _ids: &[ClientMsgId]) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_cannot_be_saved_is_not_sent_and_an_outbox_that_cannot_be_read_ends_the_start() {
    let gateway = Gateway::start().await;
    let broken = |how| Options { outbox: Some(Box::new(how)), ..gateway.options() };
    let error = Client::start(broken(Broken::Reading)).await.unwrap_err();
    assert_eq!(error.to_string(), "on purpose");

    let (client, _events, mut served) = gateway.client_with(broken(Broken::Saving), &[]).await;
    for text in ["1", "2"] {
        let outcome = within(client.send_text(PEER, text)).await;
        assert_eq!(outcome, Outcome::NotSent(NotSent::Unsaved));
    }
    round_trip(&client, &mut served).await;
}

#[tokio::test]
async fn a_second_address_of_a_gateway_is_tried_and_a_login_server_in_trouble_is_passed_over() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let gateway = Gateway::start().await;
    let (host, port) = gateway.addr.split_once(':').unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = async |status: &str, body: String| {
        let (mut socket, _) = within(listener.accept()).await.unwrap();
        let len = socket.read(&mut [0; 1024]).await.unwrap();
        assert!(len > 0);
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length:");
        let answer = format!("{head} {}\r\n\r\n{body}", body.len());
        socket.write_all(answer.as_bytes()).await.unwrap();
    };
    // The first is no address.
    let body = format!(
        r#"{{"code":0,"priorIP":"127.0.0.1:1","backupIP":"{host}","port":"{port}","tlsPort":"1"}}"#
    );
    let (found, ()) =
        tokio::join!(client::lookup(&url, None), answer("503 Service Unavailable", body.clone()));
    assert!(matches!(found, Err(client::LookupError::Status(status)) if status == 503));

    let servers = Servers::Login(vec![url.clone()]);
    let (client, _events) = Client::start(options(servers)).await.unwrap();
    answer("200 OK", body).await;
    let _served = gateway.accept().await;
    assert!(within(client.online()).await.is_some());
}
