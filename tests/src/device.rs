//! One client on one connection, as the original ones behave: no hello, no ids of its own.
//!
//! Nothing happens unasked. What is pushed while something else is waited for is kept, in order,
//! until a test asks for it. A push with a seq, which an old client would take for an answer, fails
//! the test whatever it waits for.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use client::{
    ClientType, Connection, Conversation, Draft, Login, LoginError, SendReply, TlsConfig,
};
use proto::client::{
    Hello, LatestMessageIdReply, LatestMessageIdRequest, LoginResult, MessageData, MessageInfo,
    MessageListReply, MessageListRequest, ReadAck, TimeReply, TimeRequest, UnreadCountReply,
    UnreadCountRequest,
};
use proto::{Command, Frame};
use tokio::time::sleep;

use crate::{PASSWORD, PATIENCE};

/// Messages on one page of history.
const PAGE: u32 = 100;
/// Before a login is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// A page of history from `begin` (0 for the newest) downwards.
pub(crate) fn page_request(
    conversation: Conversation,
    begin: u32,
    count: u32,
) -> MessageListRequest {
    MessageListRequest {
        session_type: conversation.session_type().into(),
        session_id: conversation.number(),
        msg_id_begin: begin,
        msg_count: count,
        ..MessageListRequest::default()
    }
}

/// A client that is logged in.
#[derive(Debug)]
pub struct Device {
    /// Its user.
    pub user: u32,
    /// What the login said.
    pub login: Login,
    connection: Connection,
    kept: VecDeque<Frame>,
}

impl Device {
    /// Logs the demo user with this number in.
    pub async fn log_in(gateway: &str, user: u32, client_type: ClientType) -> Self {
        Self::log_in_over(gateway, None, user, client_type).await
    }

    /// Logs in a PC client.
    pub async fn pc(gateway: &str, user: u32) -> Self {
        Self::log_in(gateway, user, ClientType::Windows).await
    }

    /// Logs in a mobile client.
    pub async fn mobile(gateway: &str, user: u32) -> Self {
        Self::log_in(gateway, user, ClientType::Android).await
    }

    /// Logs in, with TLS if told how.
    pub async fn log_in_over(
        gateway: &str,
        tls: Option<&TlsConfig>,
        user: u32,
        client_type: ClientType,
    ) -> Self {
        let (connection, login) = get_in(gateway, tls, (user, client_type), None).await;
        assert_eq!(login.user.user_id, user, "users have the ids of their names");
        assert!(!login.text.is_empty(), "iOS needs a text");
        Self { user, login, connection, kept: VecDeque::new() }
    }

    /// Tries to log in with any name and password.
    pub async fn try_log_in(
        gateway: &str,
        name: &str,
        password: &str,
    ) -> Result<Login, LoginError> {
        let mut connection = connect(gateway, None).await;
        let login = connection.login(name, password, ClientType::Windows, None).await;
        if login.is_err() {
            connection.expect_close(PATIENCE).await.expect("a refused login ends the connection");
        }
        login
    }

    /// Sends a request and returns its answer.
    pub async fn ask<R: prost::Message + Default>(
        &mut self,
        command: Command,
        request: &impl prost::Message,
    ) -> R {
        let answer = self.connection.call(command, request).await;
        answer.unwrap_or_else(|error| panic!("u{} is answered {command:?}: {error:?}", self.user))
    }

    /// Sends something and returns its seq.
    pub async fn send(&mut self, command: Command, message: &impl prost::Message) -> u16 {
        self.connection.send(command, message).await.expect("send a frame")
    }

    /// The connection, for what is not here.
    pub const fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Sends a text and returns the number that it was acknowledged with.
    pub async fn say(&mut self, to: Conversation, text: &str) -> u32 {
        let draft = Draft::text(to, text).without_id();
        let reply = self.connection.send_message(&draft).await;
        let SendReply::Ack(ack) = reply.expect("a message is acknowledged") else {
            panic!("a client without the hello gets an ack that it knows");
        };
        assert_eq!(ack.user_id, self.user, "the ack names the author");
        assert_eq!(ack.session_id, to.number(), "the ack names the conversation");
        assert_eq!(ack.session_type, i32::from(to.session_type()), "and its type");
        ack.msg_id
    }

