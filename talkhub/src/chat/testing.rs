//! A gateway for tests of a chat: the test gives the answers.

use std::time::Duration;

use client::{Client, Connection, Events, Options, Servers};
use proto::client::{
    HelloReply, LoginReply, LoginResult, RecentSessionsReply, UnreadCountReply, UserInfo,
};
use proto::{Command, Frame, encode_message};
use tokio::net::TcpListener;

/// Longer than anything takes that comes.
const SOON: Duration = Duration::from_secs(10);

/// The far end of a client's connection.
pub(super) struct Gateway {
    listener: TcpListener,
    connection: Connection,
}

/// A user's record.
pub(super) fn user(user_id: u32, real_name: &str) -> UserInfo {
    UserInfo {
        user_id,
        nick_name: format!("nick of {real_name}"),
        real_name: real_name.to_owned(),
        ..UserInfo::default()
    }
}

impl Gateway {
    /// One, and a client of user 1, `anna`, that is logged in there.
    pub(super) async fn linked() -> (Self, Client, Events) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let servers = Servers::Gateways(vec![listener.local_addr().unwrap().to_string()]);
        let options = Options::new(servers, "anna", "password");
        let (client, events) = Client::start(options).await.unwrap();
        let (socket, _peer) = listener.accept().await.unwrap();
        let mut gateway = Self { listener, connection: Connection::over(socket) };
        gateway.welcome().await;
        (gateway, client, events)
    }

    /// Ends the connection, and takes the next one.
    pub(super) async fn lose(&mut self) {
        let (nobody, _far) = tokio::io::duplex(1);
        drop(std::mem::replace(&mut self.connection, Connection::over(nobody)));
        let (socket, _peer) = self.listener.accept().await.unwrap();
        self.connection = Connection::over(socket);
        self.welcome().await;
    }

    async fn welcome(&mut self) {
        let hello = self.next(Command::Hello).await;
        let reply = HelloReply { server: "test".to_owned(), features: 0 };
        self.say(&encode_message(Command::HelloReply, hello.seq, &reply)).await;
        let login = self.next(Command::LoginRequest).await;
        let reply = LoginReply {
            result: LoginResult::Accepted.into(),
            user_info: Some(user(1, "anna")),
            ..LoginReply::default()
        };
        self.say(&encode_message(Command::LoginReply, login.seq, &reply)).await;
        let recent = self.next(Command::RecentSessionsRequest).await;
        let unread = self.next(Command::UnreadCountRequest).await;
        let (none, no_unread) = (RecentSessionsReply::default(), UnreadCountReply::default());
        self.say(&encode_message(Command::RecentSessionsReply, recent.seq, &none)).await;
        self.say(&encode_message(Command::UnreadCountReply, unread.seq, &no_unread)).await;
    }

    /// The next frame of any kind.
    pub(super) async fn any(&mut self) -> Frame {
        self.connection.next_frame(SOON).await.unwrap()
    }

    /// The next frame, which must have this command.
    pub(super) async fn next(&mut self, command: Command) -> Frame {
        let frame = self.any().await;
        assert_eq!(frame.known_command(), Some(command), "{frame:?}");
        frame
    }

    /// Sends an encoded frame.
    pub(super) async fn say(&mut self, frame: &[u8]) {
        self.connection.send_bytes(frame).await.unwrap();
    }
}
