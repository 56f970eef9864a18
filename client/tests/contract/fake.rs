//! A gateway that does what a test tells it, and a client that is quick to try again.

use std::fmt::Debug;
use std::time::Duration;

use client::{
    Backoff, Client, Connection, Conversation, Event, Events, Limits, Message, Options, Servers,
};
use proto::client::{
    HelloReply, KickNotify, LoginReply, LoginResult, MessageData, MessageInfo, MessageListReply,
    MessageListRequest, RecentSession, RecentSessionsReply, RefuseReason, SendOutcome, SendResult,
    UnreadCountReply, UserInfo,
};
use proto::ids::UserId;
use proto::{Command, Frame, encode_message};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// Long enough for a loaded machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The user that logs in.
pub(crate) const ME: UserId = UserId(1);
/// The user that the user talks with.
pub(crate) const PEER: Conversation = Conversation::user(2);

/// Where clients connect to.
#[derive(Debug)]
pub(crate) struct Gateway {
    listener: TcpListener,
    pub(crate) addr: String,
}

/// One connection of a client, seen from the gateway.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) connection: Connection,
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        Self { listener, addr }
    }

    /// Options of a client of this gateway, with short waits.
    pub(crate) fn options(&self) -> Options {
        options(Servers::Gateways(vec![self.addr.clone()]))
    }

    /// Starts a client and serves it up to the list of conversations.
    pub(crate) async fn client(&self, list: &[(Conversation, u32)]) -> (Client, Events, Served) {
        self.client_with(self.options(), list).await
    }

    pub(crate) async fn client_with(
        &self,
        options: Options,
        list: &[(Conversation, u32)],
    ) -> (Client, Events, Served) {
        let (client, mut events) = Client::start(options).await.unwrap();
        let mut served = self.accept().await;
        served.list(list).await;
        assert!(matches!(next(&mut events).await, Event::Connected { .. }));
        (client, events, served)
    }

    pub(crate) async fn accept_socket(&self) -> Connection {
        let (socket, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        Connection::over(socket)
    }

    /// Takes a connection and lets the user in. The client is told that we know the extension.
    pub(crate) async fn accept(&self) -> Served {
        let mut served = Served { connection: self.accept_socket().await };
        served.welcome().await;
        served
    }

    /// The same, by a gateway that does not know the extension.
    pub(crate) async fn accept_without_extension(&self) -> Served {
        let mut served = Served { connection: self.accept_socket().await };
        served.next_of(Command::Hello).await;
        served.log_in().await;
        served
    }
}

impl Served {
    /// Answers hello and login.
    pub(crate) async fn welcome(&mut self) {
        let hello = self.next_of(Command::Hello).await;
        let reply = HelloReply { server: "fake".into(), features: 0 };
        self.answer(&hello, Command::HelloReply, &reply).await;
        self.log_in().await;
    }

    async fn log_in(&mut self) {
        let login = self.next_of(Command::LoginRequest).await;
        let user = UserInfo { user_id: ME.0, nick_name: "me".into(), ..Default::default() };
        let reply = LoginReply {
            server_time: 1_700_000_000,
            result: LoginResult::Accepted.into(),
            result_text: Some("welcome".into()),
            online_status: Some(1),
            user_info: Some(user),
        };
        self.answer(&login, Command::LoginReply, &reply).await;
    }

    /// Tells the client which conversations there are: those, up to those numbers.
    pub(crate) async fn list(&mut self, list: &[(Conversation, u32)]) {
        let recent = self.next_of(Command::RecentSessionsRequest).await;
        let unread = self.next_of(Command::UnreadCountRequest).await;
        let conversation = |&(conversation, latest): &(Conversation, u32)| RecentSession {
            session_id: conversation.number(),
            session_type: conversation.session_type().into(),
            latest_msg_id: latest,
            ..Default::default()
        };
        let sessions = list.iter().map(conversation).collect();
        let reply = RecentSessionsReply { user_id: ME.0, sessions, attach_data: None };
        self.answer(&recent, Command::RecentSessionsReply, &reply).await;
        let reply = UnreadCountReply { user_id: ME.0, ..Default::default() };
        self.answer(&unread, Command::UnreadCountReply, &reply).await;
    }

    pub(crate) async fn next(&mut self) -> Frame {
        self.connection.next_frame(PATIENCE).await.unwrap()
    }

    pub(crate) async fn next_of(&mut self, command: Command) -> Frame {
        let frame = self.next().await;
        assert_eq!(frame.known_command(), Some(command), "{frame:?}");
        frame
    }

    /// The next message of the client.
    pub(crate) async fn message(&mut self) -> (Frame, MessageData) {
        let frame = self.next_of(Command::MessageData).await;
        let data = frame.parse().unwrap();
        (frame, data)
    }