    /// Waits for the next push with this command; others are kept.
    pub async fn push<M: prost::Message + Default>(&mut self, command: Command) -> M {
        self.push_that(command, |_message: &M| true).await
    }

    /// Waits for the next push with this command that fits; others are kept.
    pub async fn push_that<M: prost::Message + Default>(
        &mut self,
        command: Command,
        fits: impl Fn(&M) -> bool,
    ) -> M {
        let mut looked_at = 0;
        loop {
            while let Some(frame) = self.kept.get(looked_at) {
                if frame.known_command() == Some(command) {
                    let message = frame.parse().expect("a push can be read");
                    if fits(&message) {
                        self.kept.remove(looked_at);
                        return message;
                    }
                }
                looked_at += 1;
            }
            let frame = self.connection.next_frame(PATIENCE).await;
            let frame = frame.unwrap_or_else(|error| {
                panic!("u{} is told {command:?}: {error:?}; kept: {:?}", self.user, self.kept)
            });
            self.keep(frame);
        }
    }

    /// Waits for a message with this text, and checks its conversation and its sender.
    pub async fn hears(&mut self, from: u32, to: Conversation, text: &str) -> MessageData {
        let data = proto::text::encrypt(text);
        let message: MessageData = self
            .push_that(Command::MessageData, |message: &MessageData| message.msg_data == data)
            .await;
        assert_eq!(message.from_user_id, from, "the author is who logged in");
        assert_eq!(message.to_session_id, to.number(), "it is addressed as it was sent");
        assert_eq!(
            message.msg_type,
            i32::from(client::Kind::Text.message_type(to)),
            "it is a text of its kind of conversation"
        );
        assert_eq!(message.attach_data, None, "what is for servers never goes to clients");
        assert_eq!(message.client_msg_id, None, "nor what old clients do not know");
        assert!(message.create_time > 0, "the server says when");
        message
    }

    /// Waits until everything that the gateway had for this client is here, and checks that no
    /// push with this command is among it.
    pub async fn heard_nothing(&mut self, command: Command) {
        self.settle().await;
        let told = self.kept.iter().find(|frame| frame.known_command() == Some(command));
        assert_eq!(told, None, "u{} is not told {command:?}", self.user);
    }

    /// Forgets the pushes that came so far.
    pub async fn forget(&mut self) {
        self.settle().await;
        self.kept.clear();
    }

    async fn settle(&mut self) {
        let _time: TimeReply = self.ask(Command::TimeRequest, &TimeRequest {}).await;
        while let Ok(frame) = self.connection.next_frame(Duration::ZERO).await {
            self.keep(frame);
        }
    }

    fn keep(&mut self, frame: Frame) {
        assert_eq!(frame.seq, 0, "a push has no seq: {frame:?}");
        self.kept.push_back(frame);
    }

    /// The unread counts, by conversation.
    pub async fn unread(&mut self) -> BTreeMap<Conversation, u32> {
        let reply: UnreadCountReply =
            self.ask(Command::UnreadCountRequest, &UnreadCountRequest::default()).await;
        assert_eq!(reply.user_id, self.user);
        let counts: BTreeMap<Conversation, u32> = reply
            .sessions
            .iter()
            .map(|unread| {
                proto::text::decrypt(&unread.latest_msg_data).expect("iOS can decrypt it");
                let conversation = Conversation::from_wire(unread.session_type, unread.session_id);
                (conversation.expect("a known type"), unread.unread_count)
            })
            .collect();
        assert_eq!(counts.len(), reply.sessions.len(), "each conversation is there once");
        assert_eq!(counts.values().sum::<u32>(), reply.total_count, "the total is the sum");
        assert!(counts.values().all(|count| *count > 0), "what is read is not listed");
        counts
    }

    /// One page of history, the newest first. What does not fit one frame follows in others.
    pub async fn page(
        &mut self,
        conversation: Conversation,
        begin: u32,
        count: u32,
    ) -> Vec<MessageInfo> {
        let request = page_request(conversation, begin, count);
        let seq = self.send(Command::MessageListRequest, &request).await;
        let end = self.send(Command::TimeRequest, &TimeRequest {}).await;
        let mut messages: Vec<MessageInfo> = Vec::new();
        loop {
            let frame = self.connection.next_frame(PATIENCE).await;
            let frame = frame.unwrap_or_else(|error| panic!("u{} reads: {error:?}", self.user));
            if frame.seq == end {
                break;
            }
            if frame.seq != seq {
                self.keep(frame);
                continue;
            }
            assert_eq!(frame.known_command(), Some(Command::MessageListReply));
            let reply: MessageListReply = frame.parse().expect("a page can be read");
            assert_eq!(reply.user_id, self.user);
            assert_eq!((reply.session_id, reply.msg_id_begin), (conversation.number(), begin));
            messages.extend(reply.messages);
        }
        assert!(messages.is_sorted_by(|one, next| one.msg_id > next.msg_id), "newest first");
        assert!(messages.len() <= count as usize, "no more than asked");
        messages
    }

    /// The whole history that this user may see, the newest first.
    pub async fn history(&mut self, conversation: Conversation) -> Vec<MessageInfo> {
        let mut all = self.page(conversation, 0, PAGE).await;
        let mut last = all.len();
        while last > 0 {
            let oldest = all.last().map_or(0, |message| message.msg_id);
            if oldest <= 1 {
                break;
            }
            let page = self.page(conversation, oldest - 1, PAGE).await;
            last = page.len();
            all.extend(page);
        }
        all
    }

    /// The texts of a whole history, the oldest first.
    pub async fn texts(&mut self, conversation: Conversation) -> Vec<String> {
        let history = self.history(conversation).await;
        let text = |info: &MessageInfo| proto::text::decrypt(&info.msg_data).expect("a text");
        history.iter().rev().map(text).collect()
    }

    /// The number of the newest message.
    pub async fn latest(&mut self, conversation: Conversation) -> u32 {
        let request = LatestMessageIdRequest {
            session_type: conversation.session_type().into(),
            session_id: conversation.number(),
            ..LatestMessageIdRequest::default()
        };
        let reply: LatestMessageIdReply = self.ask(Command::LatestMessageIdRequest, &request).await;
        reply.latest_msg_id
    }

    /// Says that everything up to `msg_id` is read. Has no answer.
    pub async fn read(&mut self, conversation: Conversation, msg_id: u32) {
        let mark = ReadAck {
            user_id: 0,
            session_id: conversation.number(),
            msg_id,
            session_type: conversation.session_type().into(),
        };
        self.send(Command::ReadAck, &mark).await;
    }

    /// Waits until the gateway has closed the connection. Returns the pushes that the test did not wait
    /// for.
    pub async fn closed(mut self) -> Vec<Frame> {
        let frames = self.connection.expect_close(PATIENCE).await;
        let frames = frames.unwrap_or_else(|error| panic!("u{} is let go: {error:?}", self.user));
        for frame in frames {
            self.keep(frame);
        }
        self.kept.into()
    }
}

/// Logs the demo user with this number in, however often that takes: the servers may be busy, or on
/// their way back.
pub(crate) async fn get_in(
    gateway: &str,
    tls: Option<&TlsConfig>,
    (user, client_type): (u32, ClientType),
    hello: Option<Hello>,
) -> (Connection, Login) {
    let (name, began) = (format!("u{user}"), Instant::now());
    loop {
        let error = match Connection::connect(gateway, tls).await {
            Err(error) => LoginError::from(error),
            Ok(mut connection) => {
                connection.set_limit(PATIENCE);
                match connection.login(&name, PASSWORD, client_type, hello.clone()).await {
                    Ok(login) => return (connection, login),
                    Err(error) => error,
                }
            }
        };
        let is_wrong = matches!(&error, LoginError::Refused { result, .. }
            if *result == i32::from(LoginResult::BadCredentials));
        assert!(!is_wrong && began.elapsed() < PATIENCE, "{name} gets in: {error:?}");
        sleep(AGAIN).await;
    }
}

async fn connect(gateway: &str, tls: Option<&TlsConfig>) -> Connection {
    let mut connection = Connection::connect(gateway, tls)
        .await
        .unwrap_or_else(|error| panic!("connect to {gateway}: {error:?}"));
    connection.set_limit(PATIENCE);
    connection
}