    /// The texts of the next messages of the client, marked where they are sent again.
    pub(crate) async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            let (_, data) = self.message().await;
            texts.push(show(&data));
        }
        texts
    }

    pub(crate) async fn answer(
        &mut self,
        to: &Frame,
        command: Command,
        message: &impl prost::Message,
    ) {
        let bytes = encode_message(command, to.seq, message);
        self.connection.send_bytes(&bytes).await.unwrap();
    }

    pub(crate) async fn push(&mut self, command: Command, message: &impl prost::Message) {
        self.connection.send_bytes(&encode_message(command, 0, message)).await.unwrap();
    }

    /// The message is stored under this number.
    pub(crate) async fn accept(&mut self, to: &(Frame, MessageData), msg_id: u32) {
        let result = SendResult {
            msg_id: Some(msg_id),
            create_time: Some(1_700_000_000 + msg_id),
            ..result(&to.1, SendOutcome::Ok)
        };
        self.answer(&to.0, Command::SendResult, &result).await;
    }

    pub(crate) async fn refuse(&mut self, to: &(Frame, MessageData), reason: RefuseReason) {
        let result =
            SendResult { reason: Some(reason.into()), ..result(&to.1, SendOutcome::Refused) };
        self.answer(&to.0, Command::SendResult, &result).await;
    }

    pub(crate) async fn say_retry(&mut self, to: &(Frame, MessageData)) {
        self.answer(&to.0, Command::SendResult, &result(&to.1, SendOutcome::Retry)).await;
    }

    /// Pushes messages of the peer with these numbers.
    pub(crate) async fn push_messages(&mut self, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            let data = MessageData {
                from_user_id: PEER.number(),
                to_session_id: ME.0,
                msg_id: id,
                create_time: 1_700_000_000 + id,
                msg_type: 1,
                msg_data: proto::text::encrypt(&format!("text {id}")),
                ..Default::default()
            };
            self.push(Command::MessageData, &data).await;
        }
    }

    /// Answers a question about the history of the peer, of which these numbers exist.
    pub(crate) async fn answer_history(&mut self, history: &[u32]) -> MessageListRequest {
        let frame = self.next_of(Command::MessageListRequest).await;
        let request: MessageListRequest = frame.parse().unwrap();
        assert_eq!(request.session_id, PEER.number());
        let count = usize::try_from(request.msg_count).unwrap();
        let page = history.iter().rev().filter(|&&id| id <= request.msg_id_begin).take(count);
        let info = |&id: &u32| MessageInfo {
            msg_id: id,
            from_user_id: PEER.number(),
            create_time: 1_700_000_000 + id,
            msg_type: 1,
            msg_data: proto::text::encrypt(&format!("text {id}")),
        };
        let reply = MessageListReply {
            user_id: ME.0,
            session_type: request.session_type,
            session_id: request.session_id,
            msg_id_begin: request.msg_id_begin,
            messages: page.map(info).collect(),
            attach_data: None,
        };
        self.answer(&frame, Command::MessageListReply, &reply).await;
        request
    }

    pub(crate) async fn kick(&mut self) {
        self.push(Command::KickNotify, &KickNotify { user_id: ME.0, reason: 1 }).await;
    }
}

fn result(data: &MessageData, outcome: SendOutcome) -> SendResult {
    SendResult {
        client_msg_id: data.client_msg_id.clone().unwrap(),
        outcome: outcome.into(),
        session_id: Some(data.to_session_id),
        session_type: Some(1),
        ..Default::default()
    }
}

pub(crate) fn options(servers: Servers) -> Options {
    let quick = Backoff::new(Duration::from_millis(1), Duration::from_millis(5));
    let limits = Limits {
        gap_wait: Duration::from_millis(5),
        retry: quick,
        reconnect: quick,
        ..Limits::default()
    };
    Options { limits, ..Options::new(servers, "me", "secret") }
}

/// The text of a message, marked if it is sent again.
pub(crate) fn show(data: &MessageData) -> String {
    let again = if data.resend == Some(true) { " again" } else { "" };
    format!("{}{again}", proto::text::decrypt(&data.msg_data).unwrap())
}

/// The next event.
pub(crate) async fn next(events: &mut Events) -> Event {
    within(events.next()).await.expect("the client goes on")
}

/// The numbers of the next messages, which come without anything between them.
pub(crate) async fn numbers(events: &mut Events, count: usize) -> Vec<u32> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.push(message(events).await.msg_id.0);
    }
    numbers
}

pub(crate) async fn message(events: &mut Events) -> Message {
    match next(events).await {
        Event::Message(message) => message,
        other => panic!("{other:?} instead of a message"),
    }
}

pub(crate) async fn within<F: Future<Output: Debug>>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("nothing happened")
}
